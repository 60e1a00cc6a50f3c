// gsd bench: ways to decode beside each other on the same prompts, interleaved, and llama.cpp's own programs with them.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "../bench/measurement.h"
#include "../bench/peers.h"
#include "../bench/report.h"
#include "../bench/scripted_draft.h"
#include "../bench/search.h"
#include "../bench/workload.h"
#include "../chat/control_tokens.h"
#include "../core/engine_state.h"
#include "chat_format.h"
#include "commands.h"
#include "console.h"
#include "options.h"

namespace gsd::app {
namespace {

using namespace gsd::bench;

constexpr double kSlower = 0.97;  // --compare: below this ratio a configuration counts as slower
constexpr int kExitSlower = 12;

struct BenchFlags {
  ModelFlags model;
  std::vector<std::string> prompts;
  std::vector<std::string> configs;
  std::vector<std::string> modes{"plain", "chain", "tree", "graph", "auto"};
  std::vector<float> temperatures;
  std::vector<int> sessions{1};
  int repetitions = 3;
  int per_kind = 0;
  int tune = 0;  // prompts of each kind to choose settings on; 0: every second one
  bool ablate = false;
  bool chains = false;
  std::vector<double> acceptance;
  std::string peers;
  std::string out;
  bool go_on = false;
  std::string html;
  std::string report;
  std::vector<std::string> compare;
};

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// A way to decode: one of ours, or another program at one setting.
struct Contestant {
  std::string name;
  std::optional<Config> own;
  std::unique_ptr<PeerRunner> peer;
};

// An engine over a pair's target with a draft whose acceptance is scripted.
struct Scripted {
  Scripted(Runtime& pair, const ModelFlags& flags, int sessions)
      : model({.path = flags.pair.draft,
               .place = place_of_draft(flags.pair),
               .repack = pair.narrow().empty(),
               .mmap = flags.pair.mmap,
               .progress = {}}),
        real(make_backend(model, context(pair, flags, sessions))),
        draft(*real),
        engine(pair.engine().target(), &draft, pair.engine().options()) {
    if (const std::string why = pair_mismatch(pair.target(), model); !why.empty())
      throw Error(ErrorCode::kPairMismatch,
                  "The draft '" + flags.pair.draft + "' does not fit the target: " + why + ".");
    engine.state().planner_.target_cost().load(pair.engine().state().planner_.target_cost().points());
    measure_cost(draft, engine.state().planner_.draft_cost(), 200);
  }
  static ContextOptions context(const Runtime& pair, const ModelFlags& flags, int sessions) {
    ContextOptions o = flags.pair.context;
    o.n_seq = sessions;
    o.n_ctx = pair.n_ctx() + 256;  // room for a step's graph
    o.n_threads = pair.n_threads();
    return o;
  }

