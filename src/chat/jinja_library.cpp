// What templates can call: methods, filters, tests and global functions.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "jinja_value.h"

namespace gsd::chat {

bool is_space(char32_t marked) {
  const char32_t c = plain(marked);
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Text strip(TextView t, TextView chars, bool left, bool right) {
  const auto goes = [&](char32_t c) { return chars.empty() ? is_space(c) : chars.find(c) != TextView::npos; };
  while (left && !t.empty() && goes(t.front())) t.remove_prefix(1);
  while (right && !t.empty() && goes(t.back())) t.remove_suffix(1);
  return Text(t);
}

namespace {

using Is = Value::Is;

char32_t with_case(char32_t marked, bool upper) {
  const char32_t c = plain(marked);
  const char32_t mark = marked & kFromRequest;
  if (upper && ((c >= 'a' && c <= 'z') || (c >= 0xE0 && c <= 0xFE && c != 0xF7))) return (c - 32) | mark;
  if (!upper && ((c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7))) return (c + 32) | mark;
  return marked;
}

Text with_case(Text t, bool upper) {
  for (char32_t& c : t) c = with_case(c, upper);
  return t;
}

bool is_letter(char32_t c) {
  c = plain(c);
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= 0xC0 && c != 0xD7 && c != 0xF7);
}

Text capitalized(Text t) {
  t = with_case(std::move(t), false);
  if (!t.empty()) t[0] = with_case(t[0], true);
  return t;
}

// "word" after white space or one of these begins with a capital, as jinja2's filter has it; str.title() after any
// non-letter.
Text titled(Text t, bool method) {
  bool begins = true;
  for (char32_t& c : t) {
    const char32_t was = c;
    c = with_case(c, begins);
    begins = method ? !is_letter(was)
                    : is_space(was) || std::u32string_view(U"-({[<").find(plain(was)) != std::u32string_view::npos;
  }
  return t;
}

Text replaced(Machine& m, const Text& t, const Text& from, const Text& to, std::int64_t most) {
  Text out;
  std::size_t at = 0;
  if (from.empty()) return t;
  for (; most != 0; --most) {
    const std::size_t found = t.find(from, at);
    if (found == Text::npos) break;
    m.memory(found - at + to.size());
    out.append(t, at, found - at);
    out += to;
    at = found + from.size();
  }
  return out.append(t, at);
}

}  // namespace

// A friend of Machine in name only: everything here goes through its public functions.
class Library {
 public:
  Library(Machine& m, const Arguments& args) : m_(m), args_(args) {}

  // --- arguments
  Value arg(std::size_t i, const char* name = "", Value absent = {}) const { return args_.get(i, name, absent); }
  Text text_arg(std::size_t i, const char* name, const Text& absent) const {
    const Value v = arg(i, name);
    if (v.is_undefined() || v.is_none()) return absent;
    if (!v.is_text()) m_.fail(fmt::format("the argument {} must be a text", i + 1));
    return *v.text;
  }
  std::int64_t int_arg(std::size_t i, const char* name, std::int64_t absent) const {
    const Value v = arg(i, name);
    if (v.is_undefined() || v.is_none()) return absent;
    if (!v.is_integer()) m_.fail(fmt::format("the argument {} must be a whole number", i + 1));
    return v.as_integer();
  }

  // --- methods
  Value split(const Text& t, bool from_right) const {
    const Text separator = text_arg(0, "sep", {});
    std::int64_t most = int_arg(1, "maxsplit", -1);
    if (!arg(0, "sep").is_undefined() && !arg(0, "sep").is_none() && separator.empty()) m_.fail("split by nothing");
    m_.work(t.size());
    std::vector<Value> out;
    if (separator.empty()) {
      std::size_t at = 0;
      for (;;) {
        while (at < t.size() && is_space(t[at])) ++at;
        if (at >= t.size()) break;
        std::size_t end = at;
        while (end < t.size() && !is_space(t[end])) ++end;
        if (most-- == 0) end = t.size();
        out.push_back(m_.text(t.substr(at, end - at)));
        at = end;
      }
      return m_.list(std::move(out));
    }
    if (from_right) {
      std::size_t end = t.size();
      while (most-- != 0) {
        const std::size_t found = end < separator.size() ? Text::npos : t.rfind(separator, end - separator.size());
        if (found == Text::npos) break;
        out.push_back(m_.text(t.substr(found + separator.size(), end - found - separator.size())));
        end = found;
      }
      out.push_back(m_.text(t.substr(0, end)));
      std::reverse(out.begin(), out.end());
      return m_.list(std::move(out));
    }
    std::size_t at = 0;
    for (std::size_t found; most-- != 0 && (found = t.find(separator, at)) != Text::npos; at = found + separator.size())
      out.push_back(m_.text(t.substr(at, found - at)));
    out.push_back(m_.text(t.substr(at)));
    return m_.list(std::move(out));
  }

