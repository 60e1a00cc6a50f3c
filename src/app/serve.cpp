// gsd serve: the OpenAI-compatible server.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>

#include "../server/service.h"
#include "chat_format.h"
#include "commands.h"
#include "console.h"
#include "options.h"

namespace gsd::app {
namespace {

constexpr int kMinContext = 16;  // of a slot, see ContextOptions

struct ServeFlags {
  ModelFlags model;
  server::HttpOptions http;
  int n_slots = 4;
  int max_queue = 64;
  int timeout_s = 10;
  std::string alias;
  TemplateFlags chat_template;
  std::string tool_format;
  std::string reasoning_format = "auto";
  int reasoning_budget = -1;
  std::string api_key_file;
  bool random_seed = true;
  bool strict_model = false;
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) {
    while (!part.empty() && (part.back() == '\r' || part.back() == ' ')) part.pop_back();
    if (!part.empty()) out.push_back(part);
  }
  return out;
}

void note(const std::string& sentence) { std::fprintf(stderr, "gsd: note: %s\n", sentence.c_str()); }

server::TextModel text_model(const Runtime& pair, const ServeFlags& flags) {
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
  if (!chat.warning.empty()) note(chat.warning);
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

// Keys from everywhere they can be given; all of them are good. One that is there but empty would leave a server open
// that its owner believes closed.
std::vector<std::string> all_keys(const ServeFlags& flags) {
  std::vector<std::string> out = flags.http.api_keys;
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorCode::kUsage, what + "; give a key, or leave it away to serve without one.");
  };
  if (std::find(out.begin(), out.end(), "") != out.end()) refuse("The key of --api-key is empty");
  for (const char* name : {"GSD_API_KEY", "LLAMA_API_KEY"}) {
    const char* const key = std::getenv(name);
    if (key == nullptr) continue;
    if (*key == '\0') refuse(fmt::format("The environment's {} is empty", name));
    out.emplace_back(key);
  }
  if (!flags.api_key_file.empty()) {
    std::vector<std::string> keys = split(read_file(flags.api_key_file), '\n');
    std::erase_if(keys, [](const std::string& line) { return line.starts_with('#'); });
    if (keys.empty()) refuse("The file '" + flags.api_key_file + "' holds no API key");
    out.insert(out.end(), keys.begin(), keys.end());
  }
  return out;
}

void check_address(const server::HttpOptions& o) {
  if (!server::is_loopback(o.host) && o.api_keys.empty()) {
    std::fprintf(
        stderr,
        "gsd: warning: %s is reachable from other machines and no API key is asked for; give --api-key-file, or "
        "bind to 127.0.0.1.\n",
        o.host.c_str());
  }
}

// The format asked for, with the template's tags of reasoning.
std::optional<chat::ToolFormat> tool_format(const ServeFlags& flags, const chat::ChatFormat& format) {
  if (flags.tool_format.empty()) return std::nullopt;
  chat::ToolFormat out = chat::tool_format(flags.tool_format);
  const chat::ToolFormat found = chat::find_tool_format(format);
  out.reasoning_open = found.reasoning_open;
  out.reasoning_close = found.reasoning_close;
  return out;
}

int serve(ServeFlags flags) {
  flags.model.session();  // complain about parameters before the models are loaded
  server::Conversation conversation;
  conversation.chat.variables = template_variables(flags.chat_template);
  if (!flags.tool_format.empty()) chat::tool_format(flags.tool_format);  // throws for a wrong name
  conversation.reasoning = server::parse_reasoning_format(flags.reasoning_format);
  conversation.reasoning_budget = flags.reasoning_budget;
  flags.http.api_keys = all_keys(flags);
  flags.http.read_timeout_s = flags.http.write_timeout_s = flags.timeout_s;
  check_address(flags.http);
  RuntimeOptions& pair_options = flags.model.pair;
  pair_options.context.n_seq = flags.n_slots;
  int& n_ctx = pair_options.context.n_ctx;  // as llama-server's -c: for all slots together; 0 = not given
  if (n_ctx > 0 && n_ctx / flags.n_slots < kMinContext)
    throw Error(ErrorCode::kUsage,
                fmt::format("A context of {} for {} slots leaves less than {} tokens to each; raise -c or "
                            "lower -np.",
                            n_ctx, flags.n_slots, kMinContext));
  n_ctx /= flags.n_slots;
  pair_options.context.max_leaves = std::min(16, 256 / flags.n_slots);
  pair_options.engine.keep_prefixes = true;
  server::Service service(flags.http);
  Runtime pair = load_pair(flags.model, false);
  const server::TextModel model = text_model(pair, flags);
  const std::optional<chat::ToolFormat> tools = tool_format(flags, *model.chat);
  if (flags.reasoning_budget >= 0 &&
      (tools ? *tools : chat::find_tool_format(*model.chat)).style == chat::CallStyle::kHarmony)
    throw Error(ErrorCode::kUsage,
                "--reasoning-budget is not for this model, whose reasoning is a channel; leave it out.");
  server::Metrics metrics;
  server::Scheduler scheduler(pair.engine(), metrics, {.max_queue = static_cast<std::size_t>(flags.max_queue)});
  const SessionOptions defaults = flags.model.session();
  server::Api api(model, scheduler, metrics,
                  {.defaults = {.sampling = defaults.sampling,
                                .speculation = defaults.speculation,
                                .random_seed = flags.random_seed,
                                .max_tokens = defaults.max_tokens,
                                .conversation = conversation},
                   .exact = pair_options.engine.exact,
                   .strict_model = flags.strict_model,
                   .tool_format = tools,
                   .version = GSD_VERSION});
  const auto opened = [&] {
    std::fprintf(stderr, "gsd: serving %s at http://%s:%d (%d slots of %d tokens%s)\n", model.id.c_str(),
                 server::url_host(flags.http.host).c_str(), service.http().port(), flags.n_slots, pair.n_ctx(),
                 pair.draft_type() ? "" : ", no draft model");
  };
  service.run(scheduler, api, interrupted, opened);  // a second signal ends the program at once (catch_signals)
  pair.save_profile();
  return 0;
}

