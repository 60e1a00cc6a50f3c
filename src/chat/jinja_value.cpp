#include "jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace gsd::chat {

bool Value::truth() const {
  switch (is) {
    case Is::kBool:
      return flag;
    case Is::kInt:
      return integer != 0;
    case Is::kFloat:
      return number != 0;
    case Is::kText:
      return !text->empty();
    case Is::kList:
      return !list->items.empty();
    case Is::kDict:
      return dict->is_namespace || !dict->items.empty();
    case Is::kCallable:
      return true;
    default:
      return false;
  }
}

Value Arguments::get(std::size_t i, const char* name, Value absent) const {
  if (i < values.size()) return values[i];
  for (const auto& [key, value] : named) {
    if (key == name) return value;
  }
  return absent;
}

void Machine::work(std::size_t n) {
  work_ += static_cast<std::int64_t>(n);
  if (work_ > limits_.work) fail("rendering takes too much work");
}

void Machine::memory(std::size_t n) {
  memory_ += static_cast<std::int64_t>(n);
  if (memory_ > limits_.memory) fail("rendering takes too much memory");
}

Value Machine::text(Text t) {
  memory(t.size() + 8);
  texts_.push_back(std::move(t));
  return Value::of(&texts_.back());
}

Value Machine::list(std::vector<Value> items, bool tuple) {
  memory(8 + 4 * items.size());
  lists_.push_back({std::move(items), tuple});
  return Value::of(&lists_.back());
}

Value Machine::dict(std::vector<std::pair<Value, Value>> items, bool is_namespace) {
  memory(8 + 8 * items.size());
  dicts_.push_back({std::move(items), is_namespace});
  return Value::of(&dicts_.back());
}

Value Machine::callable(std::function<Value(const Arguments&)> call) {
  memory(32);
  callables_.push_back({std::move(call)});
  return Value::of(&callables_.back());
}

Value Machine::import(const Json& json, char32_t mark) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::of(json.get<bool>());
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      if (json.is_number_unsigned() && json.get<std::uint64_t>() > INT64_MAX) return Value::of(json.get<double>());
      return Value::of(json.get<std::int64_t>());
    case Json::value_t::number_float:
      return Value::of(json.get<double>());
    case Json::value_t::string:
      texts_.push_back(to_text(json.get_ref<const std::string&>(), mark));
      limits_.work += limits_.for_each_character * static_cast<std::int64_t>(texts_.back().size());
      limits_.memory += limits_.for_each_character * static_cast<std::int64_t>(texts_.back().size());
      return Value::of(&texts_.back());
    case Json::value_t::array: {
      List& l = lists_.emplace_back();
      for (const Json& item : json) l.items.push_back(import(item, mark));
      return Value::of(&l);
    }
    case Json::value_t::object: {
      Dict& d = dicts_.emplace_back();
      for (const auto& [key, value] : json.items()) {
        texts_.push_back(to_text(key, mark));
        const Value k = Value::of(&texts_.back());
        d.items.emplace_back(k, import(value, key == "role" && value.is_string() ? 0 : mark));
      }
      return Value::of(&d);
    }
    default:
      return Value::none();
  }
}

bool Machine::equal(const Value& a, const Value& b) {
  work();
  const Deeper deeper(*this);
  if (a.is_integer() && b.is_integer()) return a.as_integer() == b.as_integer();
  if (a.is_number() && b.is_number()) return a.as_number() == b.as_number();
  if (a.is != b.is) return false;
  switch (a.is) {
    case Value::Is::kText:
      work(a.text->size() == b.text->size() ? a.text->size() : 0);
      return *a.text == *b.text;
    case Value::Is::kList:
      return a.list == b.list ||
             std::equal(a.list->items.begin(), a.list->items.end(), b.list->items.begin(), b.list->items.end(),
                        [this](const Value& x, const Value& y) { return equal(x, y); });
    case Value::Is::kDict:
      if (a.dict == b.dict) return true;
      if (a.dict->items.size() != b.dict->items.size()) return false;
      return std::all_of(a.dict->items.begin(), a.dict->items.end(), [&](const auto& item) {
        const Value* other = find(*b.dict, item.first);
        return other != nullptr && equal(item.second, *other);
      });
    case Value::Is::kCallable:
      return a.callable == b.callable;
    default:
      return true;
  }
}

