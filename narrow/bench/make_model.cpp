// Writes a llama with random weights: same cost per token as a trained model of its shape, no download.
//
//   make_model OUT.gguf SHAPE FORMAT
//
// SHAPE is 5m, 100m, 1b, 7b, 13b or 70b, or a mixture of experts, moe32 or moe128, of about 1b (kShapes). FORMAT is any
// of ggml's that need no importances, for example Q8_0, or one of the mixtures Q4_K_M and Q5_K_M, which keep half of
// the value and down projections and the output matrix in Q6_K. With MXFP4 only experts are in that format, the rest in
// Q8_0.
#include <ggml.h>
#include <gguf.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Shape {
  const char* name;
  uint32_t width, layers, feed_forward, heads, kv_heads, vocabulary;
  uint32_t experts = 0, used = 0;
};

constexpr Shape kShapes[] = {
    {"5m", 256, 6, 768, 4, 4, 4096},
    {"100m", 768, 12, 2048, 12, 12, 32000},
    {"1b", 2048, 22, 5632, 32, 4, 32000},
    {"7b", 4096, 32, 11008, 32, 32, 32000},
    {"13b", 5120, 40, 13824, 40, 40, 32000},
    {"70b", 8192, 80, 28672, 64, 8, 32000},
    {"moe32", 1024, 12, 768, 16, 4, 32000, 32, 4},
    {"moe128", 1024, 10, 256, 16, 4, 32000, 128, 8},
};

struct Format {
  std::string name;
  ggml_type base;  // of most matrices
  ggml_type experts;
  ggml_type heavy;  // of the output matrix and of half of the value and down projections
};

const Shape& find_shape(const std::string& name) {
  for (const Shape& shape : kShapes) {
    if (name == shape.name) return shape;
  }
  throw std::runtime_error("unknown shape '" + name + "': use 5m, 100m, 1b, 7b, 13b, 70b, moe32 or moe128");
}

Format find_format(const std::string& name) {
  if (name == "Q4_K_M") return {name, GGML_TYPE_Q4_K, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K};
  if (name == "Q5_K_M") return {name, GGML_TYPE_Q5_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K};
  if (name == "MXFP4") return {name, GGML_TYPE_Q8_0, GGML_TYPE_MXFP4, GGML_TYPE_Q8_0};
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const auto type = static_cast<ggml_type>(i);
    std::string upper = ggml_type_name(type) == nullptr ? "" : ggml_type_name(type);
    for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    const bool weights =
        ggml_is_quantized(type) || type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    if (upper == name && weights && !ggml_quantize_requires_imatrix(type)) return {name, type, type, type};
  }
  throw std::runtime_error("unknown format '" + name + "'");
}

// splitmix64: one independent value per (tensor, row, column), so rows can be filled in any order.
uint64_t hash(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// About normal: the sum of four uniform 16-bit numbers, centred and scaled to the wanted deviation.
float about_normal(uint64_t bits, float deviation) {
  const int sum = static_cast<int>((bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48));
  return static_cast<float>(sum - 2 * 0xffff) * (deviation / 37837.0F);
}

// Of SentencePiece's kind: its special tokens, bytes, and words that mean nothing.
void set_vocabulary(gguf_context* file, uint32_t n) {
  enum Kind : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6 };
  std::vector<std::string> texts{"<unk>", "<s>", "</s>"};
  std::vector<int32_t> kinds{kUnknown, kControl, kControl};
  for (uint32_t i = 3; i < n; ++i) {
    char text[16];
    std::snprintf(text, sizeof text, i < 259 ? "<0x%02X>" : "w%u", i < 259 ? i - 3 : i);
    texts.emplace_back(text);
    kinds.push_back(i < 259 ? kByte : kNormal);
  }
  std::vector<const char*> words;
  for (const std::string& text : texts) words.push_back(text.c_str());
  const std::vector<float> scores(n);
  gguf_set_val_str(file, "tokenizer.ggml.model", "llama");
  gguf_set_arr_str(file, "tokenizer.ggml.tokens", words.data(), n);
  gguf_set_arr_data(file, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), n);
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, kinds.data(), n);
  gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 1);
  gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 2);
}

struct Model {
  std::unique_ptr<ggml_context, void (*)(ggml_context*)> tensors{nullptr, ggml_free};
  std::unique_ptr<gguf_context, void (*)(gguf_context*)> file{nullptr, gguf_free};
};

