// What the server needs of a model: a seam, so that everything but the program itself is built and tested
// without libllama.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../chat/format.h"
#include "gsd/llama.h"

namespace gsd::server {

// All functions may be called from any thread.
struct TextModel {
  std::string id;                    // name in the API
  std::vector<std::string> aliases;  // further names that requests may use
  std::string path;                  // of its file, as it was given
  std::string description;
  std::string draft_description;  // empty without a draft
  std::shared_ptr<const chat::ChatFormat> chat;
  bool own_chat_template = false;  // it is the model's own, or was asked for: not a fallback
  std::uint64_t n_params = 0;
  std::uint64_t n_bytes = 0;
  std::size_t max_token_bytes = 0;  // of text that one token stands for; 0 = not known
  int n_ctx = 0;                    // positions of one slot
  int n_ctx_train = 0;
  Vocabulary vocabulary;
  std::function<Grammar(const std::string& gbnf)> grammar;  // see make_grammar
};

}  // namespace gsd::server
