#include "json_schema.h"

#include "api_error.h"
#include "gsd/error.h"

namespace gsd::server {

std::string json_object_rules() { return "answer ::= object\n"; }

std::string schema_rules(const Json& schema) {
  try {
    return schema::rules_for(schema, "answer");
  } catch (const Error& e) {
    throw ApiError(400, e.what(), "response_format");
  }
}

std::string answer_grammar(const std::string& rules) { return "root ::= ws answer\n" + rules + schema::json_rules(); }

std::string schema_grammar(const Json& schema) { return answer_grammar(schema_rules(schema)); }

}  // namespace gsd::server
