#include "operations.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include "plugin.h"

namespace gsd::narrow {
namespace {

std::optional<Format> format_of(ggml_type type) {
  switch (type) {
    case GGML_TYPE_F32:
      return Format::kF32;
    case GGML_TYPE_F16:
      return Format::kF16;
    case GGML_TYPE_BF16:
      return Format::kBF16;
    case GGML_TYPE_Q8_0:
      return Format::kQ8_0;
    case GGML_TYPE_Q4_0:
      return Format::kQ4_0;
    case GGML_TYPE_Q4_1:
      return Format::kQ4_1;
    case GGML_TYPE_Q5_0:
      return Format::kQ5_0;
    case GGML_TYPE_Q5_1:
      return Format::kQ5_1;
    case GGML_TYPE_IQ4_NL:
      return Format::kIQ4_NL;
    case GGML_TYPE_MXFP4:
      return Format::kMXFP4;
    case GGML_TYPE_Q2_K:
      return Format::kQ2_K;
    case GGML_TYPE_Q3_K:
      return Format::kQ3_K;
    case GGML_TYPE_Q4_K:
      return Format::kQ4_K;
    case GGML_TYPE_Q5_K:
      return Format::kQ5_K;
    case GGML_TYPE_Q6_K:
      return Format::kQ6_K;
    case GGML_TYPE_IQ4_XS:
      return Format::kIQ4_XS;
    case GGML_TYPE_NVFP4:
      return Format::kNVFP4;
    case GGML_TYPE_IQ3_S:
      return Format::kIQ3_S;
    case GGML_TYPE_IQ3_XXS:
      return Format::kIQ3_XXS;
    case GGML_TYPE_IQ2_S:
      return Format::kIQ2_S;
    case GGML_TYPE_IQ2_XS:
      return Format::kIQ2_XS;
    case GGML_TYPE_IQ2_XXS:
      return Format::kIQ2_XXS;
    case GGML_TYPE_IQ1_M:
      return Format::kIQ1_M;
    case GGML_TYPE_IQ1_S:
      return Format::kIQ1_S;
    default:
      return std::nullopt;
  }
}

const Kernel* kernel_of(ggml_type type) {
  const auto format = format_of(type);
  if (!format) return nullptr;
  const Kernel& kernel = plugin().kernels.of[static_cast<int>(*format)];
  return kernel.tile == nullptr ? nullptr : &kernel;
}

// One column of floating-point weights is left to ggml, which streams them as fast as memory gives them. Quantised
// weights keep it busy unpacking, where AVX-512 VNNI is faster even at one column.
int32_t min_width(ggml_type type) {
  const bool quantised = is_quantised(kernel_of(type)->packing);
  return quantised && plugin().machine.avx512vnni ? 1 : 2;
}

bool is_matrix(const ggml_tensor& t) { return t.ne[2] == 1 && t.ne[3] == 1; }

bool has_contiguous_rows(const ggml_tensor& t) {
  return t.nb[0] == ggml_type_size(t.type) && t.nb[1] >= ggml_row_size(t.type, t.ne[0]);
}

// Weights only: a product of two activations (attention without flash attention) has strides and shapes of its own.
bool supports_product(const ggml_tensor& node) {
  const ggml_tensor& weights = *node.src[0];
  const ggml_tensor& x = *node.src[1];
  return kernel_of(weights.type) != nullptr && weights.op == GGML_OP_NONE && weights.ne[0] > 0 &&
         x.type == GGML_TYPE_F32 && node.type == GGML_TYPE_F32 && is_matrix(weights) && is_matrix(x) &&
         has_contiguous_rows(weights) && has_contiguous_rows(x) && node.nb[0] == sizeof(float) &&
         x.nb[1] % sizeof(float) == 0 &&
         plugin().config.takes(x.ne[1], static_cast<int64_t>(ggml_nbytes(&weights)), min_width(weights.type));
}

// The same by experts; how many of them there are is the third dimension of the weights. Tokens are the last of the
// others.
bool supports_experts(const ggml_tensor& node) {
  const ggml_tensor& weights = *node.src[0];
  const ggml_tensor& x = *node.src[1];
  const ggml_tensor& ids = *node.src[2];
  const auto in_floats = [](const ggml_tensor& t) {
    return t.type == GGML_TYPE_F32 && t.nb[0] == sizeof(float) && t.nb[1] % sizeof(float) == 0 &&
           t.nb[2] % sizeof(float) == 0 && t.ne[3] == 1;
  };
  return kernel_of(weights.type) != nullptr && weights.op == GGML_OP_NONE && weights.ne[0] > 0 && weights.ne[3] == 1 &&
         has_contiguous_rows(weights) && in_floats(x) && in_floats(node) && x.ne[1] > 0 && ids.type == GGML_TYPE_I32 &&
         is_matrix(ids) && ids.ne[1] == x.ne[2] &&
         plugin().config.takes(x.ne[2], ids.ne[0] * static_cast<int64_t>(weights.nb[2]), min_width(weights.type));
}

// How many of an operation's parameters are understood here. Others, which a newer ggml may add, must be unset.
size_t known_parameters(const ggml_tensor& node) {
  switch (node.op) {
    case GGML_OP_FLASH_ATTN_EXT:  // scale, largest bias, cap, precision (ours is single), the most cells of a query
      return 5;
    case GGML_OP_RMS_NORM:  // epsilon
      return 1;
    case GGML_OP_GLU:  // which, whether its sides are exchanged (they must not be), alpha and limit
      return ggml_get_glu_op(&node) == GGML_GLU_OP_SWIGLU_OAI ? 4 : 1;
    case GGML_OP_ROPE:  // up to the last one of YaRN: no sections, no offset
      return 11;
    default:
      return 0;
  }
}

bool only_known_parameters(const ggml_tensor& node) {
  return std::all_of(std::begin(node.op_params) + known_parameters(node), std::end(node.op_params),
                     [](int32_t p) { return p == 0; });
}

// Keys and values as libllama stores them in floating-point formats, and a mask.
bool can_attend(const ggml_tensor& node) {
  const ggml_tensor& q = *node.src[0];
  const ggml_tensor& k = *node.src[1];
  const ggml_tensor& v = *node.src[2];
  const ggml_tensor* mask = node.src[3];
  const ggml_tensor* sinks = node.src[4];
  const auto is_cache = [&](const ggml_tensor& t) {
    const Kernel* kernel = kernel_of(t.type);
    return kernel != nullptr && kernel->attend != nullptr && t.ne[0] > 0 && t.ne[0] % kAttentionStep == 0 &&
           t.nb[0] == ggml_type_size(t.type) && t.ne[1] == k.ne[1] && t.ne[2] == k.ne[2] && t.ne[3] == q.ne[3];
  };
  return is_cache(k) && is_cache(v) && k.ne[1] > 0 && k.ne[1] % kAttentionStep == 0 && k.ne[2] > 0 &&
         q.type == GGML_TYPE_F32 && q.ne[0] == k.ne[0] && q.ne[2] % k.ne[2] == 0 && q.nb[0] == sizeof(float) &&
         node.type == GGML_TYPE_F32 && ggml_is_contiguous(&node) && mask != nullptr && mask->type == GGML_TYPE_F16 &&
         mask->nb[0] == sizeof(uint16_t) && mask->ne[0] >= k.ne[1] && mask->ne[1] >= q.ne[1] && mask->ne[2] == 1 &&
         (mask->ne[3] == 1 || mask->ne[3] == q.ne[3]) &&
         (sinks == nullptr || (sinks->type == GGML_TYPE_F32 && sinks->ne[0] == q.ne[2] && ggml_is_contiguous(sinks))) &&
         only_known_parameters(node);
}

bool supports_attention(const ggml_tensor& node) {
  const Config& config = plugin().config;
  if (!config.takes_attention(node.src[0]->ne[1])) return false;
  const bool can = can_attend(node);
  if (!can && config.exact()) plugin().attentions_declined.fetch_add(1, std::memory_order_relaxed);
  return can;
}

// ---- operations on rows --------------------------------------------------------------------------------------------

bool is_floats(const ggml_tensor& t) { return t.type == GGML_TYPE_F32 && t.nb[0] == sizeof(float) && t.ne[3] == 1; }

bool is_rows(const ggml_tensor& t) { return is_floats(t) && t.ne[2] == 1; }

bool is_rows_like(const ggml_tensor* t, const ggml_tensor& node) {
  return t != nullptr && is_rows(*t) && t->ne[0] == node.ne[0] && t->ne[1] == node.ne[1];
}

// Rows of several tokens: [row][of a token][token].
bool is_rows_of_tokens_like(const ggml_tensor* t, const ggml_tensor& node) {
  return t != nullptr && is_floats(*t) && t->ne[0] == node.ne[0] && t->ne[1] == node.ne[1] && t->ne[2] == node.ne[2];
}

bool is_one_row(const ggml_tensor* t, const ggml_tensor& node) {
  return t != nullptr && is_rows(*t) && t->ne[0] == node.ne[0] && t->ne[1] == 1;
}

// Without the corrections of YaRN, whose parameters would have to be those of a longer context.
bool can_rotate(const ggml_tensor& node) {
  const ggml_tensor& x = *node.src[0];
  const ggml_tensor& positions = *node.src[1];
  const ggml_tensor* factors = node.src[2];
  const int32_t dims = node.op_params[1];
  const int32_t mode = node.op_params[2];
  float correction;
  std::memcpy(&correction, node.op_params + 7, sizeof correction);
  return is_floats(node) && is_floats(x) && (mode == GGML_ROPE_TYPE_NORMAL || mode == GGML_ROPE_TYPE_NEOX) &&
         dims > 0 && dims % 2 == 0 && dims <= node.ne[0] && correction == 0 && positions.type == GGML_TYPE_I32 &&
         positions.ne[0] == node.ne[2] && ggml_is_contiguous(&positions) &&
         (factors == nullptr || (factors->type == GGML_TYPE_F32 && factors->ne[0] >= dims / 2));
}

bool can_store(const ggml_tensor& node) {
  const ggml_tensor& x = *node.src[0];
  const ggml_tensor& index = *node.src[1];
  return (node.type == GGML_TYPE_F16 || node.type == GGML_TYPE_F32) && node.nb[0] == ggml_type_size(node.type) &&
         is_matrix(node) && is_rows(x) && x.ne[0] == node.ne[0] && x.ne[0] >= kAttentionStep &&
         index.type == GGML_TYPE_I64 && index.ne[0] == x.ne[1] && is_matrix(index) && index.ne[1] == 1 &&
         index.nb[0] == sizeof(int64_t);
}

bool can_do_rows(const ggml_tensor& node) {
  if (!only_known_parameters(node)) return false;
  switch (node.op) {
    case GGML_OP_ADD:
      return is_rows(node) && is_rows_like(node.src[0], node) &&
             (is_rows_like(node.src[1], node) || is_one_row(node.src[1], node));
    case GGML_OP_ADD_ID:
      return is_floats(node) && is_rows_of_tokens_like(node.src[0], node) && is_rows(*node.src[1]) &&
             node.src[1]->ne[0] == node.ne[0] && node.src[2]->type == GGML_TYPE_I32 && is_matrix(*node.src[2]) &&
             node.src[2]->ne[0] == node.ne[1] && node.src[2]->ne[1] == node.ne[2];
    case GGML_OP_MUL:
      if (is_scaling(node)) return is_floats(node) && is_rows_of_tokens_like(node.src[0], node);
      return is_floats(node) && node.src[0]->op == GGML_OP_RMS_NORM && is_rows_of_tokens_like(node.src[0], node) &&
             is_one_row(node.src[1], node);
    case GGML_OP_RMS_NORM:
      return is_floats(node) && is_rows_of_tokens_like(node.src[0], node);
    case GGML_OP_GLU:
      return is_floats(node) && node.op_params[1] == 0 &&
             (ggml_get_glu_op(&node) == GGML_GLU_OP_SWIGLU || ggml_get_glu_op(&node) == GGML_GLU_OP_SWIGLU_OAI) &&
             is_rows_of_tokens_like(node.src[0], node) && is_rows_of_tokens_like(node.src[1], node);
    case GGML_OP_ROPE:
      return can_rotate(node);
    case GGML_OP_SET_ROWS:
      return can_store(node);
    default:
      return false;
  }
}

// Handing over costs more than these operations: they are taken where they stand next to what this backend computes
// anyway. `depth` bounds the search for that.
bool is_ours(const ggml_tensor* t, int depth);

bool supports_rows(const ggml_tensor& node, int depth) {
  const Config& config = plugin().config;
  // In exact mode only what ggml would compute to the same bits: whether the others are next to a product could depend
  // on the batch.
  const bool same_bits =
      node.op == GGML_OP_ADD || node.op == GGML_OP_ADD_ID || node.op == GGML_OP_SET_ROWS || is_scaling(node);
  if (depth == 0 || !config.takes_rows() || (config.exact() && !same_bits) || !can_do_rows(node)) return false;
  return is_ours(node.src[0], depth - 1) || (node.op == GGML_OP_ADD && is_ours(node.src[1], depth - 1));
}

bool is_ours(const ggml_tensor* t, int depth) {
  while (t != nullptr && (t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW)) t = t->src[0];
  if (t == nullptr) return false;
  if (t->op == GGML_OP_MUL_MAT) return supports_product(*t);
  if (t->op == GGML_OP_MUL_MAT_ID) return supports_experts(*t);
  return is_row_operation(*t) && supports_rows(*t, depth);
}

}  // namespace

bool is_row_operation(const ggml_tensor& node) {
  switch (node.op) {
    case GGML_OP_ADD:
    case GGML_OP_ADD_ID:
    case GGML_OP_MUL:
    case GGML_OP_RMS_NORM:
    case GGML_OP_GLU:
    case GGML_OP_ROPE:
    case GGML_OP_SET_ROWS:
      return true;
    default:
      return false;
  }
}

bool is_scaling(const ggml_tensor& node) {
  if (node.op != GGML_OP_MUL) return false;
  const ggml_tensor& factor = *node.src[1];
  return node.ne[0] > 1 && is_floats(factor) && factor.ne[0] == 1 && factor.ne[1] == node.ne[1] &&
         factor.ne[2] == node.ne[2];
}

bool supports(const ggml_tensor& node) {
  constexpr int kDepth =
      6;  // multiplication, norm, addition of what was there, of experts, their weight, bias, product
  if (node.op == GGML_OP_MUL_MAT) return supports_product(node);
  if (node.op == GGML_OP_MUL_MAT_ID) return supports_experts(node);
  if (node.op == GGML_OP_FLASH_ATTN_EXT) return supports_attention(node);
  return is_row_operation(node) && supports_rows(node, kDepth);
}

Product product_of(const ggml_tensor& node) {
  const ggml_tensor& weights = *node.src[0];
  return {*kernel_of(weights.type),       static_cast<const uint8_t*>(weights.data),       weights.nb[1], weights.ne[1],
          static_cast<float*>(node.data), static_cast<int64_t>(node.nb[1] / sizeof(float))};
}

ExpertProduct expert_product_of(const ggml_tensor& node) {
  return {product_of(node), node.src[0]->nb[2], static_cast<int64_t>(node.nb[2] / sizeof(float))};
}

Attention attention_of(const ggml_tensor& node) {
  const ggml_tensor& q = *node.src[0];
  const ggml_tensor& k = *node.src[1];
  const ggml_tensor& v = *node.src[2];
  const ggml_tensor& mask = *node.src[3];
  const auto data = [](const ggml_tensor& t) { return static_cast<const uint8_t*>(t.data); };
  float numbers[3];
  std::memcpy(numbers, node.op_params, sizeof numbers);
  return {.keys = kernel_of(k.type),
          .values = kernel_of(v.type),
          .q = data(q),
          .q_stream = q.nb[3],
          .q_head = q.nb[2],
          .q_token = q.nb[1],
          .k = data(k),
          .k_stream = k.nb[3],
          .k_head = k.nb[2],
          .k_cell = k.nb[1],
          .v = data(v),
          .v_stream = v.nb[3],
          .v_head = v.nb[2],
          .v_cell = v.nb[1],
          .mask = data(mask),
          .mask_stream = mask.ne[3] == 1 ? 0 : mask.nb[3],
          .mask_token = mask.nb[1],
          .out = static_cast<float*>(node.data),
          .k_size = k.ne[0],
          .v_size = v.ne[0],
          .cells = k.ne[1],
          .tokens = q.ne[1],
          .heads = q.ne[2],
          .kv_heads = k.ne[2],
          .streams = q.ne[3],
          .scale = numbers[0],
          .cap = numbers[2],
          .max_bias = numbers[1],
          .sinks = node.src[4] == nullptr ? nullptr : static_cast<const float*>(node.src[4]->data)};
}

}  // namespace gsd::narrow