  Value lines(const Text& t) const {
    std::vector<Value> out;
    std::size_t at = 0;
    while (at < t.size()) {
      const std::size_t end = std::min(t.find(U'\n', at), t.size());
      out.push_back(m_.text(t.substr(at, end - at)));
      at = end + 1;
    }
    return m_.list(std::move(out));
  }

  // A prefix or suffix, or one of several.
  bool has_end(const Text& t, bool at_begin) const {
    const Value v = arg(0);
    const auto one = [&](const Value& e) {
      if (!e.is_text()) m_.fail("startswith and endswith need texts");
      const Text& x = *e.text;
      return t.size() >= x.size() && t.compare(at_begin ? 0 : t.size() - x.size(), x.size(), x) == 0;
    };
    if (v.is == Is::kList) return std::any_of(v.list->items.begin(), v.list->items.end(), one);
    return one(v);
  }

  Value position(const Text& t, bool from_right) const {
    const Text x = text_arg(0, "sub", {});
    m_.work(t.size());
    const std::size_t found = from_right ? t.rfind(x) : t.find(x);
    return Value::of(found == Text::npos ? std::int64_t{-1} : static_cast<std::int64_t>(found));
  }

  Value count(const Text& t) const {
    const Text x = text_arg(0, "sub", {});
    std::int64_t n = 0;
    if (x.empty()) return Value::of(static_cast<std::int64_t>(t.size() + 1));
    for (std::size_t at = t.find(x); at != Text::npos; at = t.find(x, at + x.size())) ++n;
    m_.work(t.size());
    return Value::of(n);
  }

  Value join(const std::vector<Value>& items, const Text& separator, const Value& attribute) const {
    Text out;
    bool first = true;
    for (const Value& item : items) {
      const Text part = m_.str(attribute.is_undefined() ? item : by_path(item, attribute));
      m_.memory(part.size() + separator.size());
      if (!first) out += separator;
      first = false;
      out += part;
    }
    return m_.text(std::move(out));
  }

  Value text_method(const std::string& name, const Text& t) const {
    m_.work(1 + t.size() / 8);
    if (name == "strip" || name == "lstrip" || name == "rstrip")
      return m_.text(strip(t, text_arg(0, "chars", {}), name != "rstrip", name != "lstrip"));
    if (name == "split" || name == "rsplit") return split(t, name == "rsplit");
    if (name == "splitlines") return lines(t);
    if (name == "startswith" || name == "endswith") return Value::of(has_end(t, name == "startswith"));
    if (name == "replace")
      return m_.text(replaced(m_, t, text_arg(0, "old", {}), text_arg(1, "new", {}), int_arg(2, "count", -1)));
    if (name == "upper" || name == "lower") return m_.text(with_case(t, name == "upper"));
    if (name == "title") return m_.text(titled(t, true));
    if (name == "capitalize") return m_.text(capitalized(t));
    if (name == "find" || name == "rfind") return position(t, name == "rfind");
    if (name == "count") return count(t);
    if (name == "join") return join(m_.elements(arg(0)), t, {});
    if (name == "isdigit" || name == "isalpha" || name == "isspace" || name == "isupper" || name == "islower") {
      return Value::of(!t.empty() && std::all_of(t.begin(), t.end(), [&](char32_t c) {
        const char32_t p = plain(c);
        return name == "isdigit"   ? p >= '0' && p <= '9'
               : name == "isalpha" ? is_letter(c)
               : name == "isspace" ? is_space(c)
                                   : with_case(c, name == "isupper") == c;
      }));
    }
    if (name == "removeprefix" || name == "removesuffix") {
      const Text x = text_arg(0, "", {});
      if (!has_end(t, name == "removeprefix")) return m_.text(t);
      return m_.text(name == "removeprefix" ? t.substr(x.size()) : t.substr(0, t.size() - x.size()));
    }
    m_.fail(fmt::format("a text has no method '{}'", name));
  }

