// JSON schemas as GBNF, for requests.
#pragma once

#include <string>

#include "../schema/schema.h"

namespace gsd::server {

using Json = schema::Json;

// Rules that need schema::json_rules() beside them; the first is named "answer". Any JSON object:
std::string json_object_rules();
// Text that is valid under `schema`; see schema::rules_for. Throws ApiError(400) naming the keyword and its place for
// what cannot be kept. Thread safe.
std::string schema_rules(const Json& schema);

// The grammar of a text that is such an answer and nothing else.
std::string answer_grammar(const std::string& rules);
std::string schema_grammar(const Json& schema);  // of schema_rules()

}  // namespace gsd::server
