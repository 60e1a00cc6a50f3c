#include "schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <compare>
#include <deque>
#include <map>
#include <set>

#include "document.h"
#include "members.h"
#include "rules.h"

namespace gsd::schema {

const char* json_rules() {
  // Between tokens at most one blank, or a line break with some indentation: unbounded white space would let a model
  // write it for ever.
  return R"(ws ::= | " " | "\n" [ \t]{0,20}
value ::= object | array | string | number | boolean | null
object ::= "{" ws ( string ":" ws value ( "," ws string ":" ws value )* )? "}" ws
array ::= "[" ws ( value ( "," ws value )* )? "]" ws
char ::= [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2} | [dD] [89abAB] [0-9a-fA-F]{2} "\\u" [dD] [c-fC-F] [0-9a-fA-F]{2} ) )
string ::= "\"" char* "\"" ws
integer ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ws
number ::= "-"? ( "0" | [1-9] [0-9]{0,15} ) ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,2} )? ws
boolean ::= ( "true" | "false" ) ws
null ::= "null" ws
)";
}

namespace {

using Goal = std::vector<Part>;  // all must hold; in the document's order

// Long lengths beside a pattern are cut down until the automaton has no more states than this.
constexpr std::size_t kMostStates = 3000;

std::set<const Json*> key_of(const Goal& goal) {
  std::set<const Json*> key;
  for (const Part& p : goal) key.insert(p.schema);
  return key;
}

class Converter {
 public:
  explicit Converter(const Json& root)
      : root_(root), languages_(work_), document_(root, work_, languages_), rules_(work_) {}

  std::string run(const std::string& name) {
    const std::uint32_t start = rule_of({{&root_, "#"}});
    while (!queue_.empty()) {
      const auto [rule, goal] = std::move(queue_.front());
      queue_.pop_front();
      rules_.set(rule, body(goal));
    }
    std::string out = rules_.write(start, name);
    if (out.empty())
      throw Error(ErrorCode::kGrammar, "The JSON schema is not supported: no value that ends satisfies it.");
    return out;
  }

 private:
  // A rule for all values that satisfy all parts of `goal`; made now or before.
  std::uint32_t rule_of(Goal goal) {
    std::set<const Json*> seen;
    Goal unique;
    for (Part& p : goal) {
      p = document_.followed(std::move(p));
      if (seen.insert(p.schema).second) unique.push_back(std::move(p));
    }
    work_.spend(1 + goal.size());
    const auto [it, is_new] = known_.try_emplace(std::move(seen), 0);
    if (is_new) {
      it->second = rules_.add();
      queue_.emplace_back(it->second, std::move(unique));
    }
    return it->second;
  }

  Piece body(const Goal& goal) {
    if (goal.size() == 1 && goal[0].schema->is_object()) {
      document_.check(goal[0]);
      for (const char* key : {"anyOf", "oneOf"}) {
        if (is_alone(*goal[0].schema, key)) return alternatives(goal[0], key);
      }
    }
    std::vector<Piece> out;
    for (const Goal& g : expanded(goal)) out.push_back(conjunction(g));
    return choice(std::move(out));
  }

  static bool is_alone(const Json& schema, const std::string& keyword) {
    bool found = false;
    for (const auto& [key, value] : schema.items()) {
      if (key != keyword && !only_describes(key)) return false;
      found |= key == keyword;
    }
    return found;
  }

  Piece alternatives(const Part& p, const std::string& key) {
    std::vector<Piece> out;
    for (const Part& branch : branches(p, key)) out.push_back(call(rule_of({branch})));
    return choice(std::move(out));
  }

  // --- what a schema says, as alternatives of conjunctions
  // ------------------------------------------------------------------------------------------------

  std::vector<Part> branches(const Part& p, const std::string& key) {
    std::vector<Part> out;
    const Json* all = list(p, key.c_str());
    if (all == nullptr) return out;
    if (all->empty()) refuse("alternatives that are an empty list", below(p.at, key));
    for (std::size_t i = 0; i < all->size(); ++i) out.push_back({&(*all)[i], fmt::format("{}/{}/{}", p.at, key, i)});
    if (key != "oneOf" || !checked_.insert(all).second) return out;
    for (std::size_t i = 0; i < out.size(); ++i) {
      for (std::size_t j = 0; j < out.size(); ++j) {
        if (i != j && !excludes({out[i]}, {out[j]}, 0))
          refuse(fmt::format("'oneOf', whose alternatives {} and {} may hold together (anyOf takes them),",
                             std::min(i, j), std::max(i, j)),
                 p.at);
      }
    }
    return out;
  }

