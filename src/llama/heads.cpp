#include "heads.h"

#include <algorithm>
#include <string_view>

#include "handles.h"
#include "state_functions.h"

namespace gsd {
namespace {

// Architectures whose MTP layers libllama 0.7 computes; it ends the process for those of others. Each is tried by the
// zoo ("NAME+mtp").
constexpr std::string_view kMtp[] = {"cohere2moe", "deepseek2", "deepseek32", "glm-dsa",   "glm4moe",
                                     "hy_v3",      "qwen35",    "qwen35moe",  "qwen3next", "step35"};

// Those of them whose MTP layers it takes to be mixtures of experts.
constexpr std::string_view kMtpOfExperts[] = {"deepseek2", "deepseek32", "glm-dsa", "glm4moe"};

// Architectures of which libllama 0.7 gives what enters each layer, likewise (head_test.cpp).
constexpr std::string_view kGivesLayers[] = {"gpt-oss", "llama", "qwen3", "qwen3moe"};

template <std::size_t N>
bool is_one_of(const std::string& name, const std::string_view (&list)[N]) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

// `file` is the model's only or first one; the layer may stand in another part.
bool has_dense_mtp_layer(const std::string& path, const GgufFile& file, std::uint64_t n_mtp) {
  const std::uint64_t n = file.number(file.of("block_count")).value_or(0);
  const std::uint64_t first = n - std::min(n, n_mtp);
  if (file.number(file.of("leading_dense_block_count")).value_or(0) > first) return true;
  const auto tensors = model_tensors(path);  // where a part cannot be read, loading it will say why
  return tensors && !has_tensor(*tensors, "blk." + std::to_string(first) + ".ffn_gate_inp.weight");
}

std::uint64_t block_size(const GgufFile& file) {
  constexpr std::uint64_t kUnsaid = 16;
  return file.number(file.of("block_size")).value_or(kUnsaid);
}

// Throws for a head of this architecture that is run in another way than one block at a time.
void check_block_head(const GgufFile& file, const Model& head) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kModelUnsupported, "The DFlash head '" + head.path() + "' " + why + ".");
  };
  for (const auto& [tensor, what] : {std::pair{"markov_w1.weight", "its tokens are drawn one after the other (DSpark)"},
                                     {"selector_hidden.weight", "it chooses paths by itself (DFlash 2)"},
                                     {"d2t", "its vocabulary is not its target's"}})
    if (has_tensor(file.tensors(), tensor)) refuse(std::string("is of a kind that gsd does not know: ") + what);
  if (file.has_key_beginning(file.of("rope.dimension_sections")))
    refuse("takes positions in sections (M-RoPE), which gsd does not feed it");
  if (file.has_key_beginning(file.of("hyper_connection"))) refuse("is of a kind that gsd does not know");
  const std::uint64_t block = block_size(file);
  if (block < 2 || block > 64) refuse("has blocks of " + std::to_string(block) + " tokens, and gsd takes 2 to 64");
  if (llama_vocab_mask(head.impl().vocab) < 0) refuse("names no mask token (tokenizer.ggml.mask_token_id)");
}

}  // namespace

std::int32_t block_of(const Model& head) {
  const auto file = GgufFile::open(head.path());
  return file ? static_cast<std::int32_t>(block_size(*file)) : 0;  // layers_of_target() has read it
}

const char* draft_type_name(DraftType type) {
  switch (type) {
    case DraftType::kModel:
      return "model";
    case DraftType::kMtp:
      return "mtp";
    case DraftType::kEagle3:
      return "eagle3";
    case DraftType::kDFlash:
      return "dflash";
  }
  return "";
}

const std::map<std::string_view, std::optional<DraftType>>& draft_types_by_name() {
  static const auto types = [] {
    std::map<std::string_view, std::optional<DraftType>> out{{"auto", std::nullopt}};
    for (const DraftType t : {DraftType::kModel, DraftType::kMtp, DraftType::kEagle3, DraftType::kDFlash})
      out[draft_type_name(t)] = t;
    return out;
  }();
  return types;
}

DraftType type_of(const GgufFile& file) {
  if (file.architecture() == "dflash") return DraftType::kDFlash;
  return file.architecture() == "eagle3" ? DraftType::kEagle3 : DraftType::kModel;
}

DraftType draft_type(const std::string& path) {
  start_llama();
  const auto file = GgufFile::open(path);
  return file ? type_of(*file) : DraftType::kModel;
}

MtpLayers mtp_layers(const std::string& path) {
  start_llama();
  MtpLayers out;
  const auto file = GgufFile::open(path);
  if (!file) return out;  // loading it will say why
  out.count =
      static_cast<int>(std::min<std::uint64_t>(file->number(file->of("nextn_predict_layers")).value_or(0), 512));
  if (out.count == 0) return out;
  if (const std::string why = no_state_functions(); !why.empty())
    out.obstacle = "drafting with them " + why;
  else if (!is_one_of(file->architecture(), kMtp))
    out.obstacle = "gsd does not know how to draft with those of " + file->architecture();
  else if (file->architecture() == "glm4moe" && file->has_key_beginning(file->of("rope.dimension_sections")))
    out.obstacle = "libllama does not compute them with positions in sections (M-RoPE)";
  else if (is_one_of(file->architecture(), kMtpOfExperts) &&
           has_dense_mtp_layer(path, *file, static_cast<std::uint64_t>(out.count)))
    out.obstacle = "libllama computes them with experts only, and the first of these has none";
  return out;
}

std::vector<std::int32_t> layers_of_target(const Model& target, const Model& head, DraftType type) {
  const StateFunctions* functions = state_functions();
  if (functions == nullptr)
    throw Error(ErrorCode::kModelUnsupported, "Drafting with a head " + no_state_functions() + ".");
  if (type == DraftType::kMtp) return {};
  const llama_model* h = head.impl().model.get();
  const std::int32_t* ids = functions->layer_ids(h);
  std::vector<std::int32_t> layers(ids, ids + functions->n_layer_ids(h));
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kPairMismatch, "The head '" + head.path() + "' was made for another target than '" +
                                              target.path() + "': " + why + ".");
  };
  const auto file = GgufFile::open(head.path());
  if (!file) throw Error(ErrorCode::kModelFile, "The head '" + head.path() + "' cannot be read.");
  if (!is_one_of(target.architecture(), kGivesLayers))
    throw Error(ErrorCode::kModelUnsupported, "gsd does not know how to get the states of " + target.architecture() +
                                                  " models that EAGLE-3 and DFlash heads read.");
  if (type == DraftType::kDFlash) {
    check_block_head(*file, head);
    if (head.n_embd() != target.n_embd()) refuse("it has not its target's width");
  } else if (file->number(file->of("target_hidden_size")) != static_cast<std::uint64_t>(target.n_embd())) {
    refuse("its target's layers have another width");
  }
  const bool complete =
      has_tensor(file->tensors(), "token_embd.weight") && has_tensor(file->tensors(), "output.weight");
  if (!complete && head.n_embd() != target.n_embd())
    refuse("it has not its target's width, nor an embedding and an output of its own");
  if (type == DraftType::kEagle3 && head.n_layers() != 1)
    refuse("it has " + std::to_string(head.n_layers()) + " layers, and libllama computes one");
  if (layers.empty()) refuse("it names no layers of its target");
  for (const std::int32_t layer : layers)
    if (layer < 0 || layer > target.n_layers())
      refuse("it reads layer " + std::to_string(layer) + " of " + std::to_string(target.n_layers()));
  return layers;
}

}  // namespace gsd