int Machine::compare(const Value& a, const Value& b) {
  work();
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.as_integer() < b.as_integer() ? -1 : a.as_integer() > b.as_integer();
    return a.as_number() < b.as_number() ? -1 : a.as_number() > b.as_number();
  }
  if (a.is_text() && b.is_text()) {
    work(std::min(a.text->size(), b.text->size()));
    const int c = a.text->compare(*b.text);
    return c < 0 ? -1 : c > 0;
  }
  if (a.is == Value::Is::kList && b.is == Value::Is::kList) {
    const Deeper deeper(*this);
    const auto& x = a.list->items;
    const auto& y = b.list->items;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i])) return compare(x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  fail("values of different kinds are compared");
}

const Value* Machine::find(const Dict& d, const Value& key) {
  for (const auto& [k, v] : d.items) {
    if (equal(k, key)) return &v;
  }
  return nullptr;
}

const Value* Machine::find(const Dict& d, std::string_view key) {
  work(1 + d.items.size() / 4);
  for (const auto& [k, v] : d.items) {
    if (!k.is_text() || k.text->size() != key.size()) continue;
    if (std::equal(key.begin(), key.end(), k.text->begin(),
                   [](char a, char32_t b) { return static_cast<unsigned char>(a) == plain(b); }))
      return &v;
  }
  return nullptr;
}

void Machine::set(Dict& d, const Value& key, const Value& v) {
  for (auto& [k, old] : d.items) {
    if (!equal(k, key)) continue;
    old = v;
    return;
  }
  memory(8);
  d.items.emplace_back(key, v);
}

bool Machine::contains(const Value& container, const Value& v) {
  switch (container.is) {
    case Value::Is::kUndefined:
      return false;
    case Value::Is::kText:
      if (!v.is_text()) fail("only text can be looked for in text");
      work(container.text->size());
      return container.text->find(*v.text) != Text::npos;
    case Value::Is::kList:
      return std::any_of(container.list->items.begin(), container.list->items.end(),
                         [&](const Value& item) { return equal(item, v); });
    case Value::Is::kDict:
      return find(*container.dict, v) != nullptr;
    default:
      fail("'in' needs a text, a list or a mapping");
  }
}

// Python's: the shortest that reads back the same, with ".0" where it would look whole.
Text Machine::number(double d) {
  if (std::isnan(d)) return to_text("nan");
  if (std::isinf(d)) return to_text(d < 0 ? "-inf" : "inf");
  std::string out = fmt::format("{}", d);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return to_text(out);
}

// As repr() quotes.
Text Machine::quoted(const Text& t) {
  memory(t.size() + 2);
  const bool single = t.find(U'\'') != Text::npos && t.find(U'"') == Text::npos;
  const char32_t quote = single ? U'"' : U'\'';
  Text out(1, quote);
  for (const char32_t c : t) {
    const char32_t p = plain(c);
    if (p == quote || p == U'\\') {
      out += U'\\';
      out += c;
    } else if (p == U'\n' || p == U'\r' || p == U'\t') {
      out += U'\\';
      out += p == U'\n' ? U'n' : p == U'\r' ? U'r' : U't';
    } else if (p < 0x20 || p == 0x7F) {
      out += to_text(fmt::format("\\x{:02x}", static_cast<unsigned>(p)));
    } else {
      out += c;
    }
  }
  out += quote;
  return out;
}

Text Machine::str(const Value& v) { return v.is_text() ? *v.text : v.is_undefined() ? Text() : repr(v); }