  std::vector<Goal> expanded(const Goal& goal) {
    std::vector<Goal> out{{}};
    std::vector<const Json*> above;
    for (const Part& p : goal) out = product(out, expanded(p, above), p.at);
    return out;
  }

  std::vector<Goal> product(const std::vector<Goal>& a, const std::vector<Goal>& b, const std::string& at) {
    constexpr std::size_t kMost = 1000;
    if (a.size() * b.size() > kMost) refuse("more than 1000 combinations of alternatives", at);
    std::vector<Goal> out;
    std::set<std::set<const Json*>> known;
    for (const Goal& x : a) {
      for (const Goal& y : b) {
        work_.spend(x.size() + y.size() + 1);
        Goal both = x;
        both.insert(both.end(), y.begin(), y.end());
        if (known.insert(key_of(both)).second) out.push_back(std::move(both));
      }
    }
    return out;
  }

  // `above`: the schemas that lead here without a value between, so that a circle is seen.
  std::vector<Goal> expanded(const Part& p, std::vector<const Json*>& above) {
    constexpr std::size_t kMostNested = 64;
    document_.check(p);
    if (p.schema->is_boolean()) return p.schema->get<bool>() ? std::vector<Goal>{{}} : std::vector<Goal>{};
    if (std::find(above.begin(), above.end(), p.schema) != above.end()) refuse("a reference to itself", p.at);
    if (above.size() > kMostNested) refuse("it is nested more than 64 deep", p.at);
    above.push_back(p.schema);
    std::vector<Goal> out{{p}};
    if (p.schema->contains("$ref"))
      out = product(out, expanded(document_.target((*p.schema)["$ref"], p.at), above), p.at);
    for (const Part& branch : branches(p, "allOf")) out = product(out, expanded(branch, above), p.at);
    for (const char* key : {"anyOf", "oneOf"}) {
      if (!p.schema->contains(key)) continue;
      std::vector<Goal> any;
      for (const Part& branch : branches(p, key)) {
        for (Goal& g : expanded(branch, above)) any.push_back(std::move(g));
      }
      out = product(out, any, p.at);
    }
    above.pop_back();
    return out;
  }

  // --- conjunctions of schemas without alternatives
  // ----------------------------------------------------------------------------------------------

  // Types that are allowed; where none is named, those that the other keywords speak of, if `implied`.
  static unsigned types(const Goal& goal, bool implied) {
    static const std::pair<const char*, unsigned> words[] = {{"properties", kObject},
                                                             {"required", kObject},
                                                             {"additionalProperties", kObject},
                                                             {"patternProperties", kObject},
                                                             {"propertyNames", kObject},
                                                             {"minProperties", kObject},
                                                             {"maxProperties", kObject},
                                                             {"dependentRequired", kObject},
                                                             {"dependencies", kObject},
                                                             {"items", kArray},
                                                             {"prefixItems", kArray},
                                                             {"minItems", kArray},
                                                             {"maxItems", kArray},
                                                             {"minLength", kString},
                                                             {"maxLength", kString},
                                                             {"pattern", kString},
                                                             {"format", kString},
                                                             {"minimum", kInteger | kFraction},
                                                             {"maximum", kInteger | kFraction},
                                                             {"exclusiveMinimum", kInteger | kFraction},
                                                             {"exclusiveMaximum", kInteger | kFraction},
                                                             {"multipleOf", kInteger | kFraction}};
    unsigned named = kAnyType;
    unsigned spoken_of = 0;
    bool is_named = false;
    for (const Part& p : goal) {
      if (const auto it = p.schema->find("type"); it != p.schema->end()) {
        named &= Document::types(*it, p.at);
        is_named = true;
      }
      for (const auto& [word, type] : words) {
        if (p.schema->contains(word)) spoken_of |= type;
      }
    }
    return implied && !is_named && spoken_of != 0 ? spoken_of : named;
  }