  Value dict_method(const std::string& name, const Dict& d) const {
    if (name == "get") {
      const Value* found = m_.find(d, arg(0, "key"));
      return found != nullptr ? *found : arg(1, "default", Value::none());
    }
    m_.work(d.items.size());
    std::vector<Value> out;
    for (const auto& [key, value] : d.items)
      out.push_back(name == "items" ? m_.list({key, value}, true) : name == "keys" ? key : value);
    return m_.list(std::move(out));
  }

  // --- filters
  // attribute="a.b.0"
  Value by_path(Value v, const Value& path) const {
    if (!path.is_text()) return m_.index(v, path);
    const std::string p = to_utf8(*path.text);
    for (std::size_t at = 0; at <= p.size();) {
      const std::size_t end = std::min(p.find('.', at), p.size());
      const std::string part = p.substr(at, end - at);
      const bool number =
          !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
      v = number ? m_.index(v, Value::of(static_cast<std::int64_t>(std::atoll(part.c_str()))))
                 : m_.index(v, m_.text(part));
      at = end + 1;
    }
    return v;
  }

  Value folded(const Value& v, bool case_sensitive) const {
    return v.is_text() && !case_sensitive ? m_.text(with_case(*v.text, false)) : v;
  }

  Value sorted(std::vector<Value> items, const Value& attribute, bool case_sensitive, bool reverse) const {
    std::vector<std::pair<Value, Value>> keyed;
    for (const Value& item : items)
      keyed.emplace_back(
          folded(attribute.is_undefined() || attribute.is_none() ? item : by_path(item, attribute), case_sensitive),
          item);
    std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
      return reverse ? m_.compare(b.first, a.first) < 0 : m_.compare(a.first, b.first) < 0;
    });
    std::vector<Value> out;
    for (const auto& [key, item] : keyed) out.push_back(item);
    return m_.list(std::move(out));
  }

  Value unique(const std::vector<Value>& items) const {
    std::vector<Value> seen;
    std::vector<Value> out;
    for (const Value& item : items) {
      const Value key = folded(item, false);
      if (std::any_of(seen.begin(), seen.end(), [&](const Value& s) { return m_.equal(s, key); })) continue;
      seen.push_back(key);
      out.push_back(item);
    }
    return m_.list(std::move(out));
  }

  Value extreme(const std::vector<Value>& items, bool most) const {
    Value best;
    for (const Value& item : items) {
      if (!best.is_undefined()) {
        const int c = m_.compare(folded(item, false), folded(best, false));
        if (most ? c <= 0 : c >= 0) continue;
      }
      best = item;
    }
    return best;
  }

  std::string name_of(const Value& v, const char* what) const {
    if (!v.is_text()) m_.fail(fmt::format("the name of a {} must be a text", what));
    return to_utf8(*v.text);
  }
  Arguments rest(std::size_t from) const {
    Arguments out;
    for (std::size_t i = from; i < args_.values.size(); ++i) out.values.push_back(args_.values[i]);
    return out;
  }

  Value map(const std::vector<Value>& items) const {
    std::vector<Value> out;
    const Value attribute = args_.get(SIZE_MAX, "attribute");
    const Value absent = args_.get(SIZE_MAX, "default");
    for (const Value& item : items) {
      if (attribute.is_undefined()) {
        Arguments more = rest(1);
        more.named = args_.named;
        out.push_back(m_.filter(name_of(arg(0), "filter"), item, more));
      } else {
        const Value v = by_path(item, attribute);
        out.push_back(v.is_undefined() && !absent.is_undefined() ? absent : v);
      }
    }
    return m_.list(std::move(out));
  }

  Value select(const std::vector<Value>& items, bool by_attribute, bool keep) const {
    std::vector<Value> out;
    const std::size_t at = by_attribute ? 1 : 0;
    const Value test = arg(at);
    for (const Value& item : items) {
      const Value v = by_attribute ? by_path(item, arg(0)) : item;
      const bool holds = test.is_undefined() ? v.truth() : m_.test(name_of(test, "test"), v, rest(at + 1));
      if (holds == keep) out.push_back(item);
    }
    return m_.list(std::move(out));
  }

  Value dictsort(const Value& v) const {
    if (v.is != Is::kDict) m_.fail("dictsort needs a mapping");
    const bool by_value = m_.str(arg(1, "by")) == to_text("value");
    const Value items = dict_method("items", *v.dict);
    return sorted(items.list->items, Value::of(std::int64_t{by_value ? 1 : 0}), arg(0, "case_sensitive").truth(),
                  arg(2, "reverse").truth());
  }

  Value indent(const Text& t) const {
    const Value width = arg(0, "width", Value::of(std::int64_t{4}));
    if (!width.is_text() && !width.is_integer()) m_.fail("indent needs a width");
    const auto n = width.is_text() ? 0 : std::clamp<std::int64_t>(width.as_integer(), 0, 1000);
    const Text by = width.is_text() ? *width.text : Text(static_cast<std::size_t>(n), U' ');
    const bool first = arg(1, "first").truth();
    const bool blank = arg(2, "blank").truth();
    Text out;
    for (std::size_t at = 0; at <= t.size();) {
      const std::size_t end = std::min(t.find(U'\n', at), t.size());
      const Text line = t.substr(at, end - at);
      m_.memory(by.size() + line.size());
      if (at > 0) out += U'\n';
      if ((at > 0 || first) && (blank || (at == 0 && first) || !strip(line, {}, true, true).empty())) out += by;
      out += line;
      at = end + 1;
    }
    return m_.text(std::move(out));
  }

  Value format(const Text& t) const {
    Text out;
    std::size_t used = 0;
    for (std::size_t i = 0; i < t.size(); ++i) {
      if (plain(t[i]) != U'%') {
        out += t[i];
        continue;
      }
      const char32_t kind = ++i < t.size() ? plain(t[i]) : U' ';
      if (kind == U'%') {
        out += U'%';
        continue;
      }
      if ((kind != U's' && kind != U'd' && kind != U'r') || used >= args_.values.size())
        m_.fail("a format other than %s, %d, %r, or without a value, is not supported");
      const Value v = args_.values[used++];
      out += kind == U'r' ? m_.repr(v) : m_.str(v);
    }
    return m_.text(std::move(out));
  }

  Value tojson(const Value& v) const {
    const Value indent = arg(1, "indent", args_.get(SIZE_MAX, "indent"));
    const Value indent_first = args_.get(0, "indent");
    const Value used = args_.values.size() == 1 ? indent_first : indent;
    const std::int64_t n = used.is_integer() ? std::max<std::int64_t>(0, used.as_integer()) : -1;
    const Value separators = args_.get(SIZE_MAX, "separators");
    Text item = to_text(n >= 0 ? "," : ", ");
    Text key = to_text(": ");
    if (separators.is == Is::kList && separators.list->items.size() == 2) {
      item = m_.str(separators.list->items[0]);
      key = m_.str(separators.list->items[1]);
    }
    return m_.text(m_.json(v, n, item, key, args_.get(SIZE_MAX, "sort_keys").truth()));
  }

  Value to_int(const Value& v) const {
    const Value absent = arg(0, "default", Value::of(std::int64_t{0}));
    if (v.is_integer()) return Value::of(v.as_integer());
    double d = 0;
    if (v.is == Is::kFloat) {
      d = v.number;
    } else if (v.is_text()) {
      const std::string s = to_utf8(strip(*v.text, {}, true, true));
      char* end = nullptr;
      d = std::strtod(s.c_str(), &end);
      if (s.empty() || *end != '\0') return absent;
    } else {
      return absent;
    }
    if (!(std::abs(d) < 9e18)) return absent;
    return Value::of(static_cast<std::int64_t>(d));
  }

  Value to_float(const Value& v) const {
    const Value absent = arg(0, "default", Value::of(0.0));
    if (v.is_number()) return Value::of(v.as_number());
    if (!v.is_text()) return absent;
    const std::string s = to_utf8(strip(*v.text, {}, true, true));
    char* end = nullptr;
    const double d = std::strtod(s.c_str(), &end);
    return s.empty() || *end != '\0' ? absent : Value::of(d);
  }

  Value round(const Value& v) const {
    if (!v.is_number()) m_.fail("round needs a number");
    const double scale =
        std::pow(10.0, static_cast<double>(std::clamp<std::int64_t>(int_arg(0, "precision", 0), -15, 15)));
    const std::string how = to_utf8(m_.str(arg(1, "method")));
    const double x = v.as_number() * scale;
    return Value::of((how == "ceil" ? std::ceil(x) : how == "floor" ? std::floor(x) : std::nearbyint(x)) / scale);
  }

  Value escaped(const Text& t) const {
    Text out;
    for (const char32_t c : t) {
      const char32_t p = plain(c);
      const char* as = p == '&'    ? "&amp;"
                       : p == '<'  ? "&lt;"
                       : p == '>'  ? "&gt;"
                       : p == '"'  ? "&#34;"
                       : p == '\'' ? "&#39;"
                                   : nullptr;
      if (as != nullptr)
        out += to_text(as);
      else
        out += c;
    }
    return m_.text(std::move(out));
  }

  std::int64_t length(const Value& v) const {
    if (v.is_text()) return static_cast<std::int64_t>(v.text->size());
    if (v.is == Is::kList) return static_cast<std::int64_t>(v.list->items.size());
    if (v.is == Is::kDict) return static_cast<std::int64_t>(v.dict->items.size());
    if (v.is_undefined()) return 0;
    m_.fail("length of a value that has none");
  }

  Value sum(const std::vector<Value>& items) const {
    Value total = arg(1, "start", Value::of(std::int64_t{0}));
    const Value attribute = arg(0, "attribute");
    for (const Value& item : items)
      total =
          m_.binary(Op::kAdd, total, attribute.is_undefined() || attribute.is_none() ? item : by_path(item, attribute));
    return total;
  }

  Value list_filter(const std::string& name, const Value& v) const {
    if (name == "join") return join(m_.elements(v), text_arg(0, "d", {}), arg(1, "attribute"));
    if (name == "list") return m_.list(m_.elements(v));
    if (name == "map") return map(m_.elements(v));
    if (name == "select" || name == "reject") return select(m_.elements(v), false, name == "select");
    if (name == "selectattr" || name == "rejectattr") return select(m_.elements(v), true, name == "selectattr");
    if (name == "sort")
      return sorted(m_.elements(v), arg(2, "attribute"), arg(1, "case_sensitive").truth(), arg(0, "reverse").truth());
    if (name == "unique") return unique(m_.elements(v));
    if (name == "min" || name == "max") return extreme(m_.elements(v), name == "max");
    if (name == "sum") return sum(m_.elements(v));
    if (name == "first" || name == "last") {
      const std::vector<Value> items = m_.elements(v);
      return items.empty() ? Value() : name == "first" ? items.front() : items.back();
    }
    if (name == "reverse") {
      std::vector<Value> items = m_.elements(v);
      std::reverse(items.begin(), items.end());
      if (!v.is_text()) return m_.list(std::move(items));
      return join(items, {}, {});
    }
    m_.fail(fmt::format("the filter '{}' is not known", name));
  }

  Value filter(const std::string& name, const Value& v) const {
    m_.work(1 + (v.is_text() ? v.text->size() / 8 : 0));
    if (name == "trim") return m_.text(strip(m_.str(v), text_arg(0, "chars", {}), true, true));
    if (name == "tojson") return tojson(v);
    if (name == "length" || name == "count") return Value::of(length(v));
    if (name == "default" || name == "d")
      return v.is_undefined() || (arg(1, "boolean").truth() && !v.truth()) ? arg(0, "default_value", m_.text(Text()))
                                                                           : v;
    if (name == "string") return m_.text(m_.str(v));
    if (name == "safe") return v;
    if (name == "upper" || name == "lower") return m_.text(with_case(m_.str(v), name == "upper"));
    if (name == "capitalize") return m_.text(capitalized(m_.str(v)));
    if (name == "title") return m_.text(titled(m_.str(v), false));
    if (name == "replace")
      return m_.text(replaced(m_, m_.str(v), text_arg(0, "old", {}), text_arg(1, "new", {}), int_arg(2, "count", -1)));
    if (name == "items") {
      if (v.is_undefined()) return m_.list({});
      if (v.is != Is::kDict) m_.fail("items of what is no mapping");
      return dict_method("items", *v.dict);
    }
    if (name == "dictsort") return dictsort(v);
    if (name == "indent") return indent(m_.str(v));
    if (name == "int") return to_int(v);
    if (name == "float") return to_float(v);
    if (name == "abs") {
      if (!v.is_number()) m_.fail("abs needs a number");
      return v.is == Is::kFloat   ? Value::of(std::abs(v.number))
             : v.as_integer() < 0 ? m_.binary(Op::kSub, Value::of(std::int64_t{0}), v)
                                  : v;
    }
    if (name == "round") return round(v);
    if (name == "format") return format(m_.str(v));
    if (name == "escape" || name == "e") return escaped(m_.str(v));
    if (name == "attr") return m_.attribute(v, name_of(arg(0), "attribute"));
    if (name == "wordcount")
      return Value::of(static_cast<std::int64_t>(Library(m_, {}).split(m_.str(v), false).list->items.size()));
    return list_filter(name, v);
  }

  // --- tests
  bool test(const std::string& name, const Value& v) const {
    static const std::map<std::string, Op> kOperators{
        {"eq", Op::kEq}, {"equalto", Op::kEq}, {"==", Op::kEq},       {"ne", Op::kNe},
        {"!=", Op::kNe}, {"lt", Op::kLt},      {"lessthan", Op::kLt}, {"<", Op::kLt},
        {"le", Op::kLe}, {"<=", Op::kLe},      {"gt", Op::kGt},       {"greaterthan", Op::kGt},
        {">", Op::kGt},  {"ge", Op::kGe},      {">=", Op::kGe},       {"in", Op::kIn}};
    if (name == "defined") return !v.is_undefined();
    if (name == "undefined") return v.is_undefined();
    if (name == "none") return v.is_none();
    if (name == "string") return v.is_text();
    if (name == "mapping") return v.is == Is::kDict;
    if (name == "sequence" || name == "iterable")
      return v.is_text() || v.is == Is::kList || v.is == Is::kDict || v.is_undefined();
    if (name == "boolean") return v.is == Is::kBool;
    if (name == "true") return v.is == Is::kBool && v.flag;
    if (name == "false") return v.is == Is::kBool && !v.flag;
    if (name == "integer") return v.is == Is::kInt;
    if (name == "float") return v.is == Is::kFloat;
    if (name == "number") return v.is_number();
    if (name == "callable") return v.is == Is::kCallable;
    if (name == "even" || name == "odd") {
      if (!v.is_integer()) m_.fail("even and odd need a whole number");
      return (v.as_integer() % 2 == 0) == (name == "even");
    }
    if (name == "divisibleby") return m_.binary(Op::kMod, v, arg(0)).as_number() == 0;
    if (name == "lower" || name == "upper") return v.is_text() && with_case(*v.text, name == "upper") == *v.text;
    if (name == "sameas") {
      const Value o = arg(0);
      return v.is == o.is && (v.is == Is::kText   ? v.text == o.text
                              : v.is == Is::kList ? v.list == o.list
                              : v.is == Is::kDict ? v.dict == o.dict
                                                  : m_.equal(v, o));
    }
    const auto found = kOperators.find(name);
    if (found == kOperators.end()) m_.fail(fmt::format("the test '{}' is not known", name));
    return m_.binary(found->second, v, arg(0)).truth();
  }

 private:
  Machine& m_;
  const Arguments& args_;
};