  Model model;
  std::unique_ptr<Backend> real;
  ScriptedDraft draft;
  Engine engine;
};

class Bench {
 public:
  explicit Bench(const BenchFlags& flags) : flags_(flags) {
    for (const std::string& path : flags.prompts) {
      auto more = read_prompt_file(path, flags.per_kind);
      prompts_.insert(prompts_.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    const SpeculationParams defaults = flags.model.session().speculation;
    std::vector<std::string> texts = flags.configs;
    if (texts.empty() && !flags.ablate) texts = flags.modes;
    if (flags.ablate) texts = ablation_configs();
    if (flags.chains) {
      const auto more = chain_configs();
      texts.insert(texts.end(), more.begin(), more.end());
    }
    for (const std::string& text : texts) configs_.push_back(parse_config(text, defaults));
    if (!flags.acceptance.empty()) script_configs();
    temperatures_ = flags.temperatures;
    if (temperatures_.empty()) temperatures_.push_back(flags.model.sampling.temperature);
    if (!flags.acceptance.empty() && (temperatures_ != std::vector<float>{0} || !flags.peers.empty()))
      throw Error(
          ErrorCode::kUsage,
          "--acceptance scripts the draft by plain decoding's greedy text; it goes with --temp 0 and without --peers.");
    const auto is_there = [&](const Peer& peer) {
      return std::filesystem::exists(std::filesystem::path(flags.peers) / peer.binary);
    };
    if (!flags.peers.empty() && std::none_of(peers().begin(), peers().end(), is_there))
      throw Error(ErrorCode::kUsage, "The folder '" + flags.peers +
                                         "' of --peers holds none of llama.cpp's programs; deps/setup.sh --group peers "
                                         "puts them into .prefix/usr/bin.");
    tuning_ = flags.peers.empty() ? std::vector<bool>(prompts_.size()) : tuning_prompts(prompts_, flags.tune);
  }

  // False if the user ended it. What was measured is in the file in any case.
  bool run() {
    for (const int sessions : flags_.sessions) {
      load(sessions);
      if (sessions == flags_.sessions.front()) open_file();
      std::vector<Contestant> field;
      for (const Config& c : configs_) field.push_back({c.name, c, nullptr});
      if (!flags_.peers.empty() && sessions == 1) {
        add_tuned(field);
        learn(field);
      }
      for (const float temperature : temperatures_) measure_all(field, temperature, sessions);
      pair_->save_profile();
      if (interrupted()) return false;
    }
    return true;
  }
  const Measurements& results() const { return results_; }

 private:
  // Each way to draft, at each acceptance. The history would be right where the script is not.
  void script_configs() {
    if (flags_.model.pair.draft.empty())
      throw Error(ErrorCode::kUsage, "--acceptance needs a draft model (--draft), whose passes are made and paid.");
    const std::vector<Config> ways = std::exchange(configs_, {});
    for (const Config& way : ways) {
      if (way.params.mode == Mode::kPlain) configs_.push_back(way);
    }
    for (const double acceptance : flags_.acceptance) {
      for (Config c : ways) {
        if (c.params.mode == Mode::kPlain) continue;
        c.name += fmt::format(" acceptance={}", acceptance);
        c.acceptance = acceptance;
        c.params.history = false;
        configs_.push_back(std::move(c));
      }
    }
  }

  void load(int sessions) {
    ModelFlags flags = flags_.model;
    flags.pair.context.n_seq = sessions;
    scripted_.reset();
    pair_.reset();
    if (!flags_.acceptance.empty()) flags.pair.draft.clear();
    pair_ = std::make_unique<Runtime>(load_pair(flags));
    if (!flags_.acceptance.empty()) scripted_ = std::make_unique<Scripted>(*pair_, flags_.model, sessions);
    if (!tokens_.empty()) return;
    const auto room = static_cast<std::size_t>(std::max<std::int64_t>(1, pair_->n_ctx() - flags.n_predict));
    const auto format = load_format(pair_->target(), {});
    const chat::ControlTokens control(vocabulary(pair_->target()));
    for (Prompt& p : prompts_) {
      tokens_.push_back(tokens_of(p, format, control));
      if (tokens_.back().size() <= room) continue;
      tokens_.back().erase(tokens_.back().begin(), tokens_.back().end() - static_cast<std::ptrdiff_t>(room));
      p.text = pair_->target().detokenize(tokens_.back());
      ++cut_;
    }
  }

  // A chat is rendered by the target's own template; without one it is what is said. Its text is for others' programs.
  std::vector<Token> tokens_of(Prompt& p, const LoadedFormat& format, const chat::ControlTokens& control) const {
    if (!p.messages.empty() && format.own && format.format->problem().empty()) {
      chat::ChatRequest request;
      for (const auto& [role, content] : p.messages) request.messages.push_back({{"role", role}, {"content", content}});
      const chat::Rendered rendered = format.format->render(request);
      p.text = rendered.text;
      return chat::tokenize_prompt(rendered, control, vocabulary(pair_->target()));
    }
    p.text = bench::plain_text(p);
    return pair_->target().tokenize(p.text, AddBegin::kYes, ParseControl::kNo);
  }

  // "CPU", or what the target and the draft lie on beside it.
  std::string places() const {
    const auto text = [](const Placement& place) {
      std::vector<std::string> names;
      for (const Device& d : devices_of(place)) names.push_back(fmt::format("{} ({})", d.name, d.description));
      return names.empty() ? "CPU" : fmt::format("{}", fmt::join(names, ", "));
    };
    const std::string target = text(flags_.model.pair.target_place);
    const std::string draft = text(place_of_draft(flags_.model.pair));
    return pair_->drafts().empty() || target == draft ? target : fmt::format("{}; draft: {}", target, draft);
  }

  Conditions conditions() const {
    const std::time_t now = std::time(nullptr);
    std::string files;
    for (const std::string& path : flags_.prompts)
      files += (files.empty() ? "" : ", ") + std::filesystem::path(path).filename().string();
    const ModelFlags& m = flags_.model;
    Conditions c{{"gsd", GSD_VERSION},
                 {"date", fmt::format("{:%Y-%m-%d}", fmt::gmtime(now))},
                 {"processor", cpu_name()},
                 {"devices", places()},
                 {"threads", pair_->n_threads()},
                 {"target", fmt::format("{} ({:.1f} MB)", std::filesystem::path(m.pair.target).filename().string(),
                                        static_cast<double>(pair_->target().n_bytes()) / 1e6)},
                 {"draft", m.pair.draft.empty() ? "none" : std::filesystem::path(m.pair.draft).filename().string()},
                 {"narrow-matmul backend", pair_->narrow().empty() ? "off" : pair_->narrow()},
                 {"exact", m.pair.engine.exact},
                 {"prompts", fmt::format("{} of {}", prompts_.size(), files)},
                 {"cut to the context", cut_},
                 {"tokens", m.n_predict},
                 {"end of text", m.ignore_eos ? "ignored" : "ends"},
                 {"repetitions", flags_.repetitions}};
    if (!flags_.peers.empty()) c["prompts tuned on"] = tuning_list().size();
    return c;
  }

  void open_file() {
    results_.conditions = conditions();
    if (flags_.out.empty()) return;
    if (flags_.go_on && std::filesystem::exists(flags_.out)) {
      Measurements old = read_measurements(flags_.out);
      // A prompt that settings were chosen on must not be measured as well.
      for (const char* key : {"target", "draft", "prompts", "tokens", "processor", "end of text", "prompts tuned on"}) {
        if (old.conditions.value(key, Conditions()) != results_.conditions.value(key, Conditions()))
          throw Error(
              ErrorCode::kUsage,
              fmt::format("'{}' was measured under other conditions ({}); give another file.", flags_.out, key));
      }
      results_ = std::move(old);
      for (const Measurement& m : results_.list) done_.insert(m.key());
    }
    // Written anew, so that half a line that an earlier run left does not stay.
    out_.open(flags_.out, std::ios::trunc);
    out_ << to_line(results_.conditions);
    for (const Measurement& m : results_.list) out_ << to_line(m);
    if (!out_.flush()) throw Error(ErrorCode::kIo, "The file '" + flags_.out + "' cannot be written.");
  }

  void store(Measurement m) {
    done_.insert(m.key());
    if (out_.is_open() && !(out_ << to_line(m) << std::flush))
      throw Error(ErrorCode::kIo, "The file '" + flags_.out + "' cannot be written; is the disk full?");
    results_.list.push_back(std::move(m));
  }

  void measure_all(std::vector<Contestant>& field, float temperature, int sessions) {
    std::vector<std::size_t> turns;
    for (std::size_t p = 0; p < prompts_.size(); p += static_cast<std::size_t>(sessions)) {
      if (!tuning_[p]) turns.push_back(p);
    }
    ProgressLine line("Measuring");
    const std::size_t total = turns.size() * field.size() * static_cast<std::size_t>(flags_.repetitions);
    std::size_t n = 0;
    bool warm = false;
    for (int repetition = 0; repetition < flags_.repetitions; ++repetition) {
      for (const std::size_t p : turns) {
        for (Contestant& c : field) {
          if (interrupted()) return;
          line.show(static_cast<float>(n++) / static_cast<float>(total));
          Measurement m = blank(c.name, p);
          m.temperature = std::round(temperature * 1000.0) / 1000;
          m.sessions = sessions;
          m.repetition = repetition;
          if (done_.count(m.key()) > 0) continue;
          if (!warm) warm_up(field, m);
          warm = true;
          if (measure(c, p, m)) store(std::move(m));
        }
      }
    }
  }

  void warm_up(std::vector<Contestant>& field, Measurement m) {
    for (Contestant& c : field) {
      if (!interrupted()) measure(c, static_cast<std::size_t>(m.prompt), m);
    }
  }

  Measurement blank(const std::string& config, std::size_t prompt) const {
    Measurement m;
    m.kind = prompts_[prompt].kind;
    m.config = config;
    m.prompt = static_cast<int>(prompt);
    return m;
  }

  // Fills `m`; false if the user ended it meanwhile, or if there is nothing to measure.
  bool measure(Contestant& c, std::size_t p, Measurement& m) {
    if (c.own) return measure_own(*c.own, p, m);
    PeerRun r;
    try {
      r = c.peer->run(prompts_[p].text, m.temperature);
    } catch (const Error& e) {  // another program's failure ends no run
      if (!interrupted()) std::fprintf(stderr, "gsd: note: %s, prompt %zu: %s\n", c.name.c_str(), p, e.what());
      return false;
    }
    m.tokens = r.tokens;
    m.decode_ms = r.decode_ms;
    m.peak_mib = r.peak_mib;
    m.same_text = m.temperature > 0 || agree(plain_text(p), r.text);  // others draw other random numbers
    return !interrupted() && m.tokens > 0;
  }

  SessionOptions session_options(const SpeculationParams& params, double temperature) const {
    SessionOptions o = flags_.model.session(*pair_);
    o.speculation = params;
    o.sampling.temperature = static_cast<float>(temperature);
    return o;
  }

  // `m.sessions` prompts from `first` on, together, until the first of them ends: fewer sessions are another measurement,
  // and those that have most accepted would leave the others to it. `most` tokens of each instead of --n-predict.
  bool measure_own(const Config& config, std::size_t first, Measurement& m, std::int64_t most = -1) {
    Engine& engine = scripted_ ? scripted_->engine : pair_->engine();
    if (config.acceptance >= 0) {
      for (int i = 0; i < m.sessions; ++i) plain_tokens((first + static_cast<std::size_t>(i)) % tokens_.size());
    }
    std::vector<std::unique_ptr<Session>> sessions;
    const Stopwatch clock;
    m.seen = {};
    Learned& learned = learned_[{config.name, m.sessions}];
    engine.state().exchange(learned);
    for (int i = 0; i < m.sessions; ++i) {
      SessionOptions o = session_options(config.params, m.temperature);
      if (most >= 0) o.max_tokens = most;
      o.on_token = [&](Token) {
        if (m.first_token_ms == 0) m.first_token_ms = clock.ms();
        return !interrupted();
      };
      o.on_step = [&](const StepView& step) { m.seen.observe(step); };
      sessions.push_back(engine.open(std::move(o)));
    }
    m.first_token_ms = 0;
    std::vector<Session*> list;
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      const std::size_t p = (first + i) % tokens_.size();
      if (config.acceptance >= 0) {
        std::vector<Token> text = tokens_[p];
        const std::vector<Token>& plain = plain_tokens(p);
        text.insert(text.end(), plain.begin(), plain.end());
        scripted_->draft.script(sessions[i]->slot(), std::move(text), config.acceptance);
      }
      engine.set_prompt(*sessions[i], tokens_[p]);
      list.push_back(sessions[i].get());
    }
    m.prefill_ms = 0;
    run_to_end(engine, list, [&](std::size_t left) {
      if (left == 0 && m.prefill_ms == 0) {
        m.prefill_ms = clock.ms();
        engine.reset_stats();
      }
      return !interrupted() && std::none_of(list.begin(), list.end(), [](const Session* s) { return s->finished(); });
    });
    m.decode_ms = clock.ms() - m.prefill_ms;
    m.stats = engine.stats();
    m.tokens = m.stats.emitted;
    m.peak_mib = peak_mib();
    std::vector<std::vector<Token>> generated;
    for (const auto& s : sessions) generated.emplace_back(s->generated().begin(), s->generated().end());
    sessions.clear();
    engine.state().exchange(learned);
    auto& plain = plain_[{first, m.temperature, m.sessions}];
    if (plain.empty() && config.params.mode == Mode::kPlain && most < 0) plain = generated;
    m.same_text = plain.empty() || std::equal(plain.begin(), plain.end(), generated.begin(), agree_as_far_as_both_go);
    return !interrupted() && m.tokens > 0;
  }

  static bool agree_as_far_as_both_go(const std::vector<Token>& a, const std::vector<Token>& b) {
    return std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin());
  }

