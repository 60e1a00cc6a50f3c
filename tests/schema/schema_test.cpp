// JSON schemas as grammars: which texts they let through, what is refused, what a hostile schema may cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "../../src/server/api_error.h"
#include "../../src/server/json_schema.h"
#include "../random.h"
#include "walk.h"

namespace gsd::server {
namespace {

using ::testing::HasSubstr;

Grammar compiled(const Json& schema) {
  static const auto vocabulary = test::bytes();
  return Grammar(schema_grammar(schema), vocabulary);
}

std::string schema_error(const std::string& text) {
  try {
    schema_grammar(Json::parse(text));
  } catch (const ApiError& e) {
    return e.what();
  }
  return "accepted";
}

struct Case {
  const char* schema;
  std::vector<const char*> valid;
  std::vector<const char*> invalid;
};

const Case kCases[] = {
    {R"({"type": "integer", "minimum": 3, "maximum": 12})",
     {"3", "9", "10", "12"},
     {"2", "13", "-3", "03", "3.0", "100"}},
    {R"({"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 0})", {"-2", "-1"}, {"-3", "0", "-0", "1"}},
    {R"({"type": "integer", "minimum": -120})", {"-120", "-99", "0", "5000000000"}, {"-121", "-1000"}},
    {R"({"type": "integer", "minimum": 1e3})", {"1000", "1001", "20000"}, {"999", "100"}},
    {R"({"type": "number", "minimum": 0.5, "maximum": 2.25})",
     {"0.5", "0.51", "1", "2", "2.2", "2.25", "2.250"},
     {"0.49", "0", "2.26", "2.251", "3", "-1"}},
    {R"({"type": "number", "exclusiveMinimum": 0})", {"0.1", "1", "12.5"}, {"0", "0.0", "-1"}},
    {R"({"type": "number", "maximum": -1.5})", {"-1.5", "-2", "-1.51"}, {"-1.4", "-1", "0", "1"}},
    {R"({"type": "number", "multipleOf": 0.01})", {"1", "1.2", "1.23", "-0.05"}, {"1.234"}},
    {R"({"type": "integer", "multipleOf": 100})", {"0", "100", "-1500"}, {"10", "150"}},
    {R"({"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 30})",
     {"14", "21", "28"},
     {"7", "10", "35", "15"}},
    {R"({"allOf": [{"multipleOf": 4}, {"multipleOf": 6}], "type": "integer"})", {"0", "12", "-24"}, {"4", "6", "18"}},
    {R"({"type": "string", "pattern": "^a+b?$"})", {R"("a")", R"("aaab")"}, {R"("b")", R"("abb")", R"("")"}},
    {R"({"type": "string", "pattern": "x[0-9]"})", {R"("x1")", R"("aax9 \"q\"")"}, {R"("x")", R"("xx")"}},
    {R"({"type": "string", "pattern": "^(a|bc)*$|^z$"})", {R"("")", R"("abca")", R"("z")"}, {R"("b")", R"("zz")"}},
    {R"({"type": "string", "pattern": "^(?=.*\\d)(?!.*\\s)[a-z0-9 ]{3,5}$"})",
     {R"("ab1")", R"("12345")"},
     {R"("abc")", R"("a 1")", R"("a1")"}},
    {R"({"type": "string", "pattern": "^\\p{L}$|^a$"})", {}, {}},
    {R"({"type": "string", "pattern": "^[\\u00e0-\\u00ff]\\.\"\\\\\\n$"})", {R"("é.\"\\\n")"}, {R"("e.\"\\\n")"}},
    {R"({"type": "string", "pattern": "^a{2,4}$", "maxLength": 3})", {R"("aa")", R"("aaa")"}, {R"("aaaa")"}},
    {R"({"type": "string", "minLength": 2, "maxLength": 3})",
     {R"("ab")", R"("éé")", R"("\ud83d\ude00x")"},
     {R"("a")", R"("\ud83d")", R"("abcd")"}},
    {R"({"type": "string", "format": "date"})",
     {R"("2024-02-29")", R"("2000-02-29")", R"("2023-12-31")"},
     {R"("2023-02-29")", R"("1900-02-29")", R"("2023-04-31")"}},
    {R"({"type": "string", "format": "date-time"})",
     {R"("2024-02-29T01:02:03Z")", R"("2024-02-29T23:59:59.123+05:30")"},
     {R"("2024-02-29")", R"("2024-02-29T24:00:00Z")"}},
    {R"({"type": "string", "format": "time"})", {R"("01:02:03Z")"}, {R"("1:2:3Z")"}},
    {R"({"type": "string", "format": "uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123e4567")"}},
    {R"({"type": "string", "format": "email"})",
     {R"("a.b@example.org")"},
     {R"("a@b")", R"("@example.org")", R"("a b@example.org")"}},
    {R"({"type": "string", "format": "uri", "maxLength": 2083})",
     {R"("https://a.org/x?y#z")", R"("mailto:a@b.org")"},
     {R"("a b")", R"("//a")"}},
    {R"({"type": "string", "format": "ipv4"})",
     {R"("0.0.0.0")", R"("255.249.199.99")"},
     {R"("256.0.0.0")", R"("1.2.3")"}},
    {R"({"type": "string", "format": "ipv6"})",
     {R"("::")", R"("::1")", R"("1:2:3:4:5:6:7:8")", R"("fe80::a:b")"},
     {R"("1::2::3")", R"("12345::")", R"("1:2:3")"}},
    {R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"a": {"minimum": 5}, "b": {"type": "null"}}}]})",
     {R"({"a": 5})", R"({"a":6,"b":null})"},
     {R"({"a": 4})", R"({"b": null})"}},
    {R"({"allOf": [{"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"anyOf": [{"minimum": 3, "type": "integer"}, {"type": "null"}]}]})",
     {"3"},
     {"2", "null", R"("a")"}},
    {R"({"enum": [1, 2, 3, "x"], "not": {"enum": [2, "x"]}})", {"1", "3"}, {"2", R"("x")"}},
    {R"({"enum": ["a", "bb", "ccc"], "maxLength": 2, "pattern": "b"})", {R"("bb")"}, {R"("a")", R"("ccc")"}},
    {R"({"type": "string", "not": {"enum": ["no", "never"]}})",
     {R"("nothing")", R"("n")", R"("")", R"("yes")"},
     {R"("no")", R"("never")", "1"}},
    {R"({"type": ["string", "integer"], "not": {"const": 7}})", {"8", "77", R"("7")"}, {"7"}},
    {R"({"not": {"type": ["string", "object", "array"]}})", {"1", "null", "true"}, {R"("a")", "{}", "[]"}},
    {R"({"type": "string", "not": {"pattern": "^x"}})", {R"("")", R"("ax")"}, {R"("x")", R"("xa")"}},
    {R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}})",
     {R"([1,"a"])", R"([1, "a", null, null])"},
     {"[]", "[1]", R"(["a",1])", R"([1,"a",2])"}},
    {R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1})",
     {"[1]", R"([1,"a"])"},
     {"[]", R"([1,"a",2])"}},
    {R"({"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "null"}})",
     {"[1]", "[1,null]"},
     {"[null]"}},
    {R"({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
     {"[1,2]", "[1, 2, 3]"},
     {"[1]", "[1,2,3,4]"}},
    {R"({"type": "array", "uniqueItems": true, "maxItems": 1})", {"[]", "[1]"}, {"[1,1]"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}})",
     {"{}", R"({"a":1})", R"({"a":1,"b":"x"})", R"({"ab":"x"})"},
     {R"({"a":"x"})", R"({"b":1})", R"({"b":"x","a":"y"})", R"({"\u0061":"x"})"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}}, "patternProperties": {"^x": {"type": "null"}, "y$": {"type": ["null", "string"]}}})",
     {R"({"a":1,"x":null})", R"({"y":"s"})", R"({"xy":null})"},
     {R"({"x":1})", R"({"xy":"s"})", R"({"z":null})"}},
    {R"({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "integer"}})",
     {"{}", R"({"a":1,"b":2})"},
     {R"({"A":1})", R"({"a":"x"})"}},
    {R"({"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "integer"}})",
     {R"({"a":1})", R"({"a":1,"b":2})"},
     {"{}", R"({"a":1,"b":2,"c":3})"}},
    {R"({"type": "object", "properties": {"a": true, "b": true, "c": true}, "minProperties": 2})",
     {R"({"a":1,"c":2})", R"({"a":1,"b":2,"c":3})"},
     {R"({"b":1})", "{}"}},
    {R"({"type": "object", "properties": {"a": true, "b": true, "c": true}, "maxProperties": 1, "required": ["b"]})",
     {R"({"b":1})"},
     {R"({"a":1,"b":1})", "{}"}},
    {R"({"type": "object", "properties": {"a": true, "b": true, "c": true}, "dependentRequired": {"a": ["c"], "c": ["b"]}})",
     {"{}", R"({"b":1})", R"({"b":1,"c":1})", R"({"a":1,"b":1,"c":1})"},
     {R"({"a":1})", R"({"c":1})", R"({"a":1,"b":1})", R"({"a":1,"c":1})"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["z"]})",
     {R"({"z":"any"})", R"({"a":1,"z":[]})"},
     {R"({"a":1})"}},
    {R"({"$ref": "#/properties/a", "properties": {"a": {"type": "integer"}}})", {}, {R"("a")"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#"}}, "required": ["b"]})",
     {R"({"b":1})", R"({"b":1,"c":{"b":2}})"},
     {R"({"b":"x"})", R"({"b":1,"c":{}})"}},
    {R"({"$defs": {"a/b c": {"type": "null"}}, "$ref": "#/$defs/a~1b%20c"})", {"null"}, {"1"}},
    {R"({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}, "minimum": 5})", {"5"}, {"4"}},
    {R"({"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}, {"type": "object", "properties": {"k": {"enum": ["b", "c"]}, "n": {"type": "integer"}}, "required": ["k"]}]})",
     {R"({"k":"a"})", R"({"k":"c","n":1})"},
     {R"({"k":"a","n":1})"}},
    {R"({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}, {"type": "string"}]})",
     {"3", "3.5", R"("a")"},
     {"null"}},
    {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": false}})",
     {"{}", R"({"a":1})"},
     {R"({"b":1})", R"({"a":1,"b":1})"}},
    {R"({"minLength": 1})", {R"("a")"}, {R"("")", "1"}},
    {R"({"type": "integer", "format": "int32"})", {"2147483647", "-2147483648"}, {"2147483648"}},
    {"true", {"1", "[]", R"({"a":[null]})"}, {"nul", "01"}},
    {R"({"type": ["object", "null"], "properties": {"a": {"type": "boolean"}}, "additionalProperties": false, "required": ["a"]})",
     {"null", R"({ "a": true })"},
     {"{}", "[]"}},
};