Value Machine::attribute(const Value& v, const std::string& name) {
  work();
  if (v.is_undefined()) fail(fmt::format("'{}' is undefined", v.name != nullptr ? *v.name : "a value"));
  if (v.is == Value::Is::kDict) {
    static const std::set<std::string> kMethods{"items", "keys", "values", "get"};
    const Dict* d = v.dict;
    if (!d->is_namespace && kMethods.contains(name))
      return callable([this, d, name](const Arguments& args) { return Library(*this, args).dict_method(name, *d); });
    const Value* found = find(*d, name);
    return found != nullptr ? *found : Value();
  }
  if (v.is_text()) {
    static const std::set<std::string> kMethods{
        "strip",   "lstrip",  "rstrip",     "split",   "rsplit",  "splitlines", "startswith",   "endswith",
        "replace", "upper",   "lower",      "title",   "find",    "rfind",      "count",        "join",
        "isdigit", "isalpha", "capitalize", "isspace", "isupper", "islower",    "removeprefix", "removesuffix"};
    if (!kMethods.contains(name)) return {};
    const Text* t = v.text;
    return callable([this, t, name](const Arguments& args) { return Library(*this, args).text_method(name, *t); });
  }
  if (v.is == Value::Is::kList && (name == "append" || name == "pop" || name == "insert" || name == "extend"))
    fail(fmt::format("'{}' would change a list, which templates may not", name));
  return {};
}

