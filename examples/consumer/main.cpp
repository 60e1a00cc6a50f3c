// The smallest program that speculates: consumer TARGET.gguf DRAFT.gguf PROMPT
#include <gsd/runtime.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("usage: consumer TARGET.gguf DRAFT.gguf PROMPT\n", stderr), 2;
  try {
    gsd::Runtime pair({.target = argv[1], .draft = argv[2]});
    gsd::SessionOptions options;
    options.max_tokens = 64;
    pair.generate(argv[3], options, [](std::string_view text) {
      return std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
    });
    std::puts("");
  } catch (const gsd::Error& e) {
    std::fprintf(stderr, "consumer: %s\n", e.what());
    return static_cast<int>(e.code());
  }
}