  const std::string& plain_text(std::size_t p) {
    std::string& text = plain_text_[p];
    if (text.empty()) text = pair_->target().detokenize(plain_tokens(p));
    return text;
  }

  // Of one session, greedy.
  const std::vector<Token>& plain_tokens(std::size_t p) {
    auto& plain = plain_[{p, 0.0, 1}];
    if (plain.empty()) {
      Measurement unused = blank("plain", p);
      measure_own(parse_config("plain", {}), p, unused);
    }
    return plain.front();
  }

  // As far as both go. Programs may go on behind the limit, and print end-of-text tokens by name.
  static bool agree(const std::string& a, std::string b) {
    b.erase(b.find_last_not_of(" \r\n") + 1);
    const std::size_t n = std::min(a.size(), b.size());
    return n > 0 && a.compare(0, n, b, 0, n) == 0;
  }

  // Mean logarithm of the speed-up over the prompts for tuning; very low where the program fails.
  double tuning_score(const std::string& name, Race& race, const std::function<Contestant()>& make) {
    constexpr double kUseless = -1e9;
    const std::vector<std::size_t> list = tuning_list();
    std::optional<Contestant> c;
    try {
      return race.mean(list.size(), [&](std::size_t i) {
        const Measurement m = tuning_run(name, list[i], c, make);
        return m.tokens > 0 ? std::log(m.plain_ms_per_token / m.ms_per_token()) : kUseless;
      });
    } catch (const Error& e) {
      if (!interrupted()) std::fprintf(stderr, "gsd: note: %s: %s\n", name.c_str(), e.what());
      return kUseless;
    }
  }

