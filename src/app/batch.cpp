// gsd batch: a file of requests answered into another file.
#include "../server/batch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "api_host.h"
#include "commands.h"
#include "console.h"
#include "gsd/remote.h"

namespace gsd::app {
namespace {

struct BatchFlags {
  ApiFlags api;
  std::string input;
  std::string output;
};

// At a terminal a percentage, in a log a line now and then.
class Progress {
 public:
  Progress(std::size_t earlier, std::size_t all) : earlier_(earlier), all_(all) {}
  void show(std::size_t n_answered) {
    line_.show(static_cast<float>(n_answered - earlier_) / static_cast<float>(all_ - earlier_));
    if (isatty(STDERR_FILENO) != 0 || since_.ms() < 30'000) return;
    since_ = {};
    fmt::print(stderr, "gsd: {} of {} requests are answered\n", n_answered, all_);
  }

 private:
  std::size_t earlier_;
  std::size_t all_;
  ProgressLine line_{"Answering"};
  Stopwatch since_;
};

int batch(BatchFlags flags) {
  check_api_flags(flags.api);
  server::BatchInput input(flags.input);
  server::BatchOutput output(flags.output, input);
  const std::size_t earlier = input.n_answered();
  if (earlier == input.size()) {
    fmt::print(stderr, "gsd: all {} requests were answered before\n", earlier);
    return 0;
  }
  ApiHost host(flags.api, true);
  std::size_t n_answered = earlier;
  std::size_t n_refused = 0;
  const Stopwatch clock;
  {
    Progress progress(earlier, input.size());
    server::run_batch(host.api, host.scheduler,
                      {.next = [&] { return input.next(); },
                       .answer =
                           [&](const std::string& line, int status) {
                             output.write(line);
                             if (status != 200) ++n_refused;
                             progress.show(++n_answered);
                           },
                       .go_on = [] { return !interrupted() && !connection_lost(); }});
  }
  output.sync();
  host.pair.save_profile();
  host.save_store();
  const auto emitted = static_cast<double>(host.pair.engine().stats().emitted);
  fmt::print(stderr,
             "gsd: {} of {} requests are answered ({} by earlier runs), {} of this run's with an error; {:.0f} tokens "
             "in {:.1f} s: {:.1f} tokens/s\n",
             n_answered, input.size(), earlier, n_refused, emitted, clock.ms() / 1000, 1000 * emitted / clock.ms());
  if (n_answered == input.size()) return 0;
  fmt::print(stderr, "gsd: the same command goes on\n");
  if (connection_lost())
    throw Error(ErrorCode::kBackend, "A connection to another machine broke; see that ggml-rpc-server runs there.");
  return kExitInterrupted;
}

}  // namespace

void add_batch(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<BatchFlags>();
  CLI::App* app = program.add_subcommand("batch", "Answer a file of requests in OpenAI's batch format");
  app->footer(
      R"(Each line of IN is a request: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}, or with
/v1/completions. Each line of OUT is an answer, in the order in which they are complete. A run that was ended, however that
happened, is gone on with by the same command: what stands in OUT is not asked again. What requests leave out is taken from
the flags of sampling and speculation; -c counts for all slots together.

Examples:
  gsd batch in.jsonl out.jsonl -m target.gguf -d draft.gguf
  gsd batch in.jsonl out.jsonl -m target.gguf -d draft.gguf -np 8 -c 16384 --temp 0)");
  app->add_option("input", flags->input, "The requests, JSON lines")->type_name("IN")->required();
  app->add_option("output", flags->output, "The answers, JSON lines; goes on with what is there")
      ->type_name("OUT")
      ->required();
  add_api_flags(*app, flags->api, "Requests");
  app->callback([flags, &exit_code] { exit_code = batch(*flags); });
}

}  // namespace gsd::app
