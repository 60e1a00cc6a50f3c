// The drafter of a language model that has another vocabulary than the target.
#pragma once

#include <memory>
#include <string_view>

#include "gsd/drafter.h"
#include "vocabulary_map.h"

namespace gsd {

// Translates by text. The target's text is kept in the draft's tokens, of which the last ones are made anew where the
// text went on; what the draft proposes becomes the target's tokens one by one where both have the token, and else by
// the target's tokenizer. A draft's token that is several of the target's makes a path of nodes, which all come of one
// pass; where several of the draft's are one of the target's, that one becomes a candidate as soon as the second is
// known, in the place of what the first alone would have been.
//
// `backend` must outlive it and is used by it alone. It should have room for more positions than the target has: text
// can take more of the draft's tokens than of the target's. Where they run out, nothing is proposed. A call makes more
// than one pass where what a text lacks is more of the draft's tokens than one takes. Its calls allocate.
//
// Source of the idea: Timor et al., "Accelerating LLM Inference with Lossless Speculative Decoding Algorithms for
// Heterogeneous Vocabularies", arXiv 2502.05202 (string-level exact match, token-level intersection), which drafts
// chains; here each node of a graph knows where in the draft's own tree it stands.
std::unique_ptr<Drafter> make_translating_drafter(Backend& backend, std::shared_ptr<const VocabularyMap> map,
                                                  std::string_view name = "model");

}  // namespace gsd
