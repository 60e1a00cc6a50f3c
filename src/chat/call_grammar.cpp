#include "call_grammar.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>

namespace gsd::chat {
namespace {

std::string literal(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}
std::string json_literal(const std::string& text) { return literal(Json(text).dump()); }

class Builder {
 public:
  Builder(const ToolFormat& format, const std::vector<FunctionRules>& functions, const CallGrammarOptions& options)
      : f_(format), functions_(functions), options_(options) {}

  std::string run() {
    std::vector<std::string> list;
    if (!functions_.empty()) list.push_back(f_.style == CallStyle::kHarmony ? harmony() : all_calls());
    if (!options_.answer.empty()) list.push_back(answer());
    std::string out = fmt::format("root ::= {} {}\n", options_.from_start ? before() : "", alternatives(list));
    out += "gap ::= | \" \" | \"\\n\" [ \\t\\n]{0,20}\n";
    out += "lead ::= | \" \" | \"\\n\" \"\\n\"?\n";  // a model that may go on with blank lines does
    return out + rules_ + options_.rules;
  }

 private:
  std::string add(const std::string& body) {
    const std::string name = fmt::format("call-{}", n_rules_++);
    rules_ += name + " ::= " + body + "\n";
    return name;
  }

  // A rule for text up to and with the first `marker` (ASCII): one rule for each number of its characters that have
  // come.
  std::string until(const std::string& marker) {
    const std::string name = fmt::format("until-{}", n_rules_++);
    const auto next = [&](const std::string& seen, char c) {  // how much of the marker ends `seen` + c
      const std::string text = seen + c;
      for (std::size_t n = std::min(text.size(), marker.size()); n > 0; --n) {
        if (text.ends_with(marker.substr(0, n))) return n;
      }
      return std::size_t{0};
    };
    for (std::size_t i = 0; i < marker.size(); ++i) {
      std::string body;
      std::string others;
      for (const char c : std::set<char>(marker.begin(), marker.end())) {
        const std::size_t to = next(marker.substr(0, i), c);
        if (to == 0) continue;
        others += fmt::format("\\x{:02X}", static_cast<unsigned>(c));
        body += fmt::format("{}{}{} | ", literal(std::string(1, c)), to == marker.size() ? "" : " ",
                            to == marker.size() ? "" : fmt::format("{}-{}", name, to));
      }
      rules_ += fmt::format("{}-{} ::= {}[^{}] {}-0\n", name, i, body, others, name);
    }
    return name + "-0";
  }

  // White space and reasoning before the first call.
  std::string before() {
    if (f_.style == CallStyle::kHarmony && options_.reasoning_closed) return "";
    if (f_.style == CallStyle::kHarmony)
      return fmt::format("( \"<|channel|>analysis<|message|>\" {} \"<|start|>assistant\" )?", until("<|end|>"));
    if (f_.reasoning_close.empty() || options_.reasoning_closed) return "lead";
    const std::string rest = until(f_.reasoning_close);
    if (options_.reasoning_open) return rest + " lead";
    return fmt::format("lead ( {} {} )? lead", literal(f_.reasoning_open), rest);
  }

  std::string answer() const {
    if (f_.style == CallStyle::kHarmony)
      return fmt::format("\"<|channel|>final\" ( \" \"? \"<|constrain|>\"? \"json\" )? \"<|message|>\" {}",
                         options_.answer);
    if (f_.dropped.empty()) return options_.answer;
    return fmt::format("{}? {} {}?", literal(f_.dropped.front()), options_.answer, literal(f_.dropped.back()));
  }

  std::string alternatives(const std::vector<std::string>& list) {
    return add(fmt::format("{}", fmt::join(list, " | ")));
  }

  std::string all_calls() {
    std::vector<std::string> list;
    for (const FunctionRules& fn : functions_) list.push_back(one(fn));
    const std::string call = alternatives(list);
    const bool commas = f_.list || f_.style == CallStyle::kPythonic;
    std::string between = commas ? "\",\" gap" : f_.separator.empty() ? "gap" : literal(f_.separator) + " gap";
    std::string calls = options_.parallel ? fmt::format("{0} ( {1} {0} )*", call, between) : call;
    if (commas) calls = fmt::format("\"[\" gap {} gap \"]\"", calls);
    if (!f_.section_begin.empty()) calls = literal(f_.section_begin) + " gap " + calls;
    if (!f_.section_end.empty()) calls += " gap " + literal(f_.section_end);
    return calls;
  }

