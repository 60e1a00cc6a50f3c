#include <ggml-backend.h>
#include <gguf.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "handles.h"
#include "location.h"

namespace gsd {
namespace {

std::mutex log_mutex;
std::string log_errors;

void keep_log(ggml_log_level level, const char* text, void*) {
  if (level != GGML_LOG_LEVEL_ERROR) return;
  const std::lock_guard lock(log_mutex);
  if (log_errors.size() < 2000) log_errors += text;
}

[[noreturn]] void fail(ErrorCode code, std::string sentence) {
  const std::string details = take_llama_errors();
  if (!details.empty()) sentence += " (libllama: " + details + ")";
  throw Error(code, sentence);
}

// libllama's own messages for these cases are many and technical.
void check_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 4> magic{};
  if (!file)
    throw Error(ErrorCode::kModelFile,
                "The model file '" + path + "' cannot be opened; check the path and its permissions.");
  if (!file.read(magic.data(), magic.size()) || std::memcmp(magic.data(), "GGUF", 4) != 0) {
    throw Error(ErrorCode::kModelFile,
                "'" + path + "' is not a GGUF model file; convert the model with llama.cpp's tools first.");
  }
}

// Values that libllama asserts on instead of refusing the file.
void check_metadata(const std::string& path) {
  constexpr std::uint64_t kMaxLayers = 512;
  const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(
      gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}), gguf_free);
  if (!file) return;  // libllama will say what is wrong
  const auto arch = gguf_find_key(file.get(), "general.architecture");
  if (arch < 0 || gguf_get_kv_type(file.get(), arch) != GGUF_TYPE_STRING) return;
  const auto layers =
      gguf_find_key(file.get(), (std::string(gguf_get_val_str(file.get(), arch)) + ".block_count").c_str());
  if (layers < 0 || gguf_get_kv_type(file.get(), layers) != GGUF_TYPE_UINT32) return;
  const std::uint64_t n = gguf_get_val_u32(file.get(), layers);
  if (n == 0 || n > kMaxLayers) {
    throw Error(ErrorCode::kModelFile,
                "The model '" + path + "' cannot be loaded; it claims to have " + std::to_string(n) + " layers.");
  }
}

// At most a quarter of the free memory. The parts of a split model do not say how large the others are.
bool is_small(const std::string& path) {
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error || path.find("-of-") != std::string::npos) return false;
  std::uintmax_t free = 0;
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("MemAvailable:")) free = 1024 * std::strtoull(line.c_str() + 13, nullptr, 10);
  }
  std::uintmax_t limit = 0;  // of a container; the file then holds a number
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) free = std::min(free, limit);
  return bytes <= free / 4;
}

std::string meta(const llama_model* model, const std::string& key) {
  std::array<char, 256> value{};
  return llama_model_meta_val_str(model, key.c_str(), value.data(), value.size()) < 0 ? "" : value.data();
}

void check_usable(const llama_model* model, const std::string& path) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kModelUnsupported, "The model '" + path + "' " + why);
  };
  const std::string arch = meta(model, "general.architecture");
  if (!llama_model_has_decoder(model) || llama_model_has_encoder(model))
    refuse("has an encoder; only decoder models can be speculated.");
  if (llama_model_is_diffusion(model)) refuse("generates by diffusion, not token by token.");
  const std::string pooling = meta(model, arch + ".pooling_type");  // 1 to 4: how token embeddings become one
  if (meta(model, arch + ".attention.causal") == "false" || (pooling.size() == 1 && pooling >= "1" && pooling <= "4")) {
    refuse("makes embeddings, not text; give a text-generation model.");
  }
  if (llama_vocab_type(llama_model_get_vocab(model)) == LLAMA_VOCAB_TYPE_NONE) refuse("has no vocabulary.");
}

bool report_progress(float share, void* user) {
  const auto& progress = *static_cast<const std::function<bool(float)>*>(user);
  return !progress || progress(share);
}

}  // namespace

void start_llama() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(keep_log, nullptr);
    llama_backend_init();
    // Where ggml was built with its backends inside, nothing needs to be loaded. A relative folder counts from
    // libllama.
    if (std::strlen(GSD_BACKENDS_DIR) > 0) {
      ggml_backend_load_all_from_path((libllama_folder() / GSD_BACKENDS_DIR).c_str());
    } else if (ggml_backend_dev_count() == 0) {
      ggml_backend_load_all();
    }
  });
}

std::string take_llama_errors() {
  const std::lock_guard lock(log_mutex);
  std::string out = std::move(log_errors);
  log_errors.clear();
  while (!out.empty() && out.back() == '\n') out.pop_back();
  std::replace(out.begin(), out.end(), '\n', ' ');
  return out;
}

