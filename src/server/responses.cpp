#include "responses.h"

#include <fmt/format.h>

#include <ctime>

#include "fields.h"
#include "openai.h"

namespace gsd::server {

// --- ResponseStore ---------------------------------------------------------------------------------------------------

void ResponseStore::remove(Entries::iterator at) {
  n_bytes_ -= at->n_bytes;
  by_id_.erase(at->id);
  entries_.erase(at);
}

void ResponseStore::put(const std::string& id, Kept kept) {
  constexpr std::size_t kOverhead = 512;  // of an entry beside its texts
  const std::size_t n = kept.messages.size() + kept.response.size() + kOverhead;
  if (n > max_bytes_) return;
  const std::lock_guard lock(mutex_);
  while (n_bytes_ + n > max_bytes_) remove(std::prev(entries_.end()));
  entries_.push_front({id, std::make_shared<const Kept>(std::move(kept)), n});
  by_id_[id] = entries_.begin();
  n_bytes_ += n;
}

std::shared_ptr<const ResponseStore::Kept> ResponseStore::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto at = by_id_.find(id);
  if (at == by_id_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, at->second);
  return at->second->kept;
}

bool ResponseStore::erase(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto at = by_id_.find(id);
  if (at == by_id_.end()) return false;
  remove(at->second);
  return true;
}

std::size_t ResponseStore::n_bytes() const {
  const std::lock_guard lock(mutex_);
  return n_bytes_;
}

// --- Requests --------------------------------------------------------------------------------------------------------

namespace {

using Kind = AnswerItem::Kind;

[[noreturn]] void refuse_type(const std::string& field, const std::string& what, const std::string& type) {
  refuse(field, fmt::format("holds {} of type '{}', which this server does not support", what, type));
}

// The items of a request's input as messages of a chat.
class Input {
 public:
  explicit Input(ResponseStore& store, Json messages) : store_(store), messages_(std::move(messages)) {}

  Json take() { return std::move(messages_); }

  void add(const Json& item) {
    if (!item.is_object()) refuse("input", "must hold objects");
    const Fields f(item, "input");
    const std::string type = f.text("type", item.contains("role") ? "message" : "");
    if (type == "message") {
      add_message(f);
    } else if (type == "function_call") {
      add_call(f);
    } else if (type == "function_call_output") {
      messages_.push_back({{"role", "tool"}, {"tool_call_id", f.text("call_id")}, {"content", content(f, "output")}});
    } else if (type == "reasoning") {
      add_reasoning(f);
    } else if (type == "item_reference") {
      add_reference(f);
    } else {
      refuse_type("input", "an item", type);
    }
  }

 private:
  static Json content(const Fields& f, const char* field) {
    const Json* v = f.find(field);
    if (v == nullptr) refuse(f.path(field), "is missing");
    return text_content(*v, f.path(field), {"input_text", "output_text", "text"});
  }

  // The assistant's last message, if it has none of these yet; otherwise a new one.
  Json& assistant(std::initializer_list<const char*> unless) {
    bool goes_on = !messages_.empty() && messages_.back()["role"] == "assistant";
    for (const char* field : unless) goes_on = goes_on && !messages_.back().contains(field);
    if (!goes_on) messages_.push_back({{"role", "assistant"}});
    return messages_.back();
  }

  void add_message(const Fields& f) {
    const std::string role = f.text("role");
    if (role == "assistant") {
      assistant({"content", "tool_calls"})["content"] = content(f, "content");
    } else {
      messages_.push_back({{"role", role}, {"content", content(f, "content")}});
    }
  }

  void add_call(const Fields& f) {
    assistant({})["tool_calls"].push_back(
        {{"id", f.text("call_id")},
         {"type", "function"},
         {"function", {{"name", f.text("name")}, {"arguments", f.text("arguments", "{}")}}}});
  }

  // The text itself, or, from elsewhere, what sums it up. What is encrypted only is nothing to a model here.
  void add_reasoning(const Fields& f) {
    std::string text;
    for (const char* field : {"content", "summary"}) {
      const Json* list = text.empty() ? f.list(field) : nullptr;
      if (list == nullptr) continue;
      const Json parts = text_content(*list, f.path(field), {"reasoning_text", "summary_text", "text"});
      for (const Json& part : parts) text += part["text"].get<std::string>();
    }
    if (!text.empty()) assistant({"content", "tool_calls", "reasoning_content"})["reasoning_content"] = text;
  }