  std::string one(const FunctionRules& fn) {
    switch (f_.style) {
      case CallStyle::kNamed: {
        const std::string number = f_.name_cut == ":" ? R"(":" [0-9]{1,3} )" : "";
        return add(fmt::format("{} {}{} {} {}", literal(f_.call_begin + fn.name), number, literal(f_.name_end),
                               fn.arguments, end()));
      }
      case CallStyle::kTagged:
        return add(tagged(fn));
      case CallStyle::kPythonic:
        return add(fmt::format("{} {} \")\"", literal(fn.name + "("), members(fn, "=")));
      case CallStyle::kGemma:
        return add(fmt::format("{} {} {}", literal(f_.call_begin + fn.name + "{"), members(fn, ":"),
                               literal("}" + f_.call_end)));
      default:
        return add(json(fn));
    }
  }
  std::string end() const { return f_.call_end.empty() ? "" : literal(f_.call_end); }

  std::string json(const FunctionRules& fn) {
    const auto key = [](const std::string& k) { return json_literal(k) + " gap \":\" gap"; };
    // Command R numbers its calls; Mistral ends them with an id.
    const std::string number =
        f_.name_key == "tool_name" ? R"(( "\"tool_call_id\"" gap ":" gap "\"" [0-9]{1,3} "\"" gap "," gap )? )" : "";
    const std::string id =
        f_.name == "mistral" ? R"(( "," gap "\"id\"" gap ":" gap "\"" [a-zA-Z0-9]{9} "\"" gap )?)" : "";
    return fmt::format("{} gap \"{{\" gap {}{} {} gap \",\" gap {} {} {} \"}}\" gap {}",
                       f_.list || f_.call_begin.empty() ? "" : literal(f_.call_begin), number, key(f_.name_key),
                       json_literal(fn.name), key(f_.arguments_key), fn.arguments, id, end());
  }

  std::string tagged(const FunctionRules& fn) {
    std::string out = f_.call_begin.empty() ? "" : literal(f_.call_begin) + " gap ";
    out += literal(f_.function_open + fn.name + (f_.function_open_end.empty() ? "\n" : f_.function_open_end)) + " gap";
    for (const FunctionRules::Parameter& p : fn.parameters) {
      std::string open = literal(f_.parameter_open + p.name + f_.parameter_open_end);
      if (!f_.value_open.empty()) open += " gap " + literal(f_.value_open);
      std::string value;
      if (!p.texts.empty()) {
        std::vector<std::string> list;
        for (const std::string& t : p.texts) list.push_back(literal(t));
        value = fmt::format("\"\\n\"? ( {} ) \"\\n\"? {}", fmt::join(list, " | "), literal(f_.parameter_close));
      } else if (p.text) {
        value = until(f_.parameter_close);
      } else {
        value = fmt::format("gap {} gap {}", p.value, literal(f_.parameter_close));
      }
      out += p.required ? fmt::format(" {} {} gap", open, value) : fmt::format(" ( {} {} gap )?", open, value);
    }
    if (!f_.function_close.empty()) out += " " + literal(f_.function_close) + " gap";
    return out + " " + end();
  }

  std::string member(const FunctionRules::Parameter& p, const char* sign) {
    std::string value;
    if (f_.style != CallStyle::kGemma || p.scalar) {
      value = p.value;
    } else if (!p.texts.empty()) {
      std::vector<std::string> list;
      for (const std::string& t : p.texts) list.push_back(literal("<|\"|>" + t + "<|\"|>"));
      value = fmt::format("( {} )", fmt::join(list, " | "));
    } else {
      value = p.text ? gemma_text() : gemma_value();
    }
    return fmt::format("{} {}", literal(p.name + sign), value);
  }

  // In order, those that are not required left out at will: as with JSON objects, a rule for each place, once with a
  // member before it and once without.
  std::string members(const FunctionRules& fn, const char* sign) {
    std::string first = "\"\"";
    std::string after = "\"\"";
    for (auto p = fn.parameters.rbegin(); p != fn.parameters.rend(); ++p) {
      const std::string begin = add(member(*p, sign) + " " + after);
      const std::string comma = f_.style == CallStyle::kGemma ? "\",\"" : "\",\" gap";
      const std::string next =
          add(p->required ? fmt::format("{} {}", comma, begin) : fmt::format("{} {} | {}", comma, begin, after));
      first = p->required ? begin : add(fmt::format("{} | {}", begin, first));
      after = next;
    }
    return first;
  }

  std::string gemma_text() {
    if (gemma_text_.empty()) gemma_text_ = add("\"<|\\\"|>\" " + until("<|\"|>"));
    return gemma_text_;
  }
  std::string gemma_value() {
    if (!gemma_value_.empty()) return gemma_value_;
    gemma_value_ = "gemma-value";
    rules_ += fmt::format(
        "gemma-value ::= {} | \"-\"? [0-9]{{1,16}} ( \".\" [0-9]{{1,16}} )? | \"true\" | \"false\" | \"null\" | "
        "gemma-list | gemma-map\n"
        "gemma-list ::= \"[\" ( gemma-value ( \",\" gemma-value )* )? \"]\"\n"
        "gemma-map ::= \"{{\" ( gemma-key \":\" gemma-value ( \",\" gemma-key \":\" gemma-value )* )? \"}}\"\n"
        "gemma-key ::= [a-zA-Z0-9_.-]{{1,64}}\n",
        gemma_text());
    return gemma_value_;
  }

  std::string harmony() {
    std::vector<std::string> list;
    for (const FunctionRules& fn : functions_)
      list.push_back(add(
          fmt::format("{} ( \"<|channel|>commentary\" )? ( \" \"? \"<|constrain|>\"? \"json\" )? \"<|message|>\" {}",
                      literal(fn.name), fn.arguments)));
    return fmt::format("( {}\" to=functions.\" | \"<|channel|>commentary to=functions.\" ) {}",
                       options_.from_start ? "" : "\"<|start|>assistant\" ", alternatives(list));
  }

  const ToolFormat& f_;
  const std::vector<FunctionRules>& functions_;
  const CallGrammarOptions& options_;
  std::string rules_;
  std::string gemma_text_;
  std::string gemma_value_;
  int n_rules_ = 0;
};