Model::Model(const ModelOptions& options) : impl_(std::make_unique<Impl>()) {
  start_llama();
  check_file(options.path);
  check_metadata(options.path);
  impl_->options = options;
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = options.gpu_layers < 0 ? 999 : options.gpu_layers;
  params.use_extra_bufts = options.repack;
  if (!options.mmap.value_or(options.repack || options.gpu_layers != 0 || !is_small(options.path)))
    params.load_mode = LLAMA_LOAD_MODE_NONE;
  params.progress_callback = report_progress;
  params.progress_callback_user_data = &impl_->options.progress;
  take_llama_errors();
  try {
    impl_->model.reset(llama_model_load_from_file(options.path.c_str(), params));
  } catch (const std::bad_alloc&) {
    fail(ErrorCode::kOutOfMemory,
         "There is not enough memory for the model '" + options.path + "'; take a smaller or more quantised one.");
  } catch (const std::exception& e) {
    fail(ErrorCode::kModelFile, "The model '" + options.path + "' cannot be loaded: " + e.what() + ".");
  }
  if (!impl_->model)
    fail(ErrorCode::kModelFile,
         "The model '" + options.path + "' cannot be loaded; it is damaged, truncated or of an unknown architecture.");
  check_usable(impl_->model.get(), options.path);
  impl_->vocab = llama_model_get_vocab(impl_->model.get());
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

std::vector<Token> Model::tokenize(std::string_view text, bool add_special, bool parse_special) const {
  std::vector<Token> tokens(text.size() + 8);
  const auto length = static_cast<std::int32_t>(text.size());
  auto n = llama_tokenize(impl_->vocab, text.data(), length, tokens.data(), static_cast<std::int32_t>(tokens.size()),
                          add_special, parse_special);
  if (n < 0) {
    tokens.resize(static_cast<std::size_t>(-static_cast<std::int64_t>(n)));
    n = llama_tokenize(impl_->vocab, text.data(), length, tokens.data(), static_cast<std::int32_t>(tokens.size()),
                       add_special, parse_special);
  }
  tokens.resize(static_cast<std::size_t>(std::max(0, n)));
  return tokens;
}

std::string Model::piece(Token token, bool special) const {
  std::string out(32, '\0');
  auto n = llama_token_to_piece(impl_->vocab, token, out.data(), static_cast<std::int32_t>(out.size()), 0, special);
  if (n < 0) {
    out.resize(static_cast<std::size_t>(-n));
    n = llama_token_to_piece(impl_->vocab, token, out.data(), static_cast<std::int32_t>(out.size()), 0, special);
  }
  out.resize(static_cast<std::size_t>(std::max(0, n)));
  return out;
}

std::string Model::detokenize(std::span<const Token> tokens) const {
  std::string out;
  for (const Token t : tokens) out += piece(t);
  return out;
}

bool Model::is_eog(Token token) const { return llama_vocab_is_eog(impl_->vocab, token); }

std::string Model::chat_template() const {
  const char* text = llama_model_chat_template(impl_->model.get(), nullptr);
  return text != nullptr ? text : "";
}

std::string Model::apply_template(std::span<const ChatMessage> messages, bool add_assistant,
                                  const std::string& chat_template) const {
  const std::string text = chat_template.empty() ? this->chat_template() : chat_template;
  if (text.empty())
    throw Error(ErrorCode::kModelUnsupported,
                "The model '" + path() + "' has no chat template; use gsd generate instead.");
  std::vector<llama_chat_message> list;
  std::size_t size = 256;
  for (const ChatMessage& m : messages) {
    list.push_back({m.role.c_str(), m.content.c_str()});
    size += 2 * (m.role.size() + m.content.size());
  }
  std::string out(size, '\0');
  auto n = llama_chat_apply_template(text.c_str(), list.data(), list.size(), add_assistant, out.data(),
                                     static_cast<std::int32_t>(out.size()));
  if (n < 0)
    throw Error(ErrorCode::kModelUnsupported,
                chat_template.empty()
                    ? "The chat template of '" + path() + "' is none that libllama knows; use gsd generate instead."
                    : "The chat template '" + chat_template.substr(0, 40) + "' is none that libllama knows.");
  if (static_cast<std::size_t>(n) > out.size()) {
    out.resize(static_cast<std::size_t>(n));
    n = llama_chat_apply_template(text.c_str(), list.data(), list.size(), add_assistant, out.data(),
                                  static_cast<std::int32_t>(out.size()));
  }
  out.resize(static_cast<std::size_t>(n));
  return out;
}

int Model::n_vocab() const { return llama_vocab_n_tokens(impl_->vocab); }
int Model::n_ctx_train() const { return llama_model_n_ctx_train(impl_->model.get()); }
int Model::n_layers() const { return llama_model_n_layer(impl_->model.get()); }
int Model::n_embd() const { return llama_model_n_embd(impl_->model.get()); }
std::uint64_t Model::n_params() const { return llama_model_n_params(impl_->model.get()); }
std::uint64_t Model::n_bytes() const { return llama_model_size(impl_->model.get()); }
std::string Model::architecture() const { return meta(impl_->model.get(), "general.architecture"); }
std::string Model::format() const { return llama_ftype_name(llama_model_ftype(impl_->model.get())); }
const std::string& Model::path() const { return impl_->options.path; }

std::string Model::description() const {
  std::array<char, 256> text{};
  llama_model_desc(impl_->model.get(), text.data(), text.size());
  return text.data();
}

std::string pair_mismatch(const Model& target, const Model& draft) {
  const llama_vocab* t = target.impl().vocab;
  const llama_vocab* d = draft.impl().vocab;
  if (llama_vocab_type(t) != llama_vocab_type(d)) return "the target and the draft have different kinds of tokenizer";
  const int common = std::min(target.n_vocab(), draft.n_vocab());
  std::string differing;
  int count = 0;
  for (Token i = 0; i < common; ++i) {
    if (std::strcmp(llama_vocab_get_text(t, i), llama_vocab_get_text(d, i)) == 0) continue;
    if (++count <= 3) {
      differing += (count > 1 ? ", " : "") + std::to_string(i) + " ('" + llama_vocab_get_text(t, i) +
                   "' in the target, '" + llama_vocab_get_text(d, i) + "' in the draft)";
    }
  }
  if (count == 0) return "";
  return std::to_string(count) + " of " + std::to_string(common) + " tokens differ, the first are " + differing;
}

bool format_is_width_invariant(const Model& model, bool narrow) {
  // Measured with ggml 0.27 (docs/architecture.md): ggml's kernels for these formats give the same bits at every width;
  // the narrow backend does for the others it takes. The name is that of the file's main format ("Q4_K - Medium").
  const std::string f = model.format();
  const auto is_one_of = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(),
                       [&](const char* name) { return f == name || f.starts_with(std::string(name) + " "); });
  };
  return is_one_of({"F32", "all F32", "F16", "BF16", "Q8_0"}) ||
         (narrow && is_one_of({"Q4_0", "Q4_K", "Q5_K", "Q6_K"}));
}

