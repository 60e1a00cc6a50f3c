// The program's words before CLI11 reads them: llama.cpp's names, its environment, and a hint for what is misspelt.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace gsd::app {

// The arguments as CLI11's parse() wants them, last one first. `program` has all its subcommands.
// Short flags of several letters (-md) become their long names, "help COMMAND" becomes "COMMAND --help", and options
// that have a variable of llama.cpp's in the environment (LLAMA_ARG_CTX_SIZE) are put in front, where what is given
// after them wins; `from_environment` gets their names. Flags and variables of llama-server without meaning here are
// passed over (llama_flags.h); `notes` gets a clause for each. No word that is the value of an option is touched.
// Throws Error(kUsage) for an unsupported flag of llama-server, for an unknown command or flag, with the nearest one;
// also for -xy, which is never read as -x y.
std::vector<std::string> arguments(const CLI::App& program, int argc, const char* const* argv,
                                   std::vector<std::string>& from_environment, std::vector<std::string>& notes);

}  // namespace gsd::app
