#include "world.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>

namespace gsd::sim {

struct World::Thread {
  World* world = nullptr;
  sem_t turn;
  pthread_t real{};
  void* (*routine)(void*) = nullptr;
  void* argument = nullptr;
  // What it waits for.
  bool (*ready)(const void*) = nullptr;
  const void* what = nullptr;
  std::int64_t until = 0;
  const void* condition = nullptr;  // the variable, while nobody has signalled it
  bool ended = false;
  bool of_server = false;
  std::int64_t fail_in = -1;  // allocations until one fails
  bool spare_json = false;
  bool accepts = false;  // those that it starts are connections
  std::size_t number = 0;
};

namespace {

constexpr int kFirstDescriptor = 1 << 20;
constexpr std::int64_t kMaxTurns = 3'000'000;

thread_local bool outside = false;  // this thread runs the world's own code, which has no faults

class Outside {
 public:
  Outside() : before_(outside) { outside = true; }
  ~Outside() { outside = before_; }

 private:
  bool before_;
};

std::atomic<std::uint64_t> seed_played{0};
bool telling = false;

void on_crash(int signal) {
  char line[160];
  const int n = std::snprintf(line, sizeof line, "seed %llu: signal %d. Again: server_simulation --seed %llu\n",
                              static_cast<unsigned long long>(seed_played.load()), signal,
                              static_cast<unsigned long long>(seed_played.load()));
  if (write(STDERR_FILENO, line, static_cast<std::size_t>(n)) < 0) _exit(3);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "seed %llu: %s\nAgain: server_simulation --seed %llu\n",
               static_cast<unsigned long long>(seed_played.load()), what.c_str(),
               static_cast<unsigned long long>(seed_played.load()));
  std::fflush(stderr);
  _exit(1);
}

void name_seed(std::uint64_t seed, bool tell) {
  telling = tell;
  seed_played = seed;
  for (const int s : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) std::signal(s, on_crash);
  alarm(120);  // of real time: a thread waits for something that the world does not know
}

// What stands in for libc, and the functions that it stands for.
struct Libc {
  using Thread = World::Thread;
  static inline thread_local Thread* self = nullptr;

