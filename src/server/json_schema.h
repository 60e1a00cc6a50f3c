// JSON schemas as GBNF grammars: a subset, what is outside it is refused by name.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace gsd::server {

// Ordered: a schema's properties are generated in the order in which they stand.
using Json = nlohmann::ordered_json;

// Any JSON object.
std::string json_object_grammar();

// Text that is valid under `schema` and writes an object's properties in the schema's order. Keywords: type (also a
// list), properties, required, additionalProperties (false, or alone), items, minItems, maxItems, minLength, maxLength,
// enum, const, anyOf, oneOf, $ref into #/$defs or #/definitions; those that only describe are ignored. Throws
// ApiError(400) naming the keyword and its place for anything else. Thread safe.
std::string schema_grammar(const Json& schema);

}  // namespace gsd::server
