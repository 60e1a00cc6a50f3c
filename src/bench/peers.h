// llama.cpp's own speculative programs, run unchanged beside us.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/sampling.h"
#include "process.h"
#include "search.h"

namespace gsd::bench {

// A program and what can be tuned on it.
struct Peer {
  struct Knob {
    std::string flag;
    std::vector<std::string> values;  // the first one starts the search
  };
  std::string name;  // in records
  std::string binary;
  std::vector<std::string> arguments;  // always given
  std::vector<Knob> knobs;
  bool server = false;    // asked over HTTP; the others are started once a prompt
  bool has_draft = true;  // takes a draft model

  std::vector<std::size_t> sizes() const;         // values of each knob
  std::string setting(const Point& point) const;  // "n-max=4 p-min=0.4"
};

// llama-speculative-simple, llama-speculative, llama-lookup, and llama-server with draft-simple and each n-gram type.
const std::vector<Peer>& peers();

// What all of them get.
struct PeerOptions {
  std::string folder;  // where the programs are
  std::string target;
  std::string draft;
  int n_ctx = 0;
  int n_threads = 0;
  int n_predict = 0;
  SamplingParams sampling;  // top_k, top_p, min_p and seed count; the temperature is given with the prompt
  std::string plugin;       // our narrow-matmul backend, loaded into them without repacking; empty = as shipped
  std::function<bool()> cancelled;
};

struct PeerRun {
  std::int64_t tokens = 0;  // the program's own count
  double decode_ms = 0;     // the program's own time, without the prompt
  double peak_mib = 0;      // 0 = unknown
  std::string text;         // what it generated, for a comparison
};

// The whole command line of a peer that is started once a prompt.
std::vector<std::string> peer_command(const Peer& peer, const Point& setting, const PeerOptions& options,
                                      const std::string& prompt_file, double temperature);

// Reads "decoded N tokens in S seconds" off a program's messages and what follows the prompt in its output.
// Throws Error(kBackend) if there is no such line.
PeerRun parse_peer_output(std::string_view out, std::string_view messages, std::string_view prompt);

// A peer at one setting, ready to be asked. Throws Error(kIo) if a server does not come up. One thread.
class PeerRunner {
 public:
  PeerRunner(const Peer& peer, const Point& setting, const PeerOptions& options);
  ~PeerRunner();
  // Throws Error(kBackend) if the program fails on it.
  PeerRun run(const std::string& prompt, double temperature);

 private:
  PeerRun ask(const std::string& prompt, double temperature);
  std::vector<std::string> environment() const;

  const Peer& peer_;
  Point setting_;
  const PeerOptions& options_;
  int port_ = 0;
  std::unique_ptr<Process> server_;
};

}  // namespace gsd::bench