Text Machine::repr(const Value& v) {
  work();
  const Deeper deeper(*this);
  switch (v.is) {
    case Value::Is::kUndefined:
      return to_text("Undefined");
    case Value::Is::kNone:
      return to_text("None");
    case Value::Is::kBool:
      return to_text(v.flag ? "True" : "False");
    case Value::Is::kInt:
      return to_text(std::to_string(v.integer));
    case Value::Is::kFloat:
      return number(v.number);
    case Value::Is::kText:
      return quoted(*v.text);
    case Value::Is::kCallable:
      return to_text("<function>");
    case Value::Is::kList: {
      Text out(1, v.list->tuple ? U'(' : U'[');
      for (const Value& item : v.list->items) out += (out.size() > 1 ? to_text(", ") : Text()) + repr(item);
      if (v.list->tuple && v.list->items.size() == 1) out += U',';
      out += v.list->tuple ? U')' : U']';
      memory(out.size());
      return out;
    }
    case Value::Is::kDict: {
      Text out(1, U'{');
      for (const auto& [key, value] : v.dict->items)
        out += (out.size() > 1 ? to_text(", ") : Text()) + repr(key) + to_text(": ") + repr(value);
      out += U'}';
      memory(out.size());
      return out;
    }
  }
  return {};
}

namespace {

void json_text(Text& out, const Text& t) {
  out += U'"';
  for (const char32_t c : t) {
    const char32_t p = plain(c);
    constexpr std::u32string_view kEscaped = U"\"\\\n\r\t\b\f";
    constexpr std::u32string_view kAs = U"\"\\nrtbf";
    if (const auto i = kEscaped.find(p); i != std::u32string_view::npos) {
      out += U'\\';
      out += kAs[i];
    } else if (p < 0x20) {
      out += to_text(fmt::format("\\u{:04x}", static_cast<unsigned>(p)));
    } else {
      out += c;
    }
  }
  out += U'"';
}

}  // namespace

Text Machine::json(const Value& v, std::int64_t indent, const Text& item_separator, const Text& key_separator,
                   bool sort_keys) {
  Text out;
  json_into(out, v, std::min<std::int64_t>(indent, 64), 1, item_separator, key_separator, sort_keys);
  memory(out.size());
  return out;
}

