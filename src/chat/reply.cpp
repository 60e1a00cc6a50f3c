#include "reply.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <utility>

#include "json_scan.h"

namespace gsd::chat {
namespace {

using Kind = ReplyDelta::Kind;
constexpr std::size_t kMaxName = 256;

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::size_t blanks_before(std::string_view s) {
  std::size_t n = 0;
  while (n < s.size() && is_blank(s[n])) ++n;
  return n;
}

std::size_t blanks_after(std::string_view s) {
  std::size_t n = 0;
  while (n < s.size() && is_blank(s[s.size() - 1 - n])) ++n;
  return n;
}

// How many bytes at the end of `text` may be the begin of `marker`.
std::size_t half_marker(std::string_view text, std::string_view marker) {
  for (std::size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n) {
    if (text.ends_with(marker.substr(0, n))) return n;
  }
  return 0;
}

// Adds to the last delta where it goes on with it.
void put(std::vector<ReplyDelta>& out, Kind kind, int call, std::string_view text) {
  if (text.empty() && kind != Kind::kCall) return;
  if (kind != Kind::kCall && !out.empty() && out.back().kind == kind && out.back().call == call) {
    out.back().text += text;
  } else {
    out.push_back({kind, call, std::string(text)});
  }
}

// Text that has come and is not taken yet.
class Input {
 public:
  void add(std::string_view text) {
    text_.erase(0, at_);
    at_ = 0;
    text_ += text;
  }
  std::string_view rest() const { return std::string_view(text_).substr(at_); }
  std::string_view take(std::size_t n) {
    at_ += n;
    return std::string_view(text_).substr(at_ - n, n);
  }

 private:
  std::string text_;
  std::size_t at_ = 0;
};

enum class Found : std::uint8_t { kNo, kYes, kWait };

// Does `text` begin with `marker`? `ended`: no more of it comes.
Found begins(std::string_view text, std::string_view marker, bool ended) {
  if (text.starts_with(marker)) return Found::kYes;
  return !ended && marker.starts_with(text) ? Found::kWait : Found::kNo;
}

// Types of the parameters of each function: how text between tags is meant.
class Types {
 public:
  explicit Types(const Json& tools) {
    if (!tools.is_array()) return;
    for (const Json& tool : tools) {
      const Json f = tool.value("function", Json::object());
      const Json parameters = f.value("parameters", Json::object());
      if (!parameters.is_object()) continue;
      const Json properties = parameters.value("properties", Json::object());
      if (!properties.is_object()) continue;
      for (const auto& [name, schema] : properties.items()) types_[f.value("name", "")][name] = schema;
    }
  }

  // The value that `text` stands for: a text where the schema says so or where it is no JSON.
  Json value(const std::string& function, const std::string& parameter, const std::string& text) const {
    const auto f = types_.find(function);
    if (f != types_.end()) {
      const auto p = f->second.find(parameter);
      if (p != f->second.end() && is_text_schema(p->second)) return text;
    }
    Json parsed = Json::parse(text, nullptr, false);
    return parsed.is_discarded() ? Json(text) : parsed;
  }

 private:
  std::map<std::string, std::map<std::string, Json>> types_;
};

// --- all styles but harmony's

class TaggedParser : public ReplyParser {
 public:
  TaggedParser(const ToolFormat& format, ReplyOptions options)
      : f_(format),
        options_(std::move(options)),
        types_(options_.tools),
        at_(options_.reasoning && options_.reasoning_open ? At::kReasoning : At::kStart) {
    if (options_.calls && !f_.trigger().empty()) markers_.push_back(f_.trigger());
    // A call may come without the section around it.
    if (options_.calls && !f_.section_begin.empty() && !f_.call_begin.empty()) markers_.push_back(f_.call_begin);
    n_triggers_ = markers_.size();
    markers_.insert(markers_.end(), f_.dropped.begin(), f_.dropped.end());
  }

