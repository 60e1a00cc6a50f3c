#include "jinja.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "gsd/error.h"
#include "jinja_value.h"

namespace gsd::chat {
namespace {

constexpr int kCycleMost = 1000;

// Names and values; a lookup goes on in `parent`.
struct Scope {
  Scope* parent = nullptr;
  std::map<std::string, Value, std::less<>> values = {};
};

enum class Flow : std::uint8_t { kOn, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const JinjaLimits& limits, std::time_t now) : m_(limits, now) {}

  Rendered run(const Statement& root, const std::vector<Variable>& variables) {
    for (const Variable& v : variables)
      global_.values[v.name] = m_.import(v.value, v.origin == Origin::kRequest ? kFromRequest : 0);
    body(root.body, global_);
    return to_rendered(*out_);
  }

 private:
  Flow body(const std::vector<std::shared_ptr<Statement>>& list, Scope& scope) {
    const Machine::Deeper deeper(m_);
    for (const auto& s : list) {
      const Flow flow = one(*s, scope);
      if (flow != Flow::kOn) return flow;
    }
    return Flow::kOn;
  }

  // Scopes live until the end: a macro or a loop may be kept and called later.
  Scope& new_scope(Scope* parent) {
    m_.memory(16);
    return scopes_.emplace_back(Scope{parent});
  }

  void print(const Text& t) {
    m_.work(1 + t.size() / 16);
    m_.memory(t.size());
    *out_ += t;
  }