  // Measured once, with a short run of plain decoding beside it; without tokens if the user ended it.
  Measurement tuning_run(const std::string& name, std::size_t p, std::optional<Contestant>& c,
                         const std::function<Contestant()>& make) {
    constexpr std::int64_t kPlainTokens = 24;
    Measurement m = blank(name, p);
    m.tuning = true;
    if (done_.count(m.key()) > 0)
      return *std::find_if(results_.list.begin(), results_.list.end(),
                           [&](const auto& x) { return x.key() == m.key(); });
    if (interrupted()) return m;
    if (!c) {
      c.emplace(make());
      Measurement unused = m;
      measure(*c, p, unused);  // warm-up
    }
    Measurement plain = m;
    if (!measure_own(parse_config("plain", {}), p, plain, kPlainTokens) || !measure(*c, p, m)) return blank(name, p);
    m.plain_ms_per_token = plain.ms_per_token();
    store(m);
    return m;
  }

  std::vector<std::size_t> tuning_list() const {
    std::vector<std::size_t> list;
    for (std::size_t p = 0; p < prompts_.size(); ++p) {
      if (tuning_[p]) list.push_back(p);
    }
    return list;
  }

  // What our ways of decoding learn while they run, they may learn on the prompts that others' settings are chosen on.
  void learn(const std::vector<Contestant>& field) {
    ProgressLine line("Learning");
    const std::vector<std::size_t> list = tuning_list();
    for (std::size_t i = 0; i < list.size(); ++i) {
      line.show(static_cast<float>(i) / static_cast<float>(list.size()));
      for (const Contestant& c : field) {
        if (interrupted()) return;
        if (!c.own || c.own->params.mode == Mode::kPlain) continue;
        Measurement unused = blank(c.name, list[i]);
        measure_own(*c.own, list[i], unused);
      }
    }
  }

