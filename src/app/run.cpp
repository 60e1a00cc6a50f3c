#include "run.h"

#include <functional>
#include <nlohmann/json.hpp>

#include "../core/stopwatch.h"
#include "console.h"
#include "gsd/utf8.h"

namespace gsd::app {
Run run_prompt(Pair& pair, const std::vector<Token>& prompt, SessionOptions options, bool stream, Recorder* recorder) {
  Run r;
  Utf8Buffer utf8;
  const auto emit = [&](const std::string& piece) {
    r.text += piece;
    if (stream && !piece.empty() && !write_out(piece)) r.closed = true;
  };
  Stopwatch clock;
  options.on_token = [&](Token t) {
    if (r.first_token_ms == 0) r.first_token_ms = clock.ms();
    emit(utf8.push(pair.target().is_eog(t) ? "" : pair.target().piece(t)));
    return !interrupted() && !r.closed;
  };
  options.on_step = [&](const StepView& v) {
    r.margins.insert(r.margins.end(), v.acceptance.margin.begin(), v.acceptance.margin.end());
    if (recorder != nullptr) recorder->step(v);
  };
  std::function<std::string()> failure;
  if (options.constraint) failure = options.constraint->failure;
  Engine& engine = pair.engine();
  const auto session = engine.open(std::move(options));
  clock = {};
  engine.set_prompt(*session, prompt);
  try {
    ProgressLine line("Reading the prompt");
    while (!interrupted()) {
      const std::size_t left = engine.prefill(*session);
      if (left == 0) break;
      line.show(1 - static_cast<float>(left) / static_cast<float>(prompt.size()));
    }
    r.prefill_ms = clock.ms();
    Session* list[] = {session.get()};
    while (!session->finished() && !interrupted() && !r.closed) engine.step(list);
  } catch (const Error&) {
    if (!interrupted()) throw;  // a pass that Ctrl-C ended
  }
  r.decode_ms = clock.ms() - r.prefill_ms;
  emit(utf8.flush());
  r.tokens.assign(session->generated().begin(), session->generated().end());
  r.stats = session->stats();
  r.finish = session->finish();
  if (const std::string why = failure ? failure() : ""; !why.empty()) throw Error(ErrorCode::kGrammar, why);
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