void Machine::json_into(Text& out, const Value& v, std::int64_t indent, std::int64_t level, const Text& item_separator,
                        const Text& key_separator, bool sort_keys) {
  work(1 + (v.is_text() ? v.text->size() / 4 : 0));
  const Deeper deeper(*this);
  const auto line_break = [&](std::int64_t depth) {
    if (indent < 0) return;
    work(static_cast<std::size_t>(indent * depth));
    out += U'\n';
    out.append(static_cast<std::size_t>(indent * depth), U' ');
  };
  switch (v.is) {
    case Value::Is::kNone:
      out += to_text("null");
      break;
    case Value::Is::kBool:
      out += to_text(v.flag ? "true" : "false");
      break;
    case Value::Is::kText:
      json_text(out, *v.text);
      break;
    case Value::Is::kInt:
    case Value::Is::kFloat:
      out += repr(v);
      break;
    case Value::Is::kList:
      out += U'[';
      for (std::size_t i = 0; i < v.list->items.size(); ++i) {
        if (i > 0) out += item_separator;
        line_break(level);
        json_into(out, v.list->items[i], indent, level + 1, item_separator, key_separator, sort_keys);
      }
      if (!v.list->items.empty()) line_break(level - 1);
      out += U']';
      break;
    case Value::Is::kDict: {
      auto items = v.dict->items;
      work(items.size());
      if (sort_keys)
        std::stable_sort(items.begin(), items.end(),
                         [&](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
      out += U'{';
      for (std::size_t i = 0; i < items.size(); ++i) {
        if (i > 0) out += item_separator;
        line_break(level);
        const Value& key = items[i].first;
        json_text(out, key.is_text() ? *key.text : json(key, -1, item_separator, key_separator, false));
        out += key_separator;
        json_into(out, items[i].second, indent, level + 1, item_separator, key_separator, sort_keys);
      }
      if (!items.empty()) line_break(level - 1);
      out += U'}';
      break;
    }
    default:
      fail(v.is_undefined() ? "tojson of a value that is undefined" : "tojson of a function");
  }
}

std::vector<Value> Machine::elements(const Value& v) {
  std::vector<Value> out;
  switch (v.is) {
    case Value::Is::kUndefined:
      break;
    case Value::Is::kList:
      out = v.list->items;
      break;
    case Value::Is::kDict:
      for (const auto& item : v.dict->items) out.push_back(item.first);
      break;
    case Value::Is::kText:
      work(v.text->size());
      for (const char32_t c : *v.text) out.push_back(text(Text(1, c)));
      break;
    default:
      fail("a value that is no list is gone through");
  }
  work(out.size());
  return out;
}

Value Machine::index(const Value& v, const Value& key) {
  work();
  if (v.is_undefined()) fail(fmt::format("'{}' is undefined", v.name != nullptr ? *v.name : "a value"));
  if (v.is == Value::Is::kDict) {
    const Value* found = find(*v.dict, key);
    return found != nullptr ? *found : Value();
  }
  if ((v.is == Value::Is::kList || v.is_text()) && key.is_integer()) {
    const std::size_t size = v.is_text() ? v.text->size() : v.list->items.size();
    const std::int64_t i = key.as_integer() + (key.as_integer() < 0 ? static_cast<std::int64_t>(size) : 0);
    if (i < 0 || static_cast<std::size_t>(i) >= size) return {};
    return v.is_text() ? text(v.text->substr(static_cast<std::size_t>(i), 1))
                       : v.list->items[static_cast<std::size_t>(i)];
  }
  return key.is_text() ? attribute(v, to_utf8(*key.text)) : Value();
}

Value Machine::slice(const Value& v, const Value& from, const Value& to, const Value& step_value) {
  if (!v.is_text() && v.is != Value::Is::kList) fail("only texts and lists can be sliced");
  for (const Value* part : {&from, &to, &step_value}) {
    if (!part->is_integer() && !part->is_none() && !part->is_undefined()) fail("a slice needs whole numbers");
  }
  const std::int64_t step = step_value.is_integer() ? step_value.as_integer() : 1;
  if (step == 0) fail("the step of a slice is zero");
  const auto size = static_cast<std::int64_t>(v.is_text() ? v.text->size() : v.list->items.size());
  const auto place = [&](const Value& part, std::int64_t absent) {
    if (!part.is_integer()) return absent;
    const std::int64_t i = part.as_integer() < 0 ? std::max(part.as_integer(), -size - 1) + size : part.as_integer();
    return std::clamp<std::int64_t>(i, step > 0 ? 0 : -1, step > 0 ? size : size - 1);
  };
  const std::int64_t begin = place(from, step > 0 ? 0 : size - 1);
  const std::int64_t end = place(to, step > 0 ? size : -1);
  Text t;
  std::vector<Value> items;
  const std::int64_t stride = std::clamp(step, -size - 1, size + 1);  // beyond the ends all strides are alike
  for (std::int64_t i = begin; step > 0 ? i < end : i > end; i += stride) {
    work();
    if (v.is_text()) {
      t += (*v.text)[static_cast<std::size_t>(i)];
    } else {
      items.push_back(v.list->items[static_cast<std::size_t>(i)]);
    }
  }
  return v.is_text() ? text(std::move(t)) : list(std::move(items), v.list->tuple);
}

Value Machine::call(const Value& f, const Arguments& args) {
  if (f.is != Value::Is::kCallable)
    fail(fmt::format("{} is called, which is no function",
                     f.is_undefined() && f.name != nullptr ? "'" + *f.name + "'" : "a value"));
  work();
  const Deeper deeper(*this);
  return f.callable->call(args);
}

namespace {

// An integer as Python's // and % round: downwards.
std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0); }

}  // namespace

