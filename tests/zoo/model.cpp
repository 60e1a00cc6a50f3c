#include <dlfcn.h>
#include <ggml-backend.h>
#include <gguf.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <string_view>

#include "zoo.h"

namespace gsd::zoo {
namespace {

using Gguf = std::unique_ptr<gguf_context, decltype(&gguf_free)>;

std::string messages;  // libllama's errors while a Listener lives

class Listener {
 public:
  Listener() {
    llama_log_get(&before_, &user_);
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
          if (level == GGML_LOG_LEVEL_ERROR) messages += text;
        },
        nullptr);
  }
  ~Listener() { llama_log_set(before_, user_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

 private:
  ggml_log_callback before_ = nullptr;
  void* user_ = nullptr;
};

// ---- metadata

std::uint32_t number(const Entry& entry, const std::string& key) {
  for (auto it = entry.metadata.rbegin(); it != entry.metadata.rend(); ++it)
    if (it->first == key) return static_cast<std::uint32_t>(std::stoul(it->second));
  throw std::runtime_error(entry.name + " lacks " + key);
}

enum class Kind { kNumber, kFloat, kBool, kText };

Kind kind_of(const std::string& value) {
  if (value == "true" || value == "false") return Kind::kBool;
  const char c = value.empty() ? 'x' : value[value[0] == '-' ? 1 : 0];
  if (c < '0' || c > '9') return Kind::kText;
  return value.find_first_of(".e") == value.npos ? Kind::kNumber : Kind::kFloat;
}

void set_array(gguf_context* file, const std::string& key, const std::string& list, std::size_t n) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at <= list.size();) {
    const auto comma = std::min(list.find(',', at), list.size());
    words.push_back(list.substr(at, comma - at));
    at = comma + 1;
  }
  if (n == 0) n = words.size();
  const auto fill = [&](auto parse, gguf_type type) {
    std::vector<decltype(parse(words[0]))> values;
    for (std::size_t i = 0; i < n; ++i) values.push_back(parse(words[i % words.size()]));
    gguf_set_arr_data(file, key.c_str(), type, values.data(), values.size());
  };
  switch (kind_of(words[0])) {
    case Kind::kBool:
      return fill([](const std::string& w) { return static_cast<std::int8_t>(w == "true"); }, GGUF_TYPE_BOOL);
    case Kind::kFloat:
      return fill([](const std::string& w) { return std::stof(w); }, GGUF_TYPE_FLOAT32);
    default:
      if (words[0].ends_with('L'))
        return fill([](const std::string& w) { return static_cast<std::uint64_t>(std::stoull(w)); }, GGUF_TYPE_UINT64);
      return fill([](const std::string& w) { return static_cast<std::uint32_t>(std::stoul(w)); }, GGUF_TYPE_UINT32);
  }
}

void set_value(gguf_context* file, const std::string& key, const std::string& value, std::size_t n_layers) {
  if (value.starts_with("[") || value.starts_with("{"))
    return set_array(file, key, value.substr(1, value.size() - 2), value[0] == '[' ? n_layers : 0);
  switch (kind_of(value)) {
    case Kind::kBool:
      return gguf_set_val_bool(file, key.c_str(), value == "true");
    case Kind::kFloat:
      return gguf_set_val_f32(file, key.c_str(), std::stof(value));
    case Kind::kNumber:
      return gguf_set_val_u32(file, key.c_str(), static_cast<std::uint32_t>(std::stoul(value)));
    case Kind::kText:
      return gguf_set_val_str(file, key.c_str(), value.c_str());
  }
}

