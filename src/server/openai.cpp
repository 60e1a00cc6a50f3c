#include "openai.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "../record/step_json.h"

namespace gsd::server {
namespace {

using Kind = AnswerItem::Kind;

Json finish_reason(const Answer& a) {
  switch (a.outcome.finish) {
    case FinishReason::kLength:
    case FinishReason::kContextFull:
      return "length";
    case FinishReason::kNone:
      return nullptr;  // cancelled
    default:
      return a.has_calls() ? "tool_calls" : "stop";
  }
}

Json usage(const Answers& a) {
  std::int64_t prompt = 0;
  std::int64_t cached = 0;
  std::int64_t completion = 0;
  for (std::size_t i = 0; i < a.choices.size(); ++i) {
    const Outcome& o = a.choices[i].outcome;
    completion += o.stats.emitted;
    if (i % static_cast<std::size_t>(a.request.n) != 0) continue;  // the same prompt
    prompt += static_cast<std::int64_t>(o.n_prompt);
    cached += static_cast<std::int64_t>(o.n_reused);
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

// Of one choice an object, of several a list.
Json timings(const Answers& a) {
  if (a.choices.size() == 1) return timings_json(a.choices[0].outcome);
  Json out = Json::array();
  for (const Answer& c : a.choices) out.push_back(timings_json(c.outcome));
  return out;
}

// A log-probability of -inf (a token that a bias or a grammar forced) has no JSON number.
Json log_number(float log_p) { return std::max(log_p, -9999.0F); }

}  // namespace

std::string error_json(const ApiError& e) {
  const auto text_or_null = [](const std::string& s) { return s.empty() ? Json() : Json(s); };
  const char* type = e.status() == 401   ? "authentication_error"
                     : e.status() == 403 ? "permission_error"
                     : e.status() == 501 ? "not_supported_error"
                     : e.status() == 503 ? "unavailable_error"
                     : e.status() >= 500 ? "server_error"
                                         : "invalid_request_error";
  return print({{"error",
                 {{"message", e.what()},
                  {"type", type},
                  {"param", text_or_null(e.param())},
                  {"code", text_or_null(e.code())}}}});
}

Json chat_message(const Answer& a) {
  const std::string text = a.text(Kind::kText);
  const std::string reasoning = a.text(Kind::kReasoning);
  Json out{{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
  if (!reasoning.empty()) out["reasoning_content"] = reasoning;
  if (!a.has_calls()) return out;
  if (text.empty()) out["content"] = nullptr;
  for (const AnswerItem& i : a.items) {
    if (i.kind != Kind::kCall) continue;
    out["tool_calls"].push_back(
        {{"id", i.id}, {"type", "function"}, {"function", {{"name", i.name}, {"arguments", i.text}}}});
  }
  return out;
}

OpenAiWriter::OpenAiWriter(const TextModel& model, bool chat)
    : model_(model),
      chat_(chat),
      id_(random_id(chat ? "chatcmpl-" : "cmpl-")),
      created_(static_cast<std::int64_t>(std::time(nullptr))) {}

Json OpenAiWriter::head(bool chunk) const {
  const char* object = !chat_ ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_.id}, {"system_fingerprint", "gsd"}};
}

// What the text begins with: the prompt where that was asked for, as it was given; tokens by their names.
std::string OpenAiWriter::echoed(const Answers& answers, std::size_t choice) const {
  std::string out;
  if (!answers.request.echo) return out;
  for (const auto& part : answers.request.prompts[choice / static_cast<std::size_t>(answers.request.n)]) {
    out += part.text;
    for (const Token t : part.tokens) out += model_.vocabulary.piece(t, ShowControl::kYes);
  }
  return out;
}

// What a step adds, of each call its pieces together.
Json OpenAiWriter::chat_delta(const Answer& a, const Addition& x, bool greeted) const {
  Json out = Json::object();
  if (!greeted) out["role"] = "assistant";
  if (!greeted && x.pieces.empty()) out["content"] = "";
  for (const Addition::Piece& p : x.pieces) {
    const AnswerItem& item = a.items[p.item];
    if (item.kind != Kind::kCall) {
      const char* field = item.kind == Kind::kText ? "content" : "reasoning_content";
      out[field] = out.value(field, "") + p.text;
      continue;
    }
    Json call{{"index", item.call}};
    if (p.begins) call.update({{"id", item.id}, {"type", "function"}});
    if (p.begins) call["function"]["name"] = item.name;
    call["function"]["arguments"] = p.text;
    out["tool_calls"].push_back(std::move(call));
  }
  return out;
}

void OpenAiWriter::add(const Answers& answers, Addition& x, std::string& out) {
  const CompletionRequest& request = answers.request;
  const Answer& a = answers.choices[x.choice];
  streamed_.resize(answers.choices.size());
  Streamed& s = streamed_[x.choice];
  if (a.finished && a.outcome.error) return fail(api_error(*a.outcome.error), out);
  // Markers that are taken out, and text that may become one, are nothing to tell of.
  if (s.greeted && x.pieces.empty() && x.tokens.empty() && !a.finished && !x.trace && !x.progress) return;
  Json choice{{"index", x.choice}};
  if (chat_) {
    choice["delta"] = chat_delta(a, x, s.greeted);
  } else {
    choice["text"] = (s.greeted ? "" : echoed(answers, x.choice)) + (x.pieces.empty() ? "" : x.pieces[0].text);
  }
  if (request.logprobs >= 0) choice["logprobs"] = logprobs(x.tokens, s.offset);
  choice["finish_reason"] = a.finished ? finish_reason(a) : Json();
  s.greeted = true;
  Json chunk = head(true);
  chunk["choices"] = Json::array({std::move(choice)});
  if (request.include_usage) chunk["usage"] = nullptr;
  if (a.finished || request.timings_per_token) chunk["timings"] = timings_json(a.outcome);
  if (x.progress) chunk["prompt_progress"] = progress_json(*x.progress);
  if (x.trace) {
    const StepTrace& t = *x.trace;
    chunk["gsd"] = step_json(t.graph, t.tree, t.acceptance, t.stats,
                             [this](Token token) { return model_.vocabulary.piece(token, ShowControl::kYes); });
  }
  out += event(print(chunk));
}

void OpenAiWriter::end(const Answers& answers, std::string& out) {
  if (answers.request.include_usage) {
    Json chunk = head(true);
    chunk["choices"] = Json::array();
    chunk["usage"] = usage(answers);
    chunk["timings"] = timings(answers);
    out += event(print(chunk));
  }
  out += event("[DONE]");
}

void OpenAiWriter::fail(const ApiError& error, std::string& out) { out += event(error_json(error)); }

std::size_t OpenAiWriter::TextOffset::next(std::string_view bytes) {
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

Json OpenAiWriter::logprobs(const std::vector<TokenReport>& tokens, TextOffset& offset) const {
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
    out["token_logprobs"].push_back(t.scored ? Json(log_number(t.log_p)) : Json());
    out["top_logprobs"].push_back(t.scored ? std::move(top) : Json());
    out["text_offset"].push_back(offset.next(t.bytes));
  }
  return out;
}

std::string OpenAiWriter::whole(const Answers& answers) {
  Json out = head(false);
  Json choices = Json::array();
  for (std::size_t i = 0; i < answers.choices.size(); ++i) {
    const Answer& a = answers.choices[i];
    if (a.outcome.error) throw api_error(*a.outcome.error);
    Json choice{{"index", i}};
    if (chat_) {
      choice["message"] = chat_message(a);
    } else {
      choice["text"] = echoed(answers, i) + a.text(Kind::kText);
    }
    TextOffset offset;
    choice["logprobs"] = answers.request.logprobs >= 0 ? logprobs(a.tokens, offset) : Json();
    choice["finish_reason"] = finish_reason(a);
    choices.push_back(std::move(choice));
  }
  out["choices"] = std::move(choices);
  out["usage"] = usage(answers);
  out["timings"] = timings(answers);
  out["seed"] = static_cast<std::int64_t>(answers.request.sampling.seed);  // as a request gives it, below zero too
  return print(out);
}

}  // namespace gsd::server