void add_metadata(gguf_context* file, const Shape& s) {
  gguf_set_val_str(file, "general.architecture", "llama");
  gguf_set_val_str(file, "general.name", (std::string("random llama ") + s.name).c_str());
  gguf_set_val_u32(file, "llama.context_length", 4096);
  gguf_set_val_u32(file, "llama.embedding_length", s.width);
  gguf_set_val_u32(file, "llama.block_count", s.layers);
  gguf_set_val_u32(file, "llama.feed_forward_length", s.feed_forward);
  gguf_set_val_u32(file, "llama.attention.head_count", s.heads);
  gguf_set_val_u32(file, "llama.attention.head_count_kv", s.kv_heads);
  gguf_set_val_u32(file, "llama.rope.dimension_count", s.width / s.heads);
  gguf_set_val_f32(file, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
  gguf_set_val_u32(file, "llama.vocab_size", s.vocabulary);
  if (s.experts > 0) {
    gguf_set_val_u32(file, "llama.expert_count", s.experts);
    gguf_set_val_u32(file, "llama.expert_used_count", s.used);
  }
  set_vocabulary(file, s.vocabulary);
}

Model describe(const Shape& s, const Format& format) {
  Model model;
  model.tensors.reset(ggml_init({ggml_tensor_overhead() * (12 * s.layers + 8), nullptr, /*no_alloc=*/true}));
  model.file.reset(gguf_init_empty());
  add_metadata(model.file.get(), s);
  auto add = [&](const std::string& name, ggml_type type, int64_t columns, int64_t rows, int64_t experts = 1) {
    ggml_tensor* t = rows == 0 ? ggml_new_tensor_1d(model.tensors.get(), type, columns)
                               : ggml_new_tensor_3d(model.tensors.get(), type, columns, rows, experts);
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(model.file.get(), t);
  };
  const int64_t kv_width = static_cast<int64_t>(s.width) / s.heads * s.kv_heads;
  add("token_embd.weight", format.base, s.width, s.vocabulary);
  for (uint32_t layer = 0; layer < s.layers; ++layer) {
    const std::string p = "blk." + std::to_string(layer) + ".";
    const ggml_type heavy = layer % 2 == 0 ? format.heavy : format.base;
    add(p + "attn_norm.weight", GGML_TYPE_F32, s.width, 0);
    add(p + "attn_q.weight", format.base, s.width, s.width);
    add(p + "attn_k.weight", format.base, s.width, kv_width);
    add(p + "attn_v.weight", heavy, s.width, kv_width);
    add(p + "attn_output.weight", format.base, s.width, s.width);
    add(p + "ffn_norm.weight", GGML_TYPE_F32, s.width, 0);
    if (s.experts > 0) {
      add(p + "ffn_gate_inp.weight", GGML_TYPE_F32, s.width, s.experts);
      add(p + "ffn_gate_exps.weight", format.experts, s.width, s.feed_forward, s.experts);
      add(p + "ffn_up_exps.weight", format.experts, s.width, s.feed_forward, s.experts);
      add(p + "ffn_down_exps.weight", format.experts == format.base ? heavy : format.experts, s.feed_forward, s.width,
          s.experts);
      continue;
    }
    add(p + "ffn_gate.weight", format.base, s.width, s.feed_forward);
    add(p + "ffn_up.weight", format.base, s.width, s.feed_forward);
    add(p + "ffn_down.weight", heavy, s.feed_forward, s.width);
  }
  add("output_norm.weight", GGML_TYPE_F32, s.width, 0);
  add("output.weight", format.heavy, s.width, s.vocabulary);
  return model;
}

std::vector<char> fill(const ggml_tensor& t, uint64_t seed) {
  const int64_t columns = t.ne[0];
  const int64_t rows = ggml_nrows(&t);
  const bool norm = rows == 1;
  const float deviation = 1.0F / std::sqrt(static_cast<float>(columns));
  std::vector<char> data(ggml_nbytes(&t));
#pragma omp parallel
  {
    std::vector<float> row(columns);
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        row[c] = norm ? 1.0F : about_normal(hash(seed + static_cast<uint64_t>(r * columns + c)), deviation);
      }
      const size_t row_bytes = ggml_row_size(t.type, columns);
      if (t.type == GGML_TYPE_F32) {
        std::memcpy(data.data() + r * row_bytes, row.data(), row_bytes);
      } else {
        ggml_quantize_chunk(t.type, row.data(), data.data() + r * row_bytes, 0, 1, columns, nullptr);
      }
    }
  }
  return data;
}

void write(const std::string& path, const Model& model) {
  if (!gguf_write_to_file(model.file.get(), path.c_str(), /*only_meta=*/true)) {
    throw std::runtime_error("cannot write " + path);
  }
  std::ofstream out(path, std::ios::binary | std::ios::app);
  const size_t alignment = gguf_get_alignment(model.file.get());
  uint64_t seed = 1;
  for (ggml_tensor* t = ggml_get_first_tensor(model.tensors.get()); t != nullptr;
       t = ggml_get_next_tensor(model.tensors.get(), t)) {
    std::vector<char> data = fill(*t, hash(seed++));
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    out.write(data.data(), static_cast<std::streamsize>(data.size()));
  }
  if (!out) throw std::runtime_error("the disk is full or " + path + " is not writable");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: make_model OUT.gguf 5m|100m|1b|7b|13b|70b|moe32|moe128 FORMAT\n");
    return 2;
  }
  const Format format = find_format(argv[3]);
  for (const ggml_type type : {format.base, format.experts, format.heavy}) ggml_quantize_init(type);
  write(argv[1], describe(find_shape(argv[2]), format));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "make_model: %s\n", error.what());
  return 1;
}
