#include "document.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace gsd::schema {

bool only_describes(const std::string& keyword) {
  static const std::set<std::string> words{
      "title",     "description",     "default",          "examples",     "example",     "$schema",    "$id",
      "id",        "$comment",        "$anchor",          "$defs",        "definitions", "deprecated", "readOnly",
      "writeOnly", "contentEncoding", "contentMediaType", "discriminator"};
  return words.contains(keyword) || keyword.starts_with("x-");
}

bool equal(const Json& a, const Json& b) {
  if (!a.is_structured() || !b.is_structured()) return a == b;
  return nlohmann::json(a) == nlohmann::json(b);  // whatever the order of the keys
}

std::string below(const std::string& at, const std::string& key) { return at + "/" + key; }

std::int64_t count(const Part& p, const char* key, std::int64_t absent) {
  constexpr double kMost = 1'000'000;
  const auto it = p.schema->find(key);
  if (it == p.schema->end()) return absent;
  const double n = it->is_number() ? it->get<double>() : -1;
  if (n < 0 || n > kMost || n != std::floor(n))
    refuse(fmt::format("'{}' must be a whole number from 0 to 1000000, as it stands", key), p.at);
  return static_cast<std::int64_t>(n);
}

const Json* list(const Part& p, const char* key) {
  const auto it = p.schema->find(key);
  if (it == p.schema->end()) return nullptr;
  if (!it->is_array()) refuse(fmt::format("'{}' that is no list", key), p.at);
  return &*it;
}

const Json* object(const Part& p, const char* key) {
  const auto it = p.schema->find(key);
  if (it == p.schema->end()) return nullptr;
  if (!it->is_object()) refuse(fmt::format("{} that are no object", key), p.at);
  return &*it;
}

void Document::check(const Part& p) const {
  static const std::set<std::string> known{"type",
                                           "enum",
                                           "const",
                                           "anyOf",
                                           "oneOf",
                                           "allOf",
                                           "not",
                                           "$ref",
                                           "properties",
                                           "required",
                                           "additionalProperties",
                                           "patternProperties",
                                           "propertyNames",
                                           "minProperties",
                                           "maxProperties",
                                           "dependentRequired",
                                           "dependencies",
                                           "items",
                                           "prefixItems",
                                           "additionalItems",
                                           "minItems",
                                           "maxItems",
                                           "uniqueItems",
                                           "minLength",
                                           "maxLength",
                                           "pattern",
                                           "format",
                                           "minimum",
                                           "maximum",
                                           "exclusiveMinimum",
                                           "exclusiveMaximum",
                                           "multipleOf"};
  if (p.schema->is_boolean()) return;
  if (!p.schema->is_object()) refuse("what is no object", p.at);
  for (const auto& [key, value] : p.schema->items()) {
    work_.spend();
    if (!known.contains(key) && !only_describes(key)) refuse(fmt::format("the keyword '{}'", key), p.at);
  }
  if (p.schema->value("uniqueItems", Json(false)) != Json(false) && count(p, "maxItems", 2) > 1)
    refuse("the keyword 'uniqueItems'", p.at);
}

unsigned Document::types(const Json& type, const std::string& at) {
  static const std::map<std::string, unsigned> names{
      {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kInteger | kFraction},
      {"string", kString}, {"array", kArray},     {"object", kObject}};
  if (type.is_array()) {
    unsigned all = 0;
    for (const Json& one : type) all |= types(one, at);
    if (all == 0) refuse("an empty list of types", at);
    return all;
  }
  const auto it = type.is_string() ? names.find(type.get<std::string>()) : names.end();
  if (it == names.end())
    refuse(fmt::format("the type {}", type.dump(-1, ' ', false, Json::error_handler_t::replace)), at);
  return it->second;
}

unsigned Document::types_of(const Json& value) {
  if (value.is_null()) return kNull;
  if (value.is_boolean()) return kBoolean;
  if (value.is_number_integer()) return kInteger;
  if (value.is_number()) return value.get<double>() == std::floor(value.get<double>()) ? kInteger : kFraction;
  return value.is_string() ? kString : value.is_array() ? kArray : kObject;
}

Part Document::target(const Json& ref, const std::string& at) const {
  const std::string text = ref.is_string() ? ref.get<std::string>() : "";
  if (text == "#") return {&root_, "#"};
  if (!text.starts_with("#/")) refuse("a reference that does not begin with #", at);
  std::string path;  // percent signs decoded
  for (std::size_t i = 1; i < text.size(); ++i) {
    const auto digit = [&](std::size_t k) {
      return k < text.size() ? std::string_view("0123456789abcdef").find(static_cast<char>(text[k] | 0x20))
                             : std::string_view::npos;
    };
    if (text[i] == '%' && digit(i + 1) < 16 && digit(i + 2) < 16) {
      path += static_cast<char>(16 * digit(i + 1) + digit(i + 2));
      i += 2;
    } else {
      path += text[i];
    }
  }
  const Json::json_pointer pointer(path);
  if (!root_.contains(pointer)) refuse(fmt::format("the reference '{}' leads nowhere", text), at);
  return {&root_.at(pointer), text};
}