  // What `not` takes away.
  struct Excluded {
    unsigned types = 0;
    std::vector<const Json*> values;
    std::vector<Languages::Id> strings;
  };

  void exclude(Part p, Excluded& out) {
    p = document_.followed(std::move(p));
    document_.check(p);
    if (p.schema->is_boolean() ? p.schema->get<bool>() : only_describes_all(*p.schema)) {
      out.types = kAnyType;
      return;
    }
    if (p.schema->is_boolean()) return;
    const Json& s = *p.schema;
    unsigned named = s.contains("type") ? Document::types(s["type"], p.at) : unsigned{kAnyType};
    std::set<std::string> words;
    for (const auto& [key, value] : s.items()) {
      if (key != "type" && !only_describes(key)) words.insert(key);
    }
    if (words.empty()) {
      out.types |= named;
    } else if (words == std::set<std::string>{"anyOf"}) {
      if (named != kAnyType) refuse("the keyword 'not' with anyOf beside a type", p.at);
      for (const Part& branch : branches(p, "anyOf")) exclude(branch, out);
    } else if (words == std::set<std::string>{"const"} || words == std::set<std::string>{"enum"}) {
      const Json* values = list(p, "enum");
      const auto add = [&](const Json& v) {
        if ((Document::types_of(v) & named) != 0) out.values.push_back(&v);
      };
      if (values == nullptr) return add(s["const"]);
      for (const Json& v : *values) add(v);
    } else if (std::all_of(words.begin(), words.end(),
                           [](const std::string& w) {
                             return w == "pattern" || w == "format" || w == "minLength" || w == "maxLength";
                           }) &&
               (named == kString || named == kAnyType)) {
      if (named == kAnyType) out.types |= kAnyType & ~kString;  // they hold for everything that is no text
      out.strings.push_back(document_.strings(p, true));
    } else {
      refuse("the keyword 'not', unless of types, values or patterns,", p.at);
    }
  }
  static bool only_describes_all(const Json& schema) {
    return std::all_of(schema.items().begin(), schema.items().end(),
                       [](const auto& item) { return only_describes(item.key()); });
  }

  Piece conjunction(const Goal& goal) {
    for (const Part& p : goal) {
      if (p.schema->contains("enum") || p.schema->contains("const")) return enumerated(goal);
    }
    Excluded excluded;
    for (const Part& p : goal) {
      if (p.schema->contains("not")) exclude({&(*p.schema)["not"], below(p.at, "not")}, excluded);
    }
    unsigned all = types(goal, true);
    const bool is_free = all == kAnyType && excluded.types == 0 && excluded.values.empty();
    if (is_free) return text("value");
    if ((excluded.types & all) == kInteger && (all & kFraction) != 0) refuse("'not' of whole numbers", goal[0].at);
    all &= ~excluded.types;
    for (const Json* v : excluded.values) {
      if (v->is_null()) all &= ~kNull;
      if ((Document::types_of(*v) & all & (kArray | kObject)) != 0) refuse("'not' of a list or an object", goal[0].at);
    }
    std::vector<Piece> out;
    if ((all & kObject) != 0) out.push_back(object_piece(goal));
    if ((all & kArray) != 0) out.push_back(array_piece(goal));
    if ((all & kString) != 0) out.push_back(string_piece(goal, excluded));
    if ((all & (kInteger | kFraction)) != 0) out.push_back(number_piece(goal, all, excluded));
    if ((all & kBoolean) != 0) out.push_back(boolean_piece(excluded));
    if ((all & kNull) != 0) out.push_back(text("null"));
    return choice(std::move(out));
  }

  bool all_hold(const Goal& goal, const Json& value, const Json* own = nullptr) {
    return std::all_of(goal.begin(), goal.end(), [&](const Part& p) { return document_.holds(p, value, 0, own); });
  }

  // The values of one enum that satisfy everything.
  std::vector<const Json*> values(const Goal& goal) {
    std::vector<const Json*> out;
    const auto take = [&](const Json& v, const Json* own) {
      if (all_hold(goal, v, own)) out.push_back(&v);
    };
    for (const Part& p : goal) {
      if (p.schema->contains("const")) {
        take((*p.schema)["const"], nullptr);
        return out;
      }
      const Json* all = list(p, "enum");
      if (all == nullptr) continue;
      if (all->empty()) refuse("an enum that is empty", p.at);
      for (const Json& v : *all) take(v, all);
      return out;
    }
    return out;
  }

