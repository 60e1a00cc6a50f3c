// Which of ggml's operations this backend takes, and what they are in the terms of the kernels.
#pragma once

#include <ggml.h>

#include "attention.h"
#include "experts.h"
#include "work.h"

namespace gsd::narrow {

// MUL_MAT and MUL_MAT_ID by weights, FLASH_ATTN_EXT, and, between those, operations on rows of activations
// (is_row_operation).
bool supports(const ggml_tensor& node);

// ADD, ADD_ID, MUL, RMS_NORM, GLU, ROPE and SET_ROWS: done a row of activations, mostly a token, at a time.
bool is_row_operation(const ggml_tensor& node);

// Of a MUL: a number for every row, as the weight of an expert.
bool is_scaling(const ggml_tensor& node);

// REQUIRES: supports(node), for an operation of the kind
Product product_of(const ggml_tensor& node);
ExpertProduct expert_product_of(const ggml_tensor& node);
Attention attention_of(const ggml_tensor& node);

}  // namespace gsd::narrow