  template <typename F>
  static F real(F, const char* name) {
    return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
  }
  static World* world() { return self == nullptr ? nullptr : self->world; }
  static Connection* connection(int fd) {
    return self == nullptr || fd < kFirstDescriptor
               ? nullptr
               : self->world->connections_.at(static_cast<std::size_t>(fd - kFirstDescriptor)).get();
  }
  // A line for who replays a seed.
  template <typename... Values>
  static void tell(const char* format, Values... values) {
    if (!telling) return;
    std::fprintf(stderr, "%12.6f thread %zu: ", static_cast<double>(self->world->now_) / 1e6, self->number);
    std::fprintf(stderr, format, values...);
  }
  static bool server_meets(std::uint64_t odds) { return self->of_server && self->world->one_in(odds); }
  static bool interrupted() {
    if (!server_meets(self->world->odds_.interrupt)) return false;
    ++self->world->counts_.interrupted;
    errno = EINTR;
    return true;
  }
  static std::size_t some_of(std::size_t n) {
    if (n < 2 || !server_meets(self->world->odds_.short_count)) return n;
    ++self->world->counts_.short_counts;
    return 1 + self->world->draw(n);
  }
  static int create(pthread_t* out, const pthread_attr_t* attr, void* (*routine)(void*), void* argument);
  static void lock(pthread_mutex_t* mutex);
  static int wait(pthread_cond_t* condition, pthread_mutex_t* mutex, std::int64_t until);
  static void signal(pthread_cond_t* condition, bool all);
  static void join(pthread_t thread);
  static std::int64_t tick() { return ++self->world->now_; }  // so that loops which look at the clock come to an end
  static bool may_allocate(std::size_t size);
  static int accept();
  static ssize_t receive(Connection& c, void* out, std::size_t size, int flags);
  static ssize_t send(Connection& c, const void* bytes, std::size_t size);
  static int poll(pollfd* fds, nfds_t n, int timeout_ms);
  static int shut(Connection& c, int how);
  static int close(Connection& c);
  static void sleep(std::int64_t us) {
    self->world->wait(nullptr, nullptr, self->world->now_ + std::max<std::int64_t>(1, us));
  }
  // Connections that were not accepted are reset.
  static void shut_port() {
    World& w = *self->world;
    w.port_shut_ = true;
    for (const auto& c : w.pending_) c->closed_ = true;
    w.pending_.clear();
  }
};

// The function that the replaced one stands for, looked up once.
#define GSD_REAL(name)                                    \
  ([] {                                                   \
    static const auto found = Libc::real(&::name, #name); \
    return found;                                         \
  }())

// --- Connection ------------------------------------------------------------------------------------------------------

bool Connection::say(std::string_view bytes) {
  const Outside o;
  World& w = *Libc::world();
  while (!bytes.empty()) {
    w.wait_for([&] { return to_server_.size() < room_in_ || closed_ || read_shut_; }, World::kNever);
    if (closed_) return false;
    const std::size_t n = read_shut_ ? bytes.size() : std::min(bytes.size(), room_in_ - to_server_.size());
    to_server_.append(bytes.substr(0, n));
    bytes.remove_prefix(n);
  }
  return true;
}

std::string Connection::hear(std::int64_t most_us) {
  const Outside o;
  Libc::world()->wait_for([&] { return !to_client_.empty() || write_shut_ || closed_; }, most_us);
  return std::exchange(to_client_, "");
}

// --- World -----------------------------------------------------------------------------------------------------------

World::World(std::uint64_t seed, const Odds& odds) : rng_(seed), odds_(odds) {
  sem_init(&over_, 0, 0);
  candidates_.reserve(4096);
}

World::~World() {
  for (const auto& t : threads_) sem_destroy(&t->turn);
  sem_destroy(&over_);
}

void World::run(std::function<void()> body) {
  body_ = std::move(body);
  const auto first = [](void* world) -> void* {
    static_cast<World*>(world)->body_();
    return nullptr;
  };
  Thread* const t = add(first, this, false);
  if (GSD_REAL(pthread_create)(&t->real, nullptr, &World::thread_main, t) != 0) fail("no thread for the simulation");
  sem_post(&t->turn);
  while (sem_wait(&over_) != 0) {
  }
  for (const auto& each : threads_) GSD_REAL(pthread_join)(each->real, nullptr);
}

World::Thread* World::add(void* (*routine)(void*), void* argument, bool of_server) {
  threads_.push_back(std::make_unique<Thread>());
  Thread* const t = threads_.back().get();
  t->world = this;
  t->routine = routine;
  t->argument = argument;
  t->of_server = of_server;
  t->number = threads_.size();
  sem_init(&t->turn, 0, 0);
  alive_.push_back(t);
  return t;
}

void* World::thread_main(void* thread) {
  auto* const t = static_cast<Thread*>(thread);
  while (sem_wait(&t->turn) != 0) {
  }
  Libc::self = t;
  t->routine(t->argument);
  t->fail_in = -1;
  t->ended = true;
  World& w = *t->world;
  std::erase(w.alive_, t);
  sem_t* const next = w.alive_.empty() ? &w.over_ : &w.choose()->turn;
  Libc::self = nullptr;
  sem_post(next);
  return nullptr;
}

World::Thread* World::choose() {
  if (++n_turns_ > kMaxTurns) fail("it does not come to an end");
  while (true) {
    candidates_.clear();
    std::int64_t first = kNever;
    for (Thread* const t : alive_) {
      if (t->until <= now_ || (t->ready != nullptr && t->ready(t->what))) {
        candidates_.push_back(t);
      } else {
        first = std::min(first, t->until);
      }
    }
    if (!candidates_.empty()) break;
    if (first == kNever) fail("every thread waits for ever");
    now_ = first;
  }
  Thread* const t = candidates_[draw(candidates_.size())];
  digest_ = (digest_ ^ t->number ^ static_cast<std::uint64_t>(now_)) * 0x100000001b3U + 1;
  return t;
}

void World::wait(bool (*ready)(const void*), const void* what, std::int64_t until) {
  const Outside o;
  Thread* const me = Libc::self;
  me->ready = ready;
  me->what = what;
  me->until = until;
  Thread* const next = choose();
  if (next == me) return;
  sem_post(&next->turn);
  while (sem_wait(&me->turn) != 0) {
  }
}

void World::belong_to_server() { Libc::self->of_server = true; }
void World::fail_allocation(std::int64_t nth) { Libc::self->fail_in = nth; }

std::shared_ptr<Connection> World::connect() {
  const Outside o;
  if (port_shut_) return nullptr;
  auto c = std::make_shared<Connection>();
  c->room_in_ = std::size_t{64} << draw(12);
  c->room_out_ = std::size_t{1024} << draw(8);  // a refusal has room while the client still speaks
  pending_.push_back(c);
  return c;
}

int World::n_open() const {
  return static_cast<int>(
      std::count_if(connections_.begin(), connections_.end(), [](const auto& c) { return !c->closed_; }));
}

// --- Threads and clocks ----------------------------------------------------------------------------------------------

int Libc::create(pthread_t* out, const pthread_attr_t* attr, void* (*routine)(void*), void* argument) {
  const Outside o;
  World& w = *self->world;
  if (self->accepts && w.one_in(w.odds_.no_thread)) return ++w.counts_.no_thread, EAGAIN;
  Thread* const t = w.add(routine, argument, self->of_server);
  t->spare_json = true;
  if (self->accepts && w.one_in(w.odds_.no_memory)) t->fail_in = static_cast<std::int64_t>(w.draw(1U << w.draw(12)));
  if (GSD_REAL(pthread_create)(&t->real, attr, &World::thread_main, t) != 0) fail("no thread for the simulation");
  *out = t->real;
  return 0;
}

void Libc::join(pthread_t thread) {
  World& w = *self->world;
  const auto t = std::find_if(w.threads_.begin(), w.threads_.end(),
                              [&](const auto& each) { return pthread_equal(each->real, thread) != 0; });
  w.wait([](const void* what) { return static_cast<const Thread*>(what)->ended; }, t->get(), World::kNever);
}

// nlohmann-json's destructor is noexcept and allocates: a stack of the values to be destroyed, which grows by doubling.
// Nobody can answer for a failure there, so connections' threads are spared what may be such a stack of less than 128.
bool Libc::may_allocate(std::size_t size) {
  if (self == nullptr || outside || self->fail_in < 0) return true;
  constexpr std::size_t kValue = sizeof(nlohmann::ordered_json);
  if (self->spare_json && size % kValue == 0 && size < 128 * kValue) return true;
  if (self->fail_in-- > 0) return true;
  ++self->world->counts_.no_memory;
  tell("an allocation of %zu bytes fails\n", size);
  return false;
}

void Libc::lock(pthread_mutex_t* mutex) {
  World& w = *self->world;
  if (server_meets(w.odds_.preempt)) {
    ++w.counts_.preempted;
    w.wait(nullptr, nullptr, w.now_);
  }
  while (pthread_mutex_trylock(mutex) == EBUSY) sleep(1);
}

int Libc::wait(pthread_cond_t* condition, pthread_mutex_t* mutex, std::int64_t until) {
  World& w = *self->world;
  Thread* const me = self;
  me->condition = condition;
  pthread_mutex_unlock(mutex);
  if (server_meets(w.odds_.wake_idly)) {
    ++w.counts_.woken_idly;
    until = std::min(until, w.now_ + static_cast<std::int64_t>(w.draw(1000)));
  }
  w.wait([](const void* t) { return static_cast<const Thread*>(t)->condition == nullptr; }, me, until);
  const bool signalled = std::exchange(me->condition, nullptr) == nullptr;
  while (pthread_mutex_trylock(mutex) == EBUSY) sleep(1);
  return signalled ? 0 : ETIMEDOUT;
}

void Libc::signal(pthread_cond_t* condition, bool all) {
  World& w = *self->world;
  std::size_t n = 0;
  for (const Thread* t : w.alive_) n += t->condition == condition ? 1 : 0;
  if (n == 0) return;
  std::size_t chosen = w.draw(n);
  for (Thread* t : w.alive_) {
    if (t->condition != condition) continue;
    if (all || chosen == 0) t->condition = nullptr;
    --chosen;
  }
}

// --- The server's end of connections ---------------------------------------------------------------------------------

int Libc::accept() {
  const Outside o;
  World& w = *self->world;
  self->accepts = true;
  w.wait_for([&] { return w.port_shut_ || !w.pending_.empty(); }, World::kNever);
  if (w.port_shut_) return errno = EINVAL, -1;
  if (server_meets(w.odds_.no_connection)) {
    ++w.counts_.no_connection;
    constexpr int kErrors[] = {EMFILE, ENOMEM, ECONNABORTED, EINTR};
    errno = kErrors[w.draw(4)];
    if (errno == ECONNABORTED) {
      w.pending_.front()->closed_ = true;
      w.pending_.erase(w.pending_.begin());
    }
    return -1;
  }
  w.connections_.push_back(w.pending_.front());
  w.pending_.erase(w.pending_.begin());
  tell("accepts %zu, room for %zu and %zu bytes\n", w.connections_.size(), w.connections_.back()->room_in_,
       w.connections_.back()->room_out_);
  return kFirstDescriptor + static_cast<int>(w.connections_.size()) - 1;
}

ssize_t Libc::receive(Connection& c, void* out, std::size_t size, int flags) {
  const Outside o;
  if (c.closed_) fail("a closed connection is read");
  if (interrupted()) return -1;
  if ((flags & MSG_DONTWAIT) == 0) self->world->wait_for([&] { return c.readable(); }, 3600'000'000);
  if (c.client_gone_) return errno = ECONNRESET, -1;
  if (!c.to_server_.empty()) {
    const std::size_t n = some_of(std::min(size, c.to_server_.size()));
    std::memcpy(out, c.to_server_.data(), n);
    if ((flags & MSG_PEEK) == 0) c.to_server_.erase(0, n);
    tell("%p: reads %zu bytes (flags %d)\n", static_cast<void*>(&c), n, flags);
    return static_cast<ssize_t>(n);
  }
  if (c.client_done_ || c.read_shut_) return 0;
  return errno = EAGAIN, -1;
}

ssize_t Libc::send(Connection& c, const void* bytes, std::size_t size) {
  const Outside o;
  if (c.closed_) fail("a closed connection is written to");
  if (interrupted()) return -1;
  self->world->wait_for([&] { return c.writable(); }, 3600'000'000);
  if (c.client_left_) {
    ++self->world->counts_.resets;
    c.client_gone_ = true;
    return static_cast<ssize_t>(size);
  }
  if (c.client_gone_ || c.write_shut_) return errno = EPIPE, -1;
  const std::size_t n = some_of(std::min(size, c.room_out_ - c.to_client_.size()));
  c.to_client_.append(static_cast<const char*>(bytes), n);
  tell("%p: sends %zu of %zu bytes\n", static_cast<void*>(&c), n, size);
  return static_cast<ssize_t>(n);
}

int Libc::poll(pollfd* fds, nfds_t n, int timeout_ms) {
  const Outside o;
  if (interrupted()) return -1;
  const auto look = [&] {
    int found = 0;
    for (nfds_t i = 0; i < n; ++i) {
      const Connection& c = *connection(fds[i].fd);
      if (c.closed_) fail("a closed connection is waited for");
      fds[i].revents = static_cast<short>(((fds[i].events & POLLIN) != 0 && c.readable() ? POLLIN : 0) |
                                          ((fds[i].events & POLLOUT) != 0 && c.writable() ? POLLOUT : 0) |
                                          (c.client_gone_ ? POLLERR | POLLHUP : 0));
      found += fds[i].revents != 0 ? 1 : 0;
    }
    return found;
  };
  if (timeout_ms != 0)
    self->world->wait_for([&] { return look() > 0; },
                          timeout_ms < 0 ? World::kNever : static_cast<std::int64_t>(timeout_ms) * 1000);
  return look();
}

int Libc::shut(Connection& c, int how) {
  if (c.closed_) fail("a closed connection is shut down");
  tell("%p: shuts down %d\n", static_cast<void*>(&c), how);
  if (how != SHUT_WR) c.read_shut_ = true;
  if (how != SHUT_RD) c.write_shut_ = true;
  return 0;
}

int Libc::close(Connection& c) {
  if (c.closed_) fail("a connection is closed twice");
  c.closed_ = true;
  tell("%p: closes, %zu bytes unread, %zu unheard\n", static_cast<void*>(&c), c.to_server_.size(), c.to_client_.size());
  // What was not read comes back as a reset, which may overtake the answer.
  if (!c.to_server_.empty() && self->world->one_in(2)) {
    ++self->world->counts_.resets;
    c.to_client_.clear();
  }
  return 0;
}

}  // namespace gsd::sim

// --- The functions of libc -------------------------------------------------------------------------------------------

using gsd::sim::Libc;

namespace {

std::int64_t microseconds(const timespec& t) { return t.tv_sec * 1'000'000 + (t.tv_nsec + 999) / 1000; }

int loopback(sockaddr* address, socklen_t* size) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  *size = std::min<socklen_t>(*size, sizeof out);
  std::memcpy(address, &out, *size);
  return 0;
}

}  // namespace

