// The drafter of a DFlash head: candidates for a block of positions in one pass.
#pragma once

#include <cstdint>
#include <memory>

#include "context.h"
#include "gsd/drafter.h"
#include "gsd/llama.h"

namespace gsd {

// `states`: what the head reads of its target, whose first context is `target`. Throws what make_contexts() throws.
std::unique_ptr<Drafter> make_block_drafter(const Model& head, const ContextOptions& options,
                                            std::shared_ptr<const TargetStates> states, llama_context* target,
                                            std::int32_t n_vocab);

}  // namespace gsd
