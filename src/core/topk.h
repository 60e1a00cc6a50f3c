// The k best entries of a row of logits and its softmax normaliser, in one pass over the row.
#pragma once

#include <span>

#include "gsd/types.h"

namespace gsd {

// Fills `tokens` and `log_p` with the k = min(tokens.size(), row.size()) most probable tokens in descending order
// (equal logits: lower id first) and their log-probabilities under softmax(row * inv_temperature). Returns k.
// Entries that are NaN or -inf are never chosen and weigh nothing.
// REQUIRES: tokens.size() == log_p.size() <= 256, inv_temperature > 0. No allocation. Thread safe.
int top_k_log_softmax(std::span<const float> row, float inv_temperature, std::span<Token> tokens,
                      std::span<float> log_p);

// Index of the largest entry, the lowest of equals, and in `second` (may be null) the value of the runner-up. NaN
// counts as -inf. REQUIRES: row is not empty. Thread safe.
Token arg_max(std::span<const float> row, float* second);

// out[i] = exp(row[i] * scale - shift), relative error below 1e-5, arguments clamped to [-87, 88]. NaN gives e^-87.
// Returns their sum, to that error where they are some hundreds.
// REQUIRES: out.size() == row.size(). Thread safe.
double exp_shifted(std::span<const float> row, float scale, float shift, std::span<float> out);

}  // namespace gsd
