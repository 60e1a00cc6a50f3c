// A schema as a document: where references lead, which texts its patterns allow, and whether a value satisfies it.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "numbers.h"
#include "pattern.h"

namespace gsd::schema {

// Ordered: a schema's properties are generated in the order in which they stand.
using Json = nlohmann::ordered_json;

// A schema within the document, and its place as a pointer.
struct Part {
  const Json* schema;
  std::string at;
};

// Types as bits; a number is whole or a fraction.
enum Types : unsigned {
  kNull = 1,
  kBoolean = 2,
  kInteger = 4,
  kFraction = 8,
  kString = 16,
  kArray = 32,
  kObject = 64,
  kAnyType = 127,
};

class Document {
 public:
  // `root` must outlive the document.
  Document(const Json& root, Work& work, Languages& languages) : root_(root), work_(work), languages_(languages) {}

  // Throws Error(kGrammar) by name and place for what is no schema, and for a keyword that no grammar can keep.
  void check(const Part& p) const;
  // Those of the keyword `type`. Throws Error(kGrammar) for a name that is none.
  static unsigned types(const Json& type, const std::string& at);
  static unsigned types_of(const Json& value);

  // Where a $ref leads.
  Part target(const Json& ref, const std::string& at) const;
  // The schema behind references that stand alone.
  Part followed(Part p) const;

  Languages::Id pattern(const Json& text, const std::string& at);
  // What pattern, format, minLength and maxLength of one schema say; the two lengths are left out if asked to.
  Languages::Id strings(const Part& p, bool with_lengths);
  // Adds what one schema says of numbers. `divisor`: the least common multiple of those of multipleOf so far.
  void bounds(const Part& p, NumberRange& range, std::uint32_t& divisor) const;

  // Whether `value` satisfies the schema. `own`: the enum that it is taken from, or null.
  bool holds(const Part& p, const Json& value, int depth = 0, const Json* own = nullptr);

 private:
  bool number_holds(const Part& p, const Json& value) const;
  bool array_holds(const Part& p, const Json& value, int depth);
  bool object_holds(const Part& p, const Json& value, int depth);

  const Json& root_;
  Work& work_;
  Languages& languages_;
  std::map<std::string, Languages::Id> patterns_;
};

bool equal(const Json& a, const Json& b);
// Adds `key` to a place.
std::string below(const std::string& at, const std::string& key);
// The value of a keyword that counts; `absent` where it is not there. Throws Error(kGrammar) for what is no count.
std::int64_t count(const Part& p, const char* key, std::int64_t absent);
// The value of a keyword that must be a list or an object, or null.
const Json* list(const Part& p, const char* key);
const Json* object(const Part& p, const char* key);
bool only_describes(const std::string& keyword);

}  // namespace gsd::schema
