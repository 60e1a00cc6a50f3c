#include "arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <numeric>

#include "gsd/error.h"
#include "llama_flags.h"

namespace gsd::app {
namespace {

// What llama.cpp's programs call in several letters, where CLI11 knows one letter or two dashes, and otherwise.
const std::map<std::string, std::string> kShortNames{{"-md", "--model-draft"},
                                                     {"-np", "--parallel"},
                                                     {"-ngl", "--gpu-layers"},
                                                     {"-ngld", "--gpu-layers-draft"},
                                                     {"-to", "--timeout"},
                                                     {"--predict", "--n-predict"},
                                                     {"--spec-draft-model", "--model-draft"},
                                                     {"--spec-draft-ngl", "--gpu-layers-draft"},
                                                     {"--n-gpu-layers-draft", "--gpu-layers-draft"},
                                                     {"-dev", "--device"},
                                                     {"-devd", "--device-draft"},
                                                     {"-sm", "--split-mode"},
                                                     {"-ts", "--tensor-split"},
                                                     {"-mg", "--main-gpu"},
                                                     {"-cram", "--cache-ram"},
                                                     {"-ctk", "--cache-type-k"},
                                                     {"-ctv", "--cache-type-v"}};

// Variables of llama-server; of two for one option the later one wins. The keys (LLAMA_API_KEY) add up: see serve.cpp.
constexpr std::pair<const char*, const char*> kEnvironment[] = {
    {"LLAMA_ARG_MODEL", "--model"},
    {"LLAMA_ARG_MODEL_DRAFT", "--model-draft"},
    {"LLAMA_ARG_SPEC_DRAFT_MODEL", "--model-draft"},
    {"LLAMA_ARG_CTX_SIZE", "--ctx-size"},
    {"LLAMA_ARG_THREADS", "--threads"},
    {"LLAMA_ARG_N_GPU_LAYERS", "--gpu-layers"},
    {"LLAMA_ARG_N_GPU_LAYERS_DRAFT", "--gpu-layers-draft"},
    {"LLAMA_ARG_RPC", "--rpc"},
    {"LLAMA_ARG_DEVICE", "--device"},
    {"LLAMA_ARG_SPLIT_MODE", "--split-mode"},
    {"LLAMA_ARG_TENSOR_SPLIT", "--tensor-split"},
    {"LLAMA_ARG_MAIN_GPU", "--main-gpu"},
    {"LLAMA_ARG_CACHE_TYPE_K", "--cache-type-k"},
    {"LLAMA_ARG_CACHE_TYPE_V", "--cache-type-v"},
    {"LLAMA_ARG_N_PREDICT", "--n-predict"},
    {"LLAMA_ARG_TEMPERATURE", "--temp"},
    {"LLAMA_ARG_TOP_K", "--top-k"},
    {"LLAMA_ARG_TOP_P", "--top-p"},
    {"LLAMA_ARG_MIN_P", "--min-p"},
    {"LLAMA_ARG_REPEAT_PENALTY", "--repeat-penalty"},
    {"LLAMA_ARG_PRESENCE_PENALTY", "--presence-penalty"},
    {"LLAMA_ARG_FREQUENCY_PENALTY", "--frequency-penalty"},
    {"LLAMA_ARG_HOST", "--host"},
    {"LLAMA_ARG_PORT", "--port"},
    {"LLAMA_ARG_N_PARALLEL", "--parallel"},
    {"LLAMA_ARG_ALIAS", "--alias"},
    {"LLAMA_ARG_CACHE_RAM", "--cache-ram"},
    {"LLAMA_ARG_SLOT_SAVE_PATH", "--slot-save-path"},
    {"LLAMA_ARG_CHAT_TEMPLATE", "--chat-template"},
    {"LLAMA_ARG_CHAT_TEMPLATE_FILE", "--chat-template-file"},
    {"LLAMA_ARG_CHAT_TEMPLATE_KWARGS", "--chat-template-kwargs"},
    {"LLAMA_ARG_THINK", "--reasoning-format"},
    {"LLAMA_ARG_THINK_BUDGET", "--reasoning-budget"},
    {"LLAMA_ARG_API_KEY_FILE", "--api-key-file"},
    {"LLAMA_ARG_TIMEOUT", "--timeout"},
};

// Letters to put in, leave out or replace.
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row[b.size()];
}

// "; did you mean X?", or nothing where no name is near.
std::string hint(const std::string& word, const std::vector<std::string>& names) {
  const auto nearest = std::min_element(
      names.begin(), names.end(), [&](const auto& a, const auto& b) { return distance(word, a) < distance(word, b); });
  if (nearest == names.end() || distance(word, *nearest) > std::max<std::size_t>(1, word.size() / 3)) return "";
  return fmt::format("; did you mean {}?", *nearest);
}

[[noreturn]] void refuse_command(const CLI::App& program, const std::string& word) {
  std::vector<std::string> names{"help"};
  for (const CLI::App* c : program.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(c->get_name());
  const std::string near = hint(word, names);
  throw Error(ErrorCode::kUsage,
              fmt::format("There is no command '{}'{} gsd help lists them.", word, near.empty() ? ";" : near));
}

[[noreturn]] void refuse_flag(const CLI::App& command, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::Option* o : command.get_options()) {
    for (const std::string& name : o->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : o->get_snames()) names.push_back("-" + name);
  }
  for (const auto& [name, long_name] : kShortNames) {
    if (command.get_option_no_throw(long_name) != nullptr) names.push_back(name);
  }
  std::string near = hint(word, names);
  if (!word.starts_with("--") && word.size() > 2) {
    const CLI::Option* const o = command.get_option_no_throw(word.substr(0, 2));
    if (o != nullptr && o->get_items_expected_min() > 0 && near.empty())
      near = fmt::format("; did you mean {} {}?", word.substr(0, 2), word.substr(2));
  }
  throw Error(ErrorCode::kUsage, fmt::format("gsd {0} has no flag '{1}'{2} gsd help {0} lists them.",
                                             command.get_name(), word, near.empty() ? ";" : near));
}

bool is_flag(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && std::isdigit(static_cast<unsigned char>(word[1])) == 0 && word[1] != '.';
}

// Whether llama-server's users would expect its flags here.
bool speaks_llama(const CLI::App& command) {
  return command.get_name() == "serve" || command.get_name() == "chat" || command.get_name() == "generate";
}

// Appends the words of one command, checked.
void take_words(const CLI::App& command, std::vector<std::string> words, std::vector<std::string>& out,
                std::vector<std::string>& notes) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string word = words[i];
    if (word == "--") {
      out.insert(out.end(), words.begin() + static_cast<std::ptrdiff_t>(i), words.end());
      return;
    }
    if (!is_flag(word)) {
      out.push_back(word);
      continue;
    }
    if (const auto known = kShortNames.find(word); known != kShortNames.end()) word = known->second;
    const std::size_t sign = word.starts_with("--") ? word.find('=') : std::string::npos;
    const CLI::Option* const option = command.get_option_no_throw(word.substr(0, sign));
    if (option == nullptr) {
      const LlamaFlag* const foreign = speaks_llama(command) ? find_llama_flag(word.substr(0, sign)) : nullptr;
      if (foreign == nullptr) refuse_flag(command, words[i]);
      std::string value = sign == std::string::npos ? "" : word.substr(sign + 1);
      for (int values = sign == std::string::npos ? foreign->values : 0; values > 0 && i + 1 < words.size(); --values)
        value = words[++i];
      pass_over(*foreign, word.substr(0, sign), value, notes);
      continue;
    }
    out.push_back(word);
    if (sign != std::string::npos) continue;
    for (int values = option->get_items_expected_min(); values > 0 && i + 1 < words.size(); --values)
      out.push_back(words[++i]);
  }
}