  void push(std::string_view text, std::vector<ReplyDelta>& out) override {
    in_.add(text);
    out_ = &out;
    while (step()) {
    }
  }

  void finish(std::vector<ReplyDelta>& out) override {
    out_ = &out;
    ended_ = true;
    while (step()) {
    }
    if (at_ >= At::kListBegin) fail();  // a call that is cut short
    while (step()) {
    }
    put(out, at_ == At::kReasoning ? Kind::kReasoning : Kind::kContent, -1, held_);
    held_.clear();
  }

 private:
  enum class At : std::uint8_t {
    kStart,
    kReasoning,
    kAfterReasoning,
    kContent,
    kBetween,    // in a section, before a call or its end
    kAfterCall,  // without a section: white space, then perhaps another one
    // From here on: inside a call, whose text is kept until its name is known.
    kListBegin,
    kListItem,
    kMember,
    kMemberValue,
    kAfterMember,
    kObjectEnd,
    kName,
    kValue,
    kCallEnd,
    kParameter,
    kPythonBegin,
    kPythonArguments,
    kPythonNext,
    kGemmaArguments
  };

  // One step; false if it needs more text.
  bool step() {
    switch (at_) {
      case At::kStart:
        return start();
      case At::kReasoning:
        return reasoning();
      case At::kAfterReasoning:
        return after_reasoning();
      case At::kContent:
        return content();
      case At::kBetween:
        return between();
      case At::kAfterCall:
        return after_call();
      case At::kListBegin:
        return literal("[", At::kListItem);
      case At::kListItem:
        return list_item();
      case At::kMember:
        return member();
      case At::kMemberValue:
        return member_value();
      case At::kAfterMember:
        return after_member();
      case At::kObjectEnd:
        return object_end();
      case At::kName:
        return name();
      case At::kValue:
        return value();
      case At::kCallEnd:
        return call_end();
      case At::kParameter:
        return parameter();
      case At::kPythonBegin:
        return literal("[", At::kName);
      case At::kPythonArguments:
        return python_arguments_step();
      case At::kPythonNext:
        return python_next();
      case At::kGemmaArguments:
        return gemma_arguments_step();
    }
    return false;
  }

  // --- text
  bool start() {
    const std::string_view rest = in_.rest();
    const std::size_t blank = blanks_before(rest);
    if (blank == rest.size() && !ended_) return false;
    if (options_.reasoning && !f_.reasoning_open.empty()) {
      const std::string_view open = trimmed(f_.reasoning_open);
      const Found found = begins(rest.substr(blank), open, ended_);
      if (found == Found::kWait) return false;
      if (found == Found::kYes) {
        in_.take(blank + open.size());
        at_ = At::kReasoning;
        return true;
      }
    }
    if (options_.calls && f_.trigger().empty()) {  // a call is a JSON object that is the whole answer
      const Found found = object_call(rest.substr(blank));
      if (found == Found::kWait) return false;
      if (found == Found::kYes) {
        raw_ = std::string(in_.take(blank));
        begin_call(At::kListItem);
        return true;
      }
    }
    if (options_.json_answer && !leave_calls(rest.substr(blank))) return false;
    at_ = At::kContent;
    return true;
  }

  // No calls are looked for where the answer begins with something else; false if that is not known yet.
  bool leave_calls(std::string_view text) {
    for (std::size_t i = 0; i < n_triggers_; ++i) {
      const Found found = begins(text, markers_[i], ended_);
      if (found != Found::kNo) return found == Found::kYes;
    }
    markers_.erase(markers_.begin(), markers_.begin() + static_cast<std::ptrdiff_t>(n_triggers_));
    n_triggers_ = 0;
    return true;
  }

  static std::string_view trimmed(std::string_view s) { return s.substr(0, s.size() - blanks_after(s)); }

