// Command-line options that the subcommands share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "gsd/engine.h"
#include "gsd/runtime.h"

namespace gsd::app {

struct ModelFlags {
  RuntimeOptions pair;
  std::string mode = "auto";
  std::string width = "auto";
  SpeculationParams speculation;
  SamplingParams sampling;
  std::string samplers;         // names, separated by semicolons
  std::string sampler_letters;  // a letter each
  std::int64_t n_predict = 256;
  std::string grammar_file;
  std::string grammar;
  bool ignore_eos = false;
  bool random_seed = false;  // one for each text that is begun: --seed -1, or what a server does without the flag
  bool no_history = false;
  bool no_profile = false;
  bool no_narrow = false;

  // Checked values as the library wants them. Throws Error(kUsage).
  SessionOptions session() const;
  // The same with the grammar, if one was given. Throws Error(kGrammar), Error(kIo).
  SessionOptions session(const Runtime& loaded) const;
};

// What --list-devices prints, as llama-server does.
std::string device_list();
// The target alone; add_model_flags: with the draft and what concerns the pair.
void add_target_flags(CLI::App& app, ModelFlags& flags);
void add_model_flags(CLI::App& app, ModelFlags& flags);
void add_mode_flag(CLI::App& app, ModelFlags& flags);
void add_adapter_flags(CLI::App& app, ModelFlags& flags);
void add_speculation_flags(CLI::App& app, ModelFlags& flags);
// Those of the draw alone; add_sampling_flags: also what a single generation can do, follow a grammar and go on behind
// the end of text.
void add_draw_flags(CLI::App& app, ModelFlags& flags);
void add_sampling_flags(CLI::App& app, ModelFlags& flags);

// Loads the pair with a progress line on stderr where that is a terminal. `cancel_passes`: Ctrl-C ends a pass half-way
// (a prompt's may take minutes); a server lets its requests come to their end instead.
Runtime load_pair(const ModelFlags& flags, bool cancel_passes = true);

}  // namespace gsd::app
