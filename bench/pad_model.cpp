// Copies a GGUF llama with its feed-forward layers widened by zeros: the same outputs at the cost of a larger model.
//
//   pad_model IN.gguf OUT.gguf FEED_FORWARD
//
// For measuring a pair at another ratio of target to draft than the trained one has. Zeros cost as much as any other
// weights. FEED_FORWARD must be a multiple of the formats' block sizes (256 is always enough).
#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

int fail(const std::string& sentence) {
  std::fprintf(stderr, "pad_model: %s\n", sentence.c_str());
  return 1;
}

// A tensor with more columns and rows, the new ones zero. All formats of ggml hold a block of zeros as zero bytes.
ggml_tensor* padded(ggml_context* to, const ggml_tensor* t, std::int64_t columns, std::int64_t rows) {
  ggml_tensor* out = ggml_new_tensor_2d(to, t->type, columns, rows);
  ggml_set_name(out, t->name);
  std::memset(out->data, 0, ggml_nbytes(out));
  for (std::int64_t r = 0; r < t->ne[1]; ++r) {
    std::memcpy(static_cast<char*>(out->data) + r * static_cast<std::int64_t>(out->nb[1]),
                static_cast<const char*>(t->data) + r * static_cast<std::int64_t>(t->nb[1]),
                ggml_row_size(t->type, t->ne[0]));
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("usage: pad_model IN.gguf OUT.gguf FEED_FORWARD\n", stderr), 2;
  const std::int64_t width = std::strtoll(argv[3], nullptr, 10);
  ggml_context* loaded = nullptr;
  const std::unique_ptr<gguf_context, void (*)(gguf_context*)> in(
      gguf_init_from_file(argv[1], {.no_alloc = false, .ctx = &loaded}), gguf_free);
  if (!in) return fail(std::string(argv[1]) + " is no GGUF file");
  const std::unique_ptr<ggml_context, void (*)(ggml_context*)> from(loaded, ggml_free);
  const std::int64_t key = gguf_find_key(in.get(), "llama.feed_forward_length");
  if (key < 0 || gguf_get_val_u32(in.get(), key) > width)
    return fail("the model is no llama, or its feed-forward layers are wider than that");

  std::size_t bytes = 0;
  for (ggml_tensor* t = ggml_get_first_tensor(loaded); t != nullptr; t = ggml_get_next_tensor(loaded, t))
    bytes += ggml_nbytes(t) * static_cast<std::size_t>(1 + width / gguf_get_val_u32(in.get(), key));
  const std::unique_ptr<ggml_context, void (*)(ggml_context*)> to(
      ggml_init({.mem_size = bytes + (std::size_t{1} << 24), .mem_buffer = nullptr, .no_alloc = false}), ggml_free);
  const std::unique_ptr<gguf_context, void (*)(gguf_context*)> out(gguf_init_empty(), gguf_free);
  if (!to) return fail("there is not enough memory");
  gguf_set_kv(out.get(), in.get());
  gguf_set_val_u32(out.get(), "llama.feed_forward_length", static_cast<std::uint32_t>(width));
  for (std::int64_t i = 0; i < gguf_get_n_tensors(in.get()); ++i) {
    ggml_tensor* t = ggml_get_tensor(loaded, gguf_get_tensor_name(in.get(), i));
    const std::string_view name = t->name;
    const bool down = name.ends_with("ffn_down.weight");
    const bool up = name.ends_with("ffn_up.weight") || name.ends_with("ffn_gate.weight");
    if (down && width % ggml_blck_size(t->type) != 0)
      return fail("the width is no multiple of the format's block size");
    if (down || up) t = padded(to.get(), t, down ? width : t->ne[0], up ? width : t->ne[1]);
    gguf_add_tensor(out.get(), t);
  }
  if (!gguf_write_to_file(out.get(), argv[2], false)) return fail(std::string(argv[2]) + " cannot be written");
  return 0;
}
