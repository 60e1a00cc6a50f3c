#include "run.h"

#include <functional>
#include <nlohmann/json.hpp>

#include "../core/stopwatch.h"
#include "../record/step_json.h"
#include "../server/text_stream.h"
#include "console.h"

namespace gsd::app {
Run run_prompt(Runtime& pair, const std::vector<Token>& prompt, SessionOptions options, const RunText& text,
               Recorder* recorder) {
  Run r;
  server::TextStream shown(text.stop);
  const auto emit = [&] {
    const std::string piece = shown.take();
    r.text += piece;
    if (text.stream && !piece.empty() && !write_out(piece)) r.closed = true;
  };
  Stopwatch clock;
  options.on_token = [&](Token t) {
    if (r.first_token_ms == 0) r.first_token_ms = clock.ms();
    r.stopped = !shown.push(pair.target().is_eog(t) ? "" : pair.target().piece(t));
    emit();
    return !interrupted() && !r.closed && !r.stopped;
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
  if (text.stream) print(text.before);
  try {
    ProgressLine line("Reading the prompt");
    run_to_end(engine, *session, [&](std::size_t left) {
      if (left > 0) line.show(1 - static_cast<float>(left) / static_cast<float>(prompt.size()));
      if (left == 0 && r.prefill_ms == 0) r.prefill_ms = clock.ms();
      return !interrupted() && !r.closed;
    });
  } catch (const Error&) {
    if (!interrupted()) throw;  // a pass that Ctrl-C ended
  }
  r.decode_ms = clock.ms() - r.prefill_ms;
  shown.finish();
  emit();
  r.tokens.assign(session->generated().begin(), session->generated().end());
  r.stats = session->stats();
  r.finish = session->finish();
  if (const std::string why = failure ? failure() : ""; !why.empty()) throw Error(ErrorCode::kGrammar, why);
  return r;
}

nlohmann::json to_json(const Run& r) {
  nlohmann::json out{{"text", r.text},
                     {"tokens", r.tokens},
                     {"finish", finish_reason_name(r.finish)},
                     {"tokens_per_second", r.tokens_per_second()},
                     {"prefill_ms", r.prefill_ms},
                     {"first_token_ms", r.first_token_ms},
                     {"decode_ms", r.decode_ms},
                     {"tokens_per_step", r.stats.tokens_per_step()}};
  visit_stats([&](const char* name, const auto& value) { out[name] = value; }, r.stats);
  out["drafters"] = drafters_json(r.stats);
  return out;
}

}  // namespace gsd::app