// The first `n` tokens of a byte-level BPE vocabulary and the merges among them.
void set_tokenizer(gguf_context* file, const std::filesystem::path& from, std::size_t n) {
  const Gguf in(gguf_init_from_file(from.c_str(), {.no_alloc = true, .ctx = nullptr}), gguf_free);
  const auto key = [&](const char* name) {
    const auto at = in ? gguf_find_key(in.get(), name) : -1;
    if (at < 0) throw std::runtime_error(from.string() + " has no " + name);
    return at;
  };
  const auto tokens = key("tokenizer.ggml.tokens");
  const auto types = key("tokenizer.ggml.token_type");
  const auto merges = key("tokenizer.ggml.merges");
  if (gguf_get_arr_n(in.get(), tokens) < n) throw std::runtime_error(from.string() + " has too few tokens");
  std::vector<const char*> text;
  for (std::size_t i = 0; i < n; ++i) text.push_back(gguf_get_arr_str(in.get(), tokens, i));
  const std::set<std::string> known(text.begin(), text.end());
  std::vector<const char*> kept;
  for (std::size_t i = 0; i < gguf_get_arr_n(in.get(), merges); ++i) {
    const char* merge = gguf_get_arr_str(in.get(), merges, i);
    const std::string_view pair = merge;
    const auto space = pair.find(' ', 1);
    if (known.contains(std::string(pair.substr(0, space)) + std::string(pair.substr(space + 1)))) kept.push_back(merge);
  }
  gguf_set_val_str(file, "tokenizer.ggml.model", "gpt2");
  gguf_set_val_str(file, "tokenizer.ggml.pre", "gpt-2");
  gguf_set_arr_str(file, "tokenizer.ggml.tokens", text.data(), text.size());
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, gguf_get_arr_data(in.get(), types), n);
  gguf_set_arr_str(file, "tokenizer.ggml.merges", kept.data(), kept.size());
  gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 0);
  gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 0);
  gguf_set_val_bool(file, "tokenizer.ggml.add_bos_token", true);
  gguf_set_val_u32(file, "tokenizer.ggml.token_type_count", 2);
}

Gguf metadata_of(const Entry& entry, const std::filesystem::path& vocabulary) {
  Gguf file(gguf_init_empty(), gguf_free);
  gguf_set_val_str(file.get(), "general.architecture", entry.architecture.c_str());
  gguf_set_val_str(file.get(), "general.name", ("zoo " + entry.name).c_str());
  for (const auto& [key, value] : entry.metadata) {
    const bool whole = key.starts_with("general.") || key.starts_with("xielu.");
    set_value(file.get(), whole ? key : entry.architecture + "." + key, value, number(entry, "block_count"));
  }
  set_tokenizer(file.get(), vocabulary, number(entry, "vocab_size"));
  if (entry.architecture == "dflash")
    gguf_set_val_u32(file.get(), "tokenizer.ggml.mask_token_id", number(entry, "vocab_size") - 1);
  return file;
}

// ---- tensors

struct Tensor {
  std::string name;
  std::array<std::int64_t, GGML_MAX_DIMS> shape;
  ggml_type type;
  std::int64_t size() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
};

std::vector<Tensor> tensors_of(const Entry& entry, gguf_context* metadata) {
  std::vector<Tensor> tensors;
  const auto note = [](ggml_tensor* t, void* list) {
    Tensor tensor{t->name, {}, t->type};
    std::copy(std::begin(t->ne), std::end(t->ne), tensor.shape.begin());
    static_cast<std::vector<Tensor>*>(list)->push_back(tensor);
  };
  llama_model_params params = llama_model_default_params();
  params.use_extra_bufts = false;
  params.load_mtp = true;  // it has no place for these layers otherwise
  messages.clear();
  llama_model* model = nullptr;
  try {
    model = llama_model_init_from_user(metadata, note, &tensors, params);
  } catch (const std::exception& e) {
    messages += e.what();
  }
  if (model == nullptr) throw std::runtime_error("libllama makes no such model: " + messages);
  llama_model_free(model);
  std::set<std::string> seen;
  std::erase_if(tensors, [&](const Tensor& t) {
    // Scales of quantised weights, and heads of classifiers.
    return t.name.ends_with(".scale") || t.name.ends_with("input_scale") || t.name.starts_with("cls.") ||
           // libllama tells the two kinds of RWKV-6 apart by this one.
           (entry.architecture == "rwkv6qwen2" && t.name.ends_with("time_mix_first.weight")) ||
           !seen.insert(t.name).second;
  });
  return tensors;
}

