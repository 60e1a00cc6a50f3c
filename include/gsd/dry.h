// DRY ("don't repeat yourself"): what would go on with a repetition is penalised, the more the longer the repetition
// is. Source: p-e-w, text-generation-webui, pull request 5677; the details are llama.cpp's.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gsd/params.h"
#include "gsd/types.h"
#include "gsd/vocabulary.h"

namespace gsd {

// No repetition goes across these. A breaker is a token that holds or begins one of the texts, and the tokens that
// complete it. Immutable: any thread may use it.
struct DryBreakers {
  std::unordered_map<Token, std::vector<std::vector<Token>>> rest;  // after each first token: what may follow
};

// llama-server's default texts.
std::vector<std::string> default_dry_breakers();
// Looks through the whole vocabulary, which takes milliseconds.
std::shared_ptr<const DryBreakers> make_dry_breakers(const Vocabulary& vocabulary, std::span<const std::string> texts);

// Finds the tokens that would go on with a repetition. Work buffers only; not thread safe.
class Dry {
 public:
  // Fills `out` with those tokens, each once, and what their logits lose. `recent`: all tokens so far, oldest first.
  void penalties(const SamplingParams& params, std::span<const Token> recent,
                 std::vector<std::pair<Token, float>>& out);

 private:
  std::vector<std::size_t> match_;
};

}  // namespace gsd
