#include "answer_store.h"

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "gsd/error.h"

namespace gsd {
namespace {

// Lengths of the contexts that are looked up, each with its places.
constexpr std::array<std::int32_t, 5> kContexts{3, 5, 8, 14, 24};
constexpr std::int32_t kMostVotes = 64;       // so that a continuation of yesterday can be outvoted
constexpr std::int64_t kSaveEvery = 1 << 14;  // tokens: what a process that is killed may lose
constexpr std::size_t kMostTokens = 1 << 24;
constexpr std::string_view kMagic = "gsd answers ";
constexpr std::string_view kVersion = "1";

constexpr std::uint64_t mixed(std::uint64_t h, Token t) {
  h = (h ^ static_cast<std::uint32_t>(t)) * 0x9e3779b97f4a7c15ULL;
  return h ^ (h >> 29);
}

std::uint64_t checksum(std::string_view owner, std::span<const Token> tokens) {
  std::uint64_t h = tokens.size();
  for (const char c : owner) h = mixed(h, c);
  for (const Token t : tokens) h = mixed(h, t);
  return h;
}

}  // namespace

AnswerStore::AnswerStore(int capacity) {
  if (capacity < 64 || capacity > static_cast<int>(kMostTokens))
    throw Error(ErrorCode::kUsage, "A store of answers takes a capacity from 64 to 16777216 tokens.");
  token_.resize(std::bit_ceil(static_cast<std::size_t>(capacity)));
  places_.resize(2 * token_.size());
}

std::size_t AnswerStore::size() const { return static_cast<std::size_t>(std::min(end_, capacity())); }

Token AnswerStore::after(std::int64_t position) const {
  return holds(position) && position + 1 < end_ ? token_[slot(position + 1)] : -1;
}

void AnswerStore::add(std::span<const Token> prompt, std::span<const Token> answer) {
  if (answer.empty()) return;
  for (const Token t : prompt.last(std::min<std::size_t>(prompt.size(), kContexts.back()))) push(t);
  for (const Token t : answer) push(t);
  push(-1);
  if (path_.empty() || end_ < save_at_) return;
  save_at_ = end_ + kSaveEvery;
  try {
    write(FileLock::Busy::kThrow);  // nobody's token waits for another process
  } catch (const Error&) {          // no reason to fail a request; who saves at the end is told
  }
}

// A token and, as what follows them, votes for it at the places of all contexts before it.
void AnswerStore::push(Token token) {
  const std::int64_t last = end_ - 1;  // of the contexts
  std::uint64_t hash = 0;
  std::int32_t length = 0;
  for (const std::int32_t wanted : kContexts) {
    while (token >= 0 && length < wanted && holds(last - length) && token_[slot(last - length)] >= 0)
      hash = mixed(hash, token_[slot(last - length++)]);
    if (token < 0 || length < wanted) break;
    vote(hash, last, token);
  }
  token_[slot(end_++)] = token;
}

void AnswerStore::vote(std::uint64_t hash, std::int64_t position, Token next) {
  const auto tag = static_cast<std::uint32_t>(hash >> 32);
  Place* const pair = &places_[(hash & (places_.size() / 2 - 1)) * 2];
  for (Place* p = pair; p < pair + 2; ++p) {
    if (p->votes == 0 || p->tag != tag || after(p->position) < 0) continue;
    if (after(p->position) == next) {
      p->votes = std::min(p->votes + 1, kMostVotes);
      p->position = position;  // the newest one stays longest
    } else if (--p->votes == 0) {
      *p = {tag, 1, position};
    }
    return;
  }
  // A new context takes a free place, or wears down the one of less use.
  const auto use = [this](const Place& p) { return after(p.position) < 0 ? 0 : p.votes; };
  Place& victim = use(pair[0]) <= use(pair[1]) ? pair[0] : pair[1];
  if (use(victim) > 1) {
    --victim.votes;
  } else {
    victim = {tag, 1, position};
  }
}

const AnswerStore::Place* AnswerStore::place(std::uint64_t hash) const {
  const Place* const pair = &places_[(hash & (places_.size() / 2 - 1)) * 2];
  for (const Place* p = pair; p < pair + 2; ++p) {
    if (p->votes > 0 && p->tag == static_cast<std::uint32_t>(hash >> 32) && after(p->position) >= 0) return p;
  }
  return nullptr;
}

// Tokens in common before and with `position` and at the end of `text`.
std::int32_t AnswerStore::agreement(std::int64_t position, std::span<const Token> text) const {
  const auto most = static_cast<std::int32_t>(std::min<std::size_t>(kMaxMatch, text.size()));
  std::int32_t length = 0;
  while (length < most && holds(position - length) &&
         token_[slot(position - length)] == text[text.size() - 1 - static_cast<std::size_t>(length)])
    ++length;
  return length;
}

// From the shortest context on: most texts have none, and a longer one has no place where a shorter one has none.
Source::Match AnswerStore::find(std::span<const Token> text) const {
  Match best;
  std::uint64_t hash = 0;
  std::size_t length = 0;
  for (const std::int32_t wanted : kContexts) {
    if (text.size() < static_cast<std::size_t>(wanted)) break;
    while (length < static_cast<std::size_t>(wanted)) hash = mixed(hash, text[text.size() - 1 - length++]);
    const Place* const p = place(hash);
    if (p == nullptr) break;
    const std::int32_t agreed = agreement(p->position, text);
    if (agreed < wanted) break;  // another text with this hash
    best = {p->position, agreed};
  }
  return best;
}

Source::Match AnswerStore::advance(const Match& match) const {
  return {match.position + 1, std::min(match.length + 1, kMaxMatch)};
}

std::string AnswerStore::keep_in(std::string path, std::string vocabulary, Token n_vocab) {
  path_ = std::move(path);
  vocabulary_ = std::move(vocabulary);
  n_vocab_ = n_vocab;
  std::ifstream file;
  open(file);  // where it is somebody else's there is nothing to lock
  const FileLock lock(path_ + ".lock");
  std::vector<Token> tokens;
  std::string note = read(tokens);
  for (const Token t : tokens) push(t);
  saved_ = end_;
  save_at_ = end_ + kSaveEvery;
  return note;
}

void AnswerStore::save() {
  if (!path_.empty() && saved_ != end_) write(FileLock::Busy::kWait);
}

void AnswerStore::write(FileLock::Busy busy) {
  const FileLock lock(path_ + ".lock", busy);
  std::vector<Token> tokens;
  read(tokens);
  for (std::int64_t i = std::max(saved_, end_ - capacity()); i < end_; ++i) tokens.push_back(token_[slot(i)]);
  const auto kept = std::span<const Token>(tokens).last(std::min(tokens.size(), token_.size()));
  AtomicFile file(path_, "store of answers", 0600);  // it holds what somebody was told
  file.write(std::string(kMagic) + std::string(kVersion) + "\n" + vocabulary_ + "\n" + std::to_string(kept.size()) +
             " " + std::to_string(checksum(vocabulary_, kept)) + "\n");
  file.write({reinterpret_cast<const char*>(kept.data()), kept.size_bytes()});
  file.commit();
  saved_ = end_;
}

// Opens the file for what comes after kMagic; returns its size, 0 if there is none or it is empty.
std::uintmax_t AnswerStore::open(std::ifstream& file) const {
  std::error_code error;
  const auto kind = std::filesystem::status(path_, error).type();
  if (kind == std::filesystem::file_type::not_found) return 0;
  file.open(path_, std::ios::binary);
  const auto size = std::filesystem::file_size(path_, error);
  if (!file || error || kind != std::filesystem::file_type::regular)
    throw Error(ErrorCode::kIo, "The store of answers '" + path_ + "' cannot be read; check its name and permissions.");
  std::string magic(kMagic.size(), ' ');
  if (size > 0 && (!file.read(magic.data(), std::ssize(magic)) || magic != kMagic))
    throw Error(ErrorCode::kIo, "The file '" + path_ + "' is no store of answers; give another name.");
  return size;
}

// Appends the tokens of the file.
std::string AnswerStore::read(std::vector<Token>& tokens) const {
  std::ifstream file;
  const std::uintmax_t size = open(file);
  if (size == 0) return "";
  std::string version, owner;
  if (size > 1024 + kMostTokens * sizeof(Token)) return put_aside("is damaged");
  if (!std::getline(file, version) || version != kVersion) return put_aside("is of another version");
  std::size_t n = 0;
  std::uint64_t sum = 0;
  if (!std::getline(file, owner) || !(file >> n >> sum) || file.get() != '\n' || n > kMostTokens)
    return put_aside("is damaged");
  std::vector<Token> kept(n);
  file.read(reinterpret_cast<char*>(kept.data()), static_cast<std::streamsize>(n * sizeof(Token)));
  if (!file || file.peek() != std::ifstream::traits_type::eof() || checksum(owner, kept) != sum)
    return put_aside("is damaged");
  if (owner != vocabulary_)
    throw Error(ErrorCode::kIo, "The store of answers '" + path_ +
                                    "' belongs to a model with other tokens; give each a file of its own.");
  if (std::any_of(kept.begin(), kept.end(), [&](Token t) { return t < -1 || t >= n_vocab_; }) ||
      (n > 0 && kept.back() != -1))
    return put_aside("is damaged");
  tokens.insert(tokens.end(), kept.begin(), kept.end());
  return "";
}

std::string AnswerStore::put_aside(const std::string& why) const {
  std::error_code error;
  std::filesystem::rename(path_, path_ + ".old", error);
  const std::string what = "the store of answers '" + path_ + "' " + why;
  if (error) throw Error(ErrorCode::kIo, "T" + what.substr(1) + " and cannot be put aside: " + error.message() + ".");
  return what + "; it was renamed to '" + path_ + ".old' and a new one begins";
}

void AnswerStore::check_integrity() const {
  for (std::size_t i = 0; i < places_.size(); ++i) {
    const Place& p = places_[i];
    if (p.votes < 0 || p.votes > kMostVotes) throw std::logic_error("votes out of range");
    if (p.votes == 0 || after(p.position) < 0) continue;
    bool found = false;
    std::uint64_t hash = 0;
    std::int32_t length = 0;
    for (const std::int32_t wanted : kContexts) {
      while (length < wanted && holds(p.position - length) && token_[slot(p.position - length)] >= 0)
        hash = mixed(hash, token_[slot(p.position - length++)]);
      if (length == wanted)
        found |= static_cast<std::uint32_t>(hash >> 32) == p.tag && (hash & (places_.size() / 2 - 1)) == i / 2;
    }
    // A context whose beginning was overwritten cannot be hashed any more.
    if (!found && holds(p.position - kContexts.back()))
      throw std::logic_error("a place that its context does not lead to");
  }
}

}  // namespace gsd
