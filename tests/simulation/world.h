// Threads of which one runs at a time, in an order drawn from a seed; a clock that moves when all of them wait; sockets
// between them. While a World runs, the functions of libc with which its threads wait, tell the time and reach each
// other are replaced for the program (world.cpp): what is simulated is the server's own code, and none of it knows.
#pragma once

#include <pthread.h>
#include <semaphore.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace gsd::sim {

// What may happen to the server's threads: once in so many times, 0 = never.
struct Odds {
  std::uint64_t preempt = 0;        // another thread goes first at a mutex
  std::uint64_t wake_idly = 0;      // a condition variable's wait returns for no reason
  std::uint64_t interrupt = 0;      // recv, send or poll fails with EINTR
  std::uint64_t short_count = 0;    // recv or send moves less than it could
  std::uint64_t no_connection = 0;  // accept fails, and the connection waits or is gone
  std::uint64_t no_thread = 0;      // a connection's thread cannot be started
  std::uint64_t no_memory = 0;      // a connection's thread meets one allocation that fails
};

// How often something rare happened.
struct Counts {
  std::int64_t preempted = 0, woken_idly = 0, interrupted = 0, short_counts = 0, no_connection = 0, no_thread = 0,
               no_memory = 0, resets = 0;
};

// A connection, seen from the client's side by its functions. To be used by threads of the world.
class Connection {
 public:
  // Sends all of it, waiting for room. False if the server does not take it any more.
  bool say(std::string_view bytes);
  // Waits for bytes, at most so long, and takes all there are. Empty: the time is over, or the server has ended.
  std::string hear(std::int64_t most_us);
  // True if nothing more can be heard.
  bool at_end() const { return (write_shut_ || closed_) && to_client_.empty(); }
  // What can be said without anybody listening.
  std::size_t room() const { return room_in_; }
  // No more is said; the answer is still heard.
  void finish() { client_done_ = true; }
  // Ends like a program that was killed.
  void vanish() { client_gone_ = client_done_ = true; }
  // Ends like a program that has what it wanted: what the server still sends is answered by a reset.
  void leave() { client_left_ = client_done_ = true; }

 private:
  friend class World;
  friend struct Libc;
  bool readable() const { return !to_server_.empty() || client_done_ || client_gone_ || read_shut_; }
  bool writable() const { return to_client_.size() < room_out_ || client_gone_; }

  std::size_t room_in_ = 0, room_out_ = 0;  // bytes on the way to the server and back
  std::string to_server_, to_client_;
  bool client_done_ = false, client_gone_ = false, client_left_ = false;
  bool read_shut_ = false, write_shut_ = false, closed_ = false;  // by the server
};

class World {
 public:
  World(std::uint64_t seed, const Odds& odds);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Runs `body` as the world's first thread; threads that it starts belong to the world too. Returns when all have
  // ended. One World at a time.
  void run(std::function<void()> body);

  // For threads of the world:
  std::uint64_t draw(std::uint64_t n) { return n == 0 ? 0 : rng_() % n; }
  bool one_in(std::uint64_t n) { return n > 0 && rng_() % n == 0; }
  std::int64_t now_us() const { return now_; }
  // This thread, and those that it starts, are the server's: faults are for them.
  void belong_to_server();
  // This thread's nth allocation from now on fails.
  void fail_allocation(std::int64_t nth);
  void stop_faults() { odds_.no_connection = odds_.no_thread = odds_.no_memory = 0; }
  // Null if nobody listens any more.
  std::shared_ptr<Connection> connect();
  // Connections that the server has taken and not closed.
  int n_open() const;

  const Counts& counts() const { return counts_; }
  // The same for two runs that went the same way.
  std::uint64_t digest() const { return digest_; }

 private:
  friend struct Libc;
  friend class Connection;
  struct Thread;
  static constexpr std::int64_t kNever = INT64_MAX;

  Thread* add(void* (*routine)(void*), void* argument, bool of_server);
  static void* thread_main(void* thread);
  Thread* choose();
  // Lets the others run until ready(what), or `until` if that is earlier; a null `ready` never is.
  void wait(bool (*ready)(const void*), const void* what, std::int64_t until);
  template <typename Ready>
  bool wait_for(Ready ready, std::int64_t us) {
    const auto ask = [](const void* what) { return (*static_cast<const Ready*>(what))(); };
    wait(ask, &ready, us >= kNever - now_ ? kNever : now_ + us);
    return ready();
  }

  std::mt19937_64 rng_;
  Odds odds_;
  Counts counts_;
  std::int64_t now_ = 1'000'000'000;
  std::uint64_t digest_ = 0;
  std::int64_t n_turns_ = 0;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Thread*> alive_;
  std::vector<Thread*> candidates_;
  sem_t over_;
  std::function<void()> body_;
  std::vector<std::shared_ptr<Connection>> connections_;  // by number of descriptor, once accepted
  std::vector<std::shared_ptr<Connection>> pending_;
  bool port_shut_ = false;
};

// Ends the program: the seed that is played, and what is wrong with it.
[[noreturn]] void fail(const std::string& what);
// The seed that fail() and a crash name. `tell`: what happens on the network and which allocation fails is written to
// standard error.
void name_seed(std::uint64_t seed, bool tell);

}  // namespace gsd::sim
