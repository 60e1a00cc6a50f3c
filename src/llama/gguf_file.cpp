#include "gguf_file.h"

#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string_view>

namespace gsd {

std::optional<GgufFile> GgufFile::open(const std::string& path) {
  GgufFile file;
  ggml_context* meta = nullptr;
  file.file_.reset(gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = &meta}));
  const std::unique_ptr<ggml_context, void (*)(ggml_context*)> tensors(meta, ggml_free);
  if (!file.file_) return std::nullopt;
  for (ggml_tensor* t = ggml_get_first_tensor(meta); t != nullptr; t = ggml_get_next_tensor(meta, t))
    file.tensors_.push_back({t->name, t->type, {t->ne[0], t->ne[1], t->ne[2], t->ne[3]}});
  return file;
}

std::optional<std::string> GgufFile::text(const std::string& key) const {
  const auto at = find(key);
  if (at < 0 || gguf_get_kv_type(file_.get(), at) != GGUF_TYPE_STRING) return std::nullopt;
  std::string text = gguf_get_val_str(file_.get(), at);
  if (text.size() > 100) text.resize(100);
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

std::optional<std::uint64_t> GgufFile::number(const std::string& key) const {
  const auto at = find(key);
  if (at < 0) return std::nullopt;
  const auto natural = [](std::int64_t v) { return v < 0 ? std::nullopt : std::optional<std::uint64_t>(v); };
  switch (gguf_get_kv_type(file_.get(), at)) {
    case GGUF_TYPE_UINT8:
      return gguf_get_val_u8(file_.get(), at);
    case GGUF_TYPE_UINT16:
      return gguf_get_val_u16(file_.get(), at);
    case GGUF_TYPE_UINT32:
      return gguf_get_val_u32(file_.get(), at);
    case GGUF_TYPE_UINT64:
      return gguf_get_val_u64(file_.get(), at);
    case GGUF_TYPE_INT8:
      return natural(gguf_get_val_i8(file_.get(), at));
    case GGUF_TYPE_INT16:
      return natural(gguf_get_val_i16(file_.get(), at));
    case GGUF_TYPE_INT32:
      return natural(gguf_get_val_i32(file_.get(), at));
    case GGUF_TYPE_INT64:
      return natural(gguf_get_val_i64(file_.get(), at));
    default:
      return std::nullopt;
  }
}

std::optional<double> GgufFile::real(const std::string& key) const {
  const auto at = find(key);
  if (at < 0) return std::nullopt;
  const auto type = gguf_get_kv_type(file_.get(), at);
  if (type == GGUF_TYPE_FLOAT32) return gguf_get_val_f32(file_.get(), at);
  if (type == GGUF_TYPE_FLOAT64) return gguf_get_val_f64(file_.get(), at);
  const auto whole = number(key);
  return whole ? std::optional<double>(static_cast<double>(*whole)) : std::nullopt;
}

std::optional<bool> GgufFile::flag(const std::string& key) const {
  const auto at = find(key);
  if (at < 0 || gguf_get_kv_type(file_.get(), at) != GGUF_TYPE_BOOL) return std::nullopt;
  return gguf_get_val_bool(file_.get(), at);
}

bool GgufFile::has_key_beginning(const std::string& prefix) const {
  for (std::int64_t i = 0; i < gguf_get_n_kv(file_.get()); ++i)
    if (std::string_view(gguf_get_key(file_.get(), i)).starts_with(prefix)) return true;
  return false;
}

bool GgufFile::has_tensor_beginning(const std::string& prefix) const {
  return std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name.starts_with(prefix); });
}

std::vector<std::string> model_parts(const std::string& path) {
  std::vector<std::string> paths{path};
  const auto file = GgufFile::open(path);
  const auto parts = static_cast<std::int32_t>(std::min<std::uint64_t>(
      file ? file->number("split.count").value_or(1) : 1, std::numeric_limits<std::uint16_t>::max()));
  std::string prefix(path.size() + 1, '\0');
  prefix.resize(
      std::max(0, llama_split_prefix(prefix.data(), static_cast<std::int32_t>(prefix.size()), path.c_str(), 0, parts)));
  if (prefix.empty()) return paths;  // one file, or of no name that libllama knows to go on with
  for (std::int32_t part = 1; part < parts; ++part) {
    std::string next(path.size() + 1, '\0');
    next.resize(std::max(
        0, llama_split_path(next.data(), static_cast<std::int32_t>(next.size()), prefix.c_str(), part, parts)));
    paths.push_back(next);
  }
  return paths;
}

std::optional<std::vector<GgufFile::Tensor>> model_tensors(const std::string& path) {
  std::vector<GgufFile::Tensor> out;
  for (const std::string& part : model_parts(path)) {
    const auto file = GgufFile::open(part);
    if (!file) return std::nullopt;
    out.insert(out.end(), file->tensors().begin(), file->tensors().end());
  }
  return out;
}

bool has_tensor(std::span<const GgufFile::Tensor> tensors, std::string_view name) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const GgufFile::Tensor& t) { return t.name == name; });
}

std::string not_a_language_model(const GgufFile& file) {
  const std::string arch = file.architecture();
  const std::string type = file.text("general.type").value_or("");
  if (type == "adapter" || file.has_key_beginning("adapter."))
    return "is a LoRA adapter, a change to a model and not a model; give it with --lora beside its model.";
  if (type == "imatrix" || file.has_key_beginning("imatrix."))
    return "is an importance matrix, which llama-quantize takes with --imatrix; give the model itself.";
  if (arch == "controlvector")
    return "is a control vector, which llama.cpp's programs take with --control-vector; give the model itself.";
  if (arch == "clip" || type == "mmproj")
    return "is the part of a multimodal model that reads images or sound, which llama.cpp's programs take with "
           "--mmproj; give the language model that belongs to it.";
  const auto parts = file.number("split.count").value_or(1);
  if (const auto part = file.number("split.no"); parts > 1 && part.value_or(0) > 0) {
    char first[64];
    std::snprintf(first, sizeof first, "-00001-of-%05u.gguf", static_cast<unsigned>(parts));
    return "is part " + std::to_string(*part + 1) + " of " + std::to_string(parts) +
           " of a split model; give its first part, whose name ends in " + first + ".";
  }
  const auto head = [](const std::string& what, const char* drafter) {
    return what +
           "; gsd takes draft models, EAGLE-3 heads and DFlash heads with --draft, llama-server takes this one with "
           "--spec-draft-model and "
           "--spec-type " +
           drafter + ".";
  };
  for (const auto& [name, what, drafter] : {std::array{"eagle3", "an EAGLE-3 head", "draft-eagle3"},
                                            {"dflash", "a DFlash drafter", "draft-dflash"},
                                            {"gemma4-assistant", "an MTP head of Gemma 4", "draft-mtp"}}) {
    if (arch == name)
      return head(
          std::string("is ") + what + ", which drafts from its target's inner states and is no model of its own",
          drafter);
  }
  if (file.number(file.of("nextn_predict_layers")).value_or(0) > 0 && parts <= 1 && file.has_tensor_beginning("blk.") &&
      !file.has_tensor_beginning("blk.0."))
    return head("holds only the MTP layers of a model, which draft from its inner states", "draft-mtp");
  if (file.tensors().empty() && parts <= 1)
    return file.has_key_beginning("tokenizer.") ? "holds a vocabulary and no weights; give the whole model."
                                                : "holds no weights; give a whole model.";
  return "";
}

}  // namespace gsd
