// The C API over the runtime. Handles are numbers that are given out once and looked up in a table, so that a closed
// one is told from an open one; what a call works on stays alive until it returns.
#include "gsd.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../src/record/step_json.h"
#include "../src/server/text_stream.h"
#include "gsd/runtime.h"

namespace gsd::capi {
namespace {

static_assert(GSD_INTERNAL == static_cast<int>(ErrorCode::kInternal) &&
              GSD_USAGE == static_cast<int>(ErrorCode::kUsage) &&
              GSD_MODEL_FILE == static_cast<int>(ErrorCode::kModelFile) &&
              GSD_MODEL_UNSUPPORTED == static_cast<int>(ErrorCode::kModelUnsupported) &&
              GSD_PAIR_MISMATCH == static_cast<int>(ErrorCode::kPairMismatch) &&
              GSD_CONTEXT_FULL == static_cast<int>(ErrorCode::kContextFull) &&
              GSD_OUT_OF_MEMORY == static_cast<int>(ErrorCode::kOutOfMemory) &&
              GSD_NO_KV_SLOT == static_cast<int>(ErrorCode::kNoKvSlot) &&
              GSD_BACKEND == static_cast<int>(ErrorCode::kBackend) &&
              GSD_GRAMMAR == static_cast<int>(ErrorCode::kGrammar) && GSD_IO == static_cast<int>(ErrorCode::kIo));

// --- errors ----------------------------------------------------------------------------------------------------------

thread_local char sentence[2048];  // a fixed one: telling of a lack of memory must not need any

gsd_code fail(gsd_code code, const char* what) noexcept {
  std::snprintf(sentence, sizeof sentence, "%s", what);
  return code;
}

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kUsage, what); }

void require(bool there, const char* argument) {
  if (!there) refuse(std::string("The argument '") + argument + "' is NULL.");
}

