// Tiny random models of every architecture that libllama can decode.
//
// What an architecture's tensors are is asked of libllama itself when a model is written; architectures.txt holds the
// hyperparameters. One thread.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace gsd::zoo {

struct Entry {
  std::string name;
  std::string architecture;
  std::vector<std::pair<std::string, std::string>> metadata;  // keys without the architecture's name; later ones win
  std::map<std::string, float> weights;                       // see architectures.txt
};

struct Table {
  std::vector<Entry> entries;
  std::map<std::string, std::string> left_out;  // architecture -> why
  // Throws std::runtime_error if there is none of that name.
  const Entry& entry(const std::string& name) const;
};
// Throws std::runtime_error for a line that it does not understand.
Table read_table(const std::filesystem::path& file);

// An EAGLE-3 head for the entry's model, which reads what enters its layers `taps`.
Entry eagle3_of(const Entry& target, const std::string& taps);
// A DFlash head likewise, of blocks of 8 tokens.
Entry dflash_of(const Entry& target, const std::string& taps);

struct Recipe {
  std::uint64_t seed = 1;
  bool draft = false;  // the target's weights plus noise, so that it mostly agrees with it
  // Part of a tensor's name -> format of the matrices that have it in their names; the last one wins. F32 otherwise.
  std::vector<std::pair<std::string, ggml_type>> formats;
  std::int32_t file_type = 0;  // general.file_type
};
// Writes the entry's model to `file` with the tokenizer of the GGUF file `vocabulary`, cut to the entry's vocab_size.
// Throws std::runtime_error with libllama's reason if it does not know such a model, or if it cannot be written.
void write_model(const Entry& entry, const std::filesystem::path& vocabulary, const Recipe& recipe,
                 const std::filesystem::path& file);

// Names of all architectures that the loaded libllama knows: of all words in its file those that it accepts as one.
std::vector<std::string> known_architectures();

}  // namespace gsd::zoo
