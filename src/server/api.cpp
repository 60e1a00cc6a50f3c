#include "api.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <iterator>
#include <random>
#include <utility>

#include "../record/step_json.h"
#include "gsd/error.h"

namespace gsd::server {
namespace {

// Token pieces may be no UTF-8; everything else is checked before.
std::string print(const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string random_id(const char* prefix) {
  std::random_device random;
  return fmt::format("{}-{:08x}{:08x}{:08x}", prefix, random(), random(), random());
}

std::uint64_t next_job_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

Json timings_json(const Outcome& o) {
  const Stats& s = o.stats;
  const auto per = [](double a, double b) { return b > 0 ? a / b : 0; };
  const auto prompt_n = static_cast<double>(o.n_prompt - o.n_reused);
  const auto predicted_n = static_cast<double>(s.emitted);
  Json out{{"cache_n", o.n_reused},
           {"prompt_n", o.n_prompt - o.n_reused},
           {"prompt_ms", o.prompt_ms},
           {"prompt_per_token_ms", per(o.prompt_ms, prompt_n)},
           {"prompt_per_second", per(1000 * prompt_n, o.prompt_ms)},
           {"predicted_n", s.emitted},
           {"predicted_ms", o.predicted_ms},
           {"predicted_per_token_ms", per(o.predicted_ms, predicted_n)},
           {"predicted_per_second", per(1000 * predicted_n, o.predicted_ms)},
           {"draft_n", s.verified},
           {"draft_n_accepted", s.accepted},
           {"queue_ms", o.queue_ms},
           {"tokens_per_step", s.tokens_per_step()}};
  visit_stats([&](const char* name, const auto& value) { out[name] = value; }, s);
  return out;
}

Json bytes_json(const std::string& bytes) {
  Json out = Json::array();
  for (const char c : bytes) out.push_back(static_cast<unsigned char>(c));
  return out;
}

ApiError from(const Error& e) {
  switch (e.code()) {
    case ErrorCode::kUsage:
    case ErrorCode::kGrammar:
      return {400, e.what()};
    case ErrorCode::kModelUnsupported:
      return {400, e.what(), "messages", "no_chat_template"};
    case ErrorCode::kContextFull:
      return {400, e.what(), {}, "context_length_exceeded"};
    default:
      return {500, e.what()};
  }
}

}  // namespace

std::string error_json(const ApiError& e) {
  const auto text_or_null = [](const std::string& s) { return s.empty() ? Json() : Json(s); };
  const char* type = e.status() == 401   ? "authentication_error"
                     : e.status() == 403 ? "permission_error"
                     : e.status() == 503 ? "unavailable_error"
                     : e.status() >= 500 ? "server_error"
                                         : "invalid_request_error";
  return print({{"error",
                 {{"message", e.what()},
                  {"type", type},
                  {"param", text_or_null(e.param())},
                  {"code", text_or_null(e.code())}}}});
}

// --- Call ------------------------------------------------------------------------------------------------------------

Call::Call(const TextModel& model, Scheduler& scheduler, CompletionRequest request,
           std::vector<std::vector<Token>> prompts, const CallSupport* support, ReplyPlan plan)
    : model_(model),
      request_(std::move(request)),
      support_(support),
      plan_(std::move(plan)),
      chat_(support != nullptr),
      channel_(std::make_shared<Channel>(request_.stream)),
      id_(random_id(chat_ ? "chatcmpl" : "cmpl")),
      created_(static_cast<std::int64_t>(std::time(nullptr))),
      choices_(prompts.size() * static_cast<std::size_t>(request_.n)) {
  if (choices_.size() > scheduler.capacity())
    throw ApiError(
        400,
        fmt::format("The request asks for {} answers and this server takes in {} at a time; ask for fewer, or "
                    "start it with a larger --queue.",
                    choices_.size(), scheduler.capacity()),
        "n");
  std::optional<Grammar> grammar;  // one for all choices
  if (!request_.grammar.empty()) grammar = model.grammar(request_.grammar);
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const std::size_t n = static_cast<std::size_t>(request_.n);
    SessionOptions o;
    o.sampling = request_.sampling;
    o.sampling.choice = static_cast<std::uint32_t>(i % n);
    o.speculation = request_.speculation;
    o.max_tokens = request_.max_tokens;
    o.ignore_eog = request_.ignore_eos;
    o.reuse_prefix = request_.cache_prompt;
    if (grammar) o.constraint = grammar->constraint();
    GenerationOptions g{.stop = request_.stop, .logprobs = request_.logprobs, .trace = request_.trace, .shown = {}};
    if (plan_.format != nullptr) {
      choices_[i].parser = chat::make_reply_parser(*plan_.format, plan_.options);
      g.shown = support_->shared_shown();
      if (plan_.grammar) o.constraint = support_->constraint(plan_);
    }
    jobs.push_back(make_job(model, prompts[i / n], std::move(o), std::move(g), static_cast<std::uint32_t>(i), channel_,
                            cancelled_));
    jobs.back().id = next_job_id();
  }
  if (!scheduler.submit(std::move(jobs))) {
    throw ApiError(503,
                   scheduler.draining() ? "The server is shutting down."
                                        : "All slots are busy and the queue is full; try again later.",
                   {}, "queue_full");
  }
}

std::string Call::advance(std::chrono::milliseconds timeout) {
  std::string out;
  if (finished()) return out;
  for (Event& e : channel_->take(timeout)) take(e, out);
  if (channel_->lost()) give_up(out);
  if (!finished() || !request_.stream) return out;
  if (request_.include_usage) {
    Json chunk = head(chat_ ? "chat.completion.chunk" : "text_completion");
    chunk["choices"] = Json::array();
    chunk["usage"] = usage();
    chunk["timings"] = timings();
    send(out, chunk);
  }
  out += "data: [DONE]\n\n";
  return out;
}

void Call::give_up(std::string& out) {
  cancel();
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].finished) continue;
    Event e;
    e.choice = static_cast<std::uint32_t>(i);
    e.last = true;
    e.outcome.error = Error(ErrorCode::kOutOfMemory, "There was not enough memory to report the answer.");
    take(e, out);
  }
}

