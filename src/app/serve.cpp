// gsd serve: the OpenAI-compatible server.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "../server/service.h"
#include "../util/sha256.h"
#include "api_host.h"
#include "commands.h"
#include "console.h"
#include "gsd/remote.h"

namespace gsd::app {
namespace {

struct ServeFlags {
  ApiFlags api;
  server::HttpOptions http;
  int timeout_s = 10;
  std::string api_key_file;
};

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
  std::sort(out.begin(), out.end());  // one that was given twice is one client
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// Of what is kept for each key, in their order: a file belongs to its key, whichever others there are, and its name
// does not tell the key.
std::vector<std::string> file_names(const std::vector<std::string>& keys) {
  std::vector<std::string> out;
  for (const std::string& key : keys) out.push_back(sha256("gsd answers " + key).substr(0, 32));
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

// After a connection to another machine was lost: whether all of them can be reached again, looked up once a second.
// Until then requests are answered with what happened.
bool all_are_back() {
  static Stopwatch since;
  if (!connection_lost() || since.ms() < 1000) return false;
  const bool back = silent_servers().empty();
  since = Stopwatch();
  return back;
}

// The program once more in this process, at the same port: what lay on the other machine can only be loaded again.
void begin_anew(int port) {
  std::vector<std::string> words;
  std::ifstream own("/proc/self/cmdline");
  for (std::string word; std::getline(own, word, '\0');) words.push_back(word);
  words.insert(words.end(), {"--port", std::to_string(port)});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::fputs("gsd: the other machines answer again; loading anew.\n", stderr);
  for (int fd = 3; fd < 1024; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);
  execv("/proc/self/exe", argv.data());
  throw Error(ErrorCode::kIo, "The server could not be started anew after a connection to another machine was lost.");
}

int serve(ServeFlags flags) {
  flags.http.api_keys = all_keys(flags);
  if (flags.http.api_keys.size() > 1) flags.api.clients = file_names(flags.http.api_keys);
  check_api_flags(flags.api);
  flags.http.read_timeout_s = flags.http.write_timeout_s = flags.timeout_s;
  check_address(flags.http);
  server::Service service(flags.http);
  ApiHost host(flags.api, false);
  const auto opened = [&] {
    const int n_shared = flags.api.model.pair.context.n_shared;
    const std::string share = n_shared > 0 ? fmt::format(", which share {}", n_shared) : "";
    std::fprintf(stderr, "gsd: serving %s at http://%s:%d (%d slots of %d tokens%s%s)\n", host.model.id.c_str(),
                 server::url_host(flags.http.host).c_str(), service.http().port(), flags.api.n_slots, host.pair.n_ctx(),
                 share.c_str(), !host.pair.draft_types().empty() ? "" : ", no draft model");
  };
  bool anew = false;
  const auto ends = [&anew] {
    anew = !interrupted() && all_are_back();
    return anew || interrupted();
  };
  service.run(host.scheduler, host.api, ends, opened);  // a second signal ends the program at once
  host.pair.save_profile();
  host.save_store();
  if (anew) begin_anew(service.http().port());
  return 0;
}

void add_server_flags(CLI::App& app, ServeFlags& f) {
  const auto group = [&](CLI::Option* o) { return o->group("Server"); };
  group(app.add_option("--host", f.http.host, "Address to listen at"))->capture_default_str();
  group(app.add_option("--port", f.http.port, "Port; 0 = any free one"))
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  group(app.add_option("--queue", f.api.max_queue, "Requests that may wait for a slot; further ones are refused"))
      ->capture_default_str()
      ->check(CLI::Range(0, 100000));
  group(app.add_option("--api-key", f.http.api_keys, "A key that clients must give; may be repeated"))
      ->expected(1)
      ->take_all();
  group(app.add_option("--api-key-file", f.api_key_file, "Keys from a file, one a line; # begins a comment"))
      ->type_name("FILE");
  group(app.add_option("--cors-origin", f.http.cors_origin, "Site whose pages may use the server; * = any"));
  group(app.add_option("--allowed-host", f.http.allowed_hosts,
                       "Name by which a server on loopback without keys may be called, beside localhost; may be "
                       "repeated"))
      ->expected(1)
      ->take_all();
  group(app.add_flag_callback(
      "--no-ui,--no-webui", [&f] { f.http.page = false; }, "Serve no page at /"));
  group(app.add_flag_callback(
      "--no-slots", [&f] { f.http.slots = false; }, "Answer GET /slots with 501"));
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
      R"(What requests leave out is taken from the flags of sampling and speculation; -c counts for all slots together, and
without -np each of them may have all of it.

Examples:
  gsd serve -m target.gguf -md draft.gguf
  gsd serve -m target.gguf -md draft.gguf -c 16384 -np 8 --host 0.0.0.0 --port 8000 --api-key-file keys.txt
  curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'
  curl http://127.0.0.1:8080/v1/completions -d '{"prompt": "# tar", "max_tokens": 64, "speculative": {"mode": "graph"}}')");
  add_server_flags(*app, *flags);
  add_api_flags(*app, flags->api, "Server");
  app->callback([flags, &exit_code] { exit_code = serve(*flags); });
}

}  // namespace gsd::app
