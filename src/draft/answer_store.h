// Answers that were given before, to draw on for the next ones: workloads repeat themselves.
//
// Like suffix decoding (Oliaro et al., arXiv 2411.04975): what followed the last tokens before is proposed again, the
// most frequent continuation of the longest match. Bounded: the newest tokens are kept, and of the places where their
// suffixes stand those that were of no use go first.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../util/atomic_file.h"
#include "gsd/source.h"
#include "gsd/types.h"

namespace gsd {

// Not thread safe: the thread that owns the engine adds, asks and saves.
class AnswerStore final : public Source {
 public:
  // `capacity`: tokens that are kept, rounded up to a power of two. Takes about 36 bytes for each.
  // Throws Error(kUsage) unless it is in [64, 2^24].
  explicit AnswerStore(int capacity = 1 << 18);

  // Takes in an answer; `prompt` is what stands before it, of which the last tokens count. With a file, writes it now
  // and then.
  void add(std::span<const Token> prompt, std::span<const Token> answer);
  std::size_t size() const;  // tokens that are kept, with what parts the answers

  Origin origin() const override { return Origin::kLookup; }
  Match find(std::span<const Token> text) const override;
  Token next(const Match& match) const override { return after(match.position); }
  Match advance(const Match& match) const override;

  // Takes in the answers that stand in a file (one that is not there is made by save()), and keeps those to come in it.
  // `vocabulary`: names the tokens, [0, n_vocab), that the numbers stand for. A damaged file, or one of another
  // version, is renamed to `path`.old: then a clause that says so, otherwise nothing. Throws Error(kIo) for a file that
  // is something else, or belongs to another vocabulary, and if it cannot be read, put aside or written beside. Call
  // once, before add().
  std::string keep_in(std::string path, std::string vocabulary, Token n_vocab);
  // Writes the answers that came since the last time after those that stand in the file, also by other processes; the
  // file is there whole or as it was. Nothing without a file. Throws Error(kIo); then the next one tries again.
  void save();

  // Throws std::logic_error naming what is wrong; for tests.
  void check_integrity() const;

 private:
  // Where the newest context of a hash ends whose continuation is the most frequent one.
  struct Place {
    std::uint32_t tag = 0;   // of the hash
    std::int32_t votes = 0;  // for the continuation, less those for others; 0 = free
    std::int64_t position = -1;
  };

  std::int64_t capacity() const { return static_cast<std::int64_t>(token_.size()); }
  std::size_t slot(std::int64_t position) const { return static_cast<std::size_t>(position & (capacity() - 1)); }
  bool holds(std::int64_t position) const { return position >= 0 && position < end_ && end_ - position <= capacity(); }
  Token after(std::int64_t position) const;
  void push(Token token);
  void vote(std::uint64_t hash, std::int64_t position, Token next);
  std::int32_t agreement(std::int64_t position, std::span<const Token> text) const;
  const Place* place(std::uint64_t hash) const;
  std::uintmax_t open(std::ifstream& file) const;
  std::string read(std::vector<Token>& tokens) const;
  void write(FileLock::Busy busy);
  std::string put_aside(const std::string& why) const;

  std::vector<Token> token_;   // [capacity] ring; -1 parts the answers
  std::vector<Place> places_;  // [2 * capacity] pairs
  std::int64_t end_ = 0;
  std::string path_;  // empty: no file
  std::string vocabulary_;
  Token n_vocab_ = 0;
  std::int64_t saved_ = 0;    // what stands before is in the file
  std::int64_t save_at_ = 0;  // when `end_` gets there
};

}  // namespace gsd