void write_pruned(const Model& model, std::span<const int> keep, const std::string& path) {
  std::vector<std::int32_t> drop;
  std::size_t next = 0;
  for (std::int32_t layer = 0; layer < model.n_layers(); ++layer) {
    if (next < keep.size() && keep[next] == layer) {
      ++next;
    } else {
      drop.push_back(layer);
    }
  }
  if (keep.empty() || next != keep.size()) {
    throw Error(ErrorCode::kUsage, "The layers to keep must be ascending numbers from 0 to " +
                                       std::to_string(model.n_layers() - 1) + ", at least one.");
  }
  drop.push_back(-1);
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    throw Error(ErrorCode::kIo, "'" + path + "' is no ordinary file; give another name.");
  }
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.only_copy = true;
  params.prune_layers = drop.data();
  const std::string scratch = path + ".part";
  take_llama_errors();
  std::uint32_t code = 1;
  try {
    code = llama_model_quantize(model.path().c_str(), scratch.c_str(), &params);
  } catch (const std::exception&) {  // an output file that cannot be written
  }
  if (code != 0 || std::rename(scratch.c_str(), path.c_str()) != 0) {
    std::remove(scratch.c_str());
    fail(ErrorCode::kIo,
         "The model '" + path + "' cannot be written; check the folder, its permissions and the free space.");
  }
}

namespace {

// libllama's parser recurses by nesting, without a bound.
void check_grammar(const std::string& gbnf) {
  constexpr std::size_t kMaxBytes = 1 << 20;
  constexpr int kMaxNesting = 200;
  const auto refuse = [](const char* why) {
    throw Error(ErrorCode::kGrammar, std::string("The grammar ") + why + ".");
  };
  if (gbnf.find_first_not_of(" \t\r\n") == std::string::npos) refuse("is empty");
  if (gbnf.size() > kMaxBytes) refuse("is larger than 1 MiB");
  int nesting = 0;  // of all brackets, those inside strings too: more than enough for any honest grammar
  for (const char c : gbnf) {
    nesting += c == '(' ? 1 : c == ')' && nesting > 0 ? -1 : 0;
    if (nesting > kMaxNesting) refuse("is nested more than 200 deep");
  }
}

}  // namespace

Constraint make_grammar(const Model& model, const std::string& gbnf) {
  check_grammar(gbnf);
  take_llama_errors();
  std::shared_ptr<llama_sampler> grammar(llama_sampler_init_grammar(model.impl().vocab, gbnf.c_str(), "root"),
                                         SamplerDeleter{});
  if (!grammar) fail(ErrorCode::kGrammar, "The grammar does not parse; it needs a rule named root in GBNF.");
  return Constraint{
      [grammar](Token t) {
        llama_token_data one{t, 0, 0};
        llama_token_data_array list{&one, 1, -1, false};
        llama_sampler_apply(grammar.get(), &list);
        return one.logit == 0;
      },
      [grammar](Token t) { llama_sampler_accept(grammar.get(), t); },
      [grammar] { llama_sampler_reset(grammar.get()); },
  };
}

}  // namespace gsd