  Piece enumerated(const Goal& goal) {
    std::vector<Piece> out;
    for (const Json* v : values(goal)) out.push_back(text(literal(v->dump())));
    return out.empty() ? choice({}) : sequence({choice(std::move(out)), text("ws")});
  }

  static Piece boolean_piece(const Excluded& excluded) {
    bool allowed[] = {true, true};
    for (const Json* v : excluded.values) {
      if (v->is_boolean()) allowed[v->get<bool>() ? 1 : 0] = false;
    }
    if (allowed[0] && allowed[1]) return text("boolean");
    if (!allowed[0] && !allowed[1]) return choice({});
    return text(allowed[1] ? R"("true" ws)" : R"("false" ws)");
  }

  Piece number_piece(const Goal& goal, unsigned all, const Excluded& excluded) {
    NumberRange range;
    std::uint32_t divisor = 1;
    range.integer = (all & kFraction) == 0;
    for (const Part& p : goal) document_.bounds(p, range, divisor);
    for (const Json* v : excluded.values) {
      if (!v->is_number()) continue;
      if (const auto d = Decimal::parse(v->dump())) range.excluded.push_back(*d);
    }
    range.exact = divisor > 1;
    if (range.bounds.empty() && range.powers_of_ten.empty() && range.excluded.empty() && divisor == 1)
      return text(range.integer ? "integer" : "number");
    const Languages::Id language = number_language(languages_, range);
    std::uint32_t& rule = number_rules_.try_emplace({language, divisor}, kNone).first->second;
    if (rule == kNone) {
      auto dfa = languages_.automaton(language, kMostStates);
      if (dfa && divisor > 1) dfa = multiples(*dfa, divisor, work_);
      if (!dfa || dfa->states.size() > 8 * kMostStates)
        refuse("bounds and multiples that need too many rules", goal[0].at);
      rule = rules_.add(*dfa, false);
    }
    return sequence({call(rule), text("ws")});
  }

  // --- texts
  // -------------------------------------------------------------------------------------------------------------

  struct Lengths {
    std::int64_t least = 0;
    std::int64_t most = -1;
  };
  static Lengths lengths(const Goal& goal, const char* least, const char* most) {
    Lengths out;
    for (const Part& p : goal) {
      out.least = std::max(out.least, count(p, least, 0));
      const std::int64_t high = count(p, most, -1);
      if (high >= 0) out.most = out.most < 0 ? high : std::min(out.most, high);
    }
    return out;
  }
  Languages::Id with_lengths(Languages::Id language, const Lengths& l) {
    return languages_.both(
        {language, languages_.repeated(languages_.any(), static_cast<std::uint32_t>(l.least),
                                       l.most < 0 ? Languages::kNoLimit : static_cast<std::uint32_t>(l.most))});
  }