TEST(Schema, LetsThroughWhatItAllows) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.schema);
    if (c.valid.empty()) continue;
    const Grammar grammar = compiled(Json::parse(c.schema));
    for (const char* text : c.valid) EXPECT_TRUE(test::accepts(grammar, text)) << text;
    for (const char* text : c.invalid) EXPECT_FALSE(test::accepts(grammar, text)) << text;
  }
}

// No way through a grammar may lead to where nothing can come.
TEST(Schema, EveryBeginningHasAnEnd) {
  for (std::size_t i = 0; i < std::size(kCases); ++i) {
    SCOPED_TRACE(kCases[i].schema);
    if (kCases[i].valid.empty()) continue;
    GSD_SEEDED(rng, i);
    const Grammar grammar = compiled(Json::parse(kCases[i].schema));
    for (int round = 0; round < 2; ++round) {
      std::string dead;
      const auto text = test::walk(grammar, rng, dead);
      EXPECT_EQ(dead, "");
      EXPECT_TRUE(!text || Json::accept(*text)) << *text;
    }
  }
}

// Made by make_zod.mjs and make_pydantic.py.
TEST(Schema, TakesWhatClientsEmit) {
  for (const char* name : {"zod.jsonl", "pydantic.jsonl"}) {
    std::ifstream file(std::string(GSD_SCHEMA_DIR "/") + name);
    int n = 0;
    for (std::string line; std::getline(file, line); ++n) {
      const Json data = Json::parse(line);
      SCOPED_TRACE(name + (": " + data["name"].get<std::string>()));
      const Grammar grammar = compiled(data["schema"]);
      for (const Json& value : data["valid"]) EXPECT_TRUE(test::accepts(grammar, value.dump())) << value;
      for (const Json& value : data["invalid"]) EXPECT_FALSE(test::accepts(grammar, value.dump())) << value;
      GSD_SEEDED(rng, n);
      std::string dead;
      test::walk(grammar, rng, dead);
      EXPECT_EQ(dead, "");
    }
    EXPECT_GT(n, 5) << name;
  }
}