// Where a text is: before a call, or at its begin.
class Watch {
 public:
  Watch(const ToolFormat& f, bool reasoning_open) : f_(&f) {
    if (f.style == CallStyle::kHarmony) {
      at_ = At::kContent;
      tail_ = "<|start|>assistant";  // the prompt's end, with which the first header begins
      triggers_ = {"<|channel|>commentary to=functions.", "<|start|>assistant to=functions."};
      return;
    }
    at_ = reasoning_open ? At::kReasoning : At::kStart;
    if (!f.trigger().empty()) triggers_.push_back(f.trigger());
  }

  // Takes in `bytes`; true if a call has begun, whose text so far is then in `call`.
  bool push(std::string_view bytes, std::string& call) {
    tail_ += bytes;
    for (;;) {
      const At before = at_;
      if (step(call)) return true;
      if (at_ == before) return false;
    }
  }

 private:
  enum class At : std::uint8_t { kStart, kReasoning, kHead, kContent, kNever };

  bool step(std::string& call) {
    switch (at_) {
      case At::kStart: {
        trim();
        const std::string_view open = f_->reasoning_open;
        if (tail_.empty() || (tail_.size() < open.size() && open.starts_with(tail_))) return false;
        if (!open.empty() && tail_.starts_with(open)) {
          tail_.erase(0, open.size());
          at_ = At::kReasoning;
        } else {
          at_ = triggers_.empty() ? At::kHead : At::kContent;
        }
        return false;
      }
      case At::kReasoning: {
        const std::size_t end = tail_.find(f_->reasoning_close);
        if (end != std::string::npos) {
          tail_.erase(0, end + f_->reasoning_close.size());
          trim();
          at_ = triggers_.empty() ? At::kHead : At::kContent;
        } else {
          keep(f_->reasoning_close.size() - 1);
        }
        return false;
      }
      case At::kHead:
        return head(call);
      case At::kContent:
        return content(call);
      case At::kNever:
        tail_.clear();
        return false;
    }
    return false;
  }

