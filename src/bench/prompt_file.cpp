#include "prompt_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "gsd/error.h"

namespace gsd::bench {
namespace {

using nlohmann::json;

constexpr std::size_t kMostBytes = std::size_t{16} << 20;  // of an entry
constexpr int kMostDepth = 32;                             // of its objects and lists
constexpr int kEnd = std::char_traits<char>::eof();

bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
bool is_blank(const std::string& text) { return text.find_first_not_of(" \t\r\n") == std::string::npos; }

// The entries of a file: its lines, or the elements of the list that it is.
class Entries {
 public:
  Entries(std::istream& in, std::string name, PromptForm form) : in_(*in.rdbuf()), name_(std::move(name)), form_(form) {
    if (in_.sgetc() == 0xEF)  // the mark that some editors put in front of UTF-8
      for (int i = 0; i < 3; ++i) in_.sbumpc();
    if (form != PromptForm::kJson) return;
    while (is_blank(in_.sgetc())) line_ += in_.sbumpc() == '\n' ? 1 : 0;
    list_ = in_.sgetc() == '[';
    if (list_) in_.sbumpc();
  }

  // The next one; nothing after the last.
  std::optional<std::string> next() {
    if (list_) return element();
    if (form_ == PromptForm::kParagraphs) return paragraph();
    while (std::optional<std::string> text = line())
      if (!is_blank(*text)) return text;
    return std::nullopt;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kIo, fmt::format("{} {} of '{}' {}.", list_ ? "Entry" : "Line", line_, name_, why));
  }

 private:
  void add(std::string& text, int c) const {
    if (text.size() == kMostBytes) refuse(fmt::format("is longer than {} MiB", kMostBytes >> 20));
    text += static_cast<char>(c);
  }
  std::optional<std::string> line() {
    if (in_.sgetc() == kEnd) return std::nullopt;
    ++line_;
    std::string text;
    for (int c = in_.sbumpc(); c != '\n' && c != kEnd; c = in_.sbumpc()) add(text, c);
    if (!text.empty() && text.back() == '\r') text.pop_back();
    return text;
  }
  std::optional<std::string> paragraph() {
    std::string text;
    while (std::optional<std::string> more = line()) {
      if (is_blank(*more) && !text.empty()) break;
      if (is_blank(*more)) continue;
      if (text.size() + more->size() > kMostBytes)
        refuse(fmt::format("ends more than {} MiB of text", kMostBytes >> 20));
      text += (text.empty() ? "" : "\n") + *more;
    }
    if (text.empty()) return std::nullopt;
    return text;
  }
  // Up to the comma or the bracket outside of strings, objects and lists.
  std::optional<std::string> element() {
    if (ended_) return std::nullopt;
    ++line_;
    std::string text;
    int depth = 0;
    bool in_string = false;
    for (int c = in_.sbumpc();; c = in_.sbumpc()) {
      if (c == kEnd) refuse("is not complete");
      if (!in_string && depth == 0 && (c == ',' || c == ']')) {
        ended_ = c == ']';
        break;
      }
      add(text, c);
      if (c == '"') in_string = !in_string;
      if (in_string && c == '\\' && in_.sgetc() != kEnd) add(text, in_.sbumpc());
      if (in_string) continue;
      depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    }
    if (ended_ && is_blank(text)) return std::nullopt;
    return text;
  }