  Piece string_piece(const Goal& goal, const Excluded& excluded) {
    const Lengths length = lengths(goal, "minLength", "maxLength");
    if (length.most >= 0 && length.most < length.least) return choice({});
    std::vector<Languages::Id> all;
    for (const Part& p : goal) all.push_back(document_.strings(p, false));
    for (const Languages::Id s : excluded.strings) all.push_back(languages_.negated(s));
    for (const Json* v : excluded.values) {
      if (v->is_string()) all.push_back(languages_.negated(languages_.text(v->get<std::string>())));
    }
    const Languages::Id language = languages_.both(std::move(all));
    if (language != languages_.all()) return quoted(automaton(language, length, goal[0].at));
    if (length.least == 0 && length.most < 0) return text("string");
    return sequence({text(R"("\"")"), repeat(text("char"), length.least, length.most), text(R"("\"" ws)")});
  }

  Piece quoted(std::uint32_t rule) { return sequence({text(R"("\"")"), call(rule), text(R"("\"" ws)")}); }

  // Fewer texts where all would take too many states: the longest are left out.
  std::uint32_t automaton(Languages::Id language, Lengths length, const std::string& at) {
    const auto key = std::tuple(language, length.least, length.most);
    if (const auto it = string_rules_.find(key); it != string_rules_.end()) return it->second;
    std::optional<Dfa> dfa = languages_.automaton(with_lengths(language, length), kMostStates);
    while (!dfa && length.most / 2 >= std::max<std::int64_t>(1, length.least)) {
      length.most /= 2;
      dfa = languages_.automaton(with_lengths(language, length), kMostStates);
      if (dfa && dfa->empty()) dfa.reset();
    }
    if (!dfa) refuse("a pattern with more than 3000 states", at);
    return string_rules_[key] = rules_.add(*dfa, true);
  }

  // --- lists
  // -------------------------------------------------------------------------------------------------------------

  static const Json* prefix(const Part& p) {
    const auto items = p.schema->find("items");
    return items != p.schema->end() && items->is_array() ? &*items : list(p, "prefixItems");
  }

  // What the item at `i` must satisfy.
  static Goal item_goal(const Goal& goal, std::size_t i) {
    Goal out;
    for (const Part& p : goal) {
      const Json* first = prefix(p);
      const bool is_old = p.schema->contains("items") && (*p.schema)["items"].is_array();
      const char* rest = is_old ? "additionalItems" : "items";
      if (first != nullptr && i < first->size()) {
        out.push_back({&(*first)[i], fmt::format("{}/{}/{}", p.at, is_old ? "items" : "prefixItems", i)});
      } else if (p.schema->contains(rest)) {
        out.push_back({&(*p.schema)[rest], below(p.at, rest)});
      }
    }
    return out;
  }

  Piece array_piece(const Goal& goal) {
    Lengths length = lengths(goal, "minItems", "maxItems");
    std::size_t n_first = 0;
    bool is_open = true;  // after the first ones
    for (const Part& p : goal) {
      const Json* first = prefix(p);
      if (first == nullptr) continue;
      n_first = std::max(n_first, first->size());
      is_open = p.schema->contains((*p.schema).contains("prefixItems") ? "items" : "additionalItems");
    }
    const auto n = static_cast<std::int64_t>(n_first);
    if (!is_open && length.least <= n && (length.most < 0 || length.most > n)) length.most = n;
    const bool says_least =
        std::any_of(goal.begin(), goal.end(), [](const Part& p) { return p.schema->contains("minItems"); });
    if (!says_least) length.least = length.most < 0 ? n : std::min(n, length.most);
    if (length.most >= 0 && length.most < length.least) return choice({});
    return sequence({text(R"("[" ws)"), items(goal, n_first, length), text(R"("]" ws)")});
  }

  Piece items(const Goal& goal, std::size_t n_first, const Lengths& length) {
    if (length.most == 0) return {};
    const auto n = static_cast<std::int64_t>(n_first);
    const Goal rest = item_goal(goal, n_first);
    const Piece item = rest.empty() ? text("value") : call(rule_of(rest));
    const std::int64_t after = std::max<std::int64_t>(n, 1);
    const std::int64_t most = length.most < 0 ? -1 : std::max<std::int64_t>(0, length.most - after);
    Piece out = repeat(sequence({text(R"("," ws)"), item}), std::max<std::int64_t>(0, length.least - after), most);
    if (n == 0) {
      out = sequence({item, std::move(out)});
      return length.least > 0 ? out : repeat(std::move(out), 0, 1);
    }
    for (std::int64_t i = n; i-- > 0;) {
      if (length.most >= 0 && i >= length.most) {
        out = {};
        continue;
      }
      const Goal one = item_goal(goal, static_cast<std::size_t>(i));
      const Piece value = one.empty() ? text("value") : call(rule_of(one));
      out = sequence({text(i > 0 ? R"("," ws)" : R"("")"), value, std::move(out)});
      if (i >= length.least) out = repeat(std::move(out), 0, 1);
    }
    return out;
  }

  // --- objects
  // -------------------------------------------------------------------------------------------------------------

  // What the value of a property must satisfy.
  Goal property_goal(const Goal& goal, const std::string& name) {
    Goal out;
    for (const Part& p : goal) {
      const Json* properties = object(p, "properties");
      bool described = properties != nullptr && properties->contains(name);
      if (described) out.push_back({&(*properties)[name], below(p.at, "properties/" + name)});
      if (const Json* patterns = object(p, "patternProperties")) {
        for (const auto& [regex, schema] : patterns->items()) {
          if (!languages_.contains(document_.pattern(Json(regex), below(p.at, "patternProperties")), name)) continue;
          described = true;
          out.push_back({&schema, below(p.at, "patternProperties/" + regex)});
        }
      }
      if (!described && p.schema->contains("additionalProperties"))
        out.push_back({&(*p.schema)["additionalProperties"], below(p.at, "additionalProperties")});
    }
    return out;
  }

  static std::set<std::string> required(const Goal& goal) {
    std::set<std::string> out;
    for (const Part& p : goal) {
      const Json* names = list(p, "required");
      if (names == nullptr) continue;
      for (const Json& name : *names) {
        if (!name.is_string()) refuse("a required property that is no text", p.at);
        out.insert(name.get<std::string>());
      }
    }
    return out;
  }

  // Names in order: those described, then those that are only required.
  static std::vector<std::string> names(const Goal& goal) {
    std::vector<std::string> out;
    std::set<std::string> known;
    const auto add = [&](const std::string& name) {
      if (known.insert(name).second) out.push_back(name);
    };
    for (const Part& p : goal) {
      const Json* properties = object(p, "properties");
      if (properties == nullptr) continue;
      for (const auto& [name, value] : properties->items()) add(name);
    }
    for (const Part& p : goal) {
      if (const Json* needed = list(p, "required")) {
        for (const Json& name : *needed) add(name.is_string() ? name.get<std::string>() : "");
      }
    }
    for (const auto& [name, others] : dependents(goal)) {
      add(name);
      for (const std::string& other : others) add(other);
    }
    return out;
  }

  static std::map<std::string, std::set<std::string>> dependents(const Goal& goal) {
    std::map<std::string, std::set<std::string>> out;
    for (const Part& p : goal) {
      for (const char* key : {"dependentRequired", "dependencies"}) {
        const Json* needs = object(p, key);
        if (needs == nullptr) continue;
        for (const auto& [name, others] : needs->items()) {
          if (!others.is_array()) refuse("a dependency that is no list of names", below(p.at, key));
          for (const Json& other : others) {
            if (!other.is_string()) refuse("a dependency that is no list of names", below(p.at, key));
            out[name].insert(other.get<std::string>());
          }
        }
      }
    }
    return out;
  }

  // Whether properties may follow that are neither named nor match a pattern.
  static bool is_open(const Goal& goal, std::size_t n_names, std::int64_t least) {
    bool says_names = false;
    bool says_others = false;
    for (const Part& p : goal) {
      says_names |= p.schema->contains("properties") || p.schema->contains("patternProperties");
      const auto others = p.schema->find("additionalProperties");
      if (others == p.schema->end()) continue;
      says_others = true;
      if (*others == Json(false)) return false;
    }
    return says_others || !says_names || least > static_cast<std::int64_t>(n_names);
  }

  Languages::Id key_language(const Goal& goal) {
    std::vector<Languages::Id> all;
    for (const Part& p : goal) {
      if (!p.schema->contains("propertyNames")) continue;
      const Part keys{&(*p.schema)["propertyNames"], below(p.at, "propertyNames")};
      std::vector<Languages::Id> any;
      for (const Goal& g : expanded({keys})) any.push_back(string_language(g));
      all.push_back(languages_.either(std::move(any)));
    }
    return languages_.both(std::move(all));
  }

  // All texts that satisfy `goal`.
  Languages::Id string_language(const Goal& goal) {
    if ((types(goal, false) & kString) == 0) return languages_.none();
    std::vector<Languages::Id> any;
    for (const Part& p : goal) {
      if (!p.schema->contains("enum") && !p.schema->contains("const")) continue;
      for (const Json* v : values(goal)) {
        if (v->is_string()) any.push_back(languages_.text(v->get<std::string>()));
      }
      return languages_.either(std::move(any));
    }
    std::vector<Languages::Id> all;
    Excluded excluded;
    for (const Part& p : goal) {
      all.push_back(document_.strings(p, true));
      if (p.schema->contains("not")) exclude({&(*p.schema)["not"], below(p.at, "not")}, excluded);
    }
    if ((excluded.types & kString) != 0) return languages_.none();
    for (const Languages::Id s : excluded.strings) all.push_back(languages_.negated(s));
    for (const Json* v : excluded.values) {
      if (v->is_string()) all.push_back(languages_.negated(languages_.text(v->get<std::string>())));
    }
    return languages_.both(std::move(all));
  }

  // Properties without a name of their own: a key and a value, one of these for each set of patterns that match.
  Piece other_members(const Goal& goal, const std::vector<std::string>& named, Languages::Id keys, bool open) {
    constexpr std::size_t kMostPatterns = 6;
    std::map<std::string, Languages::Id> patterns;
    for (const Part& p : goal) {
      const Json* all = object(p, "patternProperties");
      if (all == nullptr) continue;
      for (const auto& [regex, schema] : all->items())
        patterns[regex] = document_.pattern(Json(regex), below(p.at, "patternProperties"));
    }
    if (patterns.size() > kMostPatterns) refuse("more than 6 patternProperties", goal[0].at);
    std::vector<Piece> out;
    if (patterns.empty() && !open) return choice({});
    for (std::size_t set = open ? 0 : 1; set < std::size_t{1} << patterns.size(); ++set) {
      std::vector<Languages::Id> all{keys};
      std::set<std::string> matching;
      for (std::size_t i = 0; const auto& [regex, language] : patterns) {
        const bool matches = (set >> i++ & 1) != 0;
        if (matches) matching.insert(regex);
        all.push_back(matches ? language : languages_.negated(language));
      }
      std::vector<Languages::Id> texts;
      for (const std::string& name : named) texts.push_back(languages_.text(name));
      all.push_back(languages_.negated(languages_.either(std::move(texts))));
      const Languages::Id language = languages_.both(std::move(all));
      if (language == languages_.none()) continue;
      const Piece key = language == languages_.all() ? text("string") : quoted(automaton(language, {}, goal[0].at));
      const Goal value = other_goal(goal, matching);
      out.push_back(sequence({key, text(R"(":" ws)"), value.empty() ? text("value") : call(rule_of(value))}));
    }
    return choice(std::move(out));
  }

  static Goal other_goal(const Goal& goal, const std::set<std::string>& matching) {
    Goal out;
    for (const Part& p : goal) {
      bool described = false;
      if (const Json* patterns = object(p, "patternProperties")) {
        for (const auto& [regex, schema] : patterns->items()) {
          if (!matching.contains(regex)) continue;
          described = true;
          out.push_back({&schema, below(p.at, "patternProperties/" + regex)});
        }
      }
      if (!described && p.schema->contains("additionalProperties"))
        out.push_back({&(*p.schema)["additionalProperties"], below(p.at, "additionalProperties")});
    }
    return out;
  }

  Piece object_piece(const Goal& goal) {
    const Lengths length = lengths(goal, "minProperties", "maxProperties");
    if (length.most >= 0 && length.most < length.least) return choice({});
    Members members;
    members.least = length.least;
    members.most = length.most;
    const Languages::Id keys = key_language(goal);
    const std::set<std::string> needed = required(goal);
    const std::vector<std::string> all = names(goal);
    const auto depend = dependents(goal);
    const auto place = [&](const std::string& name) {
      return static_cast<std::size_t>(std::find(all.begin(), all.end(), name) - all.begin());
    };
    for (const std::string& name : all) {
      Member m{.required = needed.contains(name), .possible = languages_.contains(keys, name)};
      const Goal value = property_goal(goal, name);
      if (m.possible) {
        m.piece = sequence(
            {text(literal(Json(name).dump()) + R"( ":" ws)"), value.empty() ? text("value") : call(rule_of(value))});
      }
      if (const auto it = depend.find(name); it != depend.end()) {
        for (const std::string& other : it->second) m.needs.push_back(place(other));
      }
      members.named.push_back(std::move(m));
    }
    const bool open = is_open(goal, all.size(), length.least);
    members.other = other_members(goal, all, keys, open);
    const bool has_others = members.other.kind != Piece::kChoice || !members.other.parts.empty();
    if (has_others && length.least > static_cast<std::int64_t>(all.size()) + 1)
      refuse("'minProperties' beyond the named ones and one more, since a grammar cannot tell names apart,",
             goal[0].at);
    if (all.empty() && length.least == 0 && length.most < 0 && members.other.kind == Piece::kSequence &&
        keys == languages_.all() && members.other.parts[0].text == "string" && members.other.parts[2].text == "value") {
      return text("object");
    }
    return sequence({text(R"("{" ws)"), call(add_members(rules_, members, work_)), text(R"("}" ws)")});
  }

  // --- which alternatives cannot hold together
  // -------------------------------------------------------------------------------------------------------------

  // True if no value that the rules of `a` write satisfies `b`.
  bool excludes(const Goal& a, const Goal& b, int depth) {
    constexpr int kMostDepth = 4;
    if (depth > kMostDepth) return false;
    for (const Goal& x : expanded(a)) {
      for (const Goal& y : expanded(b)) {
        if (!excludes_one(x, y, depth)) return false;
      }
    }
    return true;
  }

  static bool has_values(const Goal& goal) {
    return std::any_of(goal.begin(), goal.end(),
                       [](const Part& p) { return p.schema->contains("enum") || p.schema->contains("const"); });
  }

  bool excludes_one(const Goal& a, const Goal& b, int depth) {
    work_.spend(10);
    const auto none_hold = [&](const std::vector<const Json*>& all, const Goal& goal) {
      return std::none_of(all.begin(), all.end(), [&](const Json* v) { return all_hold(goal, *v); });
    };
    if (has_values(a)) return none_hold(values(a), b);
    if (has_values(b)) return none_hold(values(b), a);
    const unsigned common = types(a, true) & types(b, false);
    if ((common & (kNull | kBoolean)) != 0) return false;
    if ((common & (kInteger | kFraction)) != 0 && !excludes_numbers(a, b)) return false;
    if ((common & kString) != 0) {
      const auto both = languages_.automaton(languages_.both({string_language(a), string_language(b)}), kMostStates);
      if (!both || !both->empty()) return false;
    }
    if ((common & kArray) != 0 && !excludes_lists(a, b)) return false;
    return (common & kObject) == 0 || excludes_objects(a, b, depth);
  }

  bool excludes_numbers(const Goal& a, const Goal& b) {
    NumberRange range;
    std::uint32_t divisor = 1;
    for (const Goal* g : {&a, &b}) {
      for (const Part& p : *g) document_.bounds(p, range, divisor);
    }
    const auto dfa = languages_.automaton(number_language(languages_, range), kMostStates);
    return dfa && dfa->empty();
  }

  static bool excludes_lists(const Goal& a, const Goal& b) {
    const Lengths x = lengths(a, "minItems", "maxItems");
    const Lengths y = lengths(b, "minItems", "maxItems");
    return (x.most >= 0 && x.most < y.least) || (y.most >= 0 && y.most < x.least);
  }

  bool excludes_objects(const Goal& a, const Goal& b, int depth) {
    const std::set<std::string> in_a = required(a);
    const std::set<std::string> in_b = required(b);
    const std::vector<std::string> written = names(a);
    const bool patterns =
        std::any_of(a.begin(), a.end(), [](const Part& p) { return p.schema->contains("patternProperties"); });
    const bool more = patterns || is_open(a, written.size(), lengths(a, "minProperties", "maxProperties").least);
    std::set<std::string> both = in_a;
    both.insert(in_b.begin(), in_b.end());
    for (const std::string& name : both) {
      const bool may_write = more || std::find(written.begin(), written.end(), name) != written.end();
      if (in_b.contains(name) && !may_write) return true;
      if (excludes(property_goal(a, name), property_goal(b, name), depth + 1)) return true;
    }
    return false;
  }

  static constexpr std::uint32_t kNone = 0xffffffff;

  const Json& root_;
  Work work_;
  Languages languages_;
  Document document_;
  Rules rules_;
  std::map<std::set<const Json*>, std::uint32_t> known_;
  std::deque<std::pair<std::uint32_t, Goal>> queue_;
  std::map<std::pair<Languages::Id, std::uint32_t>, std::uint32_t> number_rules_;
  std::map<std::tuple<Languages::Id, std::int64_t, std::int64_t>, std::uint32_t> string_rules_;
  std::set<const Json*> checked_;  // lists of oneOf
};

}  // namespace

std::string rules_for(const Json& schema, const std::string& name) {
  try {
    return Converter(schema).run(name);
  } catch (const Json::exception& e) {  // a malformed pointer, text that is no UTF-8
    throw Error(ErrorCode::kGrammar, std::string("The JSON schema cannot be read: ") + e.what() + ".");
  }
}

}  // namespace gsd::schema
