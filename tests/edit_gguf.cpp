// Copies a GGUF file with metadata set: edit_gguf IN OUT [--drop PREFIX] [KEY str|bool|u16|u32|f32|del VALUE]...
// edit_gguf IN OUT --lora SEED writes a LoRA adapter for the model IN instead, with random weights.
// --drop leaves out the tensors whose names begin so ("" = all). The others keep their bytes. For tests of odd files.
#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>

namespace {

bool set(gguf_context* file, const char* key, std::string_view type, const char* value) {
  if (type == "str") {
    gguf_set_val_str(file, key, value);
  } else if (type == "bool") {
    gguf_set_val_bool(file, key, std::strcmp(value, "true") == 0);
  } else if (type == "u16") {
    gguf_set_val_u16(file, key, static_cast<std::uint16_t>(std::strtoul(value, nullptr, 10)));
  } else if (type == "u32") {
    gguf_set_val_u32(file, key, static_cast<std::uint32_t>(std::strtoul(value, nullptr, 10)));
  } else if (type == "f32") {
    gguf_set_val_f32(file, key, std::strtof(value, nullptr));
  } else if (type == "del") {
    gguf_remove_key(file, key);
  } else {
    return false;
  }
  return true;
}

// Of rank 4, for some of the matrices.
bool write_lora(const char* model, const char* path, std::mt19937 random) {
  ggml_context* tensors = nullptr;
  gguf_context* in = gguf_init_from_file(model, {.no_alloc = true, .ctx = &tensors});
  if (in == nullptr) return false;
  gguf_context* file = gguf_init_empty();
  gguf_set_val_str(file, "general.type", "adapter");
  gguf_set_val_str(file, "adapter.type", "lora");
  gguf_set_val_str(file, "general.architecture", gguf_get_val_str(in, gguf_find_key(in, "general.architecture")));
  gguf_set_val_f32(file, "adapter.lora.alpha", 4);
  ggml_context* own = ggml_init({.mem_size = std::size_t{16} << 20, .mem_buffer = nullptr, .no_alloc = false});
  std::normal_distribution<float> normal(0, 0.08F);
  const auto add = [&](const std::string& name, std::int64_t columns, std::int64_t rows) {
    ggml_tensor* t = ggml_new_tensor_2d(own, GGML_TYPE_F32, columns, rows);
    for (std::int64_t i = 0; i < columns * rows; ++i) static_cast<float*>(t->data)[i] = normal(random);
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(file, t);
  };
  for (ggml_tensor* t = ggml_get_first_tensor(tensors); t != nullptr; t = ggml_get_next_tensor(tensors, t)) {
    const std::string name = t->name;
    if (name.find("attn_q.weight") == name.npos && name.find("ffn_down.weight") == name.npos) continue;
    add(name + ".lora_a", t->ne[0], 4);
    add(name + ".lora_b", 4, t->ne[1]);
  }
  const bool ok = gguf_write_to_file(file, path, false);
  gguf_free(file);
  gguf_free(in);
  ggml_free(own);
  ggml_free(tensors);
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[3], "--lora") == 0)
    return write_lora(argv[1], argv[2], std::mt19937(std::strtoul(argv[4], nullptr, 10))) ? 0 : 1;
  const char* drop = nullptr;
  int first = 3;
  if (argc > 4 && std::strcmp(argv[3], "--drop") == 0) {
    drop = argv[4];
    first = 5;
  }
  if (argc < 3 || (argc - first) % 3 != 0)
    return std::fputs("usage: edit_gguf IN OUT [--drop PREFIX] [KEY TYPE VALUE]...\n", stderr), 2;
  ggml_context* tensors = nullptr;
  gguf_context* in = gguf_init_from_file(argv[1], {.no_alloc = false, .ctx = &tensors});
  if (in == nullptr) return 1;
  gguf_context* file = gguf_init_empty();
  gguf_set_kv(file, in);
  for (std::int64_t i = 0; i < gguf_get_n_tensors(in); ++i) {
    const char* name = gguf_get_tensor_name(in, i);
    if (drop == nullptr || !std::string_view(name).starts_with(drop))
      gguf_add_tensor(file, ggml_get_tensor(tensors, name));
  }
  bool ok = true;
  for (int i = first; i < argc; i += 3) ok = set(file, argv[i], argv[i + 1], argv[i + 2]) && ok;
  ok = gguf_write_to_file(file, argv[2], false) && ok;
  gguf_free(file);
  gguf_free(in);
  ggml_free(tensors);
  return ok ? 0 : 1;
}
