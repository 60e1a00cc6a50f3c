// Proves width invariance on a whole model: a text is generated one token at a time, then scored again in chains of
// several tokens, and every row of logits must have the same bits.
//
//   gsd_narrow_exact MODEL.gguf [--plugin libggml-gsd.so] [--backends DIR] [--tokens 200] [--prefix 64]
//                    [--widths 2,3,4,8,16,33,64] [--threads 1,2] [--flash-attention]
//
// Without --plugin the same question is put to ggml alone. The answer is one line per number of threads and width;
// the exit status is 0 if every row was equal, 1 if one differed, 2 on a mistake.
#include <ggml-backend.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gsd_narrow.h"

namespace {

struct Options {
  std::string model, plugin, backends;
  int tokens = 200;
  int prefix = 64;
  std::vector<int> widths{2, 3, 4, 8, 16, 33, 64};
  std::vector<int> threads{1, 2};
  bool flash_attention = false;
};

std::vector<int> numbers(const std::string& text) {
  std::vector<int> values;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) values.push_back(std::stoi(part));
  return values;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    auto value = [&]() -> std::string {
      if (++i == argc) throw std::runtime_error(arg + " needs a value");
      return argv[i];
    };
    if (arg == "--plugin")
      o.plugin = value();
    else if (arg == "--backends")
      o.backends = value();
    else if (arg == "--tokens")
      o.tokens = std::stoi(value());
    else if (arg == "--prefix")
      o.prefix = std::stoi(value());
    else if (arg == "--widths")
      o.widths = numbers(value());
    else if (arg == "--threads")
      o.threads = numbers(value());
    else if (arg == "--flash-attention")
      o.flash_attention = true;
    else if (o.model.empty() && arg[0] != '-')
      o.model = arg;
    else
      throw std::runtime_error("unknown argument " + arg);
  }
  if (o.model.empty()) throw std::runtime_error("which model?");
  return o;
}

void load_backends(const Options& o) {
  o.backends.empty() ? ggml_backend_load_all() : ggml_backend_load_all_from_path(o.backends.c_str());
  if (o.plugin.empty()) return;
  ggml_backend_reg_t reg = ggml_backend_load(o.plugin.c_str());
  if (reg == nullptr) throw std::runtime_error("cannot load " + o.plugin);
  auto address = [&](const char* name) { return ggml_backend_reg_get_proc_address(reg, name); };
  auto get = reinterpret_cast<gsd_narrow_get_params_t>(address(GSD_NARROW_GET_PARAMS));
  auto set = reinterpret_cast<gsd_narrow_configure_t>(address(GSD_NARROW_CONFIGURE));
  gsd_narrow_params params{};
  params.size = sizeof params;
  if (get == nullptr || set == nullptr || get(&params) != 0) throw std::runtime_error("not this backend: " + o.plugin);
  params.exact = 1;
  set(&params);
}

using Model = std::unique_ptr<llama_model, decltype(&llama_model_free)>;

// A context and what was computed in it.
class Run {
 public:
  Run(llama_model* model, const Options& o, int threads) : options_(o), vocabulary_(vocabulary_of(model)) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx = static_cast<uint32_t>(o.prefix + o.tokens + 256);
    p.n_batch = p.n_ubatch = 512;
    p.n_outputs_max = 512;
    p.n_threads = p.n_threads_batch = threads;
    p.flash_attn_type = o.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context_.reset(llama_init_from_model(model, p));
    if (!context_) throw std::runtime_error("cannot create a context");
  }

  // Generates greedily, keeping tokens and logits.
  void generate() {
    feed_prefix();
    const float* row = llama_get_logits_ith(context_.get(), -1);
    for (int i = 0; i < options_.tokens; ++i) {
      llama_token best = 0;
      for (int t = 1; t < vocabulary_; ++t) best = row[t] > row[best] ? t : best;
      tokens_.push_back(best);
      feed(&best, 1, options_.prefix + i, true);
      row = llama_get_logits_ith(context_.get(), 0);
      logits_.insert(logits_.end(), row, row + vocabulary_);
    }
  }

  struct Difference {
    int rows = 0, different = 0;
    float largest = 0;
  };

  // Scores the generated tokens again, `width` at a time.
  Difference compare(int width) {
    Difference d;
    feed_prefix();
    for (int i = 0; i < options_.tokens; i += width) {
      const int n = std::min(width, options_.tokens - i);
      feed(tokens_.data() + i, n, options_.prefix + i, true);
      for (int j = 0; j < n; ++j) count(d, llama_get_logits_ith(context_.get(), j), row(i + j));
    }
    return d;
  }

 private:
  static constexpr int kChunk = 64;  // of the prefix: the same in every run, and no wider than the backend takes

  static int vocabulary_of(const llama_model* model) { return llama_vocab_n_tokens(llama_model_get_vocab(model)); }

  const float* row(int i) const { return logits_.data() + static_cast<size_t>(i) * static_cast<size_t>(vocabulary_); }

  void count(Difference& d, const float* a, const float* b) const {
    ++d.rows;
    if (std::memcmp(a, b, static_cast<size_t>(vocabulary_) * sizeof(float)) == 0) return;
    ++d.different;
    for (int t = 0; t < vocabulary_; ++t) d.largest = std::max(d.largest, std::abs(a[t] - b[t]));
  }

  void feed_prefix() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    std::vector<llama_token> prefix;
    for (int i = 0; i < options_.prefix; ++i) prefix.push_back((7 + 31 * i) % vocabulary_);
    for (int i = 0; i < options_.prefix; i += kChunk) {
      feed(prefix.data() + i, std::min(kChunk, options_.prefix - i), i, false);
    }
  }

  void feed(const llama_token* tokens, int n, int position, bool all_logits) {
    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int i = 0; i < n; ++i) {
      batch.token[i] = tokens[i];
      batch.pos[i] = position + i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = all_logits || i == n - 1 ? 1 : 0;
    }
    const int status = llama_decode(context_.get(), batch);
    llama_batch_free(batch);
    if (status != 0) throw std::runtime_error("llama_decode failed");
  }

  const Options& options_;
  int vocabulary_;
  std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, llama_free};
  std::vector<llama_token> tokens_;
  std::vector<float> logits_;  // [tokens][vocabulary]
};

bool check(llama_model* model, const Options& o) {
  bool equal = true;
  for (const int threads : o.threads) {
    Run run(model, o, threads);
    run.generate();
    for (const int width : o.widths) {
      const Run::Difference d = run.compare(width);
      equal = equal && d.different == 0;
      std::printf("threads %d width %2d: %d of %d rows differ, by at most %g\n", threads, width, d.different, d.rows,
                  static_cast<double>(d.largest));
    }
  }
  return equal;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options o = parse(argc, argv);
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  load_backends(o);
  llama_model_params p = llama_model_default_params();
  p.use_extra_bufts = false;
  const Model model(llama_model_load_from_file(o.model.c_str(), p), llama_model_free);
  if (!model) throw std::runtime_error("cannot load " + o.model);
  return check(model.get(), o) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "gsd_narrow_exact: %s\n", error.what());
  return 2;
}
