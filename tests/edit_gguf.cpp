// Copies a GGUF file with one metadata value set: edit_gguf IN OUT KEY str|bool|u32 VALUE. For tests of odd models.
#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  if (argc != 6) return std::fputs("usage: edit_gguf IN OUT KEY str|bool|u32 VALUE\n", stderr), 2;
  ggml_context* tensors = nullptr;
  gguf_context* in = gguf_init_from_file(argv[1], {.no_alloc = false, .ctx = &tensors});
  if (in == nullptr) return 1;
  gguf_context* file = gguf_init_empty();
  gguf_set_kv(file, in);
  for (std::int64_t i = 0; i < gguf_get_n_tensors(in); ++i)
    gguf_add_tensor(file, ggml_get_tensor(tensors, gguf_get_tensor_name(in, i)));
  const std::string type = argv[4];
  if (type == "str") gguf_set_val_str(file, argv[3], argv[5]);
  if (type == "bool") gguf_set_val_bool(file, argv[3], std::string(argv[5]) == "true");
  if (type == "u32") gguf_set_val_u32(file, argv[3], static_cast<std::uint32_t>(std::strtoul(argv[5], nullptr, 10)));
  const bool ok = gguf_write_to_file(file, argv[2], false);
  gguf_free(file);
  gguf_free(in);
  ggml_free(tensors);
  return ok ? 0 : 1;
}
