// Owning handles and log capture: shared by the files of the llama backend.
#pragma once

#include <ggml-backend.h>
#include <llama.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gsd/llama.h"

namespace gsd {

// What lies on another machine is given up with the connection to it (remote.h), and the rest of it with it.
struct ModelDeleter {
  void operator()(llama_model* m) const;
  bool remote = false;
};
struct ContextDeleter {
  void operator()(llama_context* c) const;
  bool remote = false;
};

struct Model::Impl {
  ModelOptions options;
  std::vector<ggml_backend_dev_t> devices;  // that its layers lie on; none: all on the CPU
  std::unique_ptr<llama_model, ModelDeleter> model;
  const llama_vocab* vocab = nullptr;
  std::vector<llama_adapter_lora*> adapters;  // of ModelOptions::adapters; freed with the model
  std::once_flag stack_once;
  std::size_t stack_per_character = 0;  // see tokenize.cpp
  std::once_flag texts_once;
  std::shared_ptr<const TokenTexts> texts;  // made when it is first needed
  int learned_positions = 0;  // rows of its table of positions, which libllama reads without a check; 0 = it has none
};

// Loads ggml's backends once and takes libllama's messages over (set_log). Thread safe.
void start_llama();
// libllama's error messages of this thread since the last call, in one line; empty if there were none.
std::string take_llama_errors();

// How many attention operations of any context the narrow backend left to ggml in exact mode so far; none if it would
// leave one of up to max_batch tokens without counting, because it is not loaded, not in exact mode, or told to.
// Thread safe.
std::optional<std::uint64_t> narrow_attentions_declined(int max_batch);

}  // namespace gsd