  // What `f` prints, as a value.
  template <typename F>
  Value captured(F f) {
    Text mine;
    Text* const outer = std::exchange(out_, &mine);
    try {
      f();
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return m_.text(std::move(mine));
  }

  Flow one(const Statement& s, Scope& scope) {
    m_.line = s.line;
    m_.work();
    switch (s.kind) {
      case Kind::kSequence:
        return body(s.body, scope);
      case Kind::kText:
        print(s.text);
        break;
      case Kind::kOutput:
        print(m_.str(eval(*s.expr, scope)));
        break;
      case Kind::kIf:
        return body(eval(*s.expr, scope).truth() ? s.body : s.otherwise, scope);
      case Kind::kFor:
        loop(s, scope, 1, eval(*s.expr, scope));
        break;
      case Kind::kSet:
        assign(s, scope);
        break;
      case Kind::kSetAttribute: {
        const Value target = lookup(s.targets[0], scope);
        if (target.is != Value::Is::kDict || !target.dict->is_namespace)
          m_.fail("attributes can be set on namespaces only");
        m_.set(*target.dict, m_.text(s.name), eval(*s.expr, scope));
        break;
      }
      case Kind::kMacro:
        scope.values[s.name] = macro(s);
        break;
      case Kind::kCallBlock: {
        Arguments args = arguments(*s.expr, scope, 1);
        args.named.emplace_back("caller", macro(s, &scope));
        print(m_.str(m_.call(eval(*s.expr->args[0], scope), args)));
        break;
      }
      case Kind::kFilterBlock:
        print(m_.str(filtered(*s.expr, captured([&] { body(s.body, scope); }), scope)));
        break;
      case Kind::kBreak:
        return Flow::kBreak;
      case Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kOn;
  }

  void assign(const Statement& s, Scope& scope) {
    if (s.body.empty()) {
      unpack(s.targets, eval(*s.expr, scope), scope);
      return;
    }
    Value v = captured([&] {
      Scope& inner = new_scope(&scope);
      body(s.body, inner);
    });
    if (s.expr) v = filtered(*s.expr, v, scope);
    unpack(s.targets, v, scope);
  }

  void unpack(const std::vector<std::string>& names, const Value& v, Scope& scope) {
    if (names.size() == 1) {
      scope.values[names[0]] = v;
      return;
    }
    const std::vector<Value> items = m_.elements(v);
    if (items.size() != names.size()) m_.fail("a list of another length is given to several names");
    for (std::size_t i = 0; i < names.size(); ++i) scope.values[names[i]] = items[i];
  }

  // A chain of filters over `v`, which stands where the tree has "undefined".
  Value filtered(const Expr& e, const Value& v, Scope& scope) {
    if (e.op == Op::kUndefined) return v;
    if (e.op != Op::kFilter) m_.fail("a filter is expected");
    return m_.filter(e.name, filtered(*e.args[0], v, scope), arguments(e, scope, 1));
  }

  void loop(const Statement& s, Scope& scope, std::int64_t depth, const Value& over) {
    const Machine::Deeper deeper(m_);
    std::vector<Value> items = m_.elements(over);
    if (s.condition) {
      std::erase_if(items, [&](const Value& item) {
        Scope& inner = new_scope(&scope);
        unpack(s.targets, item, inner);
        return !eval(*s.condition, inner).truth();
      });
    }
    if (items.empty()) {
      body(s.otherwise, scope);
      return;
    }
    const Value info = m_.dict();
    const Value again = m_.callable([this, &s, &scope, depth](const Arguments& args) {
      return captured([&] { loop(s, scope, depth + 1, args.get(0, "iterable")); });
    });
    for (std::size_t i = 0; i < items.size(); ++i) {
      m_.work();
      Scope& inner = new_scope(&scope);
      describe(*info.dict, items, i, depth);
      inner.values["loop"] = info;
      if (s.recursive) m_.set(*info.dict, m_.text(kCallKey), again);
      unpack(s.targets, items[i], inner);
      if (body(s.body, inner) == Flow::kBreak) break;
    }
  }

  static constexpr std::string_view kCallKey = "\x01 call";

  void describe(Dict& d, const std::vector<Value>& items, std::size_t i, std::int64_t depth) {
    const auto at = static_cast<std::int64_t>(i);
    const auto n = static_cast<std::int64_t>(items.size());
    const auto number = [](std::int64_t x) { return Value::of(x); };
    const std::pair<std::string_view, Value> fields[] = {{"index", number(at + 1)},
                                                         {"index0", number(at)},
                                                         {"revindex", number(n - at)},
                                                         {"revindex0", number(n - at - 1)},
                                                         {"first", Value::of(at == 0)},
                                                         {"last", Value::of(at + 1 == n)},
                                                         {"length", number(n)},
                                                         {"depth", number(depth)},
                                                         {"depth0", number(depth - 1)},
                                                         {"previtem", i > 0 ? items[i - 1] : Value()},
                                                         {"nextitem", i + 1 < items.size() ? items[i + 1] : Value()}};
    if (d.items.empty()) {
      for (const auto& [name, value] : fields) d.items.emplace_back(m_.text(name), value);
      d.items.emplace_back(m_.text("cycle"), Value());
    } else {
      for (std::size_t k = 0; k < std::size(fields); ++k) d.items[k].second = fields[k].second;
    }
    d.items[std::size(fields)].second = m_.callable([this, i](const Arguments& args) {
      if (args.values.empty() || args.values.size() > kCycleMost) m_.fail("cycle needs values");
      return args.values[i % args.values.size()];
    });
  }

  // Its body sees what is global and its own parameters; that of a call block sees where it stands.
  Value macro(const Statement& s, Scope* where = nullptr) {
    Scope* const parent = where != nullptr ? where : &global_;
    return m_.callable([this, &s, parent](const Arguments& args) {
      Scope& inner = new_scope(parent);
      if (args.values.size() > s.params.size()) m_.fail("the macro '" + s.name + "' gets too many values");
      for (std::size_t i = 0; i < s.params.size(); ++i) {
        const auto& [name, absent] = s.params[i];
        Value v = args.get(i, name.c_str());
        if (v.is_undefined() && absent) v = eval(*absent, inner);
        inner.values[name] = v;
      }
      for (const auto& [name, value] : args.named) {
        if (name == "caller") inner.values[name] = value;
      }
      return captured([&] { body(s.body, inner); });
    });
  }

  Value lookup(const std::string& name, Scope& scope) {
    for (Scope* s = &scope; s != nullptr; s = s->parent) {
      m_.work();
      const auto found = s->values.find(name);
      if (found != s->values.end()) return found->second;
    }
    const Value v = m_.global(name);
    return v.is_undefined() ? Value::undefined(&name) : v;
  }

  Arguments arguments(const Expr& e, Scope& scope, std::size_t from) {
    Arguments out;
    for (std::size_t i = from; i < e.args.size(); ++i) {
      const Expr& a = *e.args[i];
      if (a.op == Op::kSpread) {
        for (const Value& v : m_.elements(eval(*a.args[0], scope))) out.values.push_back(v);
      } else if (a.op == Op::kSpreadMap) {
        const Value v = eval(*a.args[0], scope);
        if (v.is != Value::Is::kDict) m_.fail("** needs a mapping");
        for (const auto& [key, value] : v.dict->items) out.named.emplace_back(to_utf8(m_.str(key)), value);
      } else {
        out.values.push_back(eval(a, scope));
      }
    }
    for (const auto& [name, value] : e.kwargs) out.named.emplace_back(name, eval(*value, scope));
    return out;
  }

  Value eval(const Expr& e, Scope& scope) {
    m_.work();
    const Machine::Deeper deeper(m_);
    m_.line = e.line;
    const auto arg = [&](std::size_t i) { return i < e.args.size() && e.args[i] ? eval(*e.args[i], scope) : Value(); };
    switch (e.op) {
      case Op::kUndefined:
        return {};
      case Op::kNone:
        return Value::none();
      case Op::kTrue:
      case Op::kFalse:
        return Value::of(e.op == Op::kTrue);
      case Op::kInt:
        return Value::of(e.integer);
      case Op::kFloat:
        return Value::of(e.number);
      case Op::kText:
        return Value::of(&e.text);
      case Op::kName:
        return lookup(e.name, scope);
      case Op::kList:
      case Op::kTuple: {
        std::vector<Value> items;
        for (std::size_t i = 0; i < e.args.size(); ++i) items.push_back(arg(i));
        return m_.list(std::move(items), e.op == Op::kTuple);
      }
      case Op::kDict: {
        const Value d = m_.dict();
        for (std::size_t i = 0; i + 1 < e.args.size(); i += 2) m_.set(*d.dict, arg(i), arg(i + 1));
        return d;
      }
      case Op::kAttribute:
        return named(m_.attribute(arg(0), e.name), e);
      case Op::kIndex:
        return m_.index(arg(0), arg(1));
      case Op::kSlice:
        return m_.slice(arg(0), arg(1), arg(2), arg(3));
      case Op::kCall:
        return called(e, scope);
      case Op::kFilter:
        return m_.filter(e.name, arg(0), arguments(e, scope, 1));
      case Op::kTest:
        return Value::of(m_.test(e.name, arg(0), arguments(e, scope, 1)));
      case Op::kNot:
        return Value::of(!arg(0).truth());
      case Op::kMinus:
        return m_.binary(Op::kMul, arg(0), Value::of(std::int64_t{-1}));
      case Op::kPlus:
        return arg(0);
      case Op::kAnd: {
        const Value left = arg(0);
        return left.truth() ? arg(1) : left;
      }
      case Op::kOr: {
        const Value left = arg(0);
        return left.truth() ? left : arg(1);
      }
      case Op::kIf:
        return arg(0).truth() ? arg(1) : arg(2);
      case Op::kSpread:
      case Op::kSpreadMap:
        m_.fail("a star stands outside of a call");
      default:
        return m_.binary(e.op, arg(0), arg(1));
    }
  }

  // An undefined attribute is named in messages.
  static Value named(const Value& v, const Expr& e) { return v.is_undefined() ? Value::undefined(&e.name) : v; }

  Value called(const Expr& e, Scope& scope) {
    Value f = eval(*e.args[0], scope);
    if (f.is == Value::Is::kDict) {  // `loop(…)` of a recursive loop
      if (const Value* again = m_.find(*f.dict, kCallKey); again != nullptr) f = *again;
    }
    const Arguments args = arguments(e, scope, 1);
    m_.line = e.line;
    return m_.call(f, args);
  }

  Machine m_;
  Scope global_;
  std::deque<Scope> scopes_;
  Text rendered_;
  Text* out_ = &rendered_;
};

}  // namespace

JinjaTemplate::JinjaTemplate(std::string_view source) : source_(source), root_(parse_jinja(source)) {}

Rendered JinjaTemplate::render(const std::vector<Variable>& variables, std::time_t now,
                               const JinjaLimits& limits) const {
  return Interpreter(limits, now).run(*root_, variables);
}

}  // namespace gsd::chat
