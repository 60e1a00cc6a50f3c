#include "format.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <new>

#include "gsd/error.h"

namespace gsd::chat {
namespace {

Json message(const char* role, const Json& content) { return {{"role", role}, {"content", content}}; }

// Appends the content of the message that is to go on.
Rendered continued(Rendered prompt, const Json& last) {
  const std::string text = content_text(last);
  if (!text.empty()) prompt.from_request.emplace_back(prompt.text.size(), prompt.text.size() + text.size());
  prompt.text += text;
  return prompt;
}

Json without_last(const Json& messages) {
  Json out = messages;
  out.erase(out.size() - 1);
  return out;
}

bool is_system(const Json& m) { return m["role"] == "system" || m["role"] == "developer"; }

// A system message becomes the beginning of the user's next one.
Json without_system(const Json& messages) {
  Json out = Json::array();
  std::string before;
  for (const Json& m : messages) {
    if (is_system(m)) {
      before += (before.empty() ? "" : "\n\n") + content_text(m);
      continue;
    }
    out.push_back(m);
    if (before.empty() || m["role"] != "user") continue;
    out.back()["content"] = before + "\n\n" + content_text(m);
    before.clear();
  }
  if (!before.empty()) out.push_back(message("user", before));
  return out;
}

Json joined(const Json& messages) {
  Json out = Json::array();
  for (const Json& m : messages) {
    const bool same = !out.empty() && out.back()["role"] == m["role"] && !m.contains("tool_calls") &&
                      !out.back().contains("tool_calls") && m["role"] != "tool";
    if (same) {
      out.back()["content"] = content_text(out.back()) + "\n\n" + content_text(m);
    } else {
      out.push_back(m);
    }
  }
  return out;
}

// Calls and their results as text, for a template that writes none: calls as the generic format has them.
Json without_calls(const Json& messages) {
  Json out = Json::array();
  for (Json m : messages) {
    if (m.contains("tool_calls")) {
      std::string text = content_text(m);
      for (const Json& call : m["tool_calls"]) {
        const Json& f = call["function"];
        text += fmt::format("{}{{\"name\": {}, \"arguments\": {}}}", text.empty() ? "" : "\n", f["name"].dump(),
                            f["arguments"].get<std::string>());
      }
      m["content"] = text;
      m.erase("tool_calls");
    } else if (m["role"] == "tool" || m["role"] == "function") {
      m["content"] = fmt::format("Result of {}: {}", m.value("name", "the call"), content_text(m));
      m["role"] = "user";
    }
    out.push_back(std::move(m));
  }
  return out;
}

}  // namespace

std::string content_text(const Json& m) {
  const auto at = m.find("content");
  if (at == m.end() || at->is_null()) return "";
  if (at->is_string()) return at->get<std::string>();
  std::string out;
  for (const Json& part : *at) out += part.is_object() ? part.value("text", "") : "";
  return out;
}

// --- JinjaFormat

JinjaFormat::JinjaFormat(std::string source, std::string bos, std::string eos, std::function<std::time_t()> clock)
    : source_(std::move(source)), bos_(std::move(bos)), eos_(std::move(eos)), clock_(std::move(clock)) {
  try {
    template_.emplace(source_);
    probe();
  } catch (const std::bad_alloc&) {
    throw;  // no fault of the template
  } catch (const std::exception& e) {
    problem_ = e.what();
  }
}

Rendered JinjaFormat::plain(const Json& messages, const Json& tools, const Json& variables,
                            bool add_generation_prompt) const {
  std::vector<Variable> all{{"bos_token", bos_, Origin::kTemplate},
                            {"eos_token", eos_, Origin::kTemplate},
                            {"messages", messages},
                            {"add_generation_prompt", add_generation_prompt}};
  if (!tools.is_null()) all.push_back({"tools", tools});
  for (const auto& [name, value] : variables.items()) all.push_back({name, value});
  try {
    return template_->render(all, clock_());
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(ErrorCode::kModelUnsupported, fmt::format("The chat template cannot be rendered: {}.", e.what()));
  }
}

// The text of a trial, or "" where the template refuses it.
std::string JinjaFormat::trial(const Json& messages, const Json& tools, bool add_generation_prompt) const {
  try {
    return plain(messages, tools, Json::object(), add_generation_prompt).text;
  } catch (const Error&) {
    return "";
  }
}

bool JinjaFormat::keeps(const Json& messages, const std::string& words, const Json& tools) const {
  return trial(messages, tools).find(words) != std::string::npos;
}

void JinjaFormat::probe() {
  const Json user = message("user", "probe user");
  const Json parts = message("user", Json::array({{{"type", "text"}, {"text", "probe user"}}}));
  if (!keeps(Json::array({user}), "probe user")) {
    traits_.text_content = false;
    if (!keeps(Json::array({parts}), "probe user")) {
      plain(Json::array({user}), {}, Json::object(), true);  // throws why
      throw Error(ErrorCode::kModelUnsupported, "The chat template leaves out what the user says.");
    }
  }
  const Json& say = traits_.text_content ? user : parts;
  const Json system =
      message("system", traits_.text_content ? Json("probe system")
                                             : Json::array({{{"type", "text"}, {"text", "probe system"}}}));
  traits_.system_role = keeps(Json::array({system, say}), "probe system");
  traits_.consecutive_roles = !trial(Json::array({say, say})).empty();
  probe_calls();
}

void JinjaFormat::probe_calls() {
  const Json schema{{"type", "object"},
                    {"properties", {{"probe_argument", {{"type", "string"}, {"description", "probe"}}}}},
                    {"required", {"probe_argument"}}};
  const Json tools =
      Json::array({{{"type", "function"},
                    {"function", {{"name", "probe_function"}, {"description", "probe"}, {"parameters", schema}}}}});
  const Json user = fitted(Json::array({message("user", "probe user")}))[0];
  traits_.tools = keeps(Json::array({user}), "probe_function", tools);
  const auto call = [&](const Json& content, const Json& arguments) {
    Json m = message("assistant", content);
    m["tool_calls"] = Json::array({{{"id", "probe0000"},
                                    {"type", "function"},
                                    {"function", {{"name", "probe_function"}, {"arguments", arguments}}}}});
    return trial(Json::array({user, m}), tools, false);
  };
  const Json object{{"probe_argument", "probe value"}};
  const auto written = [](const std::string& text) {
    return text.find("probe value") != std::string::npos && text.find("'probe_argument'") == std::string::npos;
  };
  const std::string with_object = call("", object);
  const std::string with_text = call("", object.dump());
  // As a JSON text inside JSON, an object's quotes are escaped: then it wanted an object.
  const bool text_is_good = written(with_text) && with_text.find("\\\"probe_argument") == std::string::npos;
  traits_.object_arguments = written(with_object) || !text_is_good;
  traits_.call = traits_.object_arguments ? with_object : with_text;
  traits_.calls = traits_.call.find("probe value") != std::string::npos;
  traits_.null_content = written(call(nullptr, traits_.object_arguments ? object : Json(object.dump())));
}

// The messages in the shape that this template takes.
Json JinjaFormat::fitted(const Json& messages) const {
  Json out = traits_.calls ? messages : without_calls(messages);
  if (!traits_.system_role) out = without_system(out);
  if (!traits_.consecutive_roles) out = joined(out);
  for (Json& m : out) {
    if (m["role"] == "developer" && source_.find("developer") == std::string::npos) m["role"] = "system";
    if (m["role"] == "function") m["role"] = "tool";
    const bool has_calls = m.contains("tool_calls");
    if (traits_.text_content) {
      if (m.value("content", Json()).is_array()) m["content"] = content_text(m);
      if (m.value("content", Json()).is_null() && !(has_calls && traits_.null_content)) m["content"] = "";
    } else if (!m.value("content", Json()).is_array()) {
      const std::string text = content_text(m);
      m["content"] = text.empty() && has_calls ? Json::array() : Json::array({{{"type", "text"}, {"text", text}}});
    }
    if (!has_calls || !traits_.object_arguments) continue;
    for (Json& call : m["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      const Json object =
          arguments.is_string() ? Json::parse(arguments.get_ref<const std::string&>(), nullptr, false) : Json();
      if (object.is_object()) arguments = object;
    }
  }
  return out;
}

Rendered JinjaFormat::render(const ChatRequest& r) const {
  if (!problem_.empty()) throw Error(ErrorCode::kModelUnsupported, problem_);
  const bool goes_on = r.continue_final && !r.messages.empty();
  const Json messages = fitted(goes_on ? without_last(r.messages) : r.messages);
  Rendered out = plain(messages, r.tools, r.variables, r.add_generation_prompt || goes_on);
  return goes_on ? continued(std::move(out), r.messages.back()) : out;
}

// --- NamedFormat

NamedFormat::NamedFormat(std::string name, Apply apply) : name_(std::move(name)), apply_(std::move(apply)) {
  trims_ = apply_({{"user", " probe "}}, true).find(" probe ") == std::string::npos;
}

// Contents are put in after the format has been applied, so that they are known to come from the request: a number
// between two control characters stands for each.
Rendered NamedFormat::render(const ChatRequest& r) const {
  const bool goes_on = r.continue_final && !r.messages.empty();
  const Json messages = without_calls(goes_on ? without_last(r.messages) : r.messages);
  std::vector<std::pair<std::string, std::string>> list;
  std::vector<Text> contents;
  for (const Json& m : messages) {
    const std::string role = is_system(m) ? "system" : m["role"].get<std::string>();
    Text content = to_text(content_text(m), kFromRequest);
    const auto is_blank = [](char32_t c) { return gsd::chat::plain(c) <= U' '; };
    while (trims_ && !content.empty() && is_blank(content.back())) content.pop_back();
    while (trims_ && !content.empty() && is_blank(content.front())) content.erase(0, 1);
    list.emplace_back(role, fmt::format("\x01{}\x02", contents.size()));
    contents.push_back(std::move(content));
  }
  const Text whole = to_text(apply_(list, r.add_generation_prompt || goes_on));
  Text out;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if (whole[i] != 1) {
      out += whole[i];
      continue;
    }
    std::size_t n = 0;
    while (++i < whole.size() && whole[i] != 2) n = n * 10 + (whole[i] - U'0');
    out += contents.at(n);
  }
  Rendered prompt = to_rendered(out);
  return goes_on ? continued(std::move(prompt), r.messages.back()) : prompt;
}

}  // namespace gsd::chat