Part Document::followed(Part p) const {
  constexpr int kMost = 100;
  for (int hops = 0; p.schema->is_object() && p.schema->contains("$ref"); ++hops) {
    check(p);
    for (const auto& [key, value] : p.schema->items()) {
      if (key != "$ref" && !only_describes(key)) return p;
    }
    p = target((*p.schema)["$ref"], p.at);
    work_.spend();
    if (hops > kMost) refuse("a reference to itself", p.at);
  }
  return p;
}

Languages::Id Document::pattern(const Json& text, const std::string& at) {
  if (!text.is_string()) refuse("a pattern that is no text", at);
  const std::string pattern = text.get<std::string>();
  const auto it = patterns_.find(pattern);
  return it != patterns_.end() ? it->second : patterns_[pattern] = pattern_language(languages_, pattern, at);
}

Languages::Id Document::strings(const Part& p, bool with_lengths) {
  std::vector<Languages::Id> all;
  const auto regex = p.schema->find("pattern");
  if (regex != p.schema->end()) all.push_back(pattern(*regex, p.at));
  if (const auto it = p.schema->find("format"); it != p.schema->end()) {
    const std::string name = it->is_string() ? it->get<std::string>() : "";
    const char* said = format_pattern(name);
    const bool is_of_numbers = name == "int32" || name == "int64" || name == "float" || name == "double";
    if (said == nullptr && !is_of_numbers && all.empty()) refuse(fmt::format("the format '{}'", name), p.at);
    if (said != nullptr && *said != '\0') {
      all.push_back(pattern(said, p.at));
      // A format may be no more than a name for what the pattern says, and mean another notation than ours.
      constexpr std::size_t kMostStates = 4000;
      if (all.size() == 2) {
        const auto together = languages_.automaton(languages_.both(all), kMostStates);
        if (!together || together->empty()) all.pop_back();
      }
    }
  }
  if (with_lengths) {
    const std::int64_t high = count(p, "maxLength", -1);
    all.push_back(languages_.repeated(languages_.any(), static_cast<std::uint32_t>(count(p, "minLength", 0)),
                                      high < 0 ? Languages::kNoLimit : static_cast<std::uint32_t>(high)));
  }
  return languages_.both(std::move(all));
}

void Document::bounds(const Part& p, NumberRange& range, std::uint32_t& divisor) const {
  const auto decimal = [&](const char* key) -> std::optional<Decimal> {
    const auto it = p.schema->find(key);
    if (it == p.schema->end()) return std::nullopt;
    if (!it->is_number()) refuse(fmt::format("'{}' that is no number", key), p.at);
    const auto d = Decimal::parse(it->dump());
    if (!d) refuse(fmt::format("'{}' with more than 40 digits", key), p.at);
    return d;
  };
  for (const char* key : {"minimum", "exclusiveMinimum"}) {
    if (const auto d = decimal(key)) range.bounds.push_back({*d, true, key[0] == 'e'});
  }
  for (const char* key : {"maximum", "exclusiveMaximum"}) {
    if (const auto d = decimal(key)) range.bounds.push_back({*d, false, key[0] == 'e'});
  }
  if (p.schema->value("format", Json("")) == Json("int32")) {
    range.bounds.push_back({{true, "2147483648", ""}, true, false});
    range.bounds.push_back({{false, "2147483647", ""}, false, false});
  }
  const auto d = decimal("multipleOf");
  if (!d) return;
  if (d->negative || d->is_zero()) refuse("'multipleOf' that is not above 0", p.at);
  std::string digits = d->whole + d->fraction;
  digits.erase(0, digits.find_first_not_of('0'));
  const bool is_power = digits.find_first_not_of('0', 1) == std::string::npos && digits[0] == '1';
  if (is_power) {
    range.powers_of_ten.push_back(*d);
    if (d->fraction.empty()) range.integer = true;
  } else if (d->fraction.empty() && d->whole.size() <= 3) {
    range.integer = true;
    constexpr std::uint32_t kMost = 1000;
    divisor = std::lcm(divisor, static_cast<std::uint32_t>(std::stoul(d->whole)));
    if (divisor > kMost) refuse("'multipleOf' whose least common multiple is above 1000", p.at);
  } else {
    refuse("'multipleOf' that is neither a power of ten nor a whole number below 1000", p.at);
  }
}