  // Does the text begin as {"name": does?
  Found object_call(std::string_view text) const {
    const std::string key = "\"" + f_.name_key + "\"";
    Found found = begins(text, "{", ended_);
    if (found != Found::kYes) return found;
    text.remove_prefix(1);
    text.remove_prefix(blanks_before(text));
    found = begins(text, key, ended_);
    if (found != Found::kYes) return found;
    text.remove_prefix(key.size());
    text.remove_prefix(blanks_before(text));
    return begins(text, ":", ended_);
  }

  // Text of `kind`; white space at its end is held back, for it is dropped before what `markers` name.
  void say(Kind kind, std::string_view text) {
    if (text.empty()) return;
    const std::size_t blank = blanks_after(text);
    if (blank == text.size()) {
      held_ += text;
      return;
    }
    put(*out_, kind, -1, held_);
    put(*out_, kind, -1, text.substr(0, text.size() - blank));
    held_ = std::string(text.substr(text.size() - blank));
  }

  bool reasoning() {
    if (!begun_) {
      in_.take(blanks_before(in_.rest()));
      if (in_.rest().empty()) return false;
      begun_ = true;
    }
    const std::string_view rest = in_.rest();
    const std::size_t end = rest.find(f_.reasoning_close);
    if (end == std::string_view::npos) {
      const std::size_t keep = ended_ ? 0 : half_marker(rest, f_.reasoning_close);
      say(Kind::kReasoning, in_.take(rest.size() - keep));
      return false;
    }
    say(Kind::kReasoning, in_.take(end));
    in_.take(f_.reasoning_close.size());
    held_.clear();
    at_ = At::kAfterReasoning;
    return true;
  }

  bool after_reasoning() {
    in_.take(blanks_before(in_.rest()));
    if (in_.rest().empty()) return false;
    options_.reasoning = false;  // it does not come twice
    at_ = At::kStart;
    return true;
  }

  bool content() {
    const std::string_view rest = in_.rest();
    std::size_t first = std::string_view::npos;
    std::size_t which = 0;
    std::size_t keep = 0;
    for (std::size_t i = 0; i < markers_.size(); ++i) {
      const std::size_t at = rest.find(markers_[i]);
      if (at < first || (at == first && at != std::string_view::npos && markers_[i].size() > markers_[which].size())) {
        first = at;
        which = i;
      }
      if (!ended_) keep = std::max(keep, half_marker(rest, markers_[i]));
    }
    if (first == std::string_view::npos) {
      say(Kind::kContent, in_.take(rest.size() - keep));
      return false;
    }
    // A longer marker may begin at the same place.
    for (const std::string& m : markers_) {
      if (!ended_ && m.size() > markers_[which].size() && begins(rest.substr(first), m, false) == Found::kWait) {
        say(Kind::kContent, in_.take(first));
        return false;
      }
    }
    say(Kind::kContent, in_.take(first));
    if (which >= n_triggers_) {
      in_.take(markers_[which].size());
      return true;
    }
    raw_ = held_;
    held_.clear();
    raw_ += in_.take(markers_[which].size());
    in_section_ = !f_.section_begin.empty() && markers_[which] == f_.section_begin;
    begin_call(in_section_ && f_.style != CallStyle::kPythonic && !f_.list ? At::kBetween : inside());
    return true;
  }

  // --- calls
  // What follows a call's own begin.
  At inside() const {
    switch (f_.style) {
      case CallStyle::kJson:
        return f_.list ? At::kListBegin : At::kListItem;
      case CallStyle::kPythonic:
        return At::kPythonBegin;
      default:
        return At::kName;
    }
  }

  void begin_call(At at) {
    at_ = at;
    name_.clear();
    perhaps_.clear();
    arguments_.clear();
    named_ = false;
    has_arguments_ = false;
    n_parameters_ = 0;
  }

