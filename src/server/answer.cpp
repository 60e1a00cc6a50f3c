#include "answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "../record/step_json.h"

namespace gsd::server {

std::string Answer::text(AnswerItem::Kind kind) const {
  std::string out;
  for (const AnswerItem& i : items) {
    if (i.kind == kind) out += i.text;
  }
  return out;
}

bool Answer::has_calls() const {
  return std::any_of(items.begin(), items.end(), [](const AnswerItem& i) { return i.kind == AnswerItem::Kind::kCall; });
}

void ItemWriter::add(const Answers& answers, Addition& addition, std::string& out) {
  const Answer& a = answers.choices[0];
  for (const Addition::Piece& p : addition.pieces) {
    if (p.begins) {
      if (n_closed_ < n_open_) close(a, n_closed_++, out);
      open(a.items[p.item], n_open_++, out);
    }
    if (!p.text.empty()) more(a.items[p.item], p.item, p.text, out);
  }
}

void ItemWriter::end(const Answers& answers, std::string& out) {
  if (n_closed_ < n_open_) close(answers.choices[0], n_closed_++, out);
  finish(answers, out);
}

std::string print(const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string event(const std::string& json) { return "data: " + json + "\n\n"; }

std::string event(const char* name, const Json& data) { return fmt::format("event: {}\n{}", name, event(print(data))); }

std::string random_id(const std::string& prefix) {
  std::random_device random;
  return fmt::format("{}{:08x}{:08x}{:08x}", prefix, random(), random(), random());
}

Json bytes_json(const std::string& bytes) {
  Json out = Json::array();
  for (const char c : bytes) out.push_back(static_cast<unsigned char>(c));
  return out;
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
  out["drafters"] = drafters_json(s);
  return out;
}

Json progress_json(const PromptProgress& p) {
  return {{"total", p.total}, {"cache", p.reused}, {"processed", p.processed}, {"time_ms", p.ms}};
}

ApiError failure(const Outcome& o) {
  return o.error ? api_error(*o.error) : ApiError(503, "The server was stopped before the answer was complete.");
}

ApiError api_error(const Error& e) {
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

}  // namespace gsd::server