// ---- weights

std::uint64_t hash(std::string_view text, std::uint64_t seed) {
  std::uint64_t h = 1469598103934665603U + seed * 0x9E3779B97F4A7C15U;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return h;
}

// About normal: the sum of four 16-bit numbers of a splitmix64 generator. Mean 0, deviation 1.
class Noise {
 public:
  explicit Noise(std::uint64_t seed) : state_(seed) {}
  float operator()() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    const auto sum = (z & 0xFFFF) + ((z >> 16) & 0xFFFF) + ((z >> 32) & 0xFFFF) + (z >> 48);
    return (static_cast<float>(sum) / 65536 - 2) * std::sqrt(3.0F);
  }

 private:
  std::uint64_t state_;
};

struct Distribution {
  float mean = 0;
  float deviation = 0;
};

float weight(const Entry& entry, const char* key, float otherwise) {
  const auto it = entry.weights.find(key);
  return it == entry.weights.end() ? otherwise : it->second;
}

// Chosen so that activations stay near 1 from layer to layer, attention and routing decide clearly, and logits lie some
// units apart: a text then depends on all of its prefix, and a draft's noise does not hide it.
Distribution distribution(const Entry& entry, const Tensor& t, bool tied) {
  constexpr float kOutputGain = 5;
  const auto has = [&](const char* part) { return t.name.find(part) != t.name.npos; };
  const float embedding = weight(entry, "embedding", entry.architecture.starts_with("gemma") ? 0.02F : 0.3F);
  const float per_row = 1 / std::sqrt(static_cast<float>(t.shape[0]));
  const bool vector = t.shape[1] == 1 && t.shape[2] == 1;
  if (t.name == "output_norm.weight") {
    const float mean = tied ? kOutputGain / (embedding * 16) : kOutputGain;
    return {mean, 0.1F * mean};
  }
  if (has("attn_q_norm")) return {weight(entry, "q_norm", 1), 0.1F * weight(entry, "q_norm", 1)};
  if (has("norm") && t.name.ends_with(".weight")) return {1, 0.1F};
  if (has("rope_freqs") || has("rope_factors")) return {1, 0};
  if (has("_scale") || has("act.scales")) return {1, 0.05F};
  if (t.name.ends_with("ssm_a")) return {-0.5F, 0.1F};
  if (has("altup_") && has("coef")) return {0, per_row * weight(entry, "altup", 1)};
  if (t.name.ends_with(".bias") || vector) return {0, 0.1F};
  if (has("token_embd") || has("embed_tokens")) return {0, embedding};
  if (has("conv1d")) return {0, 0.5F};
  if (has("attn_q.weight") || has("attn_k.weight") || has("attn_qkv.weight") || has("attn_q_b.weight"))
    return {0, 1.6F * per_row};
  if (has("attn_output.weight")) return {0, 2 * per_row};
  if (has("ffn_gate_inp.weight")) return {0, 4 * per_row};
  return {0, per_row};
}

// ---- MTP layers, which must agree with the model to show anything
//
// The last layer of the model does nearly all it does, and the MTP layer is that layer with some noise: it is fed the
// embedding of its token and a little of the state before it, so that it says nearly what the model will.

// Layers of the model without those that draft, 0 = none drafts.
int layers_before_mtp(const Entry& entry) {
  const bool has = std::any_of(entry.metadata.begin(), entry.metadata.end(),
                               [](const auto& kv) { return kv.first == "nextn_predict_layers"; });
  return has ? static_cast<int>(number(entry, "block_count") - number(entry, "nextn_predict_layers")) : 0;
}

// The layer that a tensor belongs to, or -1.
int layer_of(const Tensor& t) { return t.name.starts_with("blk.") ? std::stoi(t.name.substr(4)) : -1; }

// What the layers that say little are scaled by.
float share_of_layer(const Entry& entry, const Tensor& t) {
  const int n = layers_before_mtp(entry);
  const int layer = layer_of(t);
  const auto has = [&](const char* part) { return t.name.find(part) != t.name.npos; };
  const bool output = has("attn_output") || has("ffn_down") || has("ssm_out");
  return n > 0 && layer >= 0 && layer < n - 1 && output ? 0.02F : 1;
}