  // What is no call after all is content; after the name, the call ends where it stands.
  void fail() {
    if (!named_) {
      put(*out_, Kind::kContent, -1, held_ + raw_);
      held_.clear();
    } else {
      close_tagged();
    }
    raw_.clear();
    at_ = At::kContent;
    begin_call(At::kContent);
  }

  std::string_view take(std::size_t n) {
    const std::string_view text = in_.take(n);
    if (!named_) raw_ += text;
    return text;
  }

  // White space; false if nothing else is there yet.
  bool space() {
    take(blanks_before(in_.rest()));
    return !in_.rest().empty();
  }

  bool literal(std::string_view s, At next) {
    if (!space()) return false;
    const Found found = begins(in_.rest(), s, ended_);
    if (found == Found::kWait) return false;
    if (found == Found::kNo) {
      fail();
      return true;
    }
    take(s.size());
    at_ = next;
    return true;
  }

  void announce(std::string name) {
    name_ = std::move(name);
    named_ = true;
    raw_.clear();
    held_.clear();
    put(*out_, Kind::kCall, ++call_, name_);
  }
  void argument(std::string_view text) {
    has_arguments_ |= !text.empty();
    put(*out_, Kind::kArguments, call_, text);
  }

  bool is_tool(const std::string& name) const {
    return std::any_of(options_.tools.begin(), options_.tools.end(),
                       [&](const Json& tool) { return tool["function"]["name"] == name; });
  }

  bool list_item() {
    if (!space()) return false;
    const char c = in_.rest()[0];
    if (c != '{') {
      if (c == ']' && f_.list) {
        take(1);
        end_section();
      } else {
        fail();
      }
      return true;
    }
    take(1);
    at_ = At::kMember;
    return true;
  }

  // The text of a complete JSON string at the begin of what is there; its size with quotes, or 0 if it is not complete.
  std::size_t json_string(std::string& out) const {
    JsonScanner scanner;
    const std::size_t n = scanner.take(in_.rest());
    if (!scanner.done()) return 0;
    const Json v = Json::parse(in_.rest().substr(0, n), nullptr, false);
    out = v.is_string() ? v.get<std::string>() : "";
    return n;
  }

  bool member() {
    if (!space()) return false;
    if (in_.rest()[0] == '}') {
      take(1);
      at_ = At::kObjectEnd;
      return true;
    }
    if (in_.rest()[0] != '"') {
      fail();
      return true;
    }
    std::string key;
    const std::size_t n = json_string(key);
    if (n == 0) return false;
    const std::size_t blank = blanks_before(in_.rest().substr(n));
    if (n + blank == in_.rest().size()) return false;
    if (in_.rest()[n + blank] != ':') {
      fail();
      return true;
    }
    if (!perhaps_.empty() && key != f_.arguments_key) {
      fail();
      return true;
    }
    take(n + blank + 1);
    if (!perhaps_.empty()) announce(std::exchange(perhaps_, {}));
    key_ = key;
    scanner_ = {};
    at_ = At::kMemberValue;
    return true;
  }

  bool member_value() {
    if (!scanner_.begun() && !space()) return false;
    if (key_ == f_.name_key) {
      std::string name;
      if (in_.rest()[0] != '"') {
        fail();
        return true;
      }
      const std::size_t n = json_string(name);
      if (n == 0) return false;
      const bool maybe = options_.json_answer && f_.trigger().empty();
      if (name.empty() || named_ || (maybe && !is_tool(name))) {
        fail();
        return true;
      }
      take(n);
      if (maybe) {
        perhaps_ = std::move(name);
        at_ = At::kAfterMember;
        return true;
      }
      announce(std::move(name));
      argument(arguments_);
      at_ = At::kAfterMember;
      return true;
    }
    const bool wanted = key_ == "arguments" || key_ == "parameters";
    const std::size_t n = scanner_.take(in_.rest());
    const std::string_view piece = take(n);
    if (wanted && named_) {
      argument(piece);
    } else if (wanted) {
      arguments_ += piece;
    }
    if (!scanner_.done()) return false;
    at_ = At::kAfterMember;
    return true;
  }

