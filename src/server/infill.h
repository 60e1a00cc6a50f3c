// Requests to fill in the middle of a text, in llama-server's form: /infill.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gsd/vocabulary.h"
#include "request.h"

namespace gsd::server {

struct InfillRequest {
  struct Extra {
    std::string filename;
    std::string text;
  };
  CompletionRequest completion;  // without prompts
  std::string prefix;
  std::string suffix;
  std::string prompt;        // after the prefix
  std::vector<Extra> extra;  // texts that belong to it: other files
};

// Throws ApiError(400) naming the field.
InfillRequest parse_infill(std::string_view body, const RequestDefaults& defaults);

// A completion with a suffix, as /infill would be asked for it: one request for each prompt. Throws ApiError(400) for a
// prompt of tokens.
std::vector<InfillRequest> with_suffix(const CompletionRequest& request);

// The prompt as models for filling in are trained with it: other files, then prefix, suffix and the token for the
// middle. What does not fit `n_ctx` beside the answer is cut where it is furthest from the gap: the suffix keeps at
// least a quarter, the prefix what the suffix leaves, the files the rest. Throws ApiError(501) where the vocabulary has
// no tokens for that.
std::vector<Token> infill_prompt(const InfillRequest& request, const Vocabulary& vocabulary, int n_ctx);

}  // namespace gsd::server
