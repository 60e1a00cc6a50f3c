// The subcommands of gsd. Each adds itself to the program and, when chosen, sets `exit_code`.
#pragma once

#include <CLI/CLI.hpp>

namespace gsd::app {

void add_convert_prompts(CLI::App& program, int& exit_code);
void add_generate(CLI::App& program, int& exit_code);
void add_batch(CLI::App& program, int& exit_code);
void add_bench(CLI::App& program, int& exit_code);
void add_chat(CLI::App& program, int& exit_code);
void add_inspect(CLI::App& program, int& exit_code);
void add_make_draft(CLI::App& program, int& exit_code);
void add_serve(CLI::App& program, int& exit_code);
void add_simulate(CLI::App& program, int& exit_code);
void add_trace(CLI::App& program, int& exit_code);
// Hidden: prints the manual page and the shells' completions, made from the options of `program`. Add it last.
void add_reference(CLI::App& program);

// Version and commit, those of libllama and ggml, and the instruction sets in use. Loads ggml's backends.
std::string version_text();

}  // namespace gsd::app
