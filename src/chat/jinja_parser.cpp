#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "gsd/error.h"
#include "jinja_ast.h"
#include "jinja_lexer.h"

namespace gsd::chat {

void fail_at(int line, const std::string& what) {
  throw Error(ErrorCode::kModelUnsupported, fmt::format("The chat template, line {}: {}.", line, what));
}

namespace {

using Type = JinjaToken::Type;
constexpr int kMaxDepth = 400;

class Parser {
 public:
  explicit Parser(std::vector<JinjaToken> tokens) : tokens_(std::move(tokens)) {}

  std::shared_ptr<const Statement> run() {
    auto root = std::make_shared<Statement>();
    root->body = sequence({});
    return root;
  }

 private:
  using Body = std::vector<std::shared_ptr<Statement>>;

  struct Deeper {
    explicit Deeper(Parser& p) : parser(p) {
      if (++p.depth_ > kMaxDepth) p.fail("it is nested too deep");
    }
    ~Deeper() { --parser.depth_; }
    Parser& parser;
  };

  // --- tokens
  const JinjaToken& now() const { return tokens_[at_]; }
  const JinjaToken& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  [[noreturn]] void fail(const std::string& what) const { fail_at(now().line, what); }
  bool is(Type type, std::string_view text) const { return now().type == type && now().text == text; }
  bool symbol(std::string_view s) const { return is(Type::kSymbol, s); }
  bool word(std::string_view s) const { return is(Type::kName, s); }
  bool take_symbol(std::string_view s) { return symbol(s) && (++at_, true); }
  bool take_word(std::string_view s) { return word(s) && (++at_, true); }
  std::string shown() const {
    return now().type == Type::kEnd ? "the end"
           : now().text.empty()     ? "the end of the tag"
                                    : "'" + now().text.substr(0, 40) + "'";
  }
  void need_symbol(std::string_view s) {
    if (!take_symbol(s)) fail(fmt::format("'{}' is expected, and there is {}", s, shown()));
  }
  void need_word(std::string_view s) {
    if (!take_word(s)) fail(fmt::format("'{}' is expected, and there is {}", s, shown()));
  }
  std::string need_name() {
    if (now().type != Type::kName) fail("a name is expected, and there is " + shown());
    return tokens_[at_++].text;
  }
  void close_block() {
    if (now().type != Type::kCloseBlock) fail("the end of the tag is expected, and there is " + shown());
    ++at_;
  }
  bool block_is(std::initializer_list<std::string_view> names) const {
    return now().type == Type::kOpenBlock && ahead().type == Type::kName &&
           std::find(names.begin(), names.end(), ahead().text) != names.end();
  }

  // --- statements
  Body sequence(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    Body out;
    while (now().type != Type::kEnd && !block_is(ends)) {
      const int line = now().line;
      if (now().type == Type::kText) {
        auto s = make(Kind::kText, line);
        s->text = to_text(tokens_[at_++].text);
        out.push_back(std::move(s));
      } else if (now().type == Type::kOpenOutput) {
        ++at_;
        auto s = make(Kind::kOutput, line);
        s->expr = tuple(true);
        if (now().type != Type::kCloseOutput) fail("the end of the tag is expected, and there is " + shown());
        ++at_;
        out.push_back(std::move(s));
      } else {
        ++at_;
        out.push_back(block(need_name()));
      }
    }
    if (now().type == Type::kEnd && ends.size() > 0) fail(fmt::format("{{% {} %}} is missing", *(ends.end() - 1)));
    return out;
  }

  static std::shared_ptr<Statement> make(Kind kind, int line) {
    auto s = std::make_shared<Statement>();
    s->kind = kind;
    s->line = line;
    return s;
  }
  void end_block(std::string_view name) {
    ++at_;
    need_word(name);
    close_block();
  }

  std::shared_ptr<Statement> block(const std::string& name) {
    const int line = now().line;
    if (name == "if") return if_block(line);
    if (name == "for") return for_block(line);
    if (name == "set") return set_block(line);
    if (name == "macro") return macro(line);
    if (name == "call") return call_block(line);
    if (name == "filter") {
      auto s = make(Kind::kFilterBlock, line);
      s->expr = filters(undefined());
      close_block();
      s->body = sequence({"endfilter"});
      end_block("endfilter");
      return s;
    }
    if (name == "generation") {
      close_block();
      auto s = make(Kind::kSequence, line);
      s->body = sequence({"endgeneration"});
      end_block("endgeneration");
      return s;
    }
    if (name == "break" || name == "continue") {
      close_block();
      return make(name == "break" ? Kind::kBreak : Kind::kContinue, line);
    }
    fail(fmt::format("the statement '{}' is not known", name));
  }