bool Document::number_holds(const Part& p, const Json& value) const {
  const Json& s = *p.schema;
  const auto number = [&](const char* key, double absent) {
    const auto it = s.find(key);
    return it != s.end() && it->is_number() ? it->get<double>() : absent;
  };
  const double v = value.get<double>();
  const double step = number("multipleOf", 0);
  const double times = step > 0 ? v / step : 0;
  constexpr double kRounding = 1e-9;
  return v >= number("minimum", -INFINITY) && v <= number("maximum", INFINITY) &&
         v > number("exclusiveMinimum", -INFINITY) && v < number("exclusiveMaximum", INFINITY) &&
         std::abs(times - std::round(times)) <= kRounding * std::max(1.0, std::abs(times));
}

bool Document::array_holds(const Part& p, const Json& value, int depth) {
  const auto n = static_cast<std::int64_t>(value.size());
  if (n < count(p, "minItems", 0) || n > count(p, "maxItems", n)) return false;
  const auto items = p.schema->find("items");
  const bool is_old = items != p.schema->end() && items->is_array();
  const Json* first = is_old ? &*items : list(p, "prefixItems");
  const auto rest = is_old ? p.schema->find("additionalItems") : items;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (first != nullptr && i < first->size()) {
      if (!holds({&(*first)[i], below(p.at, "prefixItems")}, value[i], depth + 1)) return false;
    } else if (rest != p.schema->end() && !holds({&*rest, below(p.at, "items")}, value[i], depth + 1)) {
      return false;
    }
  }
  return true;
}

bool Document::object_holds(const Part& p, const Json& value, int depth) {
  const auto n = static_cast<std::int64_t>(value.size());
  if (n < count(p, "minProperties", 0) || n > count(p, "maxProperties", n)) return false;
  const auto has_all = [&](const Json& names) {
    return std::all_of(names.begin(), names.end(),
                       [&](const Json& k) { return !k.is_string() || value.contains(k.get<std::string>()); });
  };
  if (const Json* required = list(p, "required"); required != nullptr && !has_all(*required)) return false;
  for (const char* key : {"dependentRequired", "dependencies"}) {
    const Json* needs = object(p, key);
    if (needs == nullptr) continue;
    for (const auto& [name, others] : needs->items()) {
      if (value.contains(name) && !has_all(others)) return false;
    }
  }
  const Json* properties = object(p, "properties");
  const Json* patterns = object(p, "patternProperties");
  for (const auto& [name, v] : value.items()) {
    if (p.schema->contains("propertyNames") &&
        !holds({&(*p.schema)["propertyNames"], below(p.at, "propertyNames")}, Json(name), depth + 1))
      return false;
    bool described = properties != nullptr && properties->contains(name);
    if (described && !holds({&(*properties)[name], below(p.at, "properties/" + name)}, v, depth + 1)) return false;
    if (patterns != nullptr) {
      for (const auto& [regex, schema] : patterns->items()) {
        if (!languages_.contains(pattern(Json(regex), p.at), name)) continue;
        described = true;
        if (!holds({&schema, below(p.at, "patternProperties/" + regex)}, v, depth + 1)) return false;
      }
    }
    const auto rest = p.schema->find("additionalProperties");
    if (!described && rest != p.schema->end() && !holds({&*rest, below(p.at, "additionalProperties")}, v, depth + 1))
      return false;
  }
  return true;
}

bool Document::holds(const Part& p, const Json& value, int depth, const Json* own) {
  constexpr int kMostDepth = 200;
  work_.spend();
  check(p);
  if (depth > kMostDepth) refuse("a reference to itself", p.at);
  if (p.schema->is_boolean()) return p.schema->get<bool>();
  const Json& s = *p.schema;
  const auto each = [&](const char* key, auto&& count_of) {
    const Json* branches = list(p, key);
    return branches == nullptr || count_of(std::count_if(branches->begin(), branches->end(),
                                                         [&](const Json& b) {
                                                           return holds({&b, below(p.at, key)}, value, depth + 1);
                                                         }),
                                           static_cast<std::ptrdiff_t>(branches->size()));
  };
  if (s.contains("$ref") && !holds(target(s["$ref"], p.at), value, depth + 1)) return false;
  if (!each("allOf", [](auto n, auto all) { return n == all; }) || !each("anyOf", [](auto n, auto) { return n > 0; }) ||
      !each("oneOf", [](auto n, auto) { return n == 1; })) {
    return false;
  }
  if (s.contains("not") && holds({&s["not"], below(p.at, "not")}, value, depth + 1)) return false;
  if (s.contains("type") && (types(s["type"], p.at) & types_of(value)) == 0) return false;
  if (s.contains("const") && !equal(s["const"], value)) return false;
  if (const Json* values = list(p, "enum"); values != nullptr && values != own) {
    work_.spend(values->size());
    if (std::none_of(values->begin(), values->end(), [&](const Json& v) { return equal(v, value); })) return false;
  }
  if (value.is_number()) return number_holds(p, value);
  if (value.is_string()) return languages_.contains(strings(p, true), value.get<std::string>());
  if (value.is_array()) return array_holds(p, value, depth);
  return !value.is_object() || object_holds(p, value, depth);
}

}  // namespace gsd::schema
