#include <ggml-backend.h>
#include <ggml.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>

#include "adapters.h"
#include "devices.h"
#include "handles.h"
#include "heads.h"
#include "remote.h"

namespace gsd {
namespace {

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

// Refuses files of other kinds, and values that libllama asserts on. Returns the rows of its table of positions.
int check_metadata(const std::string& path, bool head) {
  constexpr std::uint64_t kMaxLayers = 512;
  const auto file = GgufFile::open(path);
  if (!file) return 0;  // libllama will say what is wrong
  if (head && type_of(*file) == DraftType::kModel)
    throw Error(ErrorCode::kModelUnsupported,
                "'" + path + "' is no head that drafts from another model's inner states.");
  if (const std::string what = head ? "" : not_a_language_model(*file); !what.empty())
    throw Error(ErrorCode::kModelUnsupported, "'" + path + "' " + what);
  const auto layers = file->number(file->of("block_count"));
  if (layers && (*layers == 0 || *layers > kMaxLayers)) {
    throw Error(ErrorCode::kModelFile,
                "The model '" + path + "' cannot be loaded; it claims to have " + std::to_string(*layers) + " layers.");
  }
  for (const GgufFile::Tensor& t : file->tensors())
    if (t.name == "position_embd.weight") return static_cast<int>(std::min<std::int64_t>(t.shape[1], 1 << 30));
  return 0;
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

// Two digits, as in "5.9M", "41M", "7.2B".
std::string short_number(std::uint64_t n) {
  double value = static_cast<double>(n);
  std::size_t unit = 0;
  constexpr std::array kUnits{"", "K", "M", "B", "T"};
  for (; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), value < 9.95 && unit > 0 ? "%.1f%s" : "%.0f%s", value, kUnits.at(unit));
  return text.data();
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

struct Progress {
  const std::function<bool(float)>& report;
  std::exception_ptr failure;
};

// Called through a C interface, which no exception may cross.
bool report_progress(float share, void* user) {
  auto& progress = *static_cast<Progress*>(user);
  try {
    return !progress.report || progress.report(share);
  } catch (...) {
    progress.failure = std::current_exception();
    return false;
  }
}

// Everything on the CPU where `devices`, which a null follows, holds nothing else: left to itself, libllama would still
// hand large products to a graphics processor.
void place(llama_model_params& params, const Placement& placement, std::vector<ggml_backend_dev_t>& devices) {
  const bool cpu = devices.empty();
  devices.push_back(nullptr);
  params.devices = devices.data();
  params.n_gpu_layers = cpu ? 0 : placement.layers.value_or(-1);
  if (cpu) return;
  switch (placement.split) {
    case SplitMode::kLayer:
      params.split_mode = LLAMA_SPLIT_MODE_LAYER;
      break;
    case SplitMode::kNone:
      params.split_mode = LLAMA_SPLIT_MODE_NONE;
      break;
    case SplitMode::kRow:
      params.split_mode = LLAMA_SPLIT_MODE_ROW;
      break;
    case SplitMode::kTensor:
      params.split_mode = LLAMA_SPLIT_MODE_TENSOR;
      break;
  }
  params.main_gpu = placement.main_device;
}

}  // namespace

Model::Model(const ModelOptions& options) : impl_(std::make_unique<Impl>()) {
  start_llama();
  check_file(options.path);
  impl_->devices = choose_devices(options.place);
  impl_->learned_positions = check_metadata(options.path, options.head);
  impl_->options = options;
  llama_model_params params = llama_model_default_params();
  std::vector<ggml_backend_dev_t> list = impl_->devices;
  place(params, options.place, list);
  std::vector<float> shares = options.place.shares;
  shares.resize(llama_max_devices());
  if (!options.place.shares.empty() && !impl_->devices.empty()) params.tensor_split = shares.data();
  params.use_extra_bufts = options.repack;
  params.load_mtp = options.mtp;
  impl_->options.mmap = options.mmap.value_or(options.repack || !impl_->devices.empty() || !is_small(options.path));
  if (!*impl_->options.mmap) params.load_mode = LLAMA_LOAD_MODE_NONE;
  params.progress_callback = report_progress;
  Progress progress{impl_->options.progress, {}};
  params.progress_callback_user_data = &progress;
  take_llama_errors();
  try {
    const bool remote = is_remote(*impl_);
    impl_->model.get_deleter().remote = remote;
    call_remote(remote, [&] { impl_->model.reset(llama_model_load_from_file(options.path.c_str(), params)); });
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    fail(ErrorCode::kOutOfMemory,
         "There is not enough memory for the model '" + options.path + "'; take a smaller or more quantised one.");
  } catch (const std::exception& e) {
    fail(ErrorCode::kModelFile, "The model '" + options.path + "' cannot be loaded: " + e.what() + ".");
  }
  if (progress.failure) std::rethrow_exception(progress.failure);
  if (!impl_->model)
    fail(ErrorCode::kModelFile,
         "The model '" + options.path + "' cannot be loaded; it is damaged, truncated or of an unknown architecture.");
  if (is_remote(*impl_)) {
    note_remote(impl_->model.get());
    watch_connections();
  }
  if (!options.head) check_usable(impl_->model.get(), options.path);
  impl_->vocab = llama_model_get_vocab(impl_->model.get());
  impl_->adapters = load_adapters(impl_->model.get(), options.adapters);
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

std::string Model::piece(Token token, ShowControl control) const {
  const bool special = control == ShowControl::kYes;
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
    if (m.role.find('\0') != std::string::npos || m.content.find('\0') != std::string::npos)
      throw Error(ErrorCode::kUsage,
                  "A message holds a NUL character, which chat templates cannot carry; leave it out.");
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
int Model::n_ctx_trusted() const {
  const llama_model* m = impl_->model.get();
  const auto value = [&](const char* key) { return meta(m, architecture() + ".rope.scaling." + key); };
  const std::string type = value("type");
  if (type != "linear" && type != "yarn" && type != "longrope") return n_ctx_train();
  const double factor = std::strtod(value("factor").c_str(), nullptr);
  const double original = std::strtod(value("original_context_length").c_str(), nullptr);
  const double scaled = factor * (original > 0 ? original : n_ctx_train());
  return scaled > n_ctx_train() && scaled <= (1 << 30) ? static_cast<int>(scaled) : n_ctx_train();
}
int Model::n_layers() const { return llama_model_n_layer(impl_->model.get()); }
int Model::n_embd() const { return llama_model_n_embd(impl_->model.get()); }
std::uint64_t Model::n_params() const { return llama_model_n_params(impl_->model.get()); }
std::uint64_t Model::n_bytes() const { return llama_model_size(impl_->model.get()); }
std::string Model::architecture() const { return meta(impl_->model.get(), "general.architecture"); }
std::string Model::format() const { return llama_ftype_name(llama_model_ftype(impl_->model.get())); }
const std::string& Model::path() const { return impl_->options.path; }
int Model::max_positions() const { return impl_->learned_positions; }

std::string Model::fingerprint() const {
  const std::string place = placement_key(impl_->options.place, impl_->devices);
  return std::string("ggml ") + ggml_version() + " " + ggml_commit() + " " + description() + " " +
         std::to_string(n_params()) + " " + std::to_string(n_bytes()) +
         (impl_->options.mmap.value_or(false) ? " mapped" : " read") + (place.empty() ? "" : " " + place);
}

std::vector<std::string> Model::devices() const {
  std::vector<std::string> out;
  for (ggml_backend_dev_t d : impl_->devices) out.emplace_back(ggml_backend_dev_name(d));
  return out;
}

// libllama's own description knows a size only for shapes it has seen ("llama ?B Q8_0").
std::string Model::description() const {
  const std::string label = meta(impl_->model.get(), "general.size_label");
  return architecture() + " " + (label.empty() ? short_number(n_params()) : label) + " " + format();
}

Vocabulary vocabulary(const Model& model) {
  const llama_vocab* v = model.impl().vocab;
  return {.size = model.n_vocab(),
          .tokenize = [&model](std::string_view text, AddBegin begin,
                               ParseControl control) { return model.tokenize(text, begin, control); },
          .piece = [&model](Token t, ShowControl control) { return model.piece(t, control); },
          .is_eog = [&model](Token t) { return model.is_eog(t); },
          .begin = llama_vocab_bos(v),
          .end = llama_vocab_eos(v),
          .end_of_turn = llama_vocab_eot(v),
          .fill = {.prefix = llama_vocab_fim_pre(v),
                   .suffix = llama_vocab_fim_suf(v),
                   .middle = llama_vocab_fim_mid(v),
                   .repository = llama_vocab_fim_rep(v),
                   .file = llama_vocab_fim_sep(v)}};
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

std::string translation_obstacle(const Model& draft) {
  const auto type = llama_vocab_type(draft.impl().vocab);
  if (type != LLAMA_VOCAB_TYPE_WPM && type != LLAMA_VOCAB_TYPE_UGM) return "";
  return std::string("the draft's ") + (type == LLAMA_VOCAB_TYPE_WPM ? "WordPiece" : "Unigram") +
         " tokenizer changes the text, so that its tokens cannot be turned into the target's by their bytes";
}

std::string context_warning(const Model& target, const Model* draft, int n_ctx) {
  const auto clause = [&](const Model& m, const char* role, const char* effect) {
    return "the context of " + std::to_string(n_ctx) + " tokens is larger than the " +
           std::to_string(m.n_ctx_trusted()) + " that the " + role + " was trained for; " + effect;
  };
  if (n_ctx > target.n_ctx_trusted()) return clause(target, "target", "expect worse text beyond them");
  if (draft != nullptr && n_ctx > draft->n_ctx_trusted())
    return clause(*draft, "draft", "expect less speed beyond them");
  return "";
}

Grammar make_grammar(const Model& model, std::string_view gbnf) {
  Model::Impl& m = model.impl();
  std::call_once(m.texts_once, [&] {
    const auto texts = std::make_shared<TokenTexts>();
    for (Token t = 0; t < model.n_vocab(); ++t) texts->add(model.piece(t), model.is_eog(t));
    m.texts = texts;
  });
  return Grammar(gbnf, m.texts, [&](std::string_view name) -> std::optional<Token> {
    const std::vector<Token> tokens = model.tokenize(name, AddBegin::kNo, ParseControl::kYes);
    return tokens.size() == 1 ? std::optional(tokens[0]) : std::nullopt;
  });
}

}  // namespace gsd