// Does `work`; no exception leaves the library.
template <typename Work>
gsd_code guard(Work work) noexcept {
  try {
    work();
    return GSD_OK;
  } catch (const Error& e) {
    return fail(static_cast<gsd_code>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return fail(GSD_OUT_OF_MEMORY, "There is not enough memory; take a smaller model or context.");
  } catch (const std::exception& e) {
    return fail(GSD_INTERNAL, e.what());
  } catch (...) {
    return fail(GSD_INTERNAL, "Something unknown failed.");
  }
}

// For functions without a code: the value, or `otherwise`.
template <typename T, typename Work>
T value_or(T otherwise, Work work) noexcept {
  T out = otherwise;
  guard([&] { out = work(); });
  return out;
}

// --- handles ---------------------------------------------------------------------------------------------------------

std::atomic<std::uintptr_t> last_handle{0};

// The open objects of a kind. Thread safe.
template <typename Handle, typename T>
class Table {
 public:
  explicit Table(const char* kind) : kind_(kind) {}
  // No address: an allocator would give one out again.
  Handle* add(std::shared_ptr<T> object) {
    const std::lock_guard lock(mutex_);
    const std::uintptr_t handle = ++last_handle;
    objects_.emplace(handle, std::move(object));
    return reinterpret_cast<Handle*>(handle);
  }
  std::shared_ptr<T> find(const Handle* handle) const {
    if (handle == nullptr) refuse(std::string("The ") + kind_ + " is NULL.");
    const std::lock_guard lock(mutex_);
    const auto at = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
    if (at == objects_.end()) refuse(std::string("The ") + kind_ + " is closed, or was never opened.");
    return at->second;
  }
  // Null if there is none.
  std::shared_ptr<T> remove(const Handle* handle) {
    const std::lock_guard lock(mutex_);
    const auto at = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
    if (at == objects_.end()) return nullptr;
    std::shared_ptr<T> out = std::move(at->second);
    objects_.erase(at);
    return out;
  }

 private:
  const char* kind_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uintptr_t, std::shared_ptr<T>> objects_;
};

// --- options ---------------------------------------------------------------------------------------------------------

struct SessionFlags {
  SpeculationParams speculation;
  SamplingParams sampling;
  std::int64_t n_predict = 256;
  bool ignore_eos = false;
  bool logits = false;
  bool trace = false;
  std::vector<std::string> stop;
  std::string grammar;
};

struct Options {
  RuntimeOptions pair;
  SessionFlags session;
};

[[noreturn]] void refuse_value(const char* flag, std::string_view value, const std::string& wanted) {
  refuse(std::string("The flag ") + flag + " must be " + wanted + ", not '" + std::string(value) + "'.");
}

template <typename T>
void read(const char* flag, std::string_view value, double low, double high, const std::string& range, T& out) {
  T x{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
  if (error != std::errc() || end != value.data() + value.size() ||
      !(static_cast<double>(x) >= low && static_cast<double>(x) <= high))
    refuse_value(flag, value, range);
  out = x;
}

void read(const char* flag, std::string_view value, bool& out) {
  if (value != "true" && value != "false") refuse_value(flag, value, "true or false");
  out = value == "true";
}

void read_seed(const char* flag, std::string_view value, std::uint64_t& out) {
  if (value == "-1") {
    out = std::random_device()();
  } else {
    read(flag, value, 0, 0x1p64, "a whole number, or -1 to draw one", out);
  }
}

template <typename T>
T one_of(const char* flag, std::string_view value, const std::map<std::string_view, T>& names) {
  const auto at = names.find(value);
  if (at != names.end()) return at->second;
  std::string list;
  for (const auto& [name, _] : names) list += (list.empty() ? "" : ", ") + std::string(name);
  refuse_value(flag, value, "one of " + list);
}

// True if the parameters have that flag.
template <typename P>
bool read_param(P& params, const char* flag, std::string_view value) {
  bool found = false;
  visit_params(params, [&](const Param& param, auto& field) {
    using Field = std::remove_cvref_t<decltype(field)>;
    if (std::string_view(flag) != param.flag) return;
    found = true;
    if constexpr (std::same_as<Field, Mode>) {
      field = parse_mode(value);
    } else if constexpr (std::same_as<Field, bool>) {
      read(flag, value, field);
    } else {
      Field x{};
      if (value != "auto" || std::string_view(flag) != "width")
        read(flag, value, param.low, param.high, param.range, x);
      if (!param.holds(x)) refuse_value(flag, value, param.range);  // an end that does not belong to the range
      field = x;
    }
  });
  return found;
}

void set(Options& options, const char* flag, std::string_view value) {
  struct Flag {
    const char* name;
    void (*set)(Options&, const char*, std::string_view);
  };
  constexpr double kMost = kMostInt;
  static constexpr Flag kFlags[] = {
      {"model", [](auto& o, auto, auto v) { o.pair.target = v; }},
      {"draft", [](auto& o, auto, auto v) { o.pair.draft = v; }},
      {"draft-type", [](auto& o, auto f, auto v) { o.pair.draft_type = one_of(f, v, draft_types_by_name()); }},
      {"lookup", [](auto& o, auto, auto v) { o.pair.lookup.emplace_back(v); }},
      {"ctx-size", [](auto& o, auto f, auto v) { read(f, v, 0, 1 << 24, "from 0 to 16777216", o.pair.context.n_ctx); }},
      {"threads", [](auto& o, auto f, auto v) { read(f, v, 0, 1024, "from 0 to 1024", o.pair.context.n_threads); }},
      {"gpu-layers",
       [](auto& o, auto f, auto v) { read(f, v, -1, kMost, "-1 or more", o.pair.target_place.layers.emplace()); }},
      {"gpu-layers-draft",
       [](auto& o, auto f, auto v) { read(f, v, -1, kMost, "-1 or more", o.pair.draft_place.layers.emplace()); }},
      {"device", [](auto& o, auto, auto v) { o.pair.target_place.devices = parse_devices(v); }},
      {"device-draft", [](auto& o, auto, auto v) { o.pair.draft_place.devices = parse_devices(v); }},
      {"split-mode", [](auto& o, auto f, auto v) { o.pair.target_place.split = one_of(f, v, split_modes_by_name()); }},
      {"tensor-split", [](auto& o, auto, auto v) { o.pair.target_place.shares = parse_shares(v); }},
      {"main-gpu",
       [](auto& o, auto f, auto v) { read(f, v, 0, 1000, "from 0 to 1000", o.pair.target_place.main_device); }},
      {"cache-type-k", [](auto& o, auto, auto v) { o.pair.context.type_k = v; }},
      {"cache-type-v", [](auto& o, auto, auto v) { o.pair.context.type_v = v; }},
      {"mmap",
       [](auto& o, auto f, auto v) {
         o.pair.mmap = one_of<std::optional<bool>>(f, v, {{"auto", std::nullopt}, {"on", true}, {"off", false}});
       }},
      {"narrow", [](auto& o, auto f, auto v) { read(f, v, o.pair.narrow); }},
      {"profile", [](auto& o, auto f, auto v) { read(f, v, o.pair.profile); }},
      {"exact", [](auto& o, auto f, auto v) { read(f, v, o.pair.engine.exact); }},
      {"parallel", [](auto& o, auto f, auto v) { read(f, v, 1, 64, "from 1 to 64", o.pair.context.n_seq); }},
      {"keep-prefixes", [](auto& o, auto f, auto v) { read(f, v, o.pair.engine.keep_prefixes); }},
      {"prefill-chunk",
       [](auto& o, auto f, auto v) { read(f, v, 1, 512, "from 1 to 512", o.pair.engine.prefill_chunk); }},
      {"n-predict",
       [](auto& o, auto f, auto v) {
         read(f, v, -1, 0x1p40, "-1 (until the context is full) or more", o.session.n_predict);
       }},
      {"ignore-eos", [](auto& o, auto f, auto v) { read(f, v, o.session.ignore_eos); }},
      {"logits", [](auto& o, auto f, auto v) { read(f, v, o.session.logits); }},
      {"trace", [](auto& o, auto f, auto v) { read(f, v, o.session.trace); }},
      {"stop",
       [](auto& o, auto f, auto v) {
         if (v.empty()) refuse_value(f, v, "a text that is not empty");
         o.session.stop.emplace_back(v);
       }},
      {"grammar", [](auto& o, auto, auto v) { o.session.grammar = v; }},
      {"seed", [](auto& o, auto f, auto v) { read_seed(f, v, o.session.sampling.seed); }},
  };
  const auto known = std::find_if(std::begin(kFlags), std::end(kFlags),
                                  [&](const Flag& f) { return f.name == std::string_view(flag); });
  if (known != std::end(kFlags)) return known->set(options, flag, value);
  if (!read_param(options.session.speculation, flag, value) && !read_param(options.session.sampling, flag, value))
    refuse(std::string("There is no flag '") + flag + "'.");
}

// --- pairs and sessions ----------------------------------------------------------------------------------------------

struct Pair {
  explicit Pair(const Options& o) : defaults(o.session), runtime(o.pair) {}
  std::mutex mutex;  // held by every call that works on it
  const SessionFlags defaults;
  Runtime runtime;
};

// All but `cancelled` is guarded by the pair's mutex.
struct Text {
  std::shared_ptr<Pair> pair;
  std::atomic<bool> cancelled{false};
  SessionFlags flags;
  std::function<std::string()> failure;  // of the grammar
  std::optional<server::TextStream> shown;
  std::string text;           // released and not taken
  std::vector<Token> tokens;  // not taken
  std::size_t n_last = 0;     // tokens of the last step
  std::vector<float> logits;  // [n_last, n_vocab] where the flag is set
  std::string trace;          // lines that were not taken, where the flag is set
  std::unique_ptr<Session> session;

  bool prompted() const { return shown.has_value(); }
  bool finished() const { return session->finished() || (prompted() && cancelled); }
  bool on_token(Token t);
  void on_step(const StepView& v);
  void prompt(std::span<const Token> prompt);
  void check_end() const;
};

bool Text::on_token(Token t) {
  const Model& model = pair->runtime.target();
  tokens.push_back(t);
  const bool go_on = shown->push(model.is_eog(t) ? "" : model.piece(t));
  return go_on && !cancelled;
}

void Text::on_step(const StepView& v) {
  n_last = v.acceptance.token.size();
  logits.clear();
  for (std::size_t i = 0; flags.logits && i < n_last; ++i) {
    const auto row = v.logits(i);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  if (!flags.trace) return;
  const Model& model = pair->runtime.target();
  const auto line = step_json(v.hypotheses.graph(), v.hypotheses.tree(), v.acceptance, v.stats,
                              [&](Token t) { return model.piece(t, ShowControl::kYes); });
  trace += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

void Text::prompt(std::span<const Token> prompt) {
  pair->runtime.engine().set_prompt(*session, prompt);
  cancelled = false;
  shown.emplace(flags.stop);
  text.clear();
  tokens.clear();
  trace.clear();
  n_last = 0;
}

// Why there is no further token, unless the grammar is simply at its end.
void Text::check_end() const {
  if (session->finish() != FinishReason::kConstraint) return;
  const std::string why = failure ? failure() : "";
  if (!why.empty()) throw Error(ErrorCode::kGrammar, why);
  if (!failure)
    throw Error(ErrorCode::kBackend, "The model's scores are no numbers, so no token can be drawn; check its file.");
}

// Never destroyed: what a program has not closed when it ends may need libraries that are gone by then.
auto& all_options() {
  static auto& table = *new Table<gsd_options, Options>("gsd_options");
  return table;
}
auto& all_pairs() {
  static auto& table = *new Table<gsd_pair, Pair>("gsd_pair");
  return table;
}
auto& all_sessions() {
  static auto& table = *new Table<gsd_session, Text>("gsd_session");
  return table;
}

// Calls work(pair) with the pair to itself.
template <typename Work>
auto with(const gsd_pair* handle, Work work) {
  const std::shared_ptr<Pair> pair = all_pairs().find(handle);
  const std::lock_guard lock(pair->mutex);
  return work(*pair);
}

// Calls work(text) with the pair to itself.
template <typename Work>
auto with(const gsd_session* handle, Work work) {
  const std::shared_ptr<Text> text = all_sessions().find(handle);
  const std::lock_guard lock(text->pair->mutex);
  if (!text->session) refuse("The gsd_session was closed by another thread.");
  return work(*text);
}

std::unique_ptr<Session> open(Text& t) {
  SessionOptions o;
  o.speculation = t.flags.speculation;
  o.sampling = t.flags.sampling;
  o.max_tokens = t.flags.n_predict;
  o.ignore_eog = t.flags.ignore_eos;
  if (!t.flags.grammar.empty()) {
    o.constraint = make_grammar(t.pair->runtime.target(), t.flags.grammar).constraint();
    t.failure = o.constraint->failure;
  }
  o.on_token = [&t](Token token) { return t.on_token(token); };
  o.on_step = [&t](const StepView& v) { t.on_step(v); };
  return t.pair->runtime.engine().open(std::move(o));
}

void step(std::span<const std::shared_ptr<Text>> texts) {
  Engine& engine = texts.front()->pair->runtime.engine();
  std::vector<Session*> ready;
  bool prefilled = false;
  for (const auto& t : texts) {
    if (!t->session) refuse("The gsd_session was closed by another thread.");
    if (!t->prompted()) refuse("A gsd_session has no prompt yet; call gsd_prompt() before gsd_step().");
  }
  for (const auto& t : texts) {
    if (t->finished()) continue;
    std::size_t left = engine.prefill_left(*t->session);
    if (left > 0 && !std::exchange(prefilled, true)) left = engine.prefill(*t->session);
    if (left == 0) ready.push_back(t->session.get());
  }
  if (!ready.empty()) engine.step(ready);
  for (const auto& t : texts) {
    if (std::find(ready.begin(), ready.end(), t->session.get()) != ready.end()) t->check_end();
  }
}

// How many bytes of `text` are whole characters that `capacity` holds.
std::size_t whole(std::string_view text, std::size_t capacity) {
  if (text.size() <= capacity) return text.size();
  std::size_t n = capacity;
  while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) --n;
  return n;
}

// Copies what fits and tells how much there is.
template <typename T>
void copy(std::span<const T> from, T* to, std::size_t capacity, std::size_t* n) {
  std::copy_n(from.begin(), std::min(capacity, from.size()), to);
  *n = from.size();
}

}  // namespace
}  // namespace gsd::capi

using namespace gsd;
using namespace gsd::capi;

extern "C" {

const char* gsd_error(void) { return sentence; }
const char* gsd_version(void) { return GSD_VERSION; }

gsd_code gsd_options_new(int abi, gsd_options** options) {
  return guard([&] {
    require(options != nullptr, "options");
    *options = nullptr;
    if (abi != GSD_ABI)
      refuse("The program was compiled for version " + std::to_string(abi) +
             " of libgsd's interface and this library has " + std::to_string(GSD_ABI) +
             "; compile it again, or install the library it was made for.");
    *options = all_options().add(std::make_shared<Options>());
  });
}

void gsd_options_close(gsd_options* options) { all_options().remove(options); }

gsd_code gsd_set(gsd_options* options, const char* flag, const char* value) {
  return guard([&] {
    const auto o = all_options().find(options);
    require(flag != nullptr, "flag");
    require(value != nullptr, "value");
    set(*o, flag, value);
  });
}

gsd_code gsd_open(const gsd_options* options, gsd_pair** pair) {
  return guard([&] {
    require(pair != nullptr, "pair");
    *pair = nullptr;
    Options o = *all_options().find(options);
    if (o.pair.target.empty()) refuse("There is no model; set the flag 'model' before gsd_open().");
    o.pair.context.max_leaves = std::min(o.pair.context.max_leaves, 256 / o.pair.context.n_seq);
    *pair = all_pairs().add(std::make_shared<Pair>(o));
  });
}

void gsd_close(gsd_pair* handle) {
  guard([&] {
    const auto pair = all_pairs().remove(handle);
    if (!pair) return;
    const std::lock_guard lock(pair->mutex);
    pair->runtime.save_profile();
  });
}

int32_t gsd_n_vocab(const gsd_pair* pair) {
  return value_or(0, [&] { return with(pair, [](Pair& p) { return p.runtime.target().n_vocab(); }); });
}

int32_t gsd_n_ctx(const gsd_pair* pair) {
  return value_or(0, [&] { return with(pair, [](Pair& p) { return p.runtime.n_ctx(); }); });
}

gsd_code gsd_tokenize(gsd_pair* pair, const char* text, size_t length, int flags, gsd_token* tokens, size_t capacity,
                      size_t* n) {
  return guard([&] {
    require(text != nullptr || length == 0, "text");
    require(tokens != nullptr || capacity == 0, "tokens");
    require(n != nullptr, "n");
    if ((flags & ~(GSD_ADD_BEGIN | GSD_PARSE_CONTROL)) != 0)
      refuse("The argument 'flags' holds one that is not known.");
    with(pair, [&](Pair& p) {
      const std::vector<Token> out = p.runtime.target().tokenize(
          std::string_view(text, length), (flags & GSD_ADD_BEGIN) != 0 ? AddBegin::kYes : AddBegin::kNo,
          (flags & GSD_PARSE_CONTROL) != 0 ? ParseControl::kYes : ParseControl::kNo);
      copy<Token>(out, tokens, capacity, n);
    });
  });
}

gsd_code gsd_piece(gsd_pair* pair, gsd_token token, char* bytes, size_t capacity, size_t* n) {
  return guard([&] {
    require(bytes != nullptr || capacity == 0, "bytes");
    require(n != nullptr, "n");
    with(pair, [&](Pair& p) {
      const Model& model = p.runtime.target();
      if (token < 0 || token >= model.n_vocab())
        refuse("The token " + std::to_string(token) + " is not in the vocabulary.");
      copy<char>(model.piece(token), bytes, capacity, n);
    });
  });
}

gsd_code gsd_session_open(gsd_pair* pair, const gsd_options* options, gsd_session** session) {
  return guard([&] {
    require(session != nullptr, "session");
    *session = nullptr;
    auto t = std::make_shared<Text>();
    t->pair = all_pairs().find(pair);
    t->flags = options == nullptr ? t->pair->defaults : all_options().find(options)->session;
    const std::lock_guard lock(t->pair->mutex);
    t->session = open(*t);
    *session = all_sessions().add(t);
  });
}

void gsd_session_close(gsd_session* session) {
  guard([&] {
    const auto t = all_sessions().remove(session);
    if (!t) return;
    t->cancelled = true;  // another thread may be stepping it
    const std::lock_guard lock(t->pair->mutex);
    t->session.reset();
  });
}

gsd_code gsd_prompt(gsd_session* session, const char* text, size_t length) {
  return guard([&] {
    require(text != nullptr || length == 0, "text");
    with(session, [&](Text& t) {
      t.prompt(t.pair->runtime.target().tokenize(std::string_view(text, length), AddBegin::kYes, ParseControl::kNo));
    });
  });
}

gsd_code gsd_prompt_tokens(gsd_session* session, const gsd_token* tokens, size_t n) {
  return guard([&] {
    require(tokens != nullptr || n == 0, "tokens");
    with(session, [&](Text& t) { t.prompt({tokens, n}); });
  });
}

gsd_code gsd_step(gsd_session* const* sessions, size_t n) {
  return guard([&] {
    require(sessions != nullptr || n == 0, "sessions");
    std::vector<std::shared_ptr<Text>> texts;
    for (std::size_t i = 0; i < n; ++i) {
      texts.push_back(all_sessions().find(sessions[i]));
      if (texts.back()->pair != texts.front()->pair)
        refuse("The sessions belong to different pairs; step each pair's by themselves.");
      if (std::find(sessions, sessions + i, sessions[i]) != sessions + i)
        refuse("A gsd_session stands twice in the list.");
    }
    if (texts.empty()) return;
    const std::lock_guard lock(texts.front()->pair->mutex);
    step(texts);
  });
}

size_t gsd_prompt_left(const gsd_session* session) {
  return value_or(std::size_t{0}, [&] {
    return with(session, [](Text& t) { return t.prompted() ? t.pair->runtime.engine().prefill_left(*t.session) : 0; });
  });
}

int gsd_finished(const gsd_session* session) {
  return value_or(1, [&] { return with(session, [](Text& t) { return t.finished() ? 1 : 0; }); });
}

const char* gsd_finish_reason(const gsd_session* session) {
  return value_or("", [&] {
    return with(session, [](Text& t) {
      const FinishReason reason = t.session->finish();
      const bool by_itself = reason != FinishReason::kNone && reason != FinishReason::kStopped;
      const bool stopped = t.prompted() && t.shown->stopped();
      return t.finished() && !by_itself && !stopped ? "cancelled" : finish_reason_name(reason);
    });
  });
}

gsd_code gsd_cancel(gsd_session* session) {
  return guard([&] { all_sessions().find(session)->cancelled = true; });
}

gsd_code gsd_take_text(gsd_session* session, char* text, size_t capacity, size_t* n) {
  return guard([&] {
    require(text != nullptr, "text");
    require(n != nullptr, "n");
    *n = 0;
    if (capacity < 4) refuse("The buffer must hold 4 bytes or more: a character may have as many.");
    with(session, [&](Text& t) {
      if (!t.prompted()) return;
      if (t.finished()) t.shown->finish();
      t.text += t.shown->take();
      *n = whole(t.text, capacity);
      std::copy_n(t.text.begin(), *n, text);
      t.text.erase(0, *n);
    });
  });
}

gsd_code gsd_take_tokens(gsd_session* session, gsd_token* tokens, size_t capacity, size_t* n) {
  return guard([&] {
    require(tokens != nullptr || capacity == 0, "tokens");
    require(n != nullptr, "n");
    *n = 0;
    with(session, [&](Text& t) {
      *n = std::min(capacity, t.tokens.size());
      std::copy_n(t.tokens.begin(), *n, tokens);
      t.tokens.erase(t.tokens.begin(), t.tokens.begin() + static_cast<std::ptrdiff_t>(*n));
    });
  });
}

gsd_code gsd_logits(gsd_session* session, size_t i, const float** logits) {
  return guard([&] {
    require(logits != nullptr, "logits");
    *logits = nullptr;
    with(session, [&](Text& t) {
      if (!t.flags.logits) refuse("The logits were not kept; open the session with the flag 'logits'.");
      if (i >= t.n_last) refuse("The last step drew " + std::to_string(t.n_last) + " tokens.");
      *logits = t.logits.data() + i * static_cast<std::size_t>(t.pair->runtime.target().n_vocab());
    });
  });
}

size_t gsd_n_last(const gsd_session* session) {
  return value_or(std::size_t{0}, [&] { return with(session, [](Text& t) { return t.n_last; }); });
}

gsd_code gsd_take_trace(gsd_session* session, char* json, size_t capacity, size_t* n) {
  return guard([&] {
    require(json != nullptr || capacity == 0, "json");
    require(n != nullptr, "n");
    *n = 0;
    with(session, [&](Text& t) {
      if (!t.flags.trace) refuse("No trace was kept; open the session with the flag 'trace'.");
      *n = t.trace.copy(json, capacity);
      t.trace.erase(0, *n);
    });
  });
}

const char* gsd_statistic_name(size_t i) {
  const char* out = nullptr;
  std::size_t at = 0;
  const Stats none;
  visit_stats([&](const char* name, const auto&) { out = at++ == i ? name : out; }, none);
  return out;
}

gsd_code gsd_statistic(const gsd_session* session, const char* name, double* value) {
  return guard([&] {
    require(name != nullptr, "name");
    require(value != nullptr, "value");
    with(session, [&](Text& t) {
      bool found = false;
      visit_stats(
          [&](const char* known, const auto& sum) {
            if (std::string_view(known) != name) return;
            found = true;
            *value = static_cast<double>(sum);
          },
          t.session->stats());
      if (!found) refuse(std::string("There is no statistic '") + name + "'.");
    });
  });
}

}  // extern "C"
