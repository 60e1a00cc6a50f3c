// The whole server in a simulated world: its own threads and HTTP over scripted models, everything drawn from one seed:
// requests as JSON text, clients that vanish, stall, half-close or send rubbish, passes that fail or find no room,
// allocations that fail, threads and connections that cannot be had, a drain at any moment. After the faults stop,
// every accepted request must be answered, with the text that it has alone.
//   server_simulation --seeds N [--from K]    plays N seeds from K on (default 1)
//   server_simulation --seed K                plays one, and says what happened in it
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../src/server/service.h"
#include "../verifying.h"
#include "requests.h"
#include "world.h"

namespace gsd::sim {
namespace {

using namespace server;
using Fate = test::FaultyBackend::Fate;

// Branches that must have been reached.
struct Marks {
  std::int64_t whole = 0, streamed = 0, choices = 0, refused = 0, loading = 0, bad = 0, keyless = 0, failed = 0,
               unanswered = 0, vanished = 0, stalled = 0, half_closed = 0, rubbish = 0, slow = 0, kept_alive = 0,
               pipelined = 0, drained = 0, no_room = 0, broken = 0, moved = 0, scheduler_failed = 0, replayed = 0;
};

template <typename Visit>
void visit_marks(const Marks& m, Visit visit) {
  const auto each = [&](const char* names, auto... values) {
    const std::int64_t all[] = {values...};
    for (const std::int64_t v : all) {
      const char* const end = std::strchr(names, ' ');
      visit(end == nullptr ? std::string(names) : std::string(names, end), v);
      names = end == nullptr ? names : end + 1;
    }
  };
  each("whole streamed choices refused loading bad keyless failed unanswered vanished stalled half_closed", m.whole,
       m.streamed, m.choices, m.refused, m.loading, m.bad, m.keyless, m.failed, m.unanswered, m.vanished, m.stalled,
       m.half_closed);
  each("rubbish slow kept_alive pipelined drained no_room broken moved scheduler_failed replayed", m.rubbish, m.slow,
       m.kept_alive, m.pipelined, m.drained, m.no_room, m.broken, m.moved, m.scheduler_failed, m.replayed);
}

enum class Character : std::uint8_t { kGood, kVanishes, kStalls, kHalfCloses, kRubbish, kSlow };

// One seed.
class Simulation {
 public:
  Simulation(std::uint64_t seed, bool faults, Marks& marks)
      : marks_(marks), world_(seed, faults ? draw_odds(seed) : Odds{}), faults_(faults) {}

  void play() {
    world_.run([this] { live(); });
  }
  const World& world() const { return world_; }

 private:
  static Odds draw_odds(std::uint64_t seed);
  std::uint64_t draw(std::uint64_t n) { return world_.draw(n); }
  int from(int low, int high) { return low + static_cast<int>(draw(static_cast<std::uint64_t>(high - low + 1))); }
  void live();
  void serve(Service& service);
  Fate fate(bool no_room, bool breaks);
  void client();
  void visit(Connection& c, Character character, std::vector<Wish>& wishes);
  void hear_all(Connection& c, const std::vector<Wish>& wishes, bool one_by_one);
  bool hear_one(Connection& c, const Wish& wish, std::string& bytes);
  void check(const Wish& wish, const Reply& reply);
  void unanswered(const Wish& wish, const std::string& half);