void Call::take(Event& e, std::string& out) {
  Choice& c = choices_[e.choice];
  if (c.finished) return;
  if (e.last) {
    c.finished = true;
    ++n_finished_;
    c.outcome = std::move(e.outcome);
    c.stop = std::move(e.stop);
  } else {
    c.outcome.stats = e.stats;
  }
  if (!request_.stream) {
    if (c.parser) {
      parts_of(c, e.text, e.last);
    } else {
      c.text += e.text;
    }
    std::move(e.tokens.begin(), e.tokens.end(), std::back_inserter(c.tokens));
    return;
  }
  if (e.last && c.outcome.error) {
    out += "data: " + error_json(from(*c.outcome.error)) + "\n\n";
    return;
  }
  Json chunk = head(chat_ ? "chat.completion.chunk" : "text_completion");
  Json choice = delta(c, e, e.choice);
  // Markers that are taken out, and text that may become one, are nothing to tell of.
  if (c.parser && c.greeted && choice["delta"].empty() && !e.last && request_.logprobs < 0 && !e.trace) return;
  if (request_.logprobs >= 0) choice["logprobs"] = logprobs(e.tokens, c.offset);
  choice["finish_reason"] = e.last ? finish_reason(c) : Json();
  c.greeted = true;
  chunk["choices"] = Json::array({std::move(choice)});
  if (request_.include_usage) chunk["usage"] = nullptr;
  if (e.last || request_.timings_per_token) chunk["timings"] = timings_json(c.outcome);
  if (e.trace) {
    const StepTrace& t = *e.trace;
    chunk["gsd"] = step_json(t.graph, t.tree, t.acceptance, t.stats,
                             [this](Token token) { return model_.vocabulary.piece(token, ShowControl::kYes); });
  }
  send(out, chunk);
}

void Call::send(std::string& out, const Json& chunk) const { out += "data: " + print(chunk) + "\n\n"; }

Json Call::head(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_.id}, {"system_fingerprint", "gsd"}};
}

// What `text` adds to a choice, as a chunk's delta has it; of calls each step's pieces together.
Json Call::parts_of(Choice& c, const std::string& text, bool last) {
  std::vector<chat::ReplyDelta> parts;
  c.parser->push(text, parts);
  if (last) c.parser->finish(parts);
  Json out = Json::object();
  const auto add = [&](const char* field, std::string& all, const std::string& piece) {
    all += piece;
    out[field] = out.value(field, "") + piece;
  };
  for (const chat::ReplyDelta& p : parts) {
    if (p.kind == chat::ReplyDelta::Kind::kContent) add("content", c.text, p.text);
    if (p.kind == chat::ReplyDelta::Kind::kReasoning) add("reasoning_content", c.reasoning, p.text);
    if (p.call < 0) continue;
    Json& list = out["tool_calls"];
    if (p.kind == chat::ReplyDelta::Kind::kCall) {
      c.calls.push_back({call_id(*plan_.format), p.text, ""});
      list.push_back({{"index", p.call},
                      {"id", c.calls.back().id},
                      {"type", "function"},
                      {"function", {{"name", p.text}, {"arguments", ""}}}});
    } else {
      c.calls.back().arguments += p.text;
      if (list.empty() || list.back()["index"] != p.call)
        list.push_back({{"index", p.call}, {"function", {{"arguments", ""}}}});
      Json& arguments = list.back()["function"]["arguments"];
      arguments = arguments.get<std::string>() + p.text;
    }
  }
  return out;
}

