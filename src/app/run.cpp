#include "run.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "console.h"
#include "gsd/utf8.h"

namespace gsd::app {
namespace {

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Run run_prompt(Pair& pair, const std::vector<Token>& prompt, SessionOptions options, bool stream, Recorder* recorder) {
  Run r;
  Utf8Buffer utf8;
  const auto emit = [&](const std::string& piece) {
    r.text += piece;
    if (stream && !piece.empty() && !write_out(piece)) r.closed = true;
  };
  double start = 0;
  options.on_token = [&](Token t) {
    if (r.first_token_ms == 0) r.first_token_ms = now_ms() - start;
    emit(utf8.push(pair.target().is_eog(t) ? "" : pair.target().piece(t)));
    return !interrupted() && !r.closed;
  };
  options.on_step = [&](const StepView& v) {
    r.margins.insert(r.margins.end(), v.acceptance.margin.begin(), v.acceptance.margin.end());
    if (recorder != nullptr) recorder->step(v);
  };
  Engine& engine = pair.engine();
  const auto session = engine.open(std::move(options));
  start = now_ms();
  engine.set_prompt(*session, prompt);
  ProgressLine line("Reading the prompt");
  while (!interrupted()) {
    const std::size_t left = engine.prefill(*session);
    if (left == 0) break;
    line.show(1 - static_cast<float>(left) / static_cast<float>(prompt.size()));
  }
  r.prefill_ms = now_ms() - start;
  Session* list[] = {session.get()};
  while (!session->finished() && !interrupted() && !r.closed) engine.step(list);
  r.decode_ms = now_ms() - start - r.prefill_ms;
  emit(utf8.flush());
  r.tokens.assign(session->generated().begin(), session->generated().end());
  r.stats = session->stats();
  r.finish = session->finish();
  return r;
}

nlohmann::json to_json(const Run& r) {
  const Stats& s = r.stats;
  return {{"text", r.text},
          {"tokens", r.tokens},
          {"finish", finish_reason_name(r.finish)},
          {"tokens_per_second", r.tokens_per_second()},
          {"prefill_ms", r.prefill_ms},
          {"first_token_ms", r.first_token_ms},
          {"decode_ms", r.decode_ms},
          {"steps", s.steps},
          {"accepted_per_step", s.accepted_per_step()},
          {"drafted", s.drafted},
          {"merged", s.merged},
          {"verified", s.verified},
          {"accepted", s.accepted},
          {"draft_nodes", s.draft_nodes},
          {"draft_forwards", s.draft_forwards},
          {"plain_steps", s.plain_steps},
          {"draft_ms", s.draft_ms},
          {"verify_ms", s.verify_ms},
          {"sequence_ms", s.sequence_ms},
          {"total_ms", s.total_ms}};
}

}  // namespace gsd::app
