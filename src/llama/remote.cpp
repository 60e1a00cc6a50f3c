#include "remote.h"

#include <ggml-backend.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>

#include "devices.h"

namespace gsd {
namespace {

std::mutex servers_mutex;
std::vector<std::string> servers;  // guarded by servers_mutex

std::mutex models_mutex;
std::vector<const llama_model*> models;  // on other machines; guarded by models_mutex

std::pair<std::string, std::string> host_and_port(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  return {address.substr(0, colon), colon == std::string::npos ? "" : address.substr(colon + 1)};
}

bool makes_sense(const std::string& address) {
  const auto [host, port] = host_and_port(address);
  int number = 0;
  const auto [stop, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  return !host.empty() && error == std::errc() && stop == port.data() + port.size() && number >= 1 && number <= 65535;
}

// Whether the socket comes to be connected within a second.
bool connects(const addrinfo& to) {
  const int fd = socket(to.ai_family, to.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, to.ai_protocol);
  if (fd < 0) return false;
  bool done = connect(fd, to.ai_addr, to.ai_addrlen) == 0;
  if (!done && errno == EINPROGRESS) {
    pollfd waiting{fd, POLLOUT, 0};
    int error = 1;
    socklen_t size = sizeof error;
    done = poll(&waiting, 1, 1000) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
  }
  close(fd);
  return done;
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// As ggml does it: by IPv4. Null if the name is not known.
Addresses look_up(const std::string& address) {
  const auto [host, port] = host_and_port(address);
  addrinfo wish{};
  wish.ai_family = AF_INET;
  wish.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &wish, &found) != 0) found = nullptr;
  return {found, &freeaddrinfo};
}

bool answers(const std::string& address) {
  const Addresses found = look_up(address);
  return found != nullptr && connects(*found);
}

std::vector<std::string> known_servers() {
  const std::lock_guard lock(servers_mutex);
  return servers;
}

// Calls `use` with each of ggml's connections to the servers, which it does not hand out.
void for_each_connection(const std::function<void(int fd)>& use) {
  std::vector<Addresses> ends;
  for (const std::string& address : known_servers()) ends.push_back(look_up(address));
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    const int fd = std::atoi(entry.path().filename().c_str());
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0 || peer.sin_family != AF_INET) continue;
    const bool ours = std::any_of(ends.begin(), ends.end(), [&](const Addresses& end) {
      if (end == nullptr) return false;
      const auto& to = *reinterpret_cast<const sockaddr_in*>(end->ai_addr);
      return to.sin_port == peer.sin_port && to.sin_addr.s_addr == peer.sin_addr.s_addr;
    });
    if (ours) use(fd);
  }
}

// The thread for what needs other machines, and whoever waits for it. It is never joined.
class Guard {
 public:
  // False if `call` has not ended after `patience`; then everything is given up.
  bool run(const std::function<void()>& call, std::optional<std::chrono::seconds> patience = {}) {
    const std::lock_guard one(callers_);
    std::unique_lock lock(mutex_);
    if (lost_) fail(lock);
    if (!started_) {
      std::thread([this] { work(); }).detach();
      started_ = true;
    }
    call_ = &call;
    failure_ = nullptr;
    wake_.notify_all();
    const auto over = [&] { return call_ == nullptr || lost_; };
    if (!patience) {
      done_.wait(lock, over);
    } else if (!done_.wait_for(lock, *patience, over)) {
      lost_ = true;
      return false;
    }
    if (lost_) fail(lock);
    const std::exception_ptr failure = std::exchange(failure_, nullptr);
    const std::string messages = std::exchange(messages_, {});
    lock.unlock();
    if (!messages.empty()) add_llama_errors(messages);
    if (failure) std::rethrow_exception(failure);
    return true;
  }

  // From a thread that cannot go on: it never does. Where nobody waits for it, the process is at its end.
  [[noreturn]] void lose() {
    {
      const std::lock_guard lock(mutex_);
      if (call_ == nullptr && !lost_) {
        std::fputs("gsd: The connection to another machine broke.\n", stderr);
        _exit(static_cast<int>(ErrorCode::kBackend));
      }
      lost_ = true;
    }
    done_.notify_all();
    for (;;) pause();
  }

  bool lost() const { return lost_; }

 private:
  // Leaves the machines that are still there, which serve one program at a time, and finds the others: one whose
  // process is ending may take connections a moment longer.
  [[noreturn]] void fail(std::unique_lock<std::mutex>& lock) {
    if (who_.empty()) {
      for_each_connection([](int fd) { shutdown(fd, SHUT_RDWR); });
      for (int i = 0; i < 10 && who_.empty(); ++i) {
        if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        for (const std::string& address : silent_servers()) who_ += (who_.empty() ? " to " : " and ") + address;
      }
      if (who_.empty()) who_ = " to another machine";
    }
    const std::string who = who_;
    lock.unlock();
    throw Error(ErrorCode::kBackend,
                "The connection" + who +
                    " broke, and what lay there is lost; see that ggml-rpc-server runs there, and begin anew.");
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return call_ != nullptr; });
      const std::function<void()>& call = *call_;
      lock.unlock();
      std::exception_ptr failure;
      take_llama_errors();
      try {
        call();
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (lost_) return;  // nobody waits any more, and `call` is gone
      failure_ = failure;
      messages_ = take_llama_errors();
      call_ = nullptr;
      done_.notify_all();
    }
  }

  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void()>* call_ = nullptr;  // guarded by mutex_, as what follows
  std::exception_ptr failure_;
  std::string messages_;
  std::string who_;  // " to HOST:PORT", once somebody has looked
  bool started_ = false;
  std::atomic<bool> lost_{false};
};