  std::shared_ptr<Statement> if_block(int line) {
    auto s = make(Kind::kIf, line);
    s->expr = tuple(false);
    close_block();
    s->body = sequence({"elif", "else", "endif"});
    const int next = ahead().line;
    if (block_is({"elif"})) {
      const Deeper deeper(*this);
      at_ += 2;
      s->otherwise.push_back(if_block(next));  // takes the endif
      return s;
    }
    if (block_is({"else"})) {
      end_block("else");
      s->otherwise = sequence({"endif"});
    }
    end_block("endif");
    return s;
  }

  std::shared_ptr<Statement> for_block(int line) {
    auto s = make(Kind::kFor, line);
    s->targets = names();
    need_word("in");
    s->expr = tuple(false, false);
    if (take_word("if")) s->condition = expression();
    s->recursive = take_word("recursive");
    close_block();
    s->body = sequence({"else", "endfor"});
    if (block_is({"else"})) {
      end_block("else");
      s->otherwise = sequence({"endfor"});
    }
    end_block("endfor");
    return s;
  }

  std::vector<std::string> names() {
    const bool bracket = take_symbol("(");
    std::vector<std::string> out{need_name()};
    while (take_symbol(",")) {
      if (now().type == Type::kName && !word("in")) out.push_back(need_name());
    }
    if (bracket) need_symbol(")");
    return out;
  }

  std::shared_ptr<Statement> set_block(int line) {
    auto s = make(Kind::kSet, line);
    if (ahead().type == Type::kSymbol && ahead().text == ".") {
      s->kind = Kind::kSetAttribute;
      s->targets = {need_name()};
      need_symbol(".");
      s->name = need_name();
    } else {
      s->targets = names();
    }
    if (take_symbol("=")) {
      s->expr = tuple(false);
      close_block();
      return s;
    }
    if (symbol("|")) s->expr = filters(undefined());
    close_block();
    s->body = sequence({"endset"});
    end_block("endset");
    if (s->body.empty()) s->body.push_back(make(Kind::kText, line));
    return s;
  }

  void parameters(Statement& s) {
    need_symbol("(");
    while (!take_symbol(")")) {
      std::string name = need_name();
      s.params.emplace_back(std::move(name), take_symbol("=") ? expression() : nullptr);
      if (!symbol(")")) need_symbol(",");
    }
  }

  std::shared_ptr<Statement> macro(int line) {
    auto s = make(Kind::kMacro, line);
    s->name = need_name();
    parameters(*s);
    close_block();
    s->body = sequence({"endmacro"});
    end_block("endmacro");
    return s;
  }

  std::shared_ptr<Statement> call_block(int line) {
    auto s = make(Kind::kCallBlock, line);
    if (symbol("(")) parameters(*s);
    s->expr = expression();
    if (s->expr->op != Op::kCall) fail("a call is expected");
    close_block();
    s->body = sequence({"endcall"});
    end_block("endcall");
    return s;
  }

  // --- expressions, from the loosest binding to the tightest
  ExprPtr node(Op op, std::vector<ExprPtr> args = {}) const {
    auto e = std::make_unique<Expr>();
    e->op = op;
    e->line = now().line;
    for (ExprPtr& a : args) add(*e, std::move(a));
    return e;
  }
  // Trees are taken down by recursion: their height is bounded like that of what was written.
  void add(Expr& parent, ExprPtr child) const {
    if (child) parent.height = std::max(parent.height, child->height + 1);
    if (parent.height > kMaxDepth) fail("an expression is too long");
    parent.args.push_back(std::move(child));
  }
  ExprPtr node(Op op, ExprPtr a, ExprPtr b = nullptr) const {
    auto e = node(op);
    add(*e, std::move(a));
    if (b) add(*e, std::move(b));
    return e;
  }
  ExprPtr undefined() const { return node(Op::kUndefined); }

  // An expression, or several with commas between: a tuple without brackets.
  ExprPtr tuple(bool output, bool conditions = true) {
    ExprPtr first = conditions ? expression() : disjunction();
    if (!symbol(",")) return first;
    ExprPtr out = node(Op::kTuple, std::move(first));
    while (take_symbol(",")) {
      if (now().type == Type::kCloseBlock || (output && now().type == Type::kCloseOutput)) break;
      add(*out, conditions ? expression() : disjunction());
    }
    return out;
  }