TEST(Schema, RefusesByNameAndPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "array", "uniqueItems": true})", "'uniqueItems' at #"},
      {R"({"properties": {"a": {"type": "array", "contains": {}}}})", "'contains' at #/properties/a"},
      {R"({"if": {}})", "'if' at #"},
      {R"({"type": "date"})", "\"date\""},
      {R"({"anyOf": []})", "alternatives"},
      {R"({"enum": []})", "enum"},
      {R"({"$ref": "http://x"})", "reference"},
      {R"({"$ref": "#/$defs/none"})", "leads nowhere"},
      {R"({"$ref": "#/$defs/~3"})", "cannot be read"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})", "itself"},
      {R"({"allOf": [{"$ref": "#"}, {"type": "null"}]})", "itself"},
      {R"({"type": "array", "items": {}, "minItems": 5, "maxItems": 2})", "no value that ends satisfies it"},
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
       "no value that ends satisfies it"},
      {R"({"allOf": [{"type": "string"}, {"type": "null"}]})", "no value that ends satisfies it"},
      {"false", "no value that ends satisfies it"},
      {R"({"type": "integer", "minimum": 0.2, "maximum": 0.8})", "no value that ends satisfies it"},
      {R"({"type": "string", "maxLength": 5000000})", "'maxLength'"},
      {R"({"type": "string", "minLength": -1})", "'minLength'"},
      {R"({"type": "string", "pattern": "(a"})", "a ) is missing"},
      {R"({"type": "string", "pattern": "a\\b"})", "word boundary"},
      {R"({"type": "string", "pattern": "(a)\\1"})", "back reference"},
      {R"({"type": "string", "pattern": "(?<=a)b"})", "looking behind"},
      {R"({"type": "string", "pattern": "\\p{L}"})", "Unicode property"},
      {R"({"type": "string", "pattern": "(?:(?!ab)[a-z])*"})", "within a repetition"},
      {R"({"type": "string", "pattern": "^[a-z]{2000}b{2000}$"})", "3000 states"},
      {R"({"type": "string", "format": "colour"})", "the format 'colour' at #"},
      {R"({"type": "number", "multipleOf": 0.3})", "'multipleOf'"},
      {R"({"type": "number", "minimum": "a"})", "'minimum'"},
      {R"({"type": "number", "maximum": 1e300})", "'maximum' with more than 40 digits"},
      {R"({"type": "object", "minProperties": 2})", "'minProperties'"},
      {R"({"not": {"required": ["a"]}})", "'not'"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "'oneOf', whose alternatives 0 and 1"},
      {R"({"type": "object", "dependencies": {"a": {"type": "object"}}})", "dependency"},
      {R"(5)", "no object"},
  };
  for (const auto& [schema, words] : cases) EXPECT_THAT(schema_error(schema), HasSubstr(words)) << schema;
}

TEST(Schema, HostileOnesAreRefused) {
  std::string deep = "true";
  for (int i = 0; i < 90; ++i) deep = R"({"allOf": [)" + deep + "]}";
  EXPECT_THAT(schema_error(deep), HasSubstr("64 deep"));
  Json many;
  for (int i = 0; i < 12; ++i) many["allOf"].push_back({{"anyOf", {{{"minimum", i}}, {{"maximum", 100 + i}}}}});
  EXPECT_THAT(schema_error(many.dump()), HasSubstr("1000 combinations"));
  for (const char* pattern : {"^(?:a|b)*a(?:a|b){14}$", "^(?:a?){2000}a{2000}$", "(?:(?:(?:a{100}){100}){100}){100}",
                              "^(?=.*a.{12}$)(?=.*b.{11}$)(?=.*c.{10}$)"}) {
    EXPECT_NE(schema_error(Json{{"type", "string"}, {"pattern", pattern}}.dump()), "accepted") << pattern;
  }
  EXPECT_THAT(
      schema_error(R"({"type": "integer", "allOf": [{"multipleOf": 997}, {"multipleOf": 991}, {"multipleOf": 983}]})"),
      HasSubstr("least common multiple"));
  Json wide{{"type", "object"}, {"minProperties", 400}};
  for (int i = 0; i < 800; ++i) wide["properties"]["p" + std::to_string(i)] = true;
  EXPECT_THAT(schema_error(wide.dump()), HasSubstr("60000 rules"));
  Json open{{"type", "object"}, {"additionalProperties", true}};
  for (int i = 0; i < 5000; ++i) open["properties"]["a rather long name " + std::to_string(7919 * i)] = true;
  EXPECT_NE(schema_error(open.dump()), "accepted");
}

}  // namespace
}  // namespace gsd::server