void add_server_flags(CLI::App& app, ServeFlags& f) {
  const auto group = [&](CLI::Option* o) { return o->group("Server"); };
  group(app.add_option("--host", f.http.host, "Address to listen at"))->capture_default_str();
  group(app.add_option("--port", f.http.port, "Port; 0 = any free one"))
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  group(app.add_option("--parallel", f.n_slots, "Slots: requests that are generated at the same time (-np)"))
      ->capture_default_str()
      ->transform(CLI::Transformer(std::map<std::string, std::string>{{"-1", std::to_string(f.n_slots)}}))
      ->check(CLI::Range(1, 64));
  group(app.add_option("--queue", f.max_queue, "Requests that may wait for a slot; further ones are refused"))
      ->capture_default_str()
      ->check(CLI::Range(0, 100000));
  group(app.add_option("-a,--alias", f.alias, "Names of the model in the API, separated by commas"));
  add_template_flags(app, f.chat_template, "Server");
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
  group(app.add_option("--api-key", f.http.api_keys, "A key that clients must give; may be repeated"))
      ->expected(1)
      ->take_all();
  group(app.add_option("--api-key-file", f.api_key_file, "Keys from a file, one a line; # begins a comment"))
      ->type_name("FILE");
  group(app.add_flag("--strict-model", f.strict_model, "Refuse requests that name another model than the served one"));
  group(app.add_option("--cors-origin", f.http.cors_origin, "Site whose pages may use the server; * = any"));
  group(app.add_option("--allowed-host", f.http.allowed_hosts,
                       "Name by which a server on loopback without keys may be called, beside localhost; may be "
                       "repeated"))
      ->expected(1)
      ->take_all();
  group(app.add_option("--timeout", f.timeout_s, "Seconds that a client may take to send or receive a piece"))
      ->capture_default_str()
      ->check(CLI::Range(1, 3600));
  group(app.add_option("--max-connections", f.http.max_connections, "Open connections; each has a thread"))
      ->capture_default_str()
      ->check(CLI::Range(8, 4096));
}

}  // namespace

void add_serve(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* app = program.add_subcommand("serve", "Serve the OpenAI API, and a page to watch the graph");
  app->footer(
      R"(What requests leave out is taken from the flags of sampling and speculation; -c counts for all slots together.

Examples:
  gsd serve -m target.gguf -md draft.gguf
  gsd serve -m target.gguf -md draft.gguf -c 16384 -np 8 --host 0.0.0.0 --port 8000 --api-key-file keys.txt
  curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'
  curl http://127.0.0.1:8080/v1/completions -d '{"prompt": "# tar", "max_tokens": 64, "speculative": {"mode": "graph"}}')");
  // llama-server's defaults
  flags->model.sampling.temperature = 0.8F;
  flags->model.sampling.top_k = 40;
  flags->model.sampling.top_p = 0.95F;
  flags->model.sampling.min_p = 0.05F;
  flags->model.n_predict = -1;
  add_server_flags(*app, *flags);
  add_model_flags(*app, flags->model);
  add_mode_flag(*app, flags->model);
  add_speculation_flags(*app, flags->model);
  add_draw_flags(*app, flags->model);
  app->callback([flags, app, &exit_code] {
    flags->random_seed = app->count("--seed") == 0 || flags->model.random_seed;
    exit_code = serve(*flags);
  });
}

}  // namespace gsd::app
