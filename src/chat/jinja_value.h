// Values of a template that is being rendered, and the arena that owns them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "jinja.h"
#include "jinja_ast.h"

namespace gsd::chat {

struct Value;
struct List;
struct Dict;
struct Callable;

// Small and copied freely; what it points to lives as long as the rendering.
struct Value {
  enum class Is : std::uint8_t { kUndefined, kNone, kBool, kInt, kFloat, kText, kList, kDict, kCallable };
  Is is = Is::kUndefined;
  union {
    bool flag;
    std::int64_t integer;
    double number;
    const Text* text;
    List* list;
    Dict* dict;
    const Callable* callable;
    const std::string* name = nullptr;  // of what is undefined; may be null
  };

  static Value none() {
    Value v;
    v.is = Is::kNone;
    return v;
  }
  static Value of(bool b) {
    Value v;
    v.is = Is::kBool;
    v.flag = b;
    return v;
  }
  static Value of(std::int64_t i) {
    Value v;
    v.is = Is::kInt;
    v.integer = i;
    return v;
  }
  static Value of(double d) {
    Value v;
    v.is = Is::kFloat;
    v.number = d;
    return v;
  }
  static Value of(const Text* t) {
    Value v;
    v.is = Is::kText;
    v.text = t;
    return v;
  }
  static Value of(List* l) {
    Value v;
    v.is = Is::kList;
    v.list = l;
    return v;
  }
  static Value of(Dict* d) {
    Value v;
    v.is = Is::kDict;
    v.dict = d;
    return v;
  }
  static Value of(const Callable* c) {
    Value v;
    v.is = Is::kCallable;
    v.callable = c;
    return v;
  }
  static Value undefined(const std::string* name) {
    Value v;
    v.name = name;
    return v;
  }

  bool is_undefined() const { return is == Is::kUndefined; }
  bool is_none() const { return is == Is::kNone; }
  bool is_text() const { return is == Is::kText; }
  bool is_integer() const { return is == Is::kInt || is == Is::kBool; }  // Python counts with booleans
  bool is_number() const { return is_integer() || is == Is::kFloat; }
  std::int64_t as_integer() const { return is == Is::kBool ? flag : integer; }
  double as_number() const { return is == Is::kFloat ? number : static_cast<double>(as_integer()); }
  bool truth() const;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;
  bool is_namespace = false;
};

struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;
  // The i-th argument, or the one of that name, or `absent`.
  Value get(std::size_t i, const char* name, Value absent = {}) const;
};

struct Callable {
  std::function<Value(const Arguments&)> call;
};

// Owns what a rendering makes and counts it. Its failures carry the line that is being worked on.
class Machine {
 public:
  Machine(const JinjaLimits& limits, std::time_t now) : limits_(limits), now_(now) {}
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  [[noreturn]] void fail(const std::string& what) const { fail_at(line, what); }
  void work(std::size_t n = 1);
  void memory(std::size_t n);

  Value text(Text t);
  Value text(std::string_view utf8) { return text(to_text(utf8)); }
  Value list(std::vector<Value> items, bool tuple = false);
  Value dict(std::vector<std::pair<Value, Value>> items = {}, bool is_namespace = false);
  Value callable(std::function<Value(const Arguments&)> call);
  // A variable; not counted against the limits, which grow with it.
  Value import(const Json& json, char32_t mark);

  bool equal(const Value& a, const Value& b);
  // -1, 0 or 1; fails for what Python does not compare.
  int compare(const Value& a, const Value& b);
  bool contains(const Value& container, const Value& v);
  const Value* find(const Dict& d, const Value& key);
  const Value* find(const Dict& d, std::string_view key);
  void set(Dict& d, const Value& key, const Value& v);

  // As {{ }} prints it, and as Python's repr does.
  Text str(const Value& v);
  Text repr(const Value& v);
  // As json.dumps(ensure_ascii=False) does; indent < 0 = one line.
  Text json(const Value& v, std::int64_t indent, const Text& item_separator, const Text& key_separator, bool sort_keys);
  // What a loop over `v` goes through.
  std::vector<Value> elements(const Value& v);

  Value attribute(const Value& v, const std::string& name);
  Value index(const Value& v, const Value& key);
  Value slice(const Value& v, const Value& from, const Value& to, const Value& step);
  Value binary(Op op, const Value& a, const Value& b);
  Value call(const Value& f, const Arguments& args);
  Value filter(const std::string& name, const Value& v, const Arguments& args);
  bool test(const std::string& name, const Value& v, const Arguments& args);
  // range, namespace, dict, raise_exception, strftime_now, …; undefined if there is none of that name.
  Value global(const std::string& name);

  int line = 0;
  struct Deeper {
    explicit Deeper(Machine& m) : machine(m) {
      if (++m.depth_ > m.limits_.depth) m.fail("it goes too deep");
    }
    ~Deeper() { --machine.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    Machine& machine;
  };

 private:
  friend class Library;
  Text number(double d);
  Text quoted(const Text& t);
  void json_into(Text& out, const Value& v, std::int64_t indent, std::int64_t level, const Text& item_separator,
                 const Text& key_separator, bool sort_keys);

  JinjaLimits limits_;
  std::time_t now_;
  int depth_ = 0;
  std::int64_t work_ = 0;
  std::int64_t memory_ = 0;
  std::deque<Text> texts_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Callable> callables_;
};

bool is_space(char32_t c);
Text strip(TextView t, TextView chars, bool left, bool right);

}  // namespace gsd::chat
