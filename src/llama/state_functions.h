// Functions of libllama that give and take inner states. Its library exports them with C++ linkage, no installed header
// declares them: they are looked up by name, and where one is missing all else goes on without them.
#pragma once

#include <llama.h>

#include <cstdint>
#include <string>

namespace gsd {

struct StateFunctions {
  // Whether a pass gives the rows that MTP layers (and heads of their own) go on from; `masked`: only for tokens with
  // logits.
  void (*set_nextn)(llama_context*, bool value, bool masked);
  float* (*nextn)(llama_context*);                          // [rows, n_embd_out] of the last pass
  float* (*nextn_ith)(llama_context*, std::int32_t token);  // [n_embd_out] of a token of the last pass
  // Whether a pass gives what enters a layer.
  void (*set_layer_input)(llama_context*, std::uint32_t layer, bool value);
  float* (*layer_input)(llama_context*, std::uint32_t layer);  // [tokens, n_embd] of the last pass
  // The target's layers that a head reads the inputs of.
  const std::int32_t* (*layer_ids)(const llama_model*);
  std::uint32_t (*n_layer_ids)(const llama_model*);
};

// Null where libllama lacks one of them or is of a version that they were not tried with. Any thread.
const StateFunctions* state_functions();
// Why there are none, as the end of a sentence about what needs them; empty if there are. Any thread.
std::string no_state_functions();

}  // namespace gsd