  // An item of a response that is kept here: its id holds the response's.
  void add_reference(const Fields& f) {
    const std::string id = f.text("id");
    const std::size_t begin = id.find('_');
    const std::size_t end = id.rfind('_');
    const auto kept = begin < end ? store_.find("resp" + id.substr(begin, end - begin)) : nullptr;
    if (kept) {
      const Json response = Json::parse(kept->response);
      for (const Json& item : response["output"]) {
        if (item["id"] == id) return add(item);
      }
    }
    throw ApiError(404, fmt::format("There is no item '{}' here; send the item itself.", id), "input",
                   "item_not_found");
  }

  ResponseStore& store_;
  Json messages_;
};

Json previous_messages(const Fields& f, ResponseStore& store) {
  const std::string id = f.text("previous_response_id");
  if (id.empty()) return Json::array();
  const auto kept = store.find(id);
  if (!kept)
    throw ApiError(404,
                   fmt::format("There is no response '{}' here: it was not stored, or has made room for later ones; "
                               "send the conversation itself.",
                               id),
                   "previous_response_id", "previous_response_not_found");
  return Json::parse(kept->messages);
}

Json response_tools(const Fields& f) {
  Json out = Json::array();
  for (const Fields& t : f.objects("tools")) {
    const std::string type = t.text("type");
    if (type != "function") refuse_type("tools", "a tool", type);
    Json function = t.json();
    function.erase("type");
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

Json tool_choice_of(const Fields& f) {
  const Json* choice = f.find("tool_choice");
  if (choice == nullptr || !choice->is_object()) return choice == nullptr ? Json() : *choice;
  const Fields c(*choice, "tool_choice");
  const std::string type = c.text("type");
  if (type != "function") refuse_type("tool_choice", "a choice", type);
  return {{"type", "function"}, {"function", {{"name", c.text("name")}}}};
}

// `text` as response_format; null where nothing is asked for.
Json format_of(const Fields& f) {
  const Json* text = f.object("text");
  if (text == nullptr) return {};
  const Json* format = Fields(*text, "text").object("format");
  if (format == nullptr) return {};
  const std::string type = Fields(*format, "text.format").text("type");
  if (type == "text") return {};
  if (type == "json_object") return {{"type", type}};
  if (type != "json_schema") refuse_type("text.format", "a format", type);
  return {{"type", type}, {"json_schema", *format}};
}

// What other clients' servers do and this one does not. Values that ask for nothing are taken.
void refuse_of_response(const Fields& f) {
  f.refuse_unsupported({"background", "conversation", "prompt", "context_management", "moderation", "top_logprobs"});
  f.only("truncation", {"disabled"});
  f.only("service_tier", {"auto", "default"});
  if (const Json* options = f.object("stream_options"))
    Fields(*options, "stream_options").refuse_unsupported({"include_obfuscation"});
  if (const Json* include = f.list("include")) {
    for (const Json& what : *include) {  // the others are of tools and images, of which there are none
      if (what == "message.output_text.logprobs") refuse("include", "asks for log-probabilities; use chat completions");
    }
  }
  if (const Json* reasoning = f.object("reasoning")) {
    const Fields r(*reasoning, "reasoning");  // the reasoning itself is given, and no summary
    r.only("summary", {"auto"});
    r.only("generate_summary", {"auto"});
  }
  if (const Json* metadata = f.object("metadata")) {
    for (const Json& value : *metadata) {
      if (!value.is_string()) refuse("metadata", "must hold strings");
    }
  }
}

// Fields that a response repeats, and what they are if the request leaves them out.
Json echo_of(const Json& body) {
  Json out{{"background", false},
           {"instructions", nullptr},
           {"max_output_tokens", nullptr},
           {"max_tool_calls", nullptr},
           {"metadata", Json::object()},
           {"parallel_tool_calls", true},
           {"previous_response_id", nullptr},
           {"prompt_cache_key", nullptr},
           {"reasoning", Json::object()},
           {"safety_identifier", nullptr},
           {"service_tier", "default"},
           {"store", true},
           {"text", {{"format", {{"type", "text"}}}}},
           {"tool_choice", "auto"},
           {"tools", Json::array()},
           {"top_logprobs", 0},
           {"truncation", "disabled"},
           {"user", nullptr}};
  for (auto& [name, value] : out.items()) {
    const auto at = body.find(name);
    if (at != body.end() && !at->is_null()) value = *at;
  }
  for (const char* name : {"effort", "summary"}) out["reasoning"].emplace(name, nullptr);
  out["text"].emplace("format", Json{{"type", "text"}});
  return out;
}

}  // namespace

ResponseRequest read_response(const Json& body, ResponseStore& store) {
  const Fields f(body);
  refuse_of_response(f);
  Input input(store, previous_messages(f, store));
  const Json* items = f.find("input");
  if (items == nullptr || !(items->is_string() || items->is_array()))
    refuse("input", "must be a text or a list of items");
  if (items->is_string()) input.add({{"role", "user"}, {"content", *items}});
  if (items->is_array()) {
    for (const Json& item : *items) input.add(item);
  }
  ResponseRequest out;
  f.read("store", out.store);
  out.messages = input.take();
  out.chat = body;  // further fields mean what they mean in chats
  for (const char* name : {"input", "instructions", "text", "reasoning", "stream_options", "max_output_tokens"})
    out.chat.erase(name);
  out.chat["messages"] = with_system(out.messages, f.text("instructions"));
  out.chat["tools"] = response_tools(f);
  out.chat["tool_choice"] = tool_choice_of(f);
  out.chat["response_format"] = format_of(f);
  if (const Json* most = f.find("max_output_tokens")) out.chat["max_tokens"] = *most;
  if (const Json* reasoning = f.object("reasoning"); reasoning != nullptr && reasoning->contains("effort"))
    out.chat["reasoning_effort"] = (*reasoning)["effort"];
  if (const Json* text = f.object("text"); text != nullptr && text->contains("verbosity"))
    out.chat["chat_template_kwargs"]["verbosity"] = (*text)["verbosity"];
  out.echo = echo_of(body);
  return out;
}

// --- Answers ---------------------------------------------------------------------------------------------------------

namespace {

bool is_cut(const Answer& a) {
  return a.outcome.finish == FinishReason::kLength || a.outcome.finish == FinishReason::kContextFull;
}

Json text_part(const AnswerItem& item) {
  if (item.kind == Kind::kReasoning) return {{"type", "reasoning_text"}, {"text", item.text}};
  return {{"type", "output_text"}, {"text", item.text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
}

Json response_usage(const Outcome& o) {
  return {{"input_tokens", o.n_prompt},
          {"input_tokens_details", {{"cached_tokens", o.n_reused}}},
          {"output_tokens", o.stats.emitted},
          {"total_tokens", static_cast<std::int64_t>(o.n_prompt) + o.stats.emitted}};
}

}  // namespace

ResponseWriter::ResponseWriter(const TextModel& model, ResponseRequest request, ResponseStore& store)
    : model_(model),
      request_(std::move(request)),
      store_(store),
      digits_(random_id("")),
      created_(static_cast<std::int64_t>(std::time(nullptr))) {}

void ResponseWriter::emit(const char* type, Json fields, std::string& out) {
  Json data{{"type", type}, {"sequence_number", n_events_++}};
  data.update(fields);
  out += event(type, data);
}

std::string ResponseWriter::item_id(const AnswerItem& item, std::size_t index) const {
  const char* prefix = item.kind == Kind::kCall ? "fc" : item.kind == Kind::kReasoning ? "rs" : "msg";
  return fmt::format("{}_{}_{}", prefix, digits_, index);
}

Json ResponseWriter::item_json(const AnswerItem& item, std::size_t index, const char* status) const {
  Json out{{"id", item_id(item, index)}, {"type", "message"}, {"status", status}};
  if (item.kind == Kind::kCall) {
    out.update({{"type", "function_call"}, {"call_id", item.id}, {"name", item.name}, {"arguments", item.text}});
    return out;
  }
  if (item.kind == Kind::kReasoning) {
    out.update({{"type", "reasoning"}, {"summary", Json::array()}});
  } else {
    out["role"] = "assistant";
  }
  const bool begun = std::string_view(status) != "in_progress";
  out["content"] = begun ? Json::array({text_part(item)}) : Json::array();
  return out;
}

Json ResponseWriter::response(const Answers& answers, const char* status) const {
  const Answer& a = answers.choices[0];
  Json out{{"id", "resp_" + digits_},
           {"object", "response"},
           {"created_at", created_},
           {"status", status},
           {"error", nullptr},
           {"incomplete_details", nullptr},
           {"model", model_.id},
           {"temperature", answers.request.sampling.temperature},
           {"top_p", answers.request.sampling.top_p},
           {"output", Json::array()},
           {"usage", a.finished ? response_usage(a.outcome) : Json()}};
  out.update(request_.echo);
  if (!a.finished) return out;
  for (std::size_t i = 0; i < a.items.size(); ++i)
    out["output"].push_back(
        item_json(a.items[i], i, is_cut(a) && i + 1 == a.items.size() ? "incomplete" : "completed"));
  if (a.items.empty()) out["output"].push_back(item_json({}, 0, "completed"));
  out["timings"] = timings_json(a.outcome);
  return out;
}

// The response of an answer that has not failed; keeps it.
Json ResponseWriter::complete(const Answers& answers) {
  const Answer& a = answers.choices[0];
  Json out = response(answers, is_cut(a) ? "incomplete" : "completed");
  if (is_cut(a)) out["incomplete_details"] = {{"reason", "max_output_tokens"}};
  if (request_.store) {
    Json messages = request_.messages;
    messages.push_back(chat_message(a));
    store_.put("resp_" + digits_, {print(messages), print(out)});
  }
  return out;
}

void ResponseWriter::begin(const Answers& answers, std::string& out) {
  for (const char* type : {"response.created", "response.in_progress"})
    emit(type, {{"response", response(answers, "in_progress")}}, out);
}

void ResponseWriter::open(const AnswerItem& item, std::size_t index, std::string& out) {
  AnswerItem empty = item;
  empty.text.clear();
  emit("response.output_item.added", {{"output_index", index}, {"item", item_json(empty, index, "in_progress")}}, out);
  if (item.kind == Kind::kCall) return;
  emit("response.content_part.added",
       {{"item_id", item_id(item, index)}, {"output_index", index}, {"content_index", 0}, {"part", text_part(empty)}},
       out);
}

void ResponseWriter::more(const AnswerItem& item, std::size_t index, const std::string& text, std::string& out) {
  Json fields{{"item_id", item_id(item, index)}, {"output_index", index}};
  if (item.kind != Kind::kCall) fields["content_index"] = 0;
  fields["delta"] = text;
  if (item.kind == Kind::kText) fields["logprobs"] = Json::array();
  emit(item.kind == Kind::kCall        ? "response.function_call_arguments.delta"
       : item.kind == Kind::kReasoning ? "response.reasoning_text.delta"
                                       : "response.output_text.delta",
       std::move(fields), out);
}

void ResponseWriter::close(const Answer& a, std::size_t index, std::string& out) {
  const AnswerItem item = index < a.items.size() ? a.items[index] : AnswerItem{};
  Json fields{{"item_id", item_id(item, index)}, {"output_index", index}};
  if (item.kind == Kind::kCall) {
    fields.update({{"name", item.name}, {"arguments", item.text}});
    emit("response.function_call_arguments.done", std::move(fields), out);
  } else {
    fields["content_index"] = 0;
    Json part = fields;
    part["part"] = text_part(item);
    fields["text"] = item.text;
    if (item.kind == Kind::kText) fields["logprobs"] = Json::array();
    emit(item.kind == Kind::kText ? "response.output_text.done" : "response.reasoning_text.done", std::move(fields),
         out);
    emit("response.content_part.done", std::move(part), out);
  }
  const bool cut = a.finished && is_cut(a) && index + 1 >= a.items.size();
  emit("response.output_item.done",
       {{"output_index", index}, {"item", item_json(item, index, cut ? "incomplete" : "completed")}}, out);
}

void ResponseWriter::finish(const Answers& answers, std::string& out) {
  const Answer& a = answers.choices[0];
  if (a.outcome.error || a.outcome.finish == FinishReason::kNone) {
    const ApiError e = failure(a.outcome);
    Json r = response(answers, "failed");
    r["error"] = {{"code", e.code().empty() ? "server_error" : e.code()}, {"message", e.what()}};
    return emit("response.failed", {{"response", std::move(r)}}, out);
  }
  if (a.items.empty()) {
    open({}, 0, out);
    close(a, 0, out);
  }
  emit(is_cut(a) ? "response.incomplete" : "response.completed", {{"response", complete(answers)}}, out);
}

void ResponseWriter::fail(const ApiError& error, std::string& out) {
  emit("error",
       {{"code", error.code().empty() ? "server_error" : error.code()}, {"message", error.what()}, {"param", nullptr}},
       out);
}

std::string ResponseWriter::whole(const Answers& answers) {
  const Outcome& o = answers.choices[0].outcome;
  if (o.error || o.finish == FinishReason::kNone) throw failure(o);
  return print(complete(answers));
}

}  // namespace gsd::server
