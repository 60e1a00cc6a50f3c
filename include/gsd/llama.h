// The backend over libllama: GGUF models, their vocabulary, chat template and grammar, and a pair ready to generate.
// llama.h itself is not needed to use this header.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/backend.h"
#include "gsd/devices.h"
#include "gsd/engine.h"
#include "gsd/error.h"
#include "gsd/grammar.h"
#include "gsd/vocabulary.h"

namespace gsd {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning, kError };
// Called by the thread that logs, which may be any, several at once; must not throw. `text` may be a part of a line.
using LogCallback = std::function<void(LogLevel level, std::string_view text)>;
// Where libllama's and ggml's messages go; an empty callback restores the default. By default nothing is printed, and a
// callback that the program gave to llama_log_set() before it used this library keeps getting them. Failures of this
// library's own calls carry libllama's words in their sentence in any case. Thread safe.
void set_log(LogCallback callback);

struct NarrowOptions {
  bool enabled = true;
  bool exact =
      false;         // take every product of up to 512 tokens, so that the bits of a token do not depend on the others
  bool gpu = false;  // some layers are on a device: attention of single tokens stays with ggml
};
// Our backend for narrow matrix products and attention on CPUs, as one user of it wants it, from construction to
// destruction. Construct it before the model is loaded and the contexts are made. Its settings belong to the process:
// while one user wants exact kernels all have them. Thread safe.
class NarrowKernels {
 public:
  // Throws Error(kUsage) if one that is alive wants the backend on and this one wants it off, or the reverse.
  explicit NarrowKernels(const NarrowOptions& options);
  ~NarrowKernels();
  NarrowKernels(const NarrowKernels&) = delete;
  NarrowKernels& operator=(const NarrowKernels&) = delete;
  // The instruction set it uses; empty if it is off, not there, or has nothing for this CPU.
  const std::string& instruction_set() const { return instruction_set_; }

 private:
  NarrowOptions options_;
  std::string instruction_set_;
};
// Path of that backend's shared object, for other programs (GGML_BACKEND_PATH); empty if it is not there. Thread safe.
std::string narrow_plugin();
// The processor's name, or "unknown". Thread safe.
std::string cpu_name();

struct ModelOptions {
  std::string path;  // a GGUF file
  Placement place = {};
  bool repack = true;  // let ggml rearrange the weights; off for exact mode and the narrow backend
  // Map the file, or read it into memory, which the narrow backend then puts in huge pages. Unset: read what is neither
  // repacked nor on a device and takes at most a quarter of the free memory.
  std::optional<bool> mmap;
  std::vector<std::string> adapters = {};  // files of LoRA adapters for it; see Backend::adapt
  bool mtp = false;                        // load the file's MTP layers too, where it has them
  bool head = false;  // the file is a head, which drafts from another model's inner states and is no model of its own
  std::function<bool(float)> progress;  // may be empty; share loaded [0, 1]; false cancels the load
};

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// A loaded GGUF model and its vocabulary. Immutable after the load: any thread may call the const functions.
class Model {
 public:
  // Throws what devices_of() throws, Error(kModelFile) for a file that is missing, unreadable, truncated or no GGUF,
  // Error(kModelUnsupported) for one that does not generate text token by token (embedding-only, encoder, diffusion),
  // Error(kUsage) for an adapter that is not for it,
  // Error(kOutOfMemory) if the weights do not fit.
  explicit Model(const ModelOptions& options);
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // Text to tokens; ParseControl for chat templates, never for a user's text. Throws Error(kUsage) for hundreds of
  // thousands of characters of one kind in a row where libllama's tokenizer cannot take them, Error(kOutOfMemory).
  std::vector<Token> tokenize(std::string_view text, AddBegin begin, ParseControl control) const;
  std::string piece(Token token, ShowControl control = ShowControl::kNo) const;  // see Vocabulary
  std::string detokenize(std::span<const Token> tokens) const;
  bool is_eog(Token token) const;

  // The model's own template, or empty.
  std::string chat_template() const;
  // `chat_template`: the name of one of libllama's templates ("chatml", "llama3", …) or a text that it recognises;
  // empty = the model's own. Throws Error(kModelUnsupported) if the model has none or libllama does not know it,
  // Error(kUsage) for a message that holds a NUL, where libllama would stop reading.
  std::string apply_template(std::span<const ChatMessage> messages, bool add_assistant,
                             const std::string& chat_template = {}) const;

  int n_vocab() const;
  int n_ctx_train() const;
  // Positions that it was trained for, or more where the file asks for scaled positions (linear, YaRN, LongRoPE).
  int n_ctx_trusted() const;
  int n_layers() const;
  int n_embd() const;
  std::uint64_t n_params() const;
  std::uint64_t n_bytes() const;    // of all tensors
  std::string description() const;  // architecture, size and format: "llama 41M Q8_0"
  std::string architecture() const;
  std::string format() const;  // "Q8_0", "BF16", …
  const std::string& path() const;
  // Names of the devices that its layers lie on, whole or in part; none: all is on the CPU.
  std::vector<std::string> devices() const;
  // Positions of its table of learned positions, which no context may go beyond; 0 = it has no such table.
  int max_positions() const;
  // What the times of passes over it depend on: sizes, format, how its weights lie in memory, the devices that take
  // part.
  std::string fingerprint() const;