  bool after_member() {
    if (!space()) return false;
    const char c = in_.rest()[0];
    if (c != ',' && c != '}') {
      fail();
      return true;
    }
    take(1);
    at_ = c == ',' ? At::kMember : At::kObjectEnd;
    return true;
  }

  bool object_end() {
    if (!named_) {
      fail();
      return true;
    }
    if (!has_arguments_) argument("{}");
    if (!f_.list) {
      at_ = At::kCallEnd;
      return true;
    }
    if (!space()) return false;
    const char c = in_.rest()[0];
    if (c == ',') {
      in_.take(1);
      begin_call(At::kListItem);
    } else {
      if (c == ']') in_.take(1);
      end_section();
    }
    return true;
  }

  bool name() {
    if (f_.style == CallStyle::kTagged) return tagged_name();
    const std::string end = f_.style == CallStyle::kPythonic ? "(" : f_.style == CallStyle::kGemma ? "{" : f_.name_end;
    const std::string_view rest = in_.rest();
    const std::size_t at = rest.find(end);
    if (at == std::string_view::npos && rest.size() <= kMaxName && !ended_) return false;
    const std::size_t cut =
        at == std::string_view::npos || f_.name_cut.empty() ? at : std::min(at, rest.substr(0, at).find(f_.name_cut));
    std::string name(rest.substr(0, std::min(cut, kMaxName)));
    name.erase(0, blanks_before(name));
    name.resize(name.size() - blanks_after(name));
    const bool good = at != std::string_view::npos && is_name(name);
    if (!good) {
      fail();
      return true;
    }
    take(at + end.size());
    announce(std::move(name));
    scanner_ = {};
    at_ = f_.style == CallStyle::kPythonic ? At::kPythonArguments
          : f_.style == CallStyle::kGemma  ? At::kGemmaArguments
                                           : At::kValue;
    return true;
  }

  static bool is_name(std::string_view name) {
    return !name.empty() && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
    });
  }

  bool value() {
    if (!has_arguments_ && !space()) return false;
    const std::size_t n = scanner_.take(in_.rest());
    argument(in_.take(n));
    if (!scanner_.done()) return false;
    if (!has_arguments_) argument("{}");
    at_ = At::kCallEnd;
    return true;
  }

  // The end of a call; models leave it out at times.
  bool call_end() {
    const std::string_view rest = in_.rest();
    const std::string_view end = std::string_view(f_.call_end).substr(blanks_before(f_.call_end));
    const std::size_t blank = blanks_before(rest);
    if (!end.empty()) {
      if (blank == rest.size() && !ended_) return false;
      const Found found = begins(rest.substr(blank), end, ended_);
      if (found == Found::kWait) return false;
      if (found == Found::kYes) in_.take(blank + end.size());
    }
    begin_call(in_section_ ? At::kBetween : At::kAfterCall);
    return true;
  }

  void end_section() {
    begin_call(At::kBetween);
    in_section_ = !f_.section_end.empty();
    if (!in_section_) at_ = At::kAfterCall;
  }

  bool between() {
    if (!space()) return false;
    const std::string_view rest = in_.rest();
    const bool more = !f_.list && f_.style != CallStyle::kPythonic;
    const std::string& begin = !f_.call_begin.empty() ? f_.call_begin : f_.function_open;
    const Found call = more ? begins(rest, begin, ended_) : Found::kNo;
    const Found end = begins(rest, f_.section_end, ended_);
    if (call == Found::kYes) {
      if (!f_.call_begin.empty()) take(begin.size());
      const std::string kept = raw_;
      begin_call(inside());
      raw_ = kept;
    } else if (end == Found::kYes) {
      if (call_ >= 0) raw_.clear();
      raw_.clear();
      in_.take(f_.section_end.size());
      in_section_ = false;
      at_ = At::kAfterCall;
    } else if (call == Found::kWait || end == Found::kWait) {
      return false;
    } else {
      fail();
      in_section_ = false;
    }
    return true;
  }

