// What the program runs on, for `gsd --version`.
#pragma once

#include <string>

namespace gsd {

struct Versions {
  std::string llama;  // "0.7.0"
  std::string ggml;   // "0.27.0"
  std::string
      narrow;  // instruction set of the narrow-matmul backend: "avx512+vnni+bf16"; empty: not there, or no use here
  std::string cpu;  // what ggml's own CPU backend, as it was loaded, is built for: "AVX2 F16C FMA"
};

// Loads ggml's backends if that is not done. Any thread.
Versions versions();

}  // namespace gsd
