#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <new>

#include "arguments.h"
#include "commands.h"
#include "console.h"
#include "gsd/error.h"
#include "gsd/remote.h"

namespace {

constexpr const char* kFooter = R"(Exit codes:
  0 done                        6 the prompt does not fit the context
  1 internal error              7 out of memory
  2 wrong usage                 8 the KV cache has no room
  3 model file missing or bad   9 a forward pass failed
  4 model cannot be used       10 the grammar does not parse
  5 models do not fit together 11 a file or pipe failed
 12 bench --compare: slower    130 interrupted

Examples:
  gsd generate -m target.gguf -d draft.gguf -p "# tar"
  gsd chat     -m target.gguf -d draft.gguf
  gsd serve    -m target.gguf -d draft.gguf --port 8080
  gsd inspect  -m target.gguf -d draft.gguf
  gsd generate -m target.gguf -d draft.gguf -p "# tar" --record run.jsonl && gsd trace run.jsonl -o run.html
  gsd bench    -m target.gguf -d draft.gguf --prompts models/prompts/prompts.jsonl
  gsd help generate)";

int report(const char* sentence, gsd::ErrorCode code) {
  std::fprintf(stderr, "gsd: %s\n", sentence);
  if (gsd::connection_lost()) std::_Exit(static_cast<int>(code));  // threads that hang in ggml are never joined
  return static_cast<int>(code);
}

int run(int argc, char** argv) {
  using namespace gsd;
  CLI::App program("Graph-structured speculative decoding for GGUF models: the target's own text, faster.", "gsd");
  program.get_formatter()->enable_footer_formatting(false);  // examples keep their lines
  program.footer(kFooter);
  program.require_subcommand(1);
  program.option_defaults()->take_last();  // a flag in a script can be overridden by one behind it
  program.set_version_flag("--version", app::version_text, "Show versions, commit and instruction sets");
  int exit_code = 0;
  app::add_generate(program, exit_code);
  app::add_batch(program, exit_code);
  app::add_bench(program, exit_code);
  app::add_chat(program, exit_code);
  app::add_convert_prompts(program, exit_code);
  app::add_inspect(program, exit_code);
  app::add_make_draft(program, exit_code);
  app::add_serve(program, exit_code);
  app::add_simulate(program, exit_code);
  app::add_trace(program, exit_code);
  app::add_reference(program);
  std::vector<std::string> from_environment, notes;
  try {
    auto words = app::arguments(program, argc, argv, from_environment, notes);
    for (const std::string& note : notes) std::fprintf(stderr, "gsd: note: %s.\n", note.c_str());
    program.parse(words);
  } catch (const CLI::ParseError& e) {
    const int code = program.exit(e);
    if (!std::cout.flush()) return report("The output cannot be written.", ErrorCode::kIo);
    for (const std::string& name : code == 0 ? std::vector<std::string>{} : from_environment)
      std::fprintf(stderr, "gsd: note: the environment's %s counts as a flag.\n", name.c_str());
    return code == 0 ? 0 : static_cast<int>(ErrorCode::kUsage);
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace gsd;
  app::open_standard_descriptors();
  app::catch_signals();
#ifdef __linux__
  prctl(PR_SET_NAME, "gsd");  // an installed tree's own loader would lend its name
#endif
  try {
    return run(argc, argv);
  } catch (const Error& e) {
    if (app::interrupted()) return app::kExitInterrupted;
    return report(e.what(), e.code());
  } catch (const std::bad_alloc&) {
    return report("There is not enough memory; take a smaller model or context.", ErrorCode::kOutOfMemory);
  } catch (const std::exception& e) {
    return report(e.what(), ErrorCode::kInternal);
  }
}