  // White space between calls, and after the last one, is no content; text after calls is.
  bool after_call() {
    in_.take(blanks_before(in_.rest()));
    if (!f_.separator.empty() && in_.rest().starts_with(f_.separator)) {
      in_.take(f_.separator.size());
      return true;
    }
    if (in_.rest().empty()) return false;
    raw_.clear();
    if (f_.trigger().empty() || !f_.separator.empty()) {
      const Found found = object_call(in_.rest());
      if (found == Found::kWait) return false;
      if (found == Found::kYes) {
        begin_call(At::kListItem);
        return true;
      }
    }
    at_ = At::kContent;
    return true;
  }

  // --- tags
  bool tagged_name() {
    if (!space()) return false;
    const std::string_view rest = in_.rest();
    const Found open = begins(rest, f_.function_open, ended_);
    if (open == Found::kWait) return false;
    if (open == Found::kNo) {
      fail();
      return true;
    }
    const std::string_view tail = rest.substr(f_.function_open.size());
    const std::size_t at =
        f_.function_open_end.empty() ? tail.find_first_of(" \n\t\r<") : tail.find(f_.function_open_end);
    if (at == std::string_view::npos && tail.size() <= kMaxName && !ended_) return false;
    std::string name(tail.substr(0, std::min(at, kMaxName)));
    if (!is_name(name) || at == std::string_view::npos) {
      fail();
      return true;
    }
    take(f_.function_open.size() + name.size() + f_.function_open_end.size());
    announce(std::move(name));
    at_ = At::kParameter;
    return true;
  }

  bool parameter() {
    in_.take(blanks_before(in_.rest()));
    const std::string_view rest = in_.rest();
    if (rest.empty() && !ended_) return false;
    const Found open = begins(rest, f_.parameter_open, ended_);
    const std::string& close = f_.function_close.empty() ? f_.call_end : f_.function_close;
    const Found end = begins(rest, close, ended_);
    if (open != Found::kYes) {
      if (end != Found::kYes && (open == Found::kWait || end == Found::kWait)) return false;
      close_tagged();
      if (end == Found::kYes && !f_.function_close.empty()) in_.take(close.size());
      at_ = f_.call_end.empty() && !f_.section_begin.empty() ? At::kBetween : At::kCallEnd;
      if (at_ == At::kBetween) begin_call(At::kBetween);
      return true;
    }
    std::string_view tail = rest.substr(f_.parameter_open.size());
    const std::size_t key_end = tail.find(f_.parameter_open_end);
    if (key_end == std::string_view::npos) return cut_parameter(rest);
    const std::string key(tail.substr(0, key_end));
    tail.remove_prefix(key_end + f_.parameter_open_end.size());
    if (!f_.value_open.empty()) {
      const std::size_t blank = blanks_before(tail);
      if (!tail.substr(blank).starts_with(f_.value_open)) {
        if (ended_ || begins(tail.substr(blank), f_.value_open, false) == Found::kNo) return broken_parameter();
        return false;
      }
      tail.remove_prefix(blank + f_.value_open.size());
    }
    const std::size_t from = rest.size() - tail.size();
    searched_ = std::max(searched_, from);
    const std::size_t value_end = rest.find(f_.parameter_close, searched_);
    if (value_end == std::string_view::npos) {
      searched_ = std::max(from, rest.size() - std::min(rest.size(), f_.parameter_close.size()));
      return cut_parameter(rest);
    }
    std::string text(rest.substr(from, value_end - from));
    if (text.starts_with('\n')) text.erase(0, 1);
    if (text.ends_with('\n')) text.pop_back();
    add_parameter(key, types_.value(name_, key, text).dump(-1, ' ', false, Json::error_handler_t::replace));
    in_.take(value_end + f_.parameter_close.size());
    searched_ = 0;
    return true;
  }