Value Machine::filter(const std::string& name, const Value& v, const Arguments& args) {
  return Library(*this, args).filter(name, v);
}
bool Machine::test(const std::string& name, const Value& v, const Arguments& args) {
  return Library(*this, args).test(name, v);
}

namespace {

Value range(Machine& m, const Arguments& args) {
  std::array<std::int64_t, 3> at{0, 0, 1};
  if (args.values.empty() || args.values.size() > 3) m.fail("range needs one to three numbers");
  for (std::size_t i = 0; i < args.values.size(); ++i) {
    if (!args.values[i].is_integer()) m.fail("range needs whole numbers");
    at[args.values.size() == 1 ? 1 : i] =
        std::clamp<std::int64_t>(args.values[i].as_integer(), -(1LL << 60), 1LL << 60);
  }
  if (at[2] == 0) m.fail("the step of a range is zero");
  std::vector<Value> out;
  for (std::int64_t i = at[0]; at[2] > 0 ? i < at[1] : i > at[1]; i += at[2]) {
    m.memory(1);
    out.push_back(Value::of(i));
  }
  return m.list(std::move(out));
}

std::string local_time(Machine& m, std::time_t now, const std::string& format) {
  std::tm t{};
  std::array<char, 256> out{};
  localtime_r(&now, &t);
  if (format.empty()) return "";
  const std::size_t n = std::strftime(out.data(), out.size(), format.c_str(), &t);
  if (n == 0) m.fail("strftime_now got a format that it cannot use");
  return std::string(out.data(), n);
}

}  // namespace

Value Machine::global(const std::string& name) {
  if (name == "range") return callable([this](const Arguments& args) { return range(*this, args); });
  if (name == "namespace" || name == "dict") {
    const bool is_namespace = name == "namespace";
    return callable([this, is_namespace](const Arguments& args) {
      std::vector<std::pair<Value, Value>> items;
      if (!args.values.empty() && args.values[0].is == Value::Is::kDict) items = args.values[0].dict->items;
      const Value out = dict(std::move(items), is_namespace);
      for (const auto& [key, value] : args.named) set(*out.dict, text(key), value);
      return out;
    });
  }
  if (name == "raise_exception") {
    return callable([this](const Arguments& args) -> Value {
      fail("it refuses this conversation: " + to_utf8(str(args.get(0, "message"))));
    });
  }
  if (name == "strftime_now")
    return callable(
        [this](const Arguments& args) { return text(local_time(*this, now_, to_utf8(str(args.get(0, "format"))))); });
  return {};
}

}  // namespace gsd::chat