  Marks& marks_;
  World world_;
  const bool faults_;
  std::string key_;
  HttpOptions http_;
  bool open_ = false;
  bool ending_ = false;        // the server is draining, or was ended by a fault
  bool model_faults_ = false;  // passes may fail
  bool model_memory_ = false;  // of the model's thread
  int n_clients_ = 0;
  std::size_t capacity_ = 0;  // answers at a time
};

Odds Simulation::draw_odds(std::uint64_t seed) {
  std::mt19937_64 rng(~seed);
  const auto some = [&](std::uint64_t odds) { return rng() % 2 == 0 ? odds : 0; };
  return {.preempt = some(5),
          .wake_idly = some(10),
          .interrupt = some(30),
          .short_count = some(3),
          .no_connection = rng() % 4 == 0 ? 6U : 0U,
          .no_thread = rng() % 6 == 0 ? 12U : 0U,
          .no_memory = rng() % 3 == 0 ? 4U : 0U};
}

Fate Simulation::fate(bool no_room, bool breaks) {
  std::this_thread::sleep_for(std::chrono::microseconds(100 + draw(4000)));
  if (world_.now_us() > 1'004'000'000) return Fate::kWorks;  // the faults have stopped
  if (no_room && draw(8) == 0) return ++marks_.no_room, Fate::kNoRoom;
  if (breaks && draw(60) == 0) return ++marks_.broken, Fate::kBreaks;
  return Fate::kWorks;
}

// The first thread: clients come while the server loads, serves and ends.
void Simulation::live() {
  http_.port = 0;
  http_.read_timeout_s = from(1, 10);
  http_.write_timeout_s = from(1, 10);
  http_.request_timeout_s = from(5, 30);
  http_.keep_alive_s = from(1, 5);
  if (draw(4) == 0) http_.max_connections = from(2, 8);
  if (draw(4) == 0) key_ = "secret";
  if (!key_.empty()) http_.api_keys = {"other", key_};
  n_clients_ = from(1, 24);
  std::vector<std::thread> clients;
  std::thread server([this] {
    world_.belong_to_server();
    Service service(http_);
    std::this_thread::sleep_for(std::chrono::milliseconds(draw(200)));
    serve(service);
    if (service.http().n_streams() != 0) fail("a stream is being sent after the end");
  });
  for (int i = n_clients_; i > 0; --i) {
    clients.emplace_back([this] {
      client();
      --n_clients_;
    });
  }
  for (std::thread& t : clients) t.join();
  server.join();
  if (world_.n_open() != 0) fail("a connection was never closed");
}

void Simulation::serve(Service& service) {
  const BackendInfo info{
      .n_vocab = 128, .n_ctx = 160, .n_seq = from(1, 4), .max_batch = 32, .max_outputs = 32, .max_leaves = from(1, 8)};
  ScriptedBackend target(info, whole_prefix(0), kLookBack, 0);
  ScriptedBackend draft(info, whole_prefix(0.3F), kLookBack, 0);
  test::MovingBackend moving(target, draw(1000));
  const bool moves = draw(3) == 0;
  const bool no_room = faults_ && draw(3) == 0;
  const bool breaks = faults_ && draw(3) == 0;
  model_faults_ = no_room || breaks;
  test::FaultyBackend faulty(moves ? static_cast<Backend&>(moving) : target, draw(1000),
                             [&](auto) { return fate(no_room, breaks); });
  Engine engine(faulty, draw(4) == 0 ? nullptr : &draft,
                {.prefill_chunk = from(1, 32),
                 .max_total_width = from(1, 32),
                 .keep_prefixes = draw(2) == 0,
                 .cache_bytes = draw(2) * draw(4000)});
  static const TextModel model = ascii_model(info.n_ctx);
  ApiOptions options = api_options();
  static const chat::ToolFormat format = chat::find_tool_format(*model.chat);
  options.tool_format = format;
  Metrics metrics;
  Scheduler scheduler(engine, metrics,
                      {.max_queue = draw(3) == 0 ? draw(6) : 64, .n_shared = draw(2) == 0 ? 0 : 160 + draw(200)});
  Api api(model, scheduler, metrics, options);
  capacity_ = scheduler.capacity();
  const std::int64_t drain_at =
      world_.now_us() + (draw(4) == 0 ? static_cast<std::int64_t>(draw(3'000'000)) : 3600'000'000);
  const auto interrupted = [&] {
    const bool early = world_.now_us() > drain_at;
    if (!ending_ && (early || n_clients_ == 0)) ending_ = true, marks_.drained += early ? 1 : 0;
    if (world_.now_us() > 1'004'000'000) world_.stop_faults();
    return ending_;
  };
  try {
    service.run(scheduler, api, interrupted, [&] {
      open_ = true;
      model_memory_ = faults_ && draw(5) == 0;
      if (model_memory_) world_.fail_allocation(static_cast<std::int64_t>(draw(1U << draw(15))));
    });
  } catch (const std::bad_alloc&) {
    ++marks_.scheduler_failed;
    if (!model_memory_) fail("the scheduler failed without a reason");
  }
  world_.fail_allocation(-1);
  ending_ = true;
  marks_.moved += moves ? moving.n_moves() : 0;
  if (scheduler.n_processing() != 0 || scheduler.n_waiting() != 0) fail("the server has ended and jobs are left");
}

void Simulation::client() {
  std::this_thread::sleep_for(std::chrono::microseconds(draw(2'000'000)));
  const auto c = world_.connect();
  if (c == nullptr) return;
  constexpr Character kOthers[] = {Character::kVanishes, Character::kStalls, Character::kHalfCloses,
                                   Character::kRubbish, Character::kSlow};
  const Character character = draw(3) == 0 ? kOthers[draw(std::size(kOthers))] : Character::kGood;
  std::vector<Wish> wishes;
  for (int i = draw(3) == 0 ? from(2, 4) : 1; i > 0; --i)
    wishes.push_back(draw_wish([this](std::uint64_t n) { return draw(n); }, key_));
  visit(*c, character, wishes);
}

void Simulation::visit(Connection& c, Character character, std::vector<Wish>& wishes) {
  std::string all;
  for (const Wish& w : wishes) all += w.http;
  const auto pause = [&](std::int64_t most_us) {
    std::this_thread::sleep_for(std::chrono::microseconds(draw(static_cast<std::uint64_t>(most_us))));
  };
  constexpr std::int64_t kHour = 3600'000'000;
  switch (character) {
    case Character::kGood: {
      const bool together = draw(4) == 0 && all.size() < c.room();  // or both sides wait to be heard
      if (together && !c.say(all)) return;
      marks_.pipelined += together && wishes.size() > 1 ? 1 : 0;
      hear_all(c, wishes, !together);
      return c.leave();
    }
    case Character::kVanishes:
      ++marks_.vanished;
      if (draw(3) == 0) all.resize(draw(all.size()));
      c.say(all);
      if (draw(2) == 0) c.hear(kHour);
      pause(500'000);
      return draw(2) == 0 ? c.vanish() : c.leave();
    case Character::kStalls:
      ++marks_.stalled;
      c.say(all);
      c.hear(kHour);
      pause(20'000'000);
      while (!c.at_end()) c.hear(kHour), pause(10'000);
      return c.leave();
    case Character::kHalfCloses:
      ++marks_.half_closed;
      c.say(all);
      pause(1000);
      c.finish();
      while (!c.at_end()) c.hear(kHour);
      return c.leave();
    case Character::kRubbish:
      ++marks_.rubbish;
      c.say(draw(2) == 0 ? draw_rubbish([this](std::uint64_t n) { return draw(n); })
                         : all + draw_rubbish([this](std::uint64_t n) { return draw(n); }));
      while (!c.at_end()) c.hear(kHour);
      return c.leave();
    case Character::kSlow:
      ++marks_.slow;
      for (std::size_t at = 0; at < all.size();) {
        const std::size_t n = 1 + draw(100);
        if (!c.say(std::string_view(all).substr(at, n))) break;
        at += n;
        pause(draw(10) == 0 ? 12'000'000 : 100'000);
      }
      while (!c.at_end()) c.hear(kHour);
      return c.leave();
  }
}

// In the order in which they were asked.
void Simulation::hear_all(Connection& c, const std::vector<Wish>& wishes, bool one_by_one) {
  std::string bytes;
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    if (one_by_one && !c.say(wishes[i].http)) return unanswered(wishes[i], "");
    if (!hear_one(c, wishes[i], bytes)) return;
    if (i > 0) ++marks_.kept_alive;
  }
  if (!bytes.empty()) fail("more was answered than asked: " + bytes);
}

// False if nothing more comes.
bool Simulation::hear_one(Connection& c, const Wish& wish, std::string& bytes) {
  while (true) {
    if (const auto reply = take_reply(bytes)) {
      check(wish, *reply);
      return !reply->closes;
    }
    const std::string more = c.hear(600'000'000);
    bytes += more;
    if (!more.empty()) continue;
    if (!c.at_end()) fail("a request is never answered: " + wish.http);
    unanswered(wish, bytes);
    return false;
  }
}

void Simulation::unanswered(const Wish& wish, const std::string& half) {
  ++marks_.unanswered;
  const Counts& n = world_.counts();
  const bool poor = n.no_memory > 0 || n.no_thread > 0;
  const bool excused = poor || (half.empty() && (ending_ || n.no_connection > 0 || http_.max_connections < 100));
  if (!excused) fail("'" + half + "' is all of the answer to " + wish.http);
}

void Simulation::check(const Wish& wish, const Reply& reply) {
  const Counts& n = world_.counts();
  if (reply.status == 503) {
    ++(open_ ? marks_.refused : marks_.loading);
    return;
  }
  const bool may_fail = model_faults_ || model_memory_ || n.no_memory > 0;
  if (reply.status == 500 && may_fail) {
    ++marks_.failed;
    return;
  }
  const bool too_many = wish.status == 200 && wish.expected.size() > capacity_;
  if (reply.status != (too_many ? 400 : wish.status))
    fail("status " + std::to_string(reply.status) + ", " + reply.body + ", in the answer to " + wish.http);
  if (reply.status != 200) {
    ++(reply.status == 401 ? marks_.keyless : marks_.bad);
    return;
  }
  const Verdict v = judge(wish, reply.body);
  if (!v.wrong.empty()) fail(v.wrong);
  if (v.failed && !may_fail && !ending_) fail("it failed without a reason: " + reply.body);
  ++(v.failed ? marks_.failed : wish.stream ? marks_.streamed : marks_.whole);
  if (wish.expected.size() > 1) ++marks_.choices;
}

void add(Counts& all, const Counts& c) {
  all.preempted += c.preempted;
  all.woken_idly += c.woken_idly;
  all.interrupted += c.interrupted;
  all.short_counts += c.short_counts;
  all.no_connection += c.no_connection;
  all.no_thread += c.no_thread;
  all.no_memory += c.no_memory;
  all.resets += c.resets;
}

std::uint64_t play(std::uint64_t seed, Marks& marks, Counts& counts, bool tell = false) {
  name_seed(seed, tell);
  Simulation s(seed, seed % 4 != 0, marks);
  s.play();
  add(counts, s.world().counts());
  return s.world().digest();
}

int report(const Marks& m, const Counts& c, bool all_wanted) {
  int missing = 0;
  const auto one = [&](const std::string& name, std::int64_t n) {
    std::printf("%-18s%10lld%s\n", name.c_str(), static_cast<long long>(n),
                n == 0 && all_wanted ? "  never reached" : "");
    missing += n == 0 ? 1 : 0;
  };
  visit_marks(m, one);
  one("preempted", c.preempted);
  one("woken_idly", c.woken_idly);
  one("interrupted", c.interrupted);
  one("short_counts", c.short_counts);
  one("no_connection", c.no_connection);
  one("no_thread", c.no_thread);
  one("no_memory", c.no_memory);
  one("resets", c.resets);
  return all_wanted && missing > 0 ? 1 : 0;
}

int simulate(std::uint64_t first, std::uint64_t n) {
  Marks marks, ignored;
  Counts counts, unused;
  play(0, ignored, unused);  // what is made once in a process is made here, so that a seed alone goes the same way
  for (std::uint64_t seed = first; seed < first + n; ++seed) {
    const std::uint64_t digest = play(seed, marks, counts, n == 1);
    if (seed % 25 != 0) continue;
    if (play(seed, ignored, unused) != digest) fail("the same seed went another way");
    ++marks.replayed;
  }
  alarm(0);
  return report(marks, counts, n >= 200);
}

}  // namespace
}  // namespace gsd::sim

int main(int argc, char** argv) {
  // The threads take turns: on one core they hand over faster.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
  sched_setaffinity(0, sizeof one, &one);
  std::uint64_t first = 1, n = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::uint64_t value = std::strtoull(argv[i + 1], nullptr, 10);
    const std::string_view flag = argv[i];
    if (flag == "--seeds") n = value;
    if (flag == "--from") first = value;
    if (flag == "--seed") first = value, n = 1;
  }
  if (n == 0) {
    std::fprintf(stderr, "usage: server_simulation --seeds N [--from K] | --seed K\n");
    return 2;
  }
  return gsd::sim::simulate(first, n);
}
