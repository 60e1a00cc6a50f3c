#include "adapters.h"

#include <algorithm>

namespace gsd {

std::vector<llama_adapter_lora*> load_adapters(llama_model* model, std::span<const std::string> paths) {
  std::vector<llama_adapter_lora*> out;
  for (const std::string& path : paths) {
    take_llama_errors();
    llama_adapter_lora* const adapter = llama_adapter_lora_init(model, path.c_str());
    if (adapter == nullptr) {
      const std::string details = take_llama_errors();
      throw Error(ErrorCode::kUsage, "The adapter '" + path + "' cannot be used with this model" +
                                         (details.empty() ? "." : " (libllama: " + details + ")."));
    }
    if (llama_adapter_get_alora_n_invocation_tokens(adapter) > 0)
      throw Error(ErrorCode::kUsage,
                  "The adapter '" + path + "' acts from certain tokens on only (aLoRA), which is not supported.");
    out.push_back(adapter);
  }
  return out;
}

void adapt_contexts(const Model& model, std::span<const ContextHandle> contexts, std::span<const float> scales) {
  const std::vector<llama_adapter_lora*>& all = model.impl().adapters;
  std::vector<llama_adapter_lora*> acting;
  std::vector<float> with;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] == 0) continue;
    if (i >= all.size()) throw Error(ErrorCode::kUsage, "There is no such adapter.");
    acting.push_back(all[i]);
    with.push_back(scales[i]);
  }
  for (const ContextHandle& c : contexts) {
    if (llama_set_adapters_lora(c.get(), acting.data(), acting.size(), with.data()) != 0)
      throw Error(ErrorCode::kBackend, "libllama does not let the adapters act.");
  }
}

}  // namespace gsd