  // Chooses settings on a part of the prompts, ours of a chain and those of all programs, and adds the best ones.
  void add_tuned(std::vector<Contestant>& field) {
    peer_options_ = {.folder = flags_.peers,
                     .target = flags_.model.pair.target,
                     .draft = flags_.model.pair.draft,
                     .n_ctx = pair_->n_ctx(),
                     .n_threads = pair_->n_threads(),
                     .n_predict = static_cast<int>(flags_.model.n_predict),
                     .sampling = flags_.model.sampling,
                     .plugin = "",
                     .cancelled = interrupted};
    loaded_peer_options_ = peer_options_;
    loaded_peer_options_.plugin = pair_->narrow().empty() ? "" : narrow_plugin();
    tune_chain(field);
    for (const PeerOptions* options : {&peer_options_, &loaded_peer_options_}) {
      if (options == &loaded_peer_options_ && options->plugin.empty()) continue;
      for (const Peer& peer : bench::peers()) {
        if (interrupted()) return;
        if (!peer.has_draft || !flags_.model.pair.draft.empty()) tune_peer(peer, *options, field);
      }
    }
  }

  void tune_chain(std::vector<Contestant>& field) {
    const std::vector<std::vector<std::string>> values{
        {"depth=4", "depth=2", "depth=3", "depth=6", "depth=8", "depth=12"},
        {"path-threshold=0.05", "path-threshold=0", "path-threshold=0.2", "path-threshold=0.4", "path-threshold=0.6"},
        {"history=1", "history=0"}};
    const auto text = [&](const Point& p) {
      return fmt::format("chain {} {} {}", values[0][p[0]], values[1][p[1]], values[2][p[2]]);
    };
    const std::vector<std::size_t> sizes{values[0].size(), values[1].size(), values[2].size()};
    const auto contestant = [&](const Point& p) {
      Config c = parse_config(text(p), flags_.model.speculation);
      c.name = "own tuned " + text(p);
      return Contestant{c.name, c, nullptr};
    };
    ProgressLine line("Tuning our chain");
    line.show(0);
    Race race;
    const Point best = coordinate_search(sizes, [&](const Point& p) {
      return tuning_score("own tuned " + text(p), race, [&] { return contestant(p); });
    });
    field.push_back(contestant(best));
  }

