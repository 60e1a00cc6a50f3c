// LoRA adapters: small changes to a model's weights, which act on a context with a scale each.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "context.h"
#include "handles.h"

namespace gsd {

// Loads the files for a model, which frees them. Throws Error(kUsage) for one that is no adapter of it.
std::vector<llama_adapter_lora*> load_adapters(llama_model* model, std::span<const std::string> paths);

// Lets the model's adapters act on the contexts' next passes; see Backend::adapt.
void adapt_contexts(const Model& model, std::span<const ContextHandle> contexts, std::span<const float> scales);

}  // namespace gsd
