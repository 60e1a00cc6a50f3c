#include "json_schema.h"

#include "api_error.h"
#include "gsd/error.h"

namespace gsd::server {

std::string json_object_grammar() { return std::string("root ::= ws object\n") + schema::json_rules(); }

std::string schema_grammar(const Json& schema) {
  try {
    return "root ::= ws schema\n" + schema::rules_for(schema, "schema") + schema::json_rules();
  } catch (const Error& e) {
    throw ApiError(400, e.what(), "response_format");
  }
}

}  // namespace gsd::server