  void tune_peer(const Peer& peer, const PeerOptions& options, std::vector<Contestant>& field) {
    const auto name = [&](const Point& p) {
      return fmt::format("{}{} {}", peer.name, options.plugin.empty() ? "" : " + narrow", peer.setting(p));
    };
    ProgressLine line("Tuning " + peer.name);
    line.show(0);
    bool works = false;
    Race race;
    const auto sizes = peer.sizes();
    const Point best = coordinate_search(sizes, [&](const Point& p) {
      const double score = tuning_score(name(p), race, [&] {
        return Contestant{name(p), std::nullopt, std::make_unique<PeerRunner>(peer, p, options)};
      });
      works |= score > -1e8;
      return score;
    });
    if (works && !interrupted())
      field.push_back({name(best), std::nullopt, std::make_unique<PeerRunner>(peer, best, options)});
  }

  const BenchFlags& flags_;
  std::vector<Config> configs_;
  std::vector<float> temperatures_;
  std::vector<Prompt> prompts_;
  std::vector<bool> tuning_;  // [prompts] spent on choosing settings
  std::vector<std::vector<Token>> tokens_;
  std::unique_ptr<Runtime> pair_;
  std::unique_ptr<Scripted> scripted_;  // with --acceptance
  PeerOptions peer_options_;            // as shipped
  PeerOptions loaded_peer_options_;     // with our backend
  Measurements results_;
  std::set<Measurement::Key> done_;
  std::map<std::tuple<std::size_t, double, int>, std::vector<std::vector<Token>>> plain_;  // of each session
  std::map<std::size_t, std::string> plain_text_;
  std::map<std::pair<std::string, int>, Learned> learned_;  // by configuration and sessions
  std::ofstream out_;
  int cut_ = 0;
};

void write_page(const BenchFlags& flags, const Measurements& m) {
  if (flags.html.empty()) return;
  std::ofstream out(flags.html, std::ios::binary);
  if (!(out << page(m) << std::flush)) throw Error(ErrorCode::kIo, "The page '" + flags.html + "' cannot be written.");
}

int bench_main(const BenchFlags& flags) {
  if (!flags.compare.empty()) {
    bool slower = false;
    print(compare(read_measurements(flags.compare[0]), read_measurements(flags.compare[1]), kSlower, slower));
    return slower ? kExitSlower : 0;
  }
  if (!flags.report.empty()) {
    const Measurements m = read_measurements(flags.report);
    write_page(flags, m);
    print(markdown(m));
    return 0;
  }
  if (flags.model.pair.target.empty() || flags.prompts.empty())
    throw Error(ErrorCode::kUsage, "bench needs a target (-m) and prompts (--prompts); see gsd bench --help.");
  if (flags.go_on && flags.out.empty())
    throw Error(ErrorCode::kUsage, "--continue needs the file of the earlier run with --out.");
  flags.model.session();
  Bench b(flags);
  const bool complete = b.run();
  write_page(flags, b.results());
  print(markdown(b.results()));
  if (!complete) std::fputs("gsd: interrupted; --continue goes on from the file given with --out\n", stderr);
  return complete ? 0 : kExitInterrupted;
}

void add_workload_flags(CLI::App& app, BenchFlags& f) {
  const auto group = [](CLI::Option* o) { return o->group("Workload"); };
  group(app.add_option("--prompts", f.prompts,
                       "Prompts in any form that gsd convert-prompts takes as JSON; - = standard input"))
      ->type_name("FILE");
  group(app.add_option("--per-kind", f.per_kind, "Take at most this many prompts of each kind of a file; 0 = all"))
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000));
  group(app.add_option("--temps", f.temperatures, "Temperatures, e.g. 0,0.7,1"))
      ->delimiter(',')
      ->check(CLI::Range(0.0, 100.0));
  group(app.add_option("--sessions", f.sessions, "Numbers of sessions advanced together, e.g. 1,2,4,8"))
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(1, 16));
  group(app.add_option("--repetitions", f.repetitions, "Runs of each prompt and configuration"))
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
}

