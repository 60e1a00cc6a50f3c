// Where the running program and its libraries lie: what was installed together is found again after the tree has moved.
#pragma once

#include <filesystem>

namespace gsd {

// The folder of the running program; empty where the system does not tell. In an installed tree that brings its own
// loader it is the loader's folder. Any thread.
std::filesystem::path program_folder();
// The folder of the libllama that is loaded. Any thread.
std::filesystem::path libllama_folder();
// The folder of the file that holds this code: of the program, or of libgsd.so in somebody else's. Any thread.
std::filesystem::path own_folder();

}  // namespace gsd
