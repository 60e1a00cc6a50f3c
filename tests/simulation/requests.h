// Requests drawn as the JSON text that a client would send, what must come back, and the reading of what does.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../server/server_rig.h"

namespace gsd::sim {

using Draw = std::function<std::uint64_t(std::uint64_t n)>;  // a number below n

// The models of the simulation look back over the whole text: a token of another stream, or one too many after a
// roll-back, changes all that follow.
Script whole_prefix(float drift);
constexpr int kLookBack = 256;  // all of a context

struct Wish {
  std::string http;                   // the request as it is sent
  std::vector<std::string> expected;  // the text of each choice; empty where it is not a generation
  std::vector<std::string> uncut;     // the same without its stop text: what failed before that may have begun it
  bool stream = false;
  int status = 200;  // where nothing fails
  enum class Api : std::uint8_t { kCompletion, kChat, kNative, kMessage, kResponse, kOther } api = Api::kOther;
};

// `key`: the server asks for it; empty = for none.
Wish draw_wish(const Draw& draw, const std::string& key);
// Anything but a request.
std::string draw_rubbish(const Draw& draw);

struct Reply {
  int status = 0;
  std::string body;
  bool closes = false;  // no further request is answered on this connection
};

// Takes the first whole reply off `bytes`; nothing as long as it is not complete. Fails for what is no HTTP.
std::optional<Reply> take_reply(std::string& bytes);

struct Verdict {
  bool failed = false;  // the answer says that something went wrong
  std::string wrong;    // what is wrong with it; empty: nothing
};
// Compares an answer of status 200.
Verdict judge(const Wish& wish, const std::string& body);

}  // namespace gsd::sim
