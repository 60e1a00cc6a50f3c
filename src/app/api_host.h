// What answers requests of the API, whether they come over HTTP or from a file.
#pragma once

#include <string>

#include "../server/api.h"
#include "chat_format.h"
#include "options.h"

namespace gsd::app {

struct ApiFlags {
  ModelFlags model;
  int n_slots = -1;  // -1 = 4 that share the context, see check_api_flags()
  int max_queue = 64;
  std::string alias;
  TemplateFlags chat_template;
  std::string tool_format;
  std::string reasoning_format = "auto";
  int reasoning_budget = -1;
  bool strict_model = false;
  std::optional<std::int64_t> cache_ram;  // MiB, -1 = no bound; empty = see check_api_flags()
  std::string store;                      // a file, or "memory"; empty = no answers are kept
  bool adapters_off = false;              // until a request asks for them
  std::string slot_path;                  // folder; empty = slots are not saved
  // With stores of their own; where there are several, each in the file with "." and this name after it.
  std::vector<std::string> clients = {""};
};
// Those that count for every way in, with the model's and with llama-server's defaults for what requests leave out.
// `group`: the heading in the help.
void add_api_flags(CLI::App& app, ApiFlags& flags, const std::string& group);

// Complains about what makes no sense before anything is loaded, and fits the pair's options to the slots.
// Throws Error(kUsage).
void check_api_flags(ApiFlags& flags);

// A loaded pair with the scheduler and the API over it. One thread owns it; see Scheduler and Api for the others.
struct ApiHost {
  // The flags were checked, and outlive it. Loads the pair, `cancel_passes` as in load_pair(), and the store of
  // answers.
  ApiHost(const ApiFlags& flags, bool cancel_passes);

  // Writes the answers that are kept across runs; nothing where none are. Throws Error(kIo).
  void save_store() const;

  const ApiFlags& flags;
  Runtime pair;
  std::vector<std::shared_ptr<AnswerStore>> stores;  // see ApiOptions
  server::TextModel model;
  server::Metrics metrics;
  server::Scheduler scheduler;
  server::Api api;
};

}  // namespace gsd::app