  ExprPtr expression() {
    const Deeper deeper(*this);
    ExprPtr e = disjunction();
    while (take_word("if")) {
      ExprPtr condition = disjunction();
      ExprPtr otherwise = take_word("else") ? expression() : nullptr;
      ExprPtr whole = node(Op::kIf, std::move(condition), std::move(e));
      add(*whole, std::move(otherwise));
      e = std::move(whole);
    }
    return e;
  }

  template <typename Next>
  ExprPtr chain(const std::map<std::string_view, Op>& operators, Next next) {
    ExprPtr e = next();
    for (;;) {
      const auto found =
          now().type == Type::kSymbol || now().type == Type::kName ? operators.find(now().text) : operators.end();
      if (found == operators.end()) return e;
      ++at_;
      ExprPtr right = next();
      e = node(found->second, std::move(e), std::move(right));
    }
  }

  ExprPtr disjunction() {
    static const std::map<std::string_view, Op> kOr{{"or", Op::kOr}};
    static const std::map<std::string_view, Op> kAnd{{"and", Op::kAnd}};
    return chain(kOr, [&] { return chain(kAnd, [&] { return negation(); }); });
  }

  ExprPtr negation() {
    const Deeper deeper(*this);
    if (take_word("not")) return node(Op::kNot, negation());
    return comparison();
  }