  void trim() { tail_.erase(0, std::min(tail_.find_first_not_of(" \n\t\r"), tail_.size())); }
  void keep(std::size_t n) {
    if (tail_.size() > n) tail_.erase(0, tail_.size() - n);
  }

  bool content(std::string& call) {
    std::size_t most = 0;
    std::size_t first = std::string::npos;
    for (const std::string& t : triggers_) {
      first = std::min(first, tail_.find(t));
      most = std::max(most, t.size());
    }
    if (first != std::string::npos) {
      call = tail_.substr(first);
      return true;
    }
    keep(most - 1);
    return false;
  }

  // A call without a marker: {"name": at the begin.
  bool head(std::string& call) {
    trim();
    std::string packed;  // without white space
    for (const char c : tail_) {
      if (c != ' ' && c != '\n' && c != '\t' && c != '\r') packed += c;
    }
    const std::string wanted = "{\"" + f_->name_key + "\"";
    if (packed.size() >= wanted.size() && packed.starts_with(wanted)) {
      call = tail_;
      return true;
    }
    if (!wanted.starts_with(packed)) at_ = At::kNever;
    return false;
  }

  const ToolFormat* f_;
  std::vector<std::string> triggers_;
  At at_ = At::kStart;
  std::string tail_;
};

class LazyCalls {
 public:
  LazyCalls(const ToolFormat& format, const Grammar& grammar, std::shared_ptr<const TokenTexts> texts,
            bool reasoning_open)
      : format_(format),
        grammar_(grammar),
        texts_(std::move(texts)),
        reasoning_open_(reasoning_open),
        watch_(format_, reasoning_open) {}
  LazyCalls(const LazyCalls&) = delete;
  LazyCalls& operator=(const LazyCalls&) = delete;

  bool allows(Token t) const {
    if (inner_) return inner_->allows(t);
    if (texts_->is_end(t) || texts_->bytes(t).empty()) return true;
    Watch w = watch_;
    std::string call;
    return !w.push(texts_->bytes(t), call) || begin(call).has_value();
  }

  void advance(Token t) {
    if (inner_) return inner_->advance(t);
    if (texts_->is_end(t)) return;
    std::string call;
    if (watch_.push(texts_->bytes(t), call)) inner_ = begin(call);
  }

  void reset() {
    inner_.reset();
    watch_ = Watch(format_, reasoning_open_);
  }
  std::string failure() const { return inner_ && inner_->failure ? inner_->failure() : ""; }

 private:
  // The grammar after the bytes of `call`; nothing if it does not allow them.
  std::optional<Constraint> begin(const std::string& call) const {
    Constraint c = grammar_.constraint();
    for (const char b : call) {
      const auto t = static_cast<Token>(texts_->size() - 256 + static_cast<unsigned char>(b));
      if (!c.allows(t)) return std::nullopt;
      c.advance(t);
    }
    return c;
  }

  const ToolFormat format_;
  const Grammar grammar_;
  const std::shared_ptr<const TokenTexts> texts_;
  const bool reasoning_open_;
  Watch watch_;
  std::optional<Constraint> inner_;
};

}  // namespace

std::string call_grammar(const ToolFormat& format, const std::vector<FunctionRules>& functions,
                         const CallGrammarOptions& options) {
  return Builder(format, functions, options).run();
}

std::shared_ptr<const TokenTexts> call_texts(int n_vocab, const std::function<std::string(Token)>& piece,
                                             const std::function<bool(Token)>& is_end) {
  auto out = std::make_shared<TokenTexts>();
  for (Token t = 0; t < n_vocab; ++t) out->add(piece(t), is_end(t));
  for (int b = 0; b < 256; ++b) out->add(std::string(1, static_cast<char>(b)), false);
  return out;
}

Constraint lazy_constraint(const ToolFormat& format, const Grammar& grammar, std::shared_ptr<const TokenTexts> texts,
                           bool reasoning_open) {
  const auto c = std::make_shared<LazyCalls>(format, grammar, std::move(texts), reasoning_open);
  return {[c](Token t) { return c->allows(t); }, [c](Token t) { c->advance(t); }, [c] { c->reset(); },
          [c] { return c->failure(); }};
}

}  // namespace gsd::chat