void add_contestant_flags(CLI::App& app, BenchFlags& f) {
  const auto group = [](CLI::Option* o) { return o->group("What is measured"); };
  group(app.add_option("--modes", f.modes, "Modes to compare"))->delimiter(',')->capture_default_str();
  group(app.add_option("--config", f.configs,
                       "A mode with parameters, e.g. \"graph merge-length=1 width=8\"; may be repeated"));
  group(app.add_flag("--ablate", f.ablate, "The paper's ablations: chain, tree and graph by each parameter"));
  group(app.add_flag("--chains", f.chains, "Also chains of fixed depth, to compare at equal time per step"));
  group(app.add_option(
            "--acceptance", f.acceptance,
            "Shares of its tokens that the target accepts, e.g. 0.5,0.8,0.95: the draft's passes are made, and what "
            "it proposes is scripted"))
      ->delimiter(',')
      ->check(CLI::Range(0.0, 0.99));
  group(app.add_option("--peers", f.peers,
                       "llama.cpp's own speculative programs, found in this folder, and our chain: each tuned on a "
                       "part of the prompts, all measured on the others"))
      ->type_name("DIR");
  group(app.add_option("--tune", f.tune, "With --peers: prompts of each kind to tune on; 0 = every second one"))
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000));
}

void add_report_flags(CLI::App& app, BenchFlags& f) {
  const auto group = [](CLI::Option* o) { return o->group("Results"); };
  group(app.add_option("--out", f.out, "Write each measurement as a JSON line to this file"))->type_name("FILE");
  group(app.add_flag("--continue", f.go_on, "Go on with the measurements in --out"));
  group(app.add_option("--html", f.html, "Write a page with charts to this file"))->type_name("FILE");
  group(app.add_option("--report", f.report, "Measure nothing; report on this file"))->type_name("FILE");
  group(app.add_option("--compare", f.compare, "Measure nothing; compare two files, OLD NEW"))
      ->expected(2)
      ->type_name("FILE");
}

}  // namespace

void add_bench(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<BenchFlags>();
  flags->model.n_predict = 128;
  CLI::App* app = program.add_subcommand("bench", "Measure ways to decode beside each other on files of prompts");
  app->footer(R"(The speed-up is the geometric mean over the prompts of plain decoding's median time per token over the
configuration's, with a 90 % interval. "other text": runs whose text is not plain decoding's (near-ties, see
docs/guide.md). --compare ends with status 12 if something became slower.

Examples:
  gsd bench -m target.gguf -d draft.gguf --prompts models/prompts/prompts.jsonl
  gsd bench -m target.gguf -d draft.gguf --prompts p.jsonl --modes plain,auto --temps 0,0.7,1 --sessions 1,4 --out runs.jsonl
  gsd bench -m target.gguf -d draft.gguf --prompts p.jsonl --modes plain,auto --chains --peers .prefix/usr/bin --html page.html
  gsd bench -m target.gguf -d draft.gguf --prompts p.jsonl --ablate --per-kind 4 --out ablation.jsonl --continue
  gsd bench --report runs.jsonl --html page.html
  gsd bench --compare old.jsonl new.jsonl)");
  add_workload_flags(*app, *flags);
  add_contestant_flags(*app, *flags);
  add_report_flags(*app, *flags);
  add_model_flags(*app, flags->model);
  app->get_option("--model")->required(false);  // reports need none
  add_speculation_flags(*app, flags->model);
  add_sampling_flags(*app, flags->model);
  app->callback([flags, &exit_code] { exit_code = bench_main(*flags); });
}

}  // namespace gsd::app
