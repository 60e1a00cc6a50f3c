#include "api_host.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <utility>

#include "../llama/content.h"
#include "../llama/versions.h"
#include "../util/fnv.h"
#include "console.h"

namespace gsd::app {
namespace {

constexpr int kMinContext = 16;  // of a slot, see ContextOptions

server::TextModel text_model(const Runtime& pair, const ApiFlags& flags) {
  const Model& m = pair.target();
  const std::string stem = std::filesystem::path(m.path()).stem().string();
  std::vector<std::string> names = split(flags.alias, ',');
  server::TextModel out;
  out.id = names.empty() ? stem : names.front();
  out.aliases = {names.empty() ? m.path() : stem};
  if (names.size() > 1) out.aliases.insert(out.aliases.end(), names.begin() + 1, names.end());
  out.path = m.path();
  out.description = m.description();
  out.draft_description = pair.draft_description();
  const LoadedFormat chat = load_format(m, flags.chat_template);
  if (!chat.warning.empty()) std::fprintf(stderr, "gsd: note: %s\n", chat.warning.c_str());
  out.chat = chat.format;
  out.own_chat_template = chat.own;
  out.n_params = m.n_params();
  out.n_bytes = m.n_bytes();
  out.vocabulary = vocabulary(m);
  for (Token t = 0; t < m.n_vocab(); ++t)
    out.max_token_bytes = std::max(out.max_token_bytes, m.piece(t, ShowControl::kYes).size());
  out.n_ctx = pair.n_ctx();
  out.n_ctx_train = m.n_ctx_train();
  out.grammar = [&m](const std::string& gbnf) { return make_grammar(m, gbnf); };
  return out;
}

// The format asked for, with the template's tags of reasoning.
std::optional<chat::ToolFormat> tool_format(const ApiFlags& flags, const chat::ChatFormat& format) {
  if (flags.tool_format.empty()) return std::nullopt;
  chat::ToolFormat out = chat::tool_format(flags.tool_format);
  const chat::ToolFormat found = chat::find_tool_format(format);
  out.reasoning_open = found.reasoning_open;
  out.reasoning_close = found.reasoning_close;
  return out;
}

server::Conversation conversation(const ApiFlags& flags) {
  server::Conversation out;
  out.chat.variables = template_variables(flags.chat_template);
  out.reasoning = server::parse_reasoning_format(flags.reasoning_format);
  out.reasoning_budget = flags.reasoning_budget;
  return out;
}

// What the tokens are, in a few words.
std::string fingerprint(const Model& m) {
  Fnv h;
  for (Token t = 0; t < m.n_vocab(); ++t) h.add(m.piece(t, ShowControl::kYes));
  return fmt::format("{} tokens {:016x}", m.n_vocab(), h.value());
}

// Bytes for prompts that slots have to give up.
std::size_t cache_bytes(const ApiFlags& flags) {
  constexpr std::size_t kMiB = 1 << 20;
  if (flags.model.pair.engine.exact) {
    if (flags.cache_ram.value_or(0) != 0)
      fmt::print(stderr,
                 "gsd: note: --cache-ram has no effect with --exact, which computes every prompt in one order.\n");
    return 0;
  }
  if (flags.cache_ram) return *flags.cache_ram < 0 ? SIZE_MAX : static_cast<std::size_t>(*flags.cache_ram) * kMiB;
  const auto memory = static_cast<std::size_t>(std::max(0L, sysconf(_SC_PHYS_PAGES))) *
                      static_cast<std::size_t>(std::max(0L, sysconf(_SC_PAGESIZE)));
  return std::min(8192 * kMiB, memory / 4);  // as llama-server does, on machines that have it
}

bool in_memory(const ApiFlags& flags) { return flags.store == "memory"; }

std::vector<std::shared_ptr<AnswerStore>> make_stores(const ApiFlags& flags, const Model& m) {
  std::vector<std::shared_ptr<AnswerStore>> out;
  if (flags.store.empty()) return out;
  constexpr std::size_t kTokens = 1 << 18;  // of all clients together; 9 MiB
  constexpr std::size_t kLeast = 1 << 10;   // of each
  const std::size_t each = std::bit_floor(std::max(kLeast, kTokens / flags.clients.size()));
  const std::string vocabulary = in_memory(flags) ? "" : fingerprint(m);
  for (const std::string& client : flags.clients) {
    out.push_back(std::make_shared<AnswerStore>(static_cast<int>(each)));
    if (in_memory(flags)) continue;
    const std::string path = flags.store + (flags.clients.size() > 1 ? "." + client : "");
    const std::string note = out.back()->keep_in(path, vocabulary, m.n_vocab());
    if (!note.empty()) fmt::print(stderr, "gsd: note: {}.\n", note);
  }
  return out;
}

// What the state of a slot depends on.
std::string slots_model(const Runtime& pair, const ContextOptions& context) {
  return fmt::format("libllama {} | {} {} | kv {} {}", versions().llama, pair.target().description(),
                     model_content(pair.target().path()), context.type_k, context.type_v);
}

server::ApiOptions api_options(const ApiFlags& flags, const Runtime& pair, const chat::ChatFormat& format,
                               const std::vector<std::shared_ptr<AnswerStore>>& stores) {
  const SessionOptions defaults = flags.model.session();
  const std::optional<chat::ToolFormat> tools = tool_format(flags, format);
  if (flags.reasoning_budget >= 0 &&
      (tools ? *tools : chat::find_tool_format(format)).style == chat::CallStyle::kHarmony)
    throw Error(ErrorCode::kUsage,
                "--reasoning-budget is not for this model, whose reasoning is a channel; leave it out.");
  return {.defaults = {.sampling = defaults.sampling,
                       .speculation = defaults.speculation,
                       .random_seed = flags.model.random_seed,
                       .max_tokens = defaults.max_tokens,
                       .conversation = conversation(flags)},
          .exact = flags.model.pair.engine.exact,
          .strict_model = flags.strict_model,
          .tool_format = tools,
          .version = GSD_VERSION,
          .stores = stores,
          .adapters = flags.model.pair.adapters,
          .slot_path = flags.slot_path,
          .slots_model = flags.slot_path.empty() ? "" : slots_model(pair, flags.model.pair.context)};
}

}  // namespace

void add_api_flags(CLI::App& app, ApiFlags& f, const std::string& heading) {
  const auto group = [&](CLI::Option* o) { return o->group(heading); };
  group(app.add_option("--parallel", f.n_slots,
                       "Slots: requests that are generated at the same time (-np), each with its part of the context; "
                       "-1 = 4 that share it"))
      ->capture_default_str()
      ->check(CLI::Range(1, 64) | CLI::IsMember({-1}));
  group(app.add_option("-a,--alias", f.alias, "Names of the model in the API, separated by commas"));
  add_template_flags(app, f.chat_template, heading);
  group(app.add_option("--tool-format", f.tool_format,
                       "How the model writes calls of functions (hermes, mistral, …); found by a trial of its template "
                       "if not given"));
  group(app.add_option("--reasoning-format", f.reasoning_format,
                       "Reasoning in chats: apart as reasoning_content (auto, deepseek), or left in the text (none)"))
      ->capture_default_str()
      ->check(CLI::IsMember(std::vector<std::string>{"auto", "deepseek", "none"}));
  group(app.add_option("--reasoning-budget", f.reasoning_budget,
                       "Tokens of reasoning in chats, then it is ended; -1 = no bound"))
      ->capture_default_str()
      ->check(CLI::Range(-1, 1 << 30));
  group(app.add_flag("--strict-model", f.strict_model, "Refuse requests that name another model than the served one"));
  group(
      app.add_option("--cache-ram", f.cache_ram,
                     "MiB of main memory for the prompts that slots have to give up, which are put back when they come "
                     "again; -1 = no bound, 0 = none. If not given 8192, at most a quarter of the memory"))
      ->type_name("INT")
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 40));
  group(app.add_option("--store", f.store,
                       "Draw on earlier answers too: those in this file, which takes in the new ones at the end, or "
                       "memory for those of this run alone"))
      ->type_name("FILE")
      ->check(CLI::Validator([](const std::string& s) { return s.empty() ? "give a file, or memory" : ""; }, ""));
  group(
      app.add_option("--slot-save-path", f.slot_path,
                     "Folder in which requests may save what slots keep, and restore it (POST /slots/ID?action=save)"))
      ->type_name("DIR")
      ->check(CLI::ExistingDirectory);
  // llama-server's defaults
  f.model.sampling.temperature = 0.8F;
  f.model.sampling.top_k = 40;
  f.model.sampling.top_p = 0.95F;
  f.model.sampling.min_p = 0.05F;
  f.model.n_predict = -1;
  f.model.random_seed = true;
  add_model_flags(app, f.model);
  add_adapter_flags(app, f.model);
  group(app.add_flag("--lora-init-without-apply", f.adapters_off,
                     "Adapters do not act until POST /lora-adapters or a request lets them"));
  add_mode_flag(app, f.model);
  add_speculation_flags(app, f.model);
  add_draw_flags(app, f.model);
}

