// JSON schemas as whole GBNF grammars, for requests.
#pragma once

#include <string>

#include "../schema/schema.h"

namespace gsd::server {

using Json = schema::Json;

// Any JSON object.
std::string json_object_grammar();

// Text that is valid under `schema`; see schema::rules_for. Throws ApiError(400) naming the keyword and its place for
// what cannot be kept. Thread safe.
std::string schema_grammar(const Json& schema);

}  // namespace gsd::server