  struct Impl;
  Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// The model, which must outlive it, as what reads and writes text needs it. Thread safe.
Vocabulary vocabulary(const Model& model);

// What speaks against using `draft` for `target`; empty if they fit. Vocabularies that differ only in additional ids at
// the end fit. Names the first tokens that differ.
std::string pair_mismatch(const Model& target, const Model& draft);

// What keeps a draft of another vocabulary from being translated by text, as a clause: a tokenizer that changes the
// text that it is given. Empty if nothing does.
std::string translation_obstacle(const Model& draft);

// A clause on a context of `n_ctx` positions that is larger than what the models are to be trusted with; empty if it is
// not. `draft` may be null.
std::string context_warning(const Model& target, const Model* draft, int n_ctx);

// What drafts for a target: a model of its own, layers of the target's file (MTP), or a head that was trained for it.
// All but the first draft from the target's inner states.
enum class DraftType : std::uint8_t { kModel, kMtp, kEagle3, kDFlash };
const char* draft_type_name(DraftType type);
// By those names, and "auto" for what the files hold.
const std::map<std::string_view, std::optional<DraftType>>& draft_types_by_name();
// What the file is by its own account; kModel where that is not known.
DraftType draft_type(const std::string& path);

// The MTP layers of a target's file.
struct MtpLayers {
  int count = 0;
  std::string obstacle;  // what keeps them from being drafted with, as the end of a sentence; empty if nothing does
};
MtpLayers mtp_layers(const std::string& path);

// What stands against every width giving the same bits (`--exact`): the kinds of tensors whose products are not known
// to on a CPU, as "experts in q4_K, weights in iq4_xs", and devices, whose products and attention are not. Empty if
// nothing does. `narrow`: with the narrow backend. Reads the model's files.
std::string width_obstacles(const Model& model, bool narrow);

// Writes to `path` the model without the layers that are not in `keep` (ascending, each in [0, n_layers)): a draft made
// out of the target itself. The file appears only when it is complete.
// Throws Error(kUsage) for layers out of range or none, Error(kIo) if it cannot be written.
void write_pruned(const Model& model, std::span<const int> keep, const std::string& path);

struct ContextOptions {
  int n_ctx = 4096;            // positions of one sequence
  int n_shared = 0;            // positions of all sequences together; 0 = n_ctx for each
  int n_seq = 1;               // sequences
  int n_threads = 0;           // at most; one alone where that has lately been faster. 0 = one per core
  int max_leaves = 16;         // leaves of one sequence's tree, [1, 64]; n_seq * max_leaves <= 256
  int max_outputs = 64;        // rows of logits of one pass
  int max_batch = 512;         // tokens of one pass
  std::string type_k = "f16";  // KV cache types: f32, f16, bf16, q8_0, q4_0
  std::string type_v = "f16";
  // One context per sequence, and flash attention only where the narrow backend computes it: the bits do not depend on
  // what is drafted.
  bool exact = false;
  // Asked again and again during a pass on CPUs, from the threads that compute it; true ends it with Error(kBackend).
  // May be empty.
  std::function<bool()> cancelled = {};
};

// A context over `model`, which must outlive it. Throws Error(kUsage) for sizes out of range, Error(kOutOfMemory) if
// the context cannot be made.
std::unique_ptr<Backend> make_backend(const Model& model, const ContextOptions& options);

// A head that drafts from its target's inner states.
struct Head {
  const Model* model;  // for MTP the target itself, loaded with ModelOptions::mtp
  DraftType type;
};
// A target and heads: destroy those first. They are for the engine that drives the target, with the same sequences:
// what the target commits they can be fed.
struct BackendsWithHeads {
  struct Of {
    std::unique_ptr<Backend> backend;  // null for DFlash, which is no model to be asked for what follows a token
    std::unique_ptr<Drafter> drafter;
  };
  std::unique_ptr<Backend> target;
  std::vector<Of> heads;
};
// Throws what make_backend throws, Error(kPairMismatch) for a head of another target, Error(kModelUnsupported) where
// libllama cannot give the states.
BackendsWithHeads make_backends(const Model& target, std::span<const Head> heads, const ContextOptions& options,
                                const ContextOptions& head_options);

// A GBNF grammar over the model's tokens: see Grammar. Only what a token adds to the text counts, so a control token
// must be named as one ("<think>"). Throws Error(kGrammar). Thread safe.
Grammar make_grammar(const Model& model, std::string_view gbnf);

}  // namespace gsd
