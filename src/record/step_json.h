// A step as JSON: the lines of records (docs/guide.md, "Records"), and what the server sends to its page.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "gsd/engine.h"

namespace gsd {

// What each of the drafters did: a list of objects with its name and the sums of DraftStats.
nlohmann::ordered_json drafters_json(const Stats& stats);

// `text`: the bytes of a token, control tokens by name. The bytes may be pieces of UTF-8: dump with a handler.
nlohmann::ordered_json step_json(const TokenGraph& graph, const TokenTree& tree, const Acceptance& acceptance,
                                 const Stats& stats, const std::function<std::string(Token)>& text);

}  // namespace gsd