// Variables of llama-server that no flag of the command stands for.
void pass_over_environment(const CLI::App& command, std::vector<std::string>& notes) {
  for (char** at = environ; at != nullptr && *at != nullptr; ++at) {
    const std::string_view entry(*at);
    const std::size_t sign = std::min(entry.find('='), entry.size());
    const std::string name(entry.substr(0, sign));
    if (!name.starts_with("LLAMA_ARG_")) continue;
    const auto known =
        std::find_if(std::begin(kEnvironment), std::end(kEnvironment), [&](const auto& e) { return name == e.first; });
    if (known != std::end(kEnvironment) && command.get_option_no_throw(known->second) != nullptr) continue;
    const LlamaFlag* const foreign = find_llama_flag(name);
    if (foreign == nullptr) {
      notes.push_back(fmt::format("the environment's {} has no effect here", name));
    } else {
      pass_over(*foreign, name, std::string(entry.substr(std::min(sign + 1, entry.size()))), notes);
    }
  }
}

}  // namespace

std::vector<std::string> arguments(const CLI::App& program, int argc, const char* const* argv,
                                   std::vector<std::string>& from_environment, std::vector<std::string>& notes) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (!words.empty() && words.front() == "help") {
    words.erase(words.begin());
    words.resize(std::min<std::size_t>(words.size(), 1));
    words.emplace_back("--help");
  }
  std::vector<std::string> out;
  if (!words.empty() && !is_flag(words.front())) {
    const CLI::App* const command = program.get_subcommand_no_throw(words.front());
    if (command == nullptr) refuse_command(program, words.front());
    out.push_back(words.front());
    for (const auto& [variable, name] : kEnvironment) {
      const char* const value = std::getenv(variable);
      if (value == nullptr || command->get_option_no_throw(name) == nullptr) continue;
      out.push_back(fmt::format("{}={}", name, value));
      from_environment.emplace_back(variable);
    }
    if (command->get_name() == "serve") pass_over_environment(*command, notes);
    words.erase(words.begin());
    take_words(*command, std::move(words), out, notes);
  } else {
    out = std::move(words);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace gsd::app
