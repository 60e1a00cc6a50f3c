// Makes a mixture of experts out of a dense llama without changing what it computes: every expert is a copy of the
// dense feed-forward layer, and the shares of those that a random router chooses add up to one. So texts and acceptance
// are a trained model's, and memory traffic is a mixture's.
//
//   gsd_make_mixture IN.gguf OUT.gguf EXPERTS USED
//
// With USED = 1 the share is exactly one, and no bit of the results changes where products by experts have the bits of
// others (gsd --exact). Otherwise sums of the same numbers round.
#include <ggml-cpp.h>
#include <ggml.h>
#include <gguf.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Gguf {
  explicit Gguf(gguf_context* c) : file(c, gguf_free) {}
  std::unique_ptr<gguf_context, void (*)(gguf_context*)> file;
  ggml_context_ptr tensors;
};

Gguf open(const std::string& path) {
  ggml_context* tensors = nullptr;
  Gguf in(gguf_init_from_file(path.c_str(), {/*no_alloc=*/true, &tensors}));
  in.tensors.reset(tensors);
  if (in.file == nullptr) throw std::runtime_error("cannot read " + path);
  const int64_t key = gguf_find_key(in.file.get(), "general.architecture");
  if (key < 0 || std::string(gguf_get_val_str(in.file.get(), key)) != "llama")
    throw std::runtime_error(path + " is no llama: only of that architecture a mixture has the same tensors");
  if (gguf_find_key(in.file.get(), "llama.expert_count") >= 0) throw std::runtime_error(path + " is a mixture already");
  return in;
}

// A tensor of the result: `copies` of one in the input, or without one a router.
struct Source {
  const ggml_tensor* from;
  int64_t copies;
};

bool is_of_experts(const std::string& name) {
  for (const char* part : {".ffn_gate.weight", ".ffn_up.weight", ".ffn_down.weight"})
    if (name.ends_with(part)) return true;
  if (name.find(".ffn_") != std::string::npos && name.ends_with(".bias"))
    throw std::runtime_error("feed-forward layers with biases are not supported");
  return false;
}

// Adds the result's tensors to `out`, and returns where each comes from.
std::vector<Source> describe(const Gguf& in, Gguf& out, int64_t experts, int64_t used) {
  gguf_set_kv(out.file.get(), in.file.get());
  gguf_set_val_u32(out.file.get(), "llama.expert_count", static_cast<uint32_t>(experts));
  gguf_set_val_u32(out.file.get(), "llama.expert_used_count", static_cast<uint32_t>(used));
  const int64_t n = gguf_get_n_tensors(in.file.get());
  out.tensors.reset(ggml_init({ggml_tensor_overhead() * static_cast<size_t>(2 * n + 1), nullptr, /*no_alloc=*/true}));
  std::vector<Source> sources;
  const auto add = [&](const std::string& name, ggml_type type, const int64_t* shape, Source source) {
    ggml_tensor* t = ggml_new_tensor(out.tensors.get(), type, GGML_MAX_DIMS, shape);
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(out.file.get(), t);
    sources.push_back(source);
  };
  for (ggml_tensor* t = ggml_get_first_tensor(in.tensors.get()); t != nullptr;
       t = ggml_get_next_tensor(in.tensors.get(), t)) {
    const std::string name = t->name;
    if (!is_of_experts(name)) {
      add(name, t->type, t->ne, {t, 1});
      continue;
    }
    const std::string stem = name.substr(0, name.size() - std::string(".weight").size());
    const int64_t shape[] = {t->ne[0], t->ne[1], experts, 1};
    add(stem + "_exps.weight", t->type, shape, {t, experts});
    if (!stem.ends_with(".ffn_gate")) continue;
    const int64_t router[] = {t->ne[0], experts, 1, 1};
    add(stem + "_inp.weight", GGML_TYPE_F32, router, {nullptr, 1});
  }
  return sources;
}

std::vector<char> router(const ggml_tensor& t, std::mt19937& random) {
  std::normal_distribution<float> weight(0, 1 / std::sqrt(static_cast<float>(t.ne[0])));
  std::vector<float> values(static_cast<size_t>(ggml_nelements(&t)));
  for (float& v : values) v = weight(random);
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  return {bytes, bytes + ggml_nbytes(&t)};
}

void write(const std::string& from, const Gguf& in, const std::string& to, const Gguf& out,
           const std::vector<Source>& sources) {
  if (!gguf_write_to_file(out.file.get(), to.c_str(), /*only_meta=*/true))
    throw std::runtime_error("cannot write " + to);
  std::ifstream data(from, std::ios::binary);
  std::ofstream file(to, std::ios::binary | std::ios::app);
  const size_t alignment = gguf_get_alignment(out.file.get());
  std::mt19937 random(1);
  ggml_tensor* t = ggml_get_first_tensor(out.tensors.get());
  for (const Source& source : sources) {
    std::vector<char> bytes;
    if (source.from == nullptr) {
      bytes = router(*t, random);
    } else {
      bytes.resize(ggml_nbytes(source.from));
      const int64_t id = gguf_find_tensor(in.file.get(), source.from->name);
      data.seekg(
          static_cast<std::streamoff>(gguf_get_data_offset(in.file.get()) + gguf_get_tensor_offset(in.file.get(), id)));
      data.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    for (int64_t i = 0; i < source.copies; ++i) file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    const size_t size = ggml_nbytes(t);
    const std::vector<char> padding((size + alignment - 1) / alignment * alignment - size);
    file.write(padding.data(), static_cast<std::streamsize>(padding.size()));
    t = ggml_get_next_tensor(out.tensors.get(), t);
  }
  file.close();
  if (!data) throw std::runtime_error(from + " is shorter than it says");
  if (!file) throw std::runtime_error("the disk is full or " + to + " is not writable");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fprintf(stderr, "usage: gsd_make_mixture IN.gguf OUT.gguf EXPERTS USED\n");
    return 2;
  }
  const int experts = std::stoi(argv[3]);
  const int used = std::stoi(argv[4]);
  if (used < 1 || used > experts) throw std::runtime_error("at least 1 and at most all of the experts are used");
  const Gguf in = open(argv[1]);
  Gguf out(gguf_init_empty());
  const std::vector<Source> sources = describe(in, out, experts, used);
  write(argv[1], in, argv[2], out, sources);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "gsd_make_mixture: %s\n", error.what());
  return 1;
}