// The tensor of the model that a tensor of an MTP layer is like; null if there is none.
const Tensor* twin_of(const Entry& entry, const Tensor& t, std::span<const Tensor> all) {
  const int n = layers_before_mtp(entry);
  if (n == 0 || layer_of(t) < n) return nullptr;
  const std::string own = t.name.substr(t.name.find('.', 4) + 1);
  const auto find = [&](const std::string& name) -> const Tensor* {
    const auto at =
        std::find_if(all.begin(), all.end(), [&](const Tensor& o) { return o.name == name && o.shape == t.shape; });
    return at == all.end() ? nullptr : &*at;
  };
  if (own == "nextn.embed_tokens.weight") return find("token_embd.weight");
  if (own == "nextn.shared_head_norm.weight") return find("output_norm.weight");
  if (own == "nextn.shared_head_head.weight") {
    const Tensor* output = find("output.weight");
    return output != nullptr ? output : find("token_embd.weight");
  }
  return find("blk." + std::to_string(n - 1) + "." + own);
}

// The embedding as it is, and a little of the state. The other tensors of the kind scale the two before.
void join_with_state(const Tensor& t, std::vector<float>& values) {
  const auto n = static_cast<std::size_t>(t.shape[1]);
  for (std::size_t row = 0; row < n; ++row)
    for (std::size_t column = 0; column < 2 * n; ++column) {
      float& v = values[row * 2 * n + column];
      v = column < n ? (column == row ? 1.0F : 0.0F) : 0.02F * v;
    }
}

std::vector<float> weights(const Entry& entry, const Tensor& tensor, bool tied, const Recipe& recipe,
                           std::span<const Tensor> all) {
  const Tensor* twin = twin_of(entry, tensor, all);
  const Tensor& t = twin != nullptr ? *twin : tensor;
  const Distribution d = distribution(entry, t, tied);
  std::vector<float> values(static_cast<std::size_t>(t.size()));
  Noise own(hash(t.name, recipe.seed));
  for (float& v : values) v = (d.mean + d.deviation * own()) * share_of_layer(entry, t);
  if (t.name.ends_with("nextn.eh_proj.weight")) join_with_state(t, values);
  if (t.name.ends_with("nextn.enorm.weight")) std::fill(values.begin(), values.end(), weight(entry, "embedding", 0.3F));
  if (recipe.draft || twin != nullptr) {
    Noise other(hash(tensor.name, recipe.seed + 1000));
    const float size = weight(entry, "noise", 0.01F) * d.deviation;
    for (float& v : values) v += size * other();
  }
  if (t.name.ends_with("ssm_a"))  // a decay
    for (float& v : values) v = -std::fabs(v);
  return values;
}

ggml_type format_of(const Tensor& t, const Recipe& recipe) {
  if (t.type == GGML_TYPE_F16 || t.type == GGML_TYPE_I32 || t.type == GGML_TYPE_I64) return t.type;
  ggml_type type = GGML_TYPE_F32;
  if (t.shape[1] == 1 || !t.name.ends_with(".weight")) return type;
  for (const auto& [part, format] : recipe.formats)
    if (t.name.find(part) != t.name.npos && t.shape[0] % ggml_blck_size(format) == 0) type = format;
  return type;
}

void fill(ggml_tensor* t, const std::vector<float>& values) {
  if (t->type == GGML_TYPE_F32) {
    std::memcpy(t->data, values.data(), ggml_nbytes(t));
  } else if (t->type == GGML_TYPE_I32 || t->type == GGML_TYPE_I64) {
    std::memset(t->data, 0, ggml_nbytes(t));  // tables of ids
  } else {
    const std::vector<float> importance(static_cast<std::size_t>(t->ne[0]), 1.0F);
    ggml_quantize_chunk(t->type, values.data(), t->data, 0, ggml_nrows(t), t->ne[0], importance.data());
  }
}

}  // namespace

