// JSON schemas as GBNF grammars: what a grammar can say is kept, anything else is refused by name and place.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace gsd::schema {

// Ordered: a schema's properties are generated in the order in which they stand.
using Json = nlohmann::ordered_json;

// Rules of plain JSON that all others use: ws (white space, bounded), value, object, array, string, integer, number,
// boolean, null. Each ends with ws.
const char* json_rules();

// Rules for JSON texts that are valid under `schema`; the first is named `name` (letters and digits), the others
// `name`-1 and so on. They need json_rules() beside them. Every text of theirs is valid; not every valid text is one of
// theirs: properties stand in the schema's order, and others come after them only where additionalProperties,
// patternProperties or minProperties say so; prefixItems are all written unless minItems says fewer; numbers with
// bounds have no exponent.
//
// Keywords: type, enum, const, anyOf, oneOf (where no value of one alternative satisfies another), allOf, not (of
// types, values and patterns), $ref into the document, properties, required, additionalProperties, patternProperties,
// propertyNames, minProperties, maxProperties, dependentRequired, items, prefixItems, minItems, maxItems, minLength,
// maxLength, pattern, format, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf. Throws Error(kGrammar)
// naming keyword and place for anything else, for a schema that nothing satisfies, and where translating takes too much
// work or space. Thread safe.
std::string rules_for(const Json& schema, const std::string& name);

}  // namespace gsd::schema
