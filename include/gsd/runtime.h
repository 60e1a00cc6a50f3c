// A loaded target with what drafts for it, ready to generate.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/engine.h"
#include "gsd/llama.h"

namespace gsd {

struct RuntimeOptions {
  std::string target;  // path
  std::string draft;   // path of a draft model or a head; empty = none
  // What drafts; unset = what the draft's file is, or without one the target's own MTP layers where it has them, or
  // nothing but the history.
  std::optional<DraftType> draft_type;
  // Who drafts beside the draft, each of another type: the planner chooses in every step whom to ask.
  std::vector<std::string> more_drafts;  // paths
  bool with_mtp = false;                 // the target's own MTP layers
  // LoRA adapters of the target, which act as SessionOptions::adapters says, and of a draft that is a model of its own,
  // which all act with this scale.
  struct Adapter {
    std::string path;
    float scale = 1;
  };
  std::vector<Adapter> adapters;
  std::vector<Adapter> draft_adapters;
  std::vector<std::string> lookup;       // text files to draw continuations from (lookup_text.h)
  Placement target_place;
  Placement draft_place;     // see place_of_draft()
  ContextOptions context;    // n_ctx 0 = what the target was trained for, at most 4096, or at most n_shared
  EngineOptions engine;      // engine.exact rules context.exact
  bool narrow = true;        // use the narrow-matmul backend where it helps
  std::optional<bool> mmap;  // as in ModelOptions
  bool profile = true;       // load and check the cost profile, or measure it; false = learn while running
  std::string profile_dir;   // where profiles are kept; empty = the user's cache folder
  std::function<bool(float)> progress;
};

// Where the draft goes: a placement that names no devices goes where the target does, as far as it asks for layers.
Placement place_of_draft(const RuntimeOptions& options);

// Everything that generates: a target, its draft, what is known of their costs, and the engine over them. One thread
// owns it.
class Runtime {
 public:
  // Throws what Model, make_backend and make_backends throw, Error(kPairMismatch) for a draft that does not fit
  // (one of another vocabulary does where its tokens can be turned into bytes),
  // Error(kUsage) for a draft of another type than asked for or two of one type, and Error(kIo) for a lookup file that
  // cannot be read.
  explicit Runtime(const RuntimeOptions& options);
  ~Runtime();
  Runtime(Runtime&&) noexcept;

  const Model& target() const;
  std::vector<const Model*> drafts() const;    // those in files of their own
  std::vector<DraftType> draft_types() const;  // what drafts, in the engine's order; none: only the history is drawn on
  // "llama 2.7M Q8_0", "1 MTP layer of the target", several joined by " + "; empty if nothing drafts.
  std::string draft_description() const;
  // A clause on a draft whose vocabulary is not the target's, with the share of tokens that both have; empty if there
  // is none.
  std::string vocabulary_note() const;
  // A clause on MTP layers of the target that cannot be drafted with; empty if there are none or a draft was given.
  std::string idle_layers() const;
  Engine& engine();
  int n_ctx() const;
  int n_threads() const;
  // The instruction set of the narrow-matmul backend, or empty if it is not used.
  const std::string& narrow() const;
  // How the cost profile came about: "measured", "cached", "off".
  const std::string& profile_source() const;
  // Writes what was learned about costs, for the next load. Errors are ignored and change nothing.
  void save_profile() const;

  // Generates after `prompt` and hands each piece of text to `on_text` as soon as it is certain; false stops. Whole
  // UTF-8 characters only. Returns the text.
  std::string generate(std::string_view prompt, SessionOptions options,
                       const std::function<bool(std::string_view)>& on_text = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gsd