namespace {

Entry head_of(const Entry& target, const std::string& architecture, const std::string& layers,
              const std::string& taps) {
  const std::string width = std::to_string(number(target, "embedding_length"));
  return {.name = target.name + "." + architecture,
          .architecture = architecture,
          .metadata = {{"vocab_size", std::to_string(number(target, "vocab_size"))},
                       {"context_length", "4096"},
                       {"embedding_length", width},
                       {"block_count", layers},
                       {"feed_forward_length", "192"},
                       {"attention.head_count", "2"},
                       {"attention.head_count_kv", "1"},
                       {"attention.key_length", "64"},
                       {"attention.value_length", "64"},
                       {"attention.layer_norm_rms_epsilon", "1e-5"},
                       {"rope.dimension_count", "64"},
                       {"target_layers", "{" + taps + "}"},
                       {"target_hidden_size", width}},
          .weights = {}};
}

}  // namespace

Entry eagle3_of(const Entry& target, const std::string& taps) { return head_of(target, "eagle3", "1", taps); }

Entry dflash_of(const Entry& target, const std::string& taps) {
  Entry head = head_of(target, "dflash", "2", taps);
  head.metadata.emplace_back("block_size", "8");
  return head;
}

void write_model(const Entry& entry, const std::filesystem::path& vocabulary, const Recipe& recipe,
                 const std::filesystem::path& file) {
  const Listener listener;
  const Gguf out = metadata_of(entry, vocabulary);
  gguf_set_val_u32(out.get(), "general.file_type", static_cast<std::uint32_t>(recipe.file_type));
  const std::vector<Tensor> tensors = tensors_of(entry, out.get());
  const bool tied =
      std::none_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.name == "output.weight"; });
  std::size_t bytes = 0;
  for (const Tensor& t : tensors) bytes += static_cast<std::size_t>(t.size()) * sizeof(double) + 1024;
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> memory(
      ggml_init({.mem_size = bytes, .mem_buffer = nullptr, .no_alloc = false}), ggml_free);
  for (const Tensor& t : tensors) {
    ggml_tensor* tensor = ggml_new_tensor(memory.get(), format_of(t, recipe), GGML_MAX_DIMS, t.shape.data());
    ggml_set_name(tensor, t.name.c_str());
    fill(tensor, weights(entry, t, tied, recipe, tensors));
    gguf_add_tensor(out.get(), tensor);
  }
  if (!gguf_write_to_file(out.get(), file.c_str(), false)) throw std::runtime_error("cannot write " + file.string());
}

std::vector<std::string> known_architectures() {
  const Listener listener;
  Dl_info library{};
  if (dladdr(reinterpret_cast<const void*>(&llama_backend_init), &library) == 0)
    throw std::runtime_error("libllama's file cannot be found");
  std::ifstream in(library.dli_fname, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  // Linkers store a word that another one ends with inside that one: every tail is a word too.
  std::set<std::string> words;
  for (std::size_t end = bytes.find('\0'); end != bytes.npos; end = bytes.find('\0', end + 1)) {
    for (std::size_t begin = end; begin > 0 && end - begin < 32; --begin) {
      const char c = bytes[begin - 1];
      if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_' && c != '.') break;
      if (end - begin >= 1) words.insert(bytes.substr(begin - 1, end - begin + 1));
    }
  }
  std::vector<std::string> known;
  for (const std::string& word : words) {
    const Gguf file(gguf_init_empty(), gguf_free);
    gguf_set_val_str(file.get(), "general.architecture", word.c_str());
    messages.clear();
    llama_model* model = nullptr;
    try {
      model = llama_model_init_from_user(
          file.get(), [](ggml_tensor*, void*) {}, nullptr, llama_model_default_params());
    } catch (const std::exception& e) {
      messages += e.what();
    }
    if (model != nullptr) llama_model_free(model);
    if (messages.find("unknown model architecture") == messages.npos) known.push_back(word);
  }
  return known;
}

}  // namespace gsd::zoo
