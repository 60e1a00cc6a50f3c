// Which heads there are, and what they need of their target.
#pragma once

#include <cstdint>
#include <vector>

#include "gguf_file.h"
#include "gsd/llama.h"

namespace gsd {

// What the file drafts by: kModel where it is no head.
DraftType type_of(const GgufFile& file);

// Tokens of a DFlash head's block, [2, 64].
std::int32_t block_of(const Model& head);

// The target's layers whose inputs a head of that type reads; none for MTP layers.
// Throws Error(kPairMismatch) where the two do not fit, Error(kModelUnsupported) where libllama cannot give the states.
std::vector<std::int32_t> layers_of_target(const Model& target, const Model& head, DraftType type);

}  // namespace gsd