  void add_parameter(const std::string& key, const std::string& value) {
    argument((n_parameters_++ == 0 ? "{" : ", ") + Json(key).dump(-1, ' ', false, Json::error_handler_t::replace) +
             ": " + value);
  }

  // A parameter without its end: at the end of the answer what is there is given as it stands.
  bool cut_parameter(std::string_view rest) {
    if (!ended_) return false;
    std::string text = Json(std::string(rest)).dump(-1, ' ', false, Json::error_handler_t::replace);
    argument((n_parameters_++ == 0 ? "{" : ", ") + text);
    cut_ = true;
    in_.take(rest.size());
    at_ = At::kContent;
    return true;
  }
  bool broken_parameter() {
    close_tagged();
    begin_call(At::kContent);
    return true;
  }

  void close_tagged() {
    if (f_.style == CallStyle::kTagged && !cut_) argument(n_parameters_ == 0 ? "{}" : "}");
    cut_ = false;
  }

  // --- Python's and Gemma's notations
  bool python_arguments_step() {
    const std::size_t end = python_end(in_.rest());
    if (!whole_arguments(end, python_arguments)) return false;
    at_ = At::kPythonNext;
    return true;
  }
  bool gemma_arguments_step() {
    const std::size_t end = gemma_end(in_.rest());
    if (!whole_arguments(end, gemma_arguments)) return false;
    at_ = At::kCallEnd;
    return true;
  }

  template <typename Read>
  bool whole_arguments(std::size_t end, Read read) {
    if (end == std::string_view::npos && !ended_) return false;
    const bool whole = end != std::string_view::npos;
    const std::string_view text = in_.rest().substr(0, whole ? end : in_.rest().size());
    Json arguments;
    if (!whole || !read(text, arguments)) arguments = std::string(text);
    // What is no argument list is given as a text, so that nothing is lost.
    argument(arguments.dump(-1, ' ', false, Json::error_handler_t::replace));
    in_.take(text.size() + (whole ? 1 : 0));
    return true;
  }

  bool python_next() {
    in_.take(blanks_before(in_.rest()));
    if (in_.rest().empty() && !ended_) return false;
    if (in_.rest().starts_with(',')) {
      in_.take(1);
      begin_call(At::kName);
      return true;
    }
    if (in_.rest().starts_with(']')) in_.take(1);
    end_section();
    return true;
  }

  const ToolFormat f_;
  ReplyOptions options_;
  Types types_;
  At at_;
  Input in_;
  std::vector<ReplyDelta>* out_ = nullptr;
  std::vector<std::string> markers_;  // in content: first those that begin a call
  std::size_t n_triggers_ = 0;
  std::string held_;  // white space that may have to be dropped
  std::string raw_;   // of a call without a name yet
  std::string name_;
  std::string perhaps_;  // a function's name in what may be the answer
  std::string key_;
  std::string arguments_;  // that came before the name
  JsonScanner scanner_;
  int call_ = -1;
  std::size_t searched_ = 0;
  std::size_t n_parameters_ = 0;
  bool named_ = false;
  bool has_arguments_ = false;
  bool in_section_ = false;
  bool begun_ = false;
  bool cut_ = false;
  bool ended_ = false;
};

// --- harmony: <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…

class HarmonyParser : public ReplyParser {
 public:
  explicit HarmonyParser(ReplyOptions options) : options_(std::move(options)) {}

  void push(std::string_view text, std::vector<ReplyDelta>& out) override {
    in_.add(text);
    while (step(out)) {
    }
  }

  void finish(std::vector<ReplyDelta>& out) override {
    ended_ = true;
    while (step(out)) {
    }
    if (in_body_) return;
    std::string rest(in_.take(in_.rest().size()));
    if (rest.find("<|") == std::string::npos) put(out, Kind::kContent, -1, rest);
  }