void check_api_flags(ApiFlags& flags) {
  flags.model.session();
  conversation(flags);
  if (!flags.tool_format.empty()) chat::tool_format(flags.tool_format);  // throws for a wrong name
  if (!flags.store.empty() && flags.model.pair.lookup.size() >= Hypotheses::kMaxShared)
    throw Error(ErrorCode::kUsage, "--store can be given beside one --lookup, not two.");
  if (!flags.slot_path.empty() && flags.clients.size() > 1)
    throw Error(ErrorCode::kUsage,
                "With several API keys what slots keep is kept apart, and files are not: leave out --slot-save-path.");
  for (auto& a : flags.model.pair.adapters) a.scale = flags.adapters_off ? 0 : a.scale;
  ContextOptions& context = flags.model.pair.context;
  const bool share = flags.n_slots < 0 && !flags.model.pair.engine.exact;  // exact slots have contexts of their own
  if (flags.n_slots < 0) flags.n_slots = 4;
  context.n_seq = flags.n_slots;
  int& n_ctx = context.n_ctx;                            // as llama-server's -c: for all slots together; 0 = not given
  if (n_ctx > 0 && n_ctx / flags.n_slots < kMinContext)  // where they share it, too: they could hardly work together
    throw Error(ErrorCode::kUsage,
                fmt::format("A context of {} for {} slots leaves less than {} tokens to each; raise -c or "
                            "lower -np.",
                            n_ctx, flags.n_slots, kMinContext));
  if (share) {
    context.n_shared = std::exchange(n_ctx, 0);
  } else {
    n_ctx /= flags.n_slots;
  }
  context.max_leaves = std::min(16, 256 / flags.n_slots);
  flags.model.pair.engine.keep_prefixes = true;
  flags.model.pair.engine.cache_bytes = cache_bytes(flags);
}

ApiHost::ApiHost(const ApiFlags& given, bool cancel_passes)
    : flags(given),
      pair(load_pair(flags.model, cancel_passes)),
      stores(make_stores(flags, pair.target())),
      model(text_model(pair, flags)),
      scheduler(pair.engine(), metrics,
                {.max_queue = static_cast<std::size_t>(flags.max_queue),
                 .n_shared = static_cast<std::size_t>(flags.model.pair.context.n_shared)}),
      api(model, scheduler, metrics, api_options(flags, pair, *model.chat, stores)) {}

void ApiHost::save_store() const {
  for (const auto& store : stores) store->save();
}

}  // namespace gsd::app
