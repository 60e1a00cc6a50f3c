// What a GGUF file says of itself, without loading it. Files come from anywhere: every value's type is checked.
#pragma once

#include <ggml.h>
#include <gguf.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gsd {

class GgufFile {
 public:
  struct Tensor {
    std::string name;
    ggml_type type;
    std::array<std::int64_t, GGML_MAX_DIMS> shape;
  };

  // None if libllama's reader refuses the file: loading it will say why.
  static std::optional<GgufFile> open(const std::string& path);

  // A value of that key; none if there is none or it is of another type. Texts are cut at 100 bytes and hold no control
  // characters: they end up in messages.
  std::optional<std::string> text(const std::string& key) const;
  std::optional<std::uint64_t> number(const std::string& key) const;  // of any width; none if it is negative
  std::optional<double> real(const std::string& key) const;           // also a whole number
  std::optional<bool> flag(const std::string& key) const;
  std::string architecture() const { return text("general.architecture").value_or(""); }
  // The key with the architecture in front: of("block_count") = "llama.block_count".
  std::string of(const char* key) const { return architecture() + "." + key; }

  bool has_key_beginning(const std::string& prefix) const;
  bool has_tensor_beginning(const std::string& prefix) const;
  const std::vector<Tensor>& tensors() const { return tensors_; }  // of this file, not of a split model's other parts

 private:
  std::int64_t find(const std::string& key) const { return gguf_find_key(file_.get(), key.c_str()); }

  std::unique_ptr<gguf_context, void (*)(gguf_context*)> file_{nullptr, gguf_free};
  std::vector<Tensor> tensors_;
};

// The files of a model: its own, or those of all parts where it is the first of a split one.
std::vector<std::string> model_parts(const std::string& path);

// The tensors of all parts of a model; none if one of them cannot be read.
std::optional<std::vector<GgufFile::Tensor>> model_tensors(const std::string& path);
bool has_tensor(std::span<const GgufFile::Tensor> tensors, std::string_view name);

// What keeps the file from being loaded as a language model, as the end of a sentence that begins with its name: what
// it is, and which flag of which program takes it. Empty if nothing is known against it.
std::string not_a_language_model(const GgufFile& file);

}  // namespace gsd