Value Machine::binary(Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
      return Value::of(equal(a, b));
    case Op::kNe:
      return Value::of(!equal(a, b));
    case Op::kLt:
      return Value::of(compare(a, b) < 0);
    case Op::kLe:
      return Value::of(compare(a, b) <= 0);
    case Op::kGt:
      return Value::of(compare(a, b) > 0);
    case Op::kGe:
      return Value::of(compare(a, b) >= 0);
    case Op::kIn:
      return Value::of(contains(b, a));
    case Op::kNotIn:
      return Value::of(!contains(b, a));
    case Op::kConcat:
      return text(str(a) + str(b));
    default:
      break;
  }
  if (a.is_undefined() || b.is_undefined()) {
    const Value& v = a.is_undefined() ? a : b;
    fail(fmt::format("'{}' is undefined", v.name != nullptr ? *v.name : "a value"));
  }
  if (op == Op::kAdd && a.is_text() && b.is_text()) return text(*a.text + *b.text);
  if (op == Op::kAdd && a.is == Value::Is::kList && b.is == Value::Is::kList) {
    work(a.list->items.size() + b.list->items.size());
    std::vector<Value> items = a.list->items;
    items.insert(items.end(), b.list->items.begin(), b.list->items.end());
    return list(std::move(items), a.list->tuple);
  }
  if (op == Op::kMul && (a.is_text() || a.is == Value::Is::kList) && b.is_integer()) {
    const std::int64_t n = std::max<std::int64_t>(0, b.as_integer());
    const auto size = static_cast<std::int64_t>(a.is_text() ? a.text->size() : a.list->items.size());
    std::int64_t total = 0;
    if (__builtin_mul_overflow(n, size, &total)) fail("rendering takes too much memory");
    memory(static_cast<std::size_t>(total));
    Text t;
    std::vector<Value> items;
    for (std::int64_t i = 0; i < n && size > 0; ++i) {
      if (a.is_text())
        t += *a.text;
      else
        items.insert(items.end(), a.list->items.begin(), a.list->items.end());
    }
    return a.is_text() ? text(std::move(t)) : list(std::move(items), a.list->tuple);
  }
  if (op == Op::kMul && a.is_integer() && (b.is_text() || b.is == Value::Is::kList)) return binary(op, b, a);
  if (op == Op::kMod && a.is_text())
    return filter("format", a, {b.is == Value::Is::kList && b.list->tuple ? b.list->items : std::vector<Value>{b}, {}});
  if (!a.is_number() || !b.is_number()) fail("an operator does not fit its values");
  const bool whole = a.is_integer() && b.is_integer();
  const std::int64_t x = whole ? a.as_integer() : 0;
  const std::int64_t y = whole ? b.as_integer() : 0;
  const double p = a.as_number();
  const double q = b.as_number();
  std::int64_t r = 0;
  bool overflow = false;
  switch (op) {
    case Op::kAdd:
      if (!whole) return Value::of(p + q);
      overflow = __builtin_add_overflow(x, y, &r);
      break;
    case Op::kSub:
      if (!whole) return Value::of(p - q);
      overflow = __builtin_sub_overflow(x, y, &r);
      break;
    case Op::kMul:
      if (!whole) return Value::of(p * q);
      overflow = __builtin_mul_overflow(x, y, &r);
      break;
    case Op::kPow: {
      const double power = std::pow(p, q);
      if (!whole || y < 0) return Value::of(power);
      overflow = std::abs(power) >= 9e15;
      if (!overflow) r = static_cast<std::int64_t>(power);
      break;
    }
    default:  // the divisions
      if (q == 0) fail("division by zero");
      if (op == Op::kDiv) return Value::of(p / q);
      if (!whole) return Value::of(op == Op::kFloorDiv ? std::floor(p / q) : p - q * std::floor(p / q));
      if (y == -1) {  // the smallest number has no opposite
        overflow = op == Op::kFloorDiv && __builtin_sub_overflow(std::int64_t{0}, x, &r);
        break;
      }
      r = op == Op::kFloorDiv ? floor_div(x, y) : x - y * floor_div(x, y);
      break;
  }
  if (overflow) fail("a number is too large");
  return Value::of(r);
}

}  // namespace gsd::chat