// Outlives everything, as its thread does.
Guard& guard() {
  static Guard* const it = new Guard;
  return *it;
}

ggml_abort_callback_t before_us = nullptr;

// ggml ends the process when this returns. RPC's own words for a broken connection begin so in each place.
void on_abort(const char* message) {
  if (std::string_view(message).find("RPC") != std::string_view::npos) guard().lose();
  if (before_us != nullptr) {
    before_us(message);
  } else {
    std::fprintf(stderr, "%s\n", message);
  }
}

void add_server(const std::string& address) {
  using AddServer = ggml_backend_reg_t (*)(const char*);
  ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
  const auto add =
      rpc == nullptr
          ? nullptr
          : reinterpret_cast<AddServer>(ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"));
  if (add == nullptr)
    throw Error(ErrorCode::kUsage,
                "ggml's RPC backend is not installed, which other machines need: deps/setup.sh --group rpc fetches it, "
                "or Debian's package libggml0-backend-rpc.");
  ggml_backend_reg_t reg = nullptr;
  constexpr std::chrono::seconds kPatience{10};
  if (!guard().run([&] { reg = add(address.c_str()); }, kPatience))
    throw Error(ErrorCode::kBackend,
                "What listens at " + address + " says nothing; a ggml-rpc-server serves one program at a time.");
  if (reg == nullptr || ggml_backend_reg_dev_count(reg) == 0)
    throw Error(ErrorCode::kBackend, "What answers at " + address + " is no ggml-rpc-server of this version.");
  ggml_backend_register(reg);
}

void give_back(bool remote, const std::function<void()>& free) {
  try {
    call_remote(remote, free);
  } catch (const std::exception&) {  // it is lost
  }
}

}  // namespace

bool connection_lost() { return guard().lost(); }

void watch_connections() {
  for_each_connection([](int fd) {
    // Ten seconds without a word from the machine itself, asked or not.
    const std::array<std::array<int, 3>, 5> options{{{SOL_SOCKET, SO_KEEPALIVE, 1},
                                                     {IPPROTO_TCP, TCP_KEEPIDLE, 4},
                                                     {IPPROTO_TCP, TCP_KEEPINTVL, 2},
                                                     {IPPROTO_TCP, TCP_KEEPCNT, 3},
                                                     {IPPROTO_TCP, TCP_USER_TIMEOUT, 10000}}};
    for (const auto& [level, name, value] : options) setsockopt(fd, level, name, &value, sizeof value);
  });
}

std::vector<std::string> silent_servers() {
  std::vector<std::string> all = known_servers();
  std::erase_if(all, answers);
  return all;
}

bool is_remote(const Model::Impl& model) {
  return std::any_of(model.devices.begin(), model.devices.end(), is_on_another_machine);
}

bool is_remote(const llama_model* model) {
  const std::lock_guard lock(models_mutex);
  return std::find(models.begin(), models.end(), model) != models.end();
}

void note_remote(const llama_model* model) {
  const std::lock_guard lock(models_mutex);
  models.push_back(model);
}

void ModelDeleter::operator()(llama_model* m) const {
  if (remote) {
    const std::lock_guard lock(models_mutex);
    std::erase(models, m);
  }
  give_back(remote, [m] { llama_model_free(m); });
}
void ContextDeleter::operator()(llama_context* c) const {
  give_back(remote, [c] { llama_free(c); });
}

void call_remote(bool remote, const std::function<void()>& call) {
  if (!remote) return call();
  guard().run(call);
}

void add_rpc_servers(std::span<const std::string> addresses) {
  start_llama();
  static std::mutex one;
  const std::lock_guard lock(one);
  for (const std::string& address : addresses) {
    if (!makes_sense(address))
      throw Error(ErrorCode::kUsage, "A machine's address is HOST:PORT, not '" + address + "'.");
    {
      const std::lock_guard reading(servers_mutex);
      if (std::find(servers.begin(), servers.end(), address) != servers.end()) continue;
      if (servers.empty()) before_us = ggml_set_abort_callback(on_abort);
    }
    if (!answers(address))
      throw Error(ErrorCode::kBackend, "Nobody answers at " + address + "; start ggml-rpc-server there.");
    {
      const std::lock_guard writing(servers_mutex);
      servers.push_back(address);
    }
    try {
      add_server(address);
    } catch (...) {
      const std::lock_guard writing(servers_mutex);
      if (!connection_lost()) servers.pop_back();
      throw;
    }
  }
}

}  // namespace gsd