 private:
  static constexpr std::string_view kMessage = "<|message|>";

  bool step(std::vector<ReplyDelta>& out) { return in_body_ ? body(out) : header(out); }

  bool header(std::vector<ReplyDelta>& out) {
    const std::string_view rest = in_.rest();
    const std::size_t at = rest.find(kMessage);
    if (at == std::string_view::npos) return false;
    const std::string head(in_.take(at + kMessage.size()));
    const std::size_t to = head.find("to=functions.");
    kind_ = Kind::kContent;
    if (to != std::string::npos && options_.calls) {
      const std::size_t begin = to + 13;
      const std::size_t end = head.find_first_of(" <", begin);
      put(out, Kind::kCall, ++call_, head.substr(begin, end - begin));
      kind_ = Kind::kArguments;
      scanner_ = {};
    } else if (head.find("<|channel|>analysis") != std::string::npos && options_.reasoning) {
      kind_ = Kind::kReasoning;
    }
    in_body_ = true;
    return true;
  }

  bool body(std::vector<ReplyDelta>& out) {
    static const std::vector<std::string> kEnds{"<|end|>", "<|call|>", "<|return|>", "<|start|>"};
    if (kind_ == Kind::kArguments && !arguments(out)) return false;
    const std::string_view rest = in_.rest();
    std::size_t first = std::string_view::npos;
    std::size_t size = 0;
    std::size_t keep = 0;
    for (const std::string& end : kEnds) {
      const std::size_t at = rest.find(end);
      if (at < first) {
        first = at;
        size = end.size();
      }
      if (!ended_) keep = std::max(keep, half_marker(rest, end));
    }
    const bool more = first == std::string_view::npos;
    put(out, kind_, kind_ == Kind::kArguments ? call_ : -1, in_.take(more ? rest.size() - keep : first));
    if (more) return false;
    in_.take(size);
    in_body_ = false;
    return true;
  }

  // An object goes to its own end, whatever stands in its texts. False if that has not come.
  bool arguments(std::vector<ReplyDelta>& out) {
    const std::string_view rest = in_.rest();
    if (!scanner_.begun()) {
      const std::size_t blank = blanks_before(rest);
      if (blank == rest.size()) return ended_;
      if (rest[blank] != '{') return true;
    }
    put(out, kind_, call_, in_.take(scanner_.take(rest)));
    if (scanner_.done()) kind_ = Kind::kContent;
    return scanner_.done();
  }

  ReplyOptions options_;
  Input in_;
  JsonScanner scanner_;
  Kind kind_ = Kind::kContent;
  int call_ = -1;
  bool in_body_ = false;
  bool ended_ = false;
};

}  // namespace

bool is_text_schema(const Json& schema) {
  if (!schema.is_object()) return false;
  if (schema.contains("type")) return schema["type"] == "string";
  const Json list = schema.value("enum", Json::array());
  return list.is_array() && !list.empty() &&
         std::all_of(list.begin(), list.end(), [](const Json& v) { return v.is_string(); });
}

std::unique_ptr<ReplyParser> make_reply_parser(const ToolFormat& format, ReplyOptions options) {
  if (format.style == CallStyle::kHarmony) return std::make_unique<HarmonyParser>(std::move(options));
  return std::make_unique<TaggedParser>(format, std::move(options));
}

namespace {

bool ends_with_tag(std::string_view prompt, std::string_view tag) {
  prompt.remove_suffix(blanks_after(prompt));
  tag.remove_suffix(blanks_after(tag));
  return !tag.empty() && prompt.ends_with(tag);
}

}  // namespace

bool opens_reasoning(const ToolFormat& format, std::string_view prompt) {
  return ends_with_tag(prompt, format.reasoning_open);
}
bool closes_reasoning(const ToolFormat& format, std::string_view prompt) {
  return ends_with_tag(prompt, format.reasoning_close);
}

}  // namespace gsd::chat