extern "C" {

int pthread_create(pthread_t* out, const pthread_attr_t* attr, void* (*routine)(void*), void* argument) noexcept {
  if (Libc::self == nullptr) return GSD_REAL(pthread_create)(out, attr, routine, argument);
  return Libc::create(out, attr, routine, argument);
}
int pthread_detach(pthread_t thread) noexcept {
  return Libc::self == nullptr ? GSD_REAL(pthread_detach)(thread) : 0;  // the world joins all of them at its end
}
int pthread_join(pthread_t thread, void** result) {
  if (Libc::self == nullptr) return GSD_REAL(pthread_join)(thread, result);
  Libc::join(thread);
  return 0;
}
int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  if (Libc::self == nullptr) return GSD_REAL(pthread_mutex_lock)(mutex);
  Libc::lock(mutex);
  return 0;
}
int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  if (Libc::self == nullptr) return GSD_REAL(pthread_cond_wait)(condition, mutex);
  Libc::wait(condition, mutex, INT64_MAX);
  return 0;
}
int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock, const timespec* until) {
  if (Libc::self == nullptr) return GSD_REAL(pthread_cond_clockwait)(condition, mutex, clock, until);
  return Libc::wait(condition, mutex, microseconds(*until));
}
int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) {
  if (Libc::self == nullptr) return GSD_REAL(pthread_cond_timedwait)(condition, mutex, until);
  return Libc::wait(condition, mutex, microseconds(*until));
}
int pthread_cond_signal(pthread_cond_t* condition) noexcept {
  if (Libc::self == nullptr) return GSD_REAL(pthread_cond_signal)(condition);
  Libc::signal(condition, false);
  return 0;
}
int pthread_cond_broadcast(pthread_cond_t* condition) noexcept {
  if (Libc::self == nullptr) return GSD_REAL(pthread_cond_broadcast)(condition);
  Libc::signal(condition, true);
  return 0;
}
int clock_gettime(clockid_t clock, timespec* out) noexcept {
  if (Libc::self == nullptr) return GSD_REAL(clock_gettime)(clock, out);
  const std::int64_t now = Libc::tick();
  *out = {.tv_sec = now / 1'000'000, .tv_nsec = now % 1'000'000 * 1000};
  return 0;
}
time_t time(time_t* out) noexcept {
  if (Libc::self == nullptr) return GSD_REAL(time)(out);
  const time_t now = Libc::tick() / 1'000'000;
  if (out != nullptr) *out = now;
  return now;
}
int nanosleep(const timespec* time, timespec* left) {
  if (Libc::self == nullptr) return GSD_REAL(nanosleep)(time, left);
  Libc::sleep(microseconds(*time));
  return 0;
}
int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  return Libc::self == nullptr ? GSD_REAL(accept4)(fd, address, size, flags) : Libc::accept();
}
ssize_t recv(int fd, void* out, size_t size, int flags) {
  auto* const c = Libc::connection(fd);
  return c == nullptr ? GSD_REAL(recv)(fd, out, size, flags) : Libc::receive(*c, out, size, flags);
}
ssize_t send(int fd, const void* bytes, size_t size, int flags) {
  auto* const c = Libc::connection(fd);
  return c == nullptr ? GSD_REAL(send)(fd, bytes, size, flags) : Libc::send(*c, bytes, size);
}
int poll(pollfd* fds, nfds_t n, int timeout_ms) {
  if (n == 0 || Libc::connection(fds[0].fd) == nullptr) return GSD_REAL(poll)(fds, n, timeout_ms);
  return Libc::poll(fds, n, timeout_ms);
}
int shutdown(int fd, int how) noexcept {
  auto* const c = Libc::connection(fd);
  if (c != nullptr) return Libc::shut(*c, how);
  if (Libc::self != nullptr) Libc::shut_port();  // the one socket that is real
  return GSD_REAL(shutdown)(fd, how);
}
int close(int fd) {
  auto* const c = Libc::connection(fd);
  return c == nullptr ? GSD_REAL(close)(fd) : Libc::close(*c);
}
int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  return Libc::connection(fd) == nullptr ? GSD_REAL(setsockopt)(fd, level, name, value, size) : 0;
}
int getpeername(int fd, sockaddr* address, socklen_t* size) noexcept {
  return Libc::connection(fd) == nullptr ? GSD_REAL(getpeername)(fd, address, size) : loopback(address, size);
}
int getsockname(int fd, sockaddr* address, socklen_t* size) noexcept {
  return Libc::connection(fd) == nullptr ? GSD_REAL(getsockname)(fd, address, size) : loopback(address, size);
}
}

// --- Memory ----------------------------------------------------------------------------------------------------------

void* operator new(std::size_t size) {
  void* const p = Libc::may_allocate(size) ? std::malloc(size) : nullptr;
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void* operator new[](std::size_t size) { return operator new(size); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
