// What `--exact` can promise of a file: which of its products round alike at every width.
#include <algorithm>
#include <set>

#include "gguf_file.h"
#include "handles.h"

namespace gsd {
namespace {

enum class Use { kElements, kRows, kProduct, kExperts };

Use use_of(const GgufFile::Tensor& t, bool tied) {
  const auto has = [&](const char* part) { return t.name.find(part) != t.name.npos; };
  if (t.shape[1] == 1 && t.shape[2] == 1) return Use::kElements;  // norms, biases
  if (t.name == "token_embd.weight") return tied ? Use::kProduct : Use::kRows;
  if (t.name == "position_embd.weight" || t.name == "token_types.weight" || t.name == "per_layer_token_embd.weight")
    return Use::kRows;
  return has("_exps.") ? Use::kExperts : Use::kProduct;
}

// Measured with ggml 0.27 on tiny models of each format (docs/architecture.md, section 4; `zoo check --only-exact
// --type .weight=FORMAT`). With ggml alone others change their bits, at least as experts.
bool same_bits(const GgufFile::Tensor& t, Use use, bool narrow) {
  const auto is_one_of = [&](std::initializer_list<ggml_type> types) {
    return std::find(types.begin(), types.end(), t.type) != types.end();
  };
  if (use == Use::kElements || use == Use::kRows) return true;
  if (is_one_of({GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0})) return true;
  const bool matrix = t.shape[3] == 1 && (use == Use::kExperts || t.shape[2] == 1);  // what the narrow backend takes
  return narrow && matrix &&
         is_one_of({GGML_TYPE_Q4_0,    GGML_TYPE_Q4_1,   GGML_TYPE_Q5_0,  GGML_TYPE_Q5_1,    GGML_TYPE_IQ4_NL,
                    GGML_TYPE_IQ4_XS,  GGML_TYPE_MXFP4,  GGML_TYPE_NVFP4, GGML_TYPE_Q2_K,    GGML_TYPE_Q3_K,
                    GGML_TYPE_Q4_K,    GGML_TYPE_Q5_K,   GGML_TYPE_Q6_K,  GGML_TYPE_IQ1_S,   GGML_TYPE_IQ1_M,
                    GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_S, GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S});
}

}  // namespace

std::string width_obstacles(const Model& model, bool narrow) {
  auto tensors = model_tensors(model.path());
  if (!tensors) return "a part of the model that cannot be read";
  const bool tied = !has_tensor(*tensors, "output.weight");
  std::set<std::string> kinds;
  for (const std::string& device : model.devices()) kinds.insert("layers on " + device);
  for (const std::string& path : model.impl().options.adapters) {
    const auto more = model_tensors(path);
    if (!more) return "an adapter that cannot be read";
    tensors->insert(tensors->end(), more->begin(), more->end());
  }
  // ggml computes several tokens of it at once in another order than one after the other (`zoo check --only-exact`).
  if (model.architecture() == "minimax-01") kinds.insert("lightning attention");
  for (const GgufFile::Tensor& t : *tensors) {
    const Use use = use_of(t, tied);
    if (!same_bits(t, use, narrow))
      kinds.insert(std::string(use == Use::kExperts ? "experts" : "weights") + " in " + ggml_type_name(t.type));
  }
  std::string out;
  for (const std::string& kind : kinds) out += (out.empty() ? "" : ", ") + kind;
  return out;
}

}  // namespace gsd