  std::streambuf& in_;
  std::string name_;
  PromptForm form_;
  bool list_ = false;
  bool ended_ = false;
  std::size_t line_ = 0;  // that was read last, or element
};

bool holds_text(const json& j, const char* key) { return j.contains(key) && j[key].is_string(); }
std::string text_of(const json& j, const char* key, const char* otherwise = "") {
  return holds_text(j, key) ? j[key].get<std::string>() : otherwise;
}

// Text, or the texts among parts.
std::string content_of(const json& content) {
  if (content.is_string()) return content;
  std::string out;
  if (content.is_array())
    for (const json& part : content)
      if (part.is_object()) out += text_of(part, "text");
  return out;
}

// Up to and with the user's last message; nobody's words are answered by the user.
Prompt chat(const json& messages, std::string kind) {
  Prompt p{std::move(kind), ""};
  std::size_t last = 0;
  for (const json& m : messages) {
    if (!m.is_object() || !holds_text(m, "role") || !m.contains("content")) return {};
    p.messages.emplace_back(m["role"], content_of(m["content"]));
    if (p.messages.back().first == "user" && !p.messages.back().second.empty()) last = p.messages.size();
  }
  p.messages.resize(last);
  return p;
}

Prompt conversation(const json& turns) {
  Prompt p{"sharegpt", ""};
  for (const json& turn : turns) {
    if (!turn.is_object()) return {};
    const std::string from = text_of(turn, "from");
    if (from == "system") p.messages.emplace_back("system", text_of(turn, "value"));
    if ((from != "human" && from != "user") || text_of(turn, "value").empty()) continue;
    p.messages.emplace_back("user", turn["value"]);
    return p;
  }
  return {"nobody", ""};
}

Prompt batch(const json& body) {
  if (body.contains("messages") && body["messages"].is_array()) return chat(body["messages"], "batch");
  if (!body.contains("prompt")) return {};
  const json& prompt = body["prompt"];
  if (prompt.is_array() && prompt.size() == 1 && prompt[0].is_string()) return {"batch", prompt[0]};
  return {"batch", prompt.is_string() ? prompt.get<std::string>() : ""};
}

// Without a kind if the entry is of no known form; without text and messages if it has nothing to say.
Prompt parse_prompt(const json& j) {
  const auto is_list = [&](const char* key) { return j.contains(key) && j[key].is_array(); };
  if (!j.is_object()) return {};
  if (holds_text(j, "prompt")) return {text_of(j, "kind", "all"), j["prompt"]};
  if (is_list("messages")) return chat(j["messages"], text_of(j, "kind", "chat"));
  if (is_list("conversations")) return conversation(j["conversations"]);
  if (j.contains("custom_id") && j.contains("body") && j["body"].is_object()) return batch(j["body"]);
  if (holds_text(j, "category") && is_list("turns") && !j["turns"].empty() && j["turns"][0].is_string())
    return {j["category"], j["turns"][0]};
  if (holds_text(j, "question")) return {"gsm8k", "Question: " + j["question"].get<std::string>() + "\nAnswer:"};
  return {};
}

json parse_json(const std::string& text) {
  bool deep = false;
  const auto bounded = [&](int depth, json::parse_event_t, json&) {
    deep = deep || depth > kMostDepth;
    return !deep;
  };
  json out = json::parse(text, bounded, false);
  return deep ? json() : out;
}

}  // namespace

void for_each_prompt(std::istream& in, const std::string& name, PromptForm form,
                     const std::function<void(Prompt)>& take) {
  Entries entries(in, name, form);
  bool any = false;
  while (const std::optional<std::string> entry = entries.next()) {
    Prompt p = form == PromptForm::kJson ? parse_prompt(parse_json(*entry)) : Prompt{"text", *entry};
    if (p.kind == "nobody" && p.messages.empty() && p.text.empty()) continue;
    if (p.text.empty() && p.messages.empty()) {
      entries.refuse(
          "is no JSON object with a \"prompt\", \"messages\" in which a user speaks, \"conversations\", the \"body\" "
          "of "
          "a batch's request, a \"question\", or a \"category\" and \"turns\"");
    }
    any = true;
    take(std::move(p));
  }
  if (in.bad()) throw Error(ErrorCode::kIo, fmt::format("'{}' cannot be read to its end.", name));
  if (!any) throw Error(ErrorCode::kIo, fmt::format("'{}' holds no prompts.", name));
}

std::vector<Prompt> read_prompts(std::istream& in, const std::string& name, int per_kind) {
  std::vector<Prompt> out;
  std::map<std::string, int> seen;
  for_each_prompt(in, name, PromptForm::kJson, [&](Prompt p) {
    if (per_kind == 0 || ++seen[p.kind] <= per_kind) out.push_back(std::move(p));
  });
  return out;
}

std::vector<Prompt> read_prompt_file(const std::string& path, int per_kind) {
  if (path == "-") return read_prompts(std::cin, "standard input", per_kind);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be read: {}.", path, std::strerror(errno)));
  return read_prompts(file, path, per_kind);
}

std::string prompt_json(const Prompt& p) {
  json out{{"kind", p.kind}};
  if (p.messages.empty()) out["prompt"] = p.text;
  for (const auto& [role, content] : p.messages) out["messages"].push_back({{"role", role}, {"content", content}});
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string plain_text(const Prompt& p) {
  std::string out = p.text;
  for (const auto& [role, content] : p.messages) out += (out.empty() ? "" : "\n\n") + content;
  return out;
}

}  // namespace gsd::bench