  // a < b < c means a < b and b < c; the middle is computed twice, which no template can see.
  ExprPtr comparison() {
    static const std::map<std::string_view, Op> kOperators{{"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt},
                                                           {"<=", Op::kLe}, {">", Op::kGt},  {">=", Op::kGe}};
    ExprPtr e = sum();
    ExprPtr all;
    for (int links = 0;; ++links) {
      Op op = Op::kIn;
      const auto found = now().type == Type::kSymbol ? kOperators.find(now().text) : kOperators.end();
      if (found != kOperators.end()) {
        op = found->second;
        ++at_;
      } else if (word("not") && ahead().type == Type::kName && ahead().text == "in") {
        op = Op::kNotIn;
        at_ += 2;
      } else if (!take_word("in")) {
        return all ? std::move(all) : std::move(e);
      }
      if (links > 0) fail("chained comparisons are not supported");
      ExprPtr right = sum();
      all = node(op, std::move(e), std::move(right));
    }
  }

  ExprPtr sum() {
    static const std::map<std::string_view, Op> kSum{{"+", Op::kAdd}, {"-", Op::kSub}};
    static const std::map<std::string_view, Op> kConcat{{"~", Op::kConcat}};
    static const std::map<std::string_view, Op> kProduct{
        {"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}};
    static const std::map<std::string_view, Op> kPower{{"**", Op::kPow}};
    const auto power = [&] { return chain(kPower, [&] { return unary(true); }); };
    const auto product = [&] { return chain(kProduct, power); };
    const auto concat = [&] { return chain(kConcat, product); };
    return chain(kSum, concat);
  }

  ExprPtr unary(bool with_filters) {
    const Deeper deeper(*this);
    ExprPtr e;
    if (take_symbol("-")) {
      e = node(Op::kMinus, unary(false));
    } else if (take_symbol("+")) {
      e = node(Op::kPlus, unary(false));
    } else {
      e = postfix(primary());
    }
    return with_filters ? filters(std::move(e)) : std::move(e);
  }

  ExprPtr postfix(ExprPtr e) {
    for (;;) {
      if (take_symbol(".")) {
        ExprPtr n;
        if (now().type == Type::kInt) {
          n = node(Op::kIndex, std::move(e), literal());
        } else {
          n = node(Op::kAttribute, std::move(e));
          n->name = need_name();
        }
        e = std::move(n);
      } else if (take_symbol("[")) {
        e = subscript(std::move(e));
      } else if (symbol("(")) {
        e = node(Op::kCall, std::move(e));
        arguments(*e);
      } else {
        return e;
      }
    }
  }

  ExprPtr subscript(ExprPtr base) {
    std::vector<ExprPtr> parts(3);
    std::size_t n = 0;
    while (!symbol("]")) {
      if (take_symbol(":")) {
        if (++n > 2) fail("a slice has too many parts");
      } else {
        if (parts[n]) fail("']' is expected, and there is " + shown());
        parts[n] = tuple(false);
      }
    }
    ++at_;
    if (n == 0 && !parts[0]) fail("an index is missing");
    if (n == 0) return node(Op::kIndex, std::move(base), std::move(parts[0]));
    ExprPtr e = node(Op::kSlice, std::move(base));
    for (ExprPtr& p : parts) add(*e, std::move(p));
    return e;
  }

  void arguments(Expr& call) {
    need_symbol("(");
    while (!take_symbol(")")) {
      if (take_symbol("**")) {
        add(call, node(Op::kSpreadMap, expression()));
      } else if (take_symbol("*")) {
        add(call, node(Op::kSpread, expression()));
      } else if (now().type == Type::kName && ahead().type == Type::kSymbol && ahead().text == "=") {
        std::string name = need_name();
        ++at_;
        call.kwargs.emplace_back(std::move(name), expression());
        call.height = std::max(call.height, call.kwargs.back().second->height + 1);
      } else {
        add(call, expression());
      }
      if (!symbol(")")) need_symbol(",");
    }
  }

  ExprPtr filters(ExprPtr e) {
    for (;;) {
      if (take_symbol("|") || (e->op == Op::kUndefined && now().type == Type::kName)) {
        e = node(Op::kFilter, std::move(e));
        e->name = need_name();
        if (symbol("(")) arguments(*e);
      } else if (take_word("is")) {
        e = test(std::move(e));
      } else if (symbol("(")) {
        e = node(Op::kCall, std::move(e));
        arguments(*e);
      } else {
        return e;
      }
    }
  }

  ExprPtr test(ExprPtr e) {
    const bool negated = take_word("not");
    ExprPtr t = node(Op::kTest, std::move(e));
    t->name = need_name();
    const bool operand = now().type == Type::kName ? !word("else") && !word("or") && !word("and") && !word("is") &&
                                                         !word("if") && !word("not")
                                                   : now().type == Type::kString || now().type == Type::kInt ||
                                                         now().type == Type::kFloat || symbol("[") || symbol("{");
    if (symbol("(")) {
      arguments(*t);
    } else if (operand) {
      add(*t, postfix(primary()));
    }
    return negated ? node(Op::kNot, std::move(t)) : std::move(t);
  }

  ExprPtr literal() {
    const JinjaToken& t = tokens_[at_];
    ExprPtr e = node(t.type == Type::kInt ? Op::kInt : Op::kFloat);
    if (t.type == Type::kInt) {
      e->integer = std::strtoll(t.text.c_str(), nullptr, 10);
    } else {
      e->number = std::strtod(t.text.c_str(), nullptr);
    }
    ++at_;
    return e;
  }

  ExprPtr primary() {
    const Deeper deeper(*this);
    const JinjaToken t = now();
    if (t.type == Type::kInt || t.type == Type::kFloat) return literal();
    if (t.type == Type::kString) {
      ExprPtr e = node(Op::kText);
      for (; now().type == Type::kString; ++at_) e->text += to_text(now().text);
      return e;
    }
    if (t.type == Type::kName) {
      static const std::map<std::string_view, Op> kConstants{{"true", Op::kTrue},   {"True", Op::kTrue},
                                                             {"false", Op::kFalse}, {"False", Op::kFalse},
                                                             {"none", Op::kNone},   {"None", Op::kNone}};
      const auto found = kConstants.find(t.text);
      ExprPtr e = node(found == kConstants.end() ? Op::kName : found->second);
      e->name = t.text;
      ++at_;
      return e;
    }
    if (take_symbol("(")) return bracket();
    if (take_symbol("[")) {
      ExprPtr e = node(Op::kList);
      while (!take_symbol("]")) {
        add(*e, expression());
        if (!symbol("]")) need_symbol(",");
      }
      return e;
    }
    if (take_symbol("{")) {
      ExprPtr e = node(Op::kDict);
      while (!take_symbol("}")) {
        add(*e, expression());
        need_symbol(":");
        add(*e, expression());
        if (!symbol("}")) need_symbol(",");
      }
      return e;
    }
    fail("a value is expected, and there is " + shown());
  }

  ExprPtr bracket() {
    if (take_symbol(")")) return node(Op::kTuple);
    ExprPtr e = expression();
    if (symbol(",")) {
      e = node(Op::kTuple, std::move(e));
      while (take_symbol(",")) {
        if (!symbol(")")) add(*e, expression());
      }
    }
    need_symbol(")");
    return e;
  }

  std::vector<JinjaToken> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::shared_ptr<const Statement> parse_jinja(std::string_view source) { return Parser(lex_jinja(source)).run(); }

}  // namespace gsd::chat
