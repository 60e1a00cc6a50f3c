// Copies a GGUF file of byte-level BPE with another vocabulary: edit_vocabulary IN OUT permute|finer|spm
#include <cstdio>
#include <exception>

#include "other_vocabulary.h"

int main(int argc, char** argv) {
  using gsd::test::Revocabulary;
  const std::map<std::string_view, Revocabulary> ways{
      {"permute", Revocabulary::kPermute}, {"finer", Revocabulary::kFiner}, {"spm", Revocabulary::kSpm}};
  const auto way = argc == 4 ? ways.find(argv[3]) : ways.end();
  if (way == ways.end()) return std::fputs("usage: edit_vocabulary IN OUT permute|finer|spm\n", stderr), 2;
  try {
    gsd::test::write_revocabulary(argv[1], argv[2], way->second);
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "%s\n", e.what()), 1;
  }
  return 0;
}