Json Call::message(const Choice& c) const {
  Json out{{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
  if (!c.reasoning.empty()) out["reasoning_content"] = c.reasoning;
  if (c.calls.empty()) return out;
  if (c.text.empty()) out["content"] = nullptr;
  for (const FunctionCall& f : c.calls)
    out["tool_calls"].push_back(
        {{"id", f.id}, {"type", "function"}, {"function", {{"name", f.name}, {"arguments", f.arguments}}}});
  return out;
}

Json Call::delta(Choice& c, const Event& e, std::uint32_t index) {
  Json out{{"index", index}};
  if (!chat_) {
    out["text"] = e.text;
    return out;
  }
  Json d = Json::object();
  if (!c.greeted) d["role"] = "assistant";
  if (c.parser) {
    const Json parts = parts_of(c, e.text, e.last);
    if (!c.greeted && parts.empty()) d["content"] = "";
    d.update(parts);
  } else if (!e.text.empty() || !c.greeted) {
    d["content"] = e.text;
  }
  out["delta"] = std::move(d);
  return out;
}

// A log-probability of -inf (a token that a bias or a grammar forced) has no JSON number.
Json log_number(float log_p) { return std::max(log_p, -9999.0F); }

std::size_t Call::TextOffset::next(std::string_view bytes) {
  const auto add = [this](std::string_view part) {
    const std::string text = utf8_.push(part);
    at_ += static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  };
  const std::size_t before = at_;
  add(bytes.substr(0, 1));
  // The first byte is in the last character that is complete now, unless it has begun another one.
  const bool begins =
      !bytes.empty() && static_cast<unsigned char>(bytes[0]) >= 0xC2 && static_cast<unsigned char>(bytes[0]) < 0xF5;
  const std::size_t begin = at_ > before && !begins ? at_ - 1 : at_;
  add(bytes.substr(std::min<std::size_t>(1, bytes.size())));
  return begin;
}

Json Call::logprobs(const std::vector<TokenReport>& tokens, TextOffset& offset) const {
  if (chat_) {
    Json content = Json::array();
    for (const TokenReport& t : tokens) {
      Json top = Json::array();
      for (const auto& [token, log_p] : t.top) {
        const std::string piece = model_.vocabulary.piece(token, ShowControl::kYes);
        top.push_back({{"token", piece}, {"logprob", log_number(log_p)}, {"bytes", bytes_json(piece)}});
      }
      content.push_back({{"token", t.bytes},
                         {"logprob", log_number(t.log_p)},
                         {"bytes", bytes_json(t.bytes)},
                         {"top_logprobs", std::move(top)}});
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  Json out{{"tokens", Json::array()},
           {"token_logprobs", Json::array()},
           {"top_logprobs", Json::array()},
           {"text_offset", Json::array()}};
  for (const TokenReport& t : tokens) {
    Json top = Json::object();
    for (const auto& [token, log_p] : t.top) {
      // A key must be text; pieces that are none become replacement characters and may collide.
      const Json text = Json::parse(print(Json(model_.vocabulary.piece(token, ShowControl::kYes))));
      top[text.get<std::string>()] = log_number(log_p);
    }
    out["tokens"].push_back(t.bytes);
    out["token_logprobs"].push_back(log_number(t.log_p));
    out["top_logprobs"].push_back(std::move(top));
    out["text_offset"].push_back(offset.next(t.bytes));
  }
  return out;
}

Json Call::usage() const {
  std::int64_t prompt = 0;
  std::int64_t cached = 0;
  std::int64_t completion = 0;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Outcome& o = choices_[i].outcome;
    completion += o.stats.emitted;
    if (i % static_cast<std::size_t>(request_.n) != 0) continue;  // the same prompt
    prompt += static_cast<std::int64_t>(o.n_prompt);
    cached += static_cast<std::int64_t>(o.n_reused);
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

// Of one choice an object, of several a list.
Json Call::timings() const {
  if (choices_.size() == 1) return timings_json(choices_[0].outcome);
  Json out = Json::array();
  for (const Choice& c : choices_) out.push_back(timings_json(c.outcome));
  return out;
}

Json Call::finish_reason(const Choice& c) const {
  switch (c.outcome.finish) {
    case FinishReason::kLength:
    case FinishReason::kContextFull:
      return "length";
    case FinishReason::kNone:
      return nullptr;  // cancelled
    default:
      return c.calls.empty() ? "stop" : "tool_calls";
  }
}

std::string Call::response() const {
  Json out = head(chat_ ? "chat.completion" : "text_completion");
  Json choices = Json::array();
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& c = choices_[i];
    if (c.outcome.error) throw from(*c.outcome.error);
    Json choice{{"index", i}};
    if (chat_) {
      choice["message"] = message(c);
    } else {
      choice["text"] = c.text;
    }
    TextOffset offset;
    choice["logprobs"] = request_.logprobs >= 0 ? logprobs(c.tokens, offset) : Json();
    choice["finish_reason"] = finish_reason(c);
    choices.push_back(std::move(choice));
  }
  out["choices"] = std::move(choices);
  out["usage"] = usage();
  out["timings"] = timings();
  out["seed"] = static_cast<std::int64_t>(request_.sampling.seed);  // as a request gives it, below zero too
  return print(out);
}

// --- Api -------------------------------------------------------------------------------------------------------------

void Api::check_model(const std::string& name) const {
  if (name.empty() || name == model_.id) return;
  if (std::find(model_.aliases.begin(), model_.aliases.end(), name) != model_.aliases.end()) return;
  throw ApiError(404, fmt::format("The model '{}' is not served here; this server has '{}'.", name, model_.id), "model",
                 "model_not_found");
}

std::vector<Token> Api::prompt_tokens(const Prompt& prompt, bool parse_special) const {
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    check_length(*text, "prompt");
    return chat::tokenize_text(*text, parse_special ? ParseControl::kYes : ParseControl::kNo, model_.vocabulary);
  }
  const auto& tokens = std::get<std::vector<Token>>(prompt);
  for (const Token t : tokens) {
    if (t < 0 || t >= model_.vocabulary.size)
      throw ApiError(400, fmt::format("The prompt holds token {}, which is not in the vocabulary.", t), "prompt");
  }
  return tokens;
}

void Api::refuse_length(const std::string& n_tokens, const char* field) const {
  throw ApiError(400,
                 fmt::format("The prompt has {} tokens and a slot's context holds {}; shorten it or raise the server's "
                             "--ctx-size.",
                             n_tokens, model_.n_ctx),
                 field, "context_length_exceeded");
}

// Megabytes take the tokenizer seconds: what cannot fit, however well it is packed, is refused before.
void Api::check_length(const std::string& text, const char* field) const {
  const std::size_t least = model_.max_token_bytes > 0 ? text.size() / model_.max_token_bytes : 0;
  if (least > static_cast<std::size_t>(model_.n_ctx)) refuse_length(fmt::format("at least {}", least), field);
}

std::vector<Token> Api::chat_tokens(const chat::Rendered& prompt) const {
  check_length(prompt.text, "messages");
  return chat::tokenize_prompt(prompt, control_, model_.vocabulary);
}

std::unique_ptr<Call> Api::completion(std::string_view body, bool chat) {
  try {
    CompletionRequest r = chat ? parse_chat(body, options_.defaults) : parse_completion(body, options_.defaults);
    if (options_.strict_model) check_model(r.model);
    const char* const field = chat ? "messages" : "prompt";
    std::vector<std::vector<Token>> prompts;
    ReplyPlan plan;
    if (chat) {
      const chat::Rendered prompt = model_.chat->render(calls_.with_tools(r.conversation.chat));
      prompts.push_back(chat_tokens(prompt));
      plan = calls_.plan(r.conversation, prompt.text);
      if (plan.grammar && !r.grammar.empty())
        throw ApiError(400, "The field 'tools' cannot be given beside a grammar or response_format.", "tools");
    }
    for (const Prompt& p : r.prompts) prompts.push_back(prompt_tokens(p, r.parse_special));
    for (const auto& p : prompts) {
      if (p.empty()) throw ApiError(400, "The prompt is empty; give at least one token.", "prompt");
      if (static_cast<int>(p.size()) >= model_.n_ctx) refuse_length(std::to_string(p.size()), field);
    }
    return std::make_unique<Call>(model_, scheduler_, std::move(r), std::move(prompts), chat ? &calls_ : nullptr,
                                  std::move(plan));
  } catch (const Error& e) {
    throw from(e);
  }
}

std::string Api::tokenize(std::string_view body) const {
  const TokenizeRequest r = parse_tokenize(body);
  // Written down at once: as JSON values they would take a hundred times their text.
  const std::vector<Token> tokens =
      model_.vocabulary.tokenize(r.content, r.add_special ? AddBegin::kYes : AddBegin::kNo,
                                 r.parse_special ? ParseControl::kYes : ParseControl::kNo);
  std::string out = "{\"tokens\":[";
  out.reserve(tokens.size() * (r.with_pieces ? 24 : 7));
  const char* separator = "";
  for (const Token t : tokens) {
    out += std::exchange(separator, ",");
    if (!r.with_pieces) {
      fmt::format_to(std::back_inserter(out), "{}", t);
      continue;
    }
    const std::string piece = model_.vocabulary.piece(t, ShowControl::kYes);
    const std::string text = print(Json(piece));
    const bool is_text = text == Json(piece).dump(-1, ' ', false, Json::error_handler_t::ignore);
    fmt::format_to(std::back_inserter(out), R"({{"id":{},"piece":{}}})", t, is_text ? text : print(bytes_json(piece)));
  }
  out += "]}";
  return out;
}

std::string Api::detokenize(std::string_view body) const {
  std::string text;
  for (const Token t : parse_detokenize(body)) {
    if (t >= model_.vocabulary.size)
      throw ApiError(400, fmt::format("Token {} is not in the vocabulary.", t), "tokens");
    text += model_.vocabulary.piece(t, ShowControl::kNo);
  }
  return print({{"content", text}});
}

std::string Api::apply_template(std::string_view body) const {
  const Conversation conversation = parse_conversation(body, options_.defaults);
  try {
    return print({{"prompt", model_.chat->render(calls_.with_tools(conversation.chat)).text}});
  } catch (const Error& e) {
    throw from(e);
  }
}

Json Api::model_json() const {
  return {{"id", model_.id},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "gsd"},
          {"meta",
           {{"description", model_.description},
            {"draft", model_.draft_description},
            {"n_vocab", model_.vocabulary.size},
            {"n_ctx", model_.n_ctx},
            {"n_ctx_train", model_.n_ctx_train},
            {"n_params", model_.n_params},
            {"size", model_.n_bytes}}}};
}

std::string Api::models() const { return print({{"object", "list"}, {"data", Json::array({model_json()})}}); }

std::string Api::model(const std::string& id) const {
  check_model(id);
  return print(model_json());
}

std::string Api::props() const {
  const auto json = [](const auto& params) {
    Json out = Json::object();
    visit_params(params, [&](const Param& param, const auto& value) { out[param.name] = value; });
    return out;
  };
  Json params = json(options_.defaults.sampling);
  params["max_tokens"] = options_.defaults.max_tokens;
  Json speculative = json(options_.defaults.speculation);
  speculative["mode"] = mode_name(options_.defaults.speculation.mode);
  speculative["max_width"] = options_.defaults.speculation.width();
  params["speculative"] = std::move(speculative);
  return print({{"default_generation_settings", {{"n_ctx", model_.n_ctx}, {"params", std::move(params)}}},
                {"total_slots", scheduler_.slots().size()},
                {"model", model_.id},
                {"draft", model_.draft_description},
                {"chat_template", model_.chat->source()},
                {"chat_template_problem", model_.chat->problem().empty() ? Json() : Json(model_.chat->problem())},
                {"tool_format", calls_.format().name},
                {"own_chat_template", model_.own_chat_template},
                {"exact", options_.exact},
                {"build_info", "gsd " + options_.version}});
}

std::string Api::slots() const {
  Json out = Json::array();
  for (const SlotView& s : scheduler_.slots()) {
    Json slot{{"id", s.slot}, {"n_ctx", model_.n_ctx}, {"is_processing", s.processing}};
    if (s.processing) {
      slot["id_task"] = s.id;
      slot["speculative"] = mode_name(s.mode);
      slot["n_prompt"] = s.n_prompt;
      slot["n_prompt_left"] = s.n_prompt_left;
      slot["n_decoded"] = s.n_decoded;
      slot["tokens_per_step"] = s.tokens_per_step;
    }
    out.push_back(std::move(slot));
  }
  return print(out);
}

std::string Api::metrics() const { return metrics_.prometheus(scheduler_.n_processing(), scheduler_.n_waiting()); }

}  // namespace gsd::server
