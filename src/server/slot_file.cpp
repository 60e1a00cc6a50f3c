#include "slot_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <type_traits>

#include "../util/atomic_file.h"
#include "../util/fnv.h"
#include "gsd/error.h"

namespace gsd::server {
namespace {

constexpr std::string_view kMagic = "gsd slot 1\n";  // the number is the version
constexpr std::size_t kLongestModel = 4096;

template <typename T>
std::string_view bytes_of(const std::vector<T>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)};
}

// The lists of a file in their order.
template <typename Kept, typename Visit>
void visit_lists(Kept& kept, Visit visit) {
  visit(kept.text);
  visit(kept.adapters);
  visit(kept.state.ends);
  visit(kept.state.bytes);
}

// Of all lists, as they stand in the file.
std::uint64_t sum(const std::string& model, const Engine::Kept& kept) {
  Fnv hash;
  hash.add(model);
  hash.add(std::to_string(kept.state.n));
  visit_lists(kept, [&](const auto& list) { hash.add(bytes_of(list)); });
  return hash.value();
}

template <typename T>
std::string number(T n) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const char*>(&n), sizeof n};
}

class Reader {
 public:
  Reader(const std::string& path, std::size_t& size) : path_(path) {
    std::error_code error;
    const auto kind = std::filesystem::status(path, error).type();
    file_.open(path, std::ios::binary);
    left_ = size = std::filesystem::file_size(path, error);
    if (!file_ || error || kind != std::filesystem::file_type::regular)
      throw Error(ErrorCode::kUsage, "There is no file of that name that can be read.");
  }
  std::string text(std::size_t n) {
    std::string out(take(n), '\0');
    fill(out.data(), n);
    return out;
  }
  std::uint64_t number() {
    std::uint64_t n = 0;
    take(sizeof n);
    fill(reinterpret_cast<char*>(&n), sizeof n);
    return n;
  }
  // No more than is left of the file is made room for.
  template <typename T>
  void list(std::vector<T>& out, std::uint64_t most) {
    const std::uint64_t n = number();
    if (n > most || n > left_ / sizeof(T)) damaged();
    out.resize(n);
    take(n * sizeof(T));
    fill(reinterpret_cast<char*>(out.data()), n * sizeof(T));
  }
  std::size_t left() const { return left_; }
  [[noreturn]] void damaged() const {
    throw Error(ErrorCode::kUsage, "The file is no slot that this program has saved, or it is damaged.");
  }

 private:
  std::size_t take(std::size_t n) {
    if (n > left_) damaged();
    left_ -= n;
    return n;
  }
  void fill(char* to, std::size_t n) {
    if (n > 0 && !file_.read(to, static_cast<std::streamsize>(n))) damaged();
  }

  std::string path_;
  std::ifstream file_;
  std::size_t left_ = 0;
};

}  // namespace

bool is_file_name(const std::string& name) {
  const auto is_bad = [](char c) { return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 32 || c == 127; };
  return !name.empty() && name.size() <= 255 && name[0] != '.' && std::none_of(name.begin(), name.end(), is_bad);
}

std::size_t write_slot_file(const std::string& path, const std::string& model, const Engine::Kept& kept) {
  AtomicFile file(path, "slot", 0600);  // it holds what somebody asked
  std::size_t size = 0;
  const auto write = [&](std::string_view bytes) {
    file.write(bytes);
    size += bytes.size();
  };
  write(kMagic);
  write(number<std::uint64_t>(model.size()) + model + number<std::uint64_t>(sum(model, kept)) +
        number<std::uint64_t>(static_cast<std::uint64_t>(kept.state.n)));
  visit_lists(kept, [&](const auto& list) {
    write(number<std::uint64_t>(list.size()));
    write(bytes_of(list));
  });
  file.commit();
  return size;
}

Engine::Kept read_slot_file(const std::string& path, const std::string& model, int n_ctx, Token n_vocab,
                            std::size_t& size) {
  Reader in(path, size);
  if (in.left() < kMagic.size() || in.text(kMagic.size()) != kMagic) in.damaged();
  const std::uint64_t length = in.number();
  if (length > kLongestModel) in.damaged();
  if (in.text(length) != model)
    throw Error(ErrorCode::kUsage, "The file was saved with another model, or with other settings of its memory.");
  const std::uint64_t expected = in.number();
  const std::uint64_t n = in.number();
  Engine::Kept out;
  visit_lists(out, [&](auto& list) { in.list(list, SIZE_MAX); });
  out.state.n = static_cast<std::int32_t>(n);
  if (in.left() > 0 || n != out.text.size() || sum(model, out) != expected) in.damaged();
  if (std::any_of(out.text.begin(), out.text.end(), [&](Token t) { return t < 0 || t >= n_vocab; })) in.damaged();
  if (n >= static_cast<std::uint64_t>(n_ctx))
    throw Error(ErrorCode::kUsage, "The saved text is longer than a slot's context; raise the server's --ctx-size.");
  return out;
}

}  // namespace gsd::server
