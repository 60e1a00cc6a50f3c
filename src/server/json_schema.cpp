#include "json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "api_error.h"

namespace gsd::server {
namespace {

constexpr std::size_t kMaxRules = 2000;
constexpr std::int64_t kMaxRepeat = 1000;
constexpr int kMaxDepth = 32;

// Rules of plain JSON. Between tokens at most one blank, or a line break with some indentation: unbounded white space
// would let a model write it for ever.
constexpr const char* kJsonRules = R"(ws ::= | " " | "\n" [ \t]{0,20}
value ::= object | array | string | number | boolean | null
object ::= "{" ws ( string ":" ws value ( "," ws string ":" ws value )* )? "}" ws
array ::= "[" ws ( value ( "," ws value )* )? "]" ws
char ::= [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} )
string ::= "\"" char* "\"" ws
integer ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ws
number ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )? ws
boolean ::= ( "true" | "false" ) ws
null ::= "null" ws
)";

std::string literal(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

class Converter {
 public:
  explicit Converter(const Json& root) : root_(root) {}

  std::string run() {
    const std::string start = rule_for(root_, "#", 0);
    std::string out = fmt::format("root ::= ws {}\n", start);
    for (const auto& [name, body] : rules_) out += fmt::format("{} ::= {}\n", name, body);
    return out + kJsonRules;
  }

 private:
  [[noreturn]] static void refuse(const std::string& what, const std::string& at) {
    throw ApiError(400, fmt::format("The JSON schema is not supported: {} at {}.", what, at), "response_format");
  }

  std::string add(std::string body) {
    if (rules_.size() >= kMaxRules) refuse("it needs more than 2000 rules", "#");
    const std::string name = fmt::format("r{}", rules_.size());
    rules_.emplace_back(name, std::move(body));
    return name;
  }

  static void check_keywords(const Json& schema, const std::string& at) {
    static const std::set<std::string> known{"type", "properties", "required", "additionalProperties", "items",
                                             "minItems", "maxItems", "minLength", "maxLength", "enum", "const", "anyOf",
                                             "oneOf", "$ref", "$defs", "definitions",
                                             // descriptions
                                             "title", "description", "default", "examples", "$schema", "$id",
                                             "$comment", "deprecated", "readOnly", "writeOnly"};
    for (const auto& [key, value] : schema.items()) {
      if (!known.contains(key)) refuse(fmt::format("the keyword '{}'", key), at);
    }
  }

  // Name of a rule for `schema`, which stands at `at`.
  std::string rule_for(const Json& schema, const std::string& at, int depth) {
    if (depth > kMaxDepth) refuse("it is nested more than 32 deep", at);
    if (schema.is_boolean() && schema.get<bool>()) return "value";
    if (!schema.is_object()) refuse("what is no object", at);
    check_keywords(schema, at);
    if (schema.contains("$ref")) return reference(schema["$ref"], at, depth);
    if (schema.contains("const")) return add(literal(schema["const"].dump()) + " ws");
    if (schema.contains("enum")) return enumeration(schema["enum"], at);
    for (const char* key : {"anyOf", "oneOf"}) {
      if (schema.contains(key)) return alternatives(schema[key], fmt::format("{}/{}", at, key), depth);
    }
    if (!schema.contains("type")) {
      if (schema.contains("properties")) return object(schema, at, depth);
      if (schema.contains("items")) return array(schema, at, depth);
      return "value";
    }
    const Json& type = schema["type"];
    if (!type.is_array()) return typed(schema, type, at, depth);
    std::string body;
    for (const Json& one : type) body += (body.empty() ? "" : " | ") + typed(schema, one, at, depth);
    if (body.empty()) refuse("an empty list of types", at);
    return add(std::move(body));
  }

  std::string typed(const Json& schema, const Json& type, const std::string& at, int depth) {
    const std::string name = type.is_string() ? type.get<std::string>() : "";
    if (name == "object") return object(schema, at, depth);
    if (name == "array") return array(schema, at, depth);
    if (name == "string") return string(schema, at);
    if (name == "integer" || name == "number" || name == "boolean" || name == "null") return name;
    refuse(fmt::format("the type {}", type.dump(-1, ' ', false, Json::error_handler_t::replace)), at);
  }

  std::string reference(const Json& ref, const std::string& at, int depth) {
    const std::string path = ref.is_string() ? ref.get<std::string>() : "";
    if (path == "#") refuse("a reference to the whole schema", at);
    if (!path.starts_with("#/$defs/") && !path.starts_with("#/definitions/"))
      refuse("a reference that does not lead into #/$defs or #/definitions", at);
    if (const auto known = references_.find(path); known != references_.end()) return known->second;
    const Json::json_pointer pointer(path.substr(1));
    if (!root_.contains(pointer)) refuse(fmt::format("the reference '{}' leads nowhere", path), at);
    // Named before it is made: it may refer to itself.
    const std::string name = add("");
    references_[path] = name;
    const std::size_t index = rules_.size() - 1;
    const std::string target = rule_for(root_.at(pointer), path, depth + 1);
    if (target == name) refuse("a reference to itself", path);
    rules_[index].second = target;
    return name;
  }

  std::string enumeration(const Json& values, const std::string& at) {
    if (!values.is_array() || values.empty()) refuse("an enum that is no list or empty", at);
    std::string body;
    for (const Json& v : values) body += (body.empty() ? "( " : " | ") + literal(v.dump());
    return add(body + " ) ws");
  }

  std::string alternatives(const Json& list, const std::string& at, int depth) {
    if (!list.is_array() || list.empty()) refuse("alternatives that are no list or empty", at);
    std::string body;
    for (std::size_t i = 0; i < list.size(); ++i)
      body += (i > 0 ? " | " : "") + rule_for(list[i], fmt::format("{}/{}", at, i), depth + 1);
    return add(std::move(body));
  }

  static std::int64_t limit(const Json& schema, const char* key, std::int64_t absent, const std::string& at) {
    if (!schema.contains(key)) return absent;
    const Json& v = schema[key];
    if (!v.is_number_integer() || v.get<std::int64_t>() < 0 || v.get<std::int64_t>() > kMaxRepeat)
      refuse(fmt::format("'{}' must be a whole number from 0 to {}, as it stands", key, kMaxRepeat), at);
    return v.get<std::int64_t>();
  }

  // "{low,high}" of GBNF; high < 0 = no upper bound.
  static std::string repeat(std::int64_t low, std::int64_t high, const std::string& at) {
    if (high >= 0 && high < low) refuse("a maximum below its minimum", at);
    return high < 0 ? fmt::format("{{{},}}", low) : fmt::format("{{{},{}}}", low, high);
  }

  std::string string(const Json& schema, const std::string& at) {
    const std::int64_t low = limit(schema, "minLength", 0, at);
    const std::int64_t high = limit(schema, "maxLength", -1, at);
    if (low == 0 && high < 0) return "string";
    return add(fmt::format(R"("\"" char{} "\"" ws)", repeat(low, high, at)));
  }

  std::string array(const Json& schema, const std::string& at, int depth) {
    const std::string item =
        schema.contains("items") ? rule_for(schema["items"], at + "/items", depth + 1) : std::string("value");
    const std::int64_t low = limit(schema, "minItems", 0, at);
    const std::int64_t high = limit(schema, "maxItems", -1, at);
    if (high == 0) return add(R"("[" ws "]" ws)");
    const std::string more = fmt::format(R"({0} ( "," ws {0} ){1})", item,
                                         repeat(std::max<std::int64_t>(0, low - 1), high < 0 ? -1 : high - 1, at));
    return add(low == 0 ? fmt::format(R"("[" ws ( {} )? "]" ws)", more) : fmt::format(R"("[" ws {} "]" ws)", more));
  }

  std::string object(const Json& schema, const std::string& at, int depth) {
    const Json properties = schema.value("properties", Json::object());
    if (!properties.is_object()) refuse("properties that are no object", at);
    const Json additional = schema.value("additionalProperties", Json(properties.empty()));
    if (properties.empty() && additional == Json(true)) return "object";
    if (additional == Json(true)) refuse("additionalProperties beside named properties", at);
    if (!additional.is_boolean() && !properties.empty())
      refuse("a schema for additionalProperties beside named ones", at);
    if (!additional.is_boolean()) {
      const std::string value = rule_for(additional, at + "/additionalProperties", depth + 1);
      return add(fmt::format(R"("{{" ws ( string ":" ws {0} ( "," ws string ":" ws {0} )* )? "}}" ws)", value));
    }
    return add(fmt::format(R"("{{" ws {} "}}" ws)", members(schema, properties, at, depth)));
  }

  // Properties in order, the optional ones left out at will: one rule for each place in the list, once with a property
  // written before it (then a comma is needed) and once without.
  std::string members(const Json& schema, const Json& properties, const std::string& at, int depth) {
    std::set<std::string> required;
    for (const Json& r : schema.value("required", Json::array())) {
      if (!r.is_string() || !properties.contains(r.get<std::string>()))
        refuse("a required property that is not described", at);
      required.insert(r.get<std::string>());
    }
    std::vector<std::pair<std::string, bool>> list;  // "name": value; required
    for (const auto& [name, value] : properties.items()) {
      const std::string rule = rule_for(value, fmt::format("{}/properties/{}", at, name), depth + 1);
      list.emplace_back(fmt::format(R"({} ":" ws {})", literal(Json(name).dump()), rule), required.contains(name));
    }
    std::string first;  // nothing written yet
    std::string after;  // something is
    for (auto it = list.rbegin(); it != list.rend(); ++it) {
      const auto& [member, needed] = *it;
      const std::string begin = add(fmt::format("{} {}", member, after));
      std::string next_after =
          add(needed ? fmt::format(R"("," ws {})", begin)
                     : fmt::format(R"(( "," ws {} ) | {})", begin, after.empty() ? R"("")" : after));
      first = needed ? begin : add(fmt::format("{} | {}", begin, first.empty() ? R"("")" : first));
      after = std::move(next_after);
    }
    return first;
  }

  const Json& root_;
  std::vector<std::pair<std::string, std::string>> rules_;
  std::map<std::string, std::string> references_;
};

}  // namespace

std::string json_object_grammar() {
  std::string out = "root ::= ws object\n";
  return out += kJsonRules;
}

std::string schema_grammar(const Json& schema) {
  try {
    return Converter(schema).run();
  } catch (const Json::exception& e) {  // a malformed pointer, text that is no UTF-8
    throw ApiError(400, std::string("The JSON schema cannot be read: ") + e.what() + ".", "response_format");
  }
}

}  // namespace gsd::server
