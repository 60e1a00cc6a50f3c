#include "native.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "openai.h"

namespace gsd::server {
namespace {

// Why an answer ended, in llama-server's words.
const char* stop_type(const Answer& a) {
  switch (a.outcome.finish) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStopped:
      return "word";
    case FinishReason::kLength:
    case FinishReason::kContextFull:
      return "limit";
    default:
      return "eos";
  }
}

// The fields that were asked for; "a/b" is the field b of a.
Json only_fields(Json all, const std::vector<std::string>& names) {
  if (names.empty()) return all;
  Json out = Json::object();
  for (const std::string& name : names) {
    const Json* at = &all;
    for (std::size_t begin = 0; at != nullptr && begin <= name.size();) {
      const std::size_t end = std::min(name.find('/', begin), name.size());
      const auto found = at->is_object() ? at->find(name.substr(begin, end - begin)) : at->end();
      at = found == at->end() ? nullptr : &*found;
      begin = end + 1;
    }
    if (at != nullptr) out[name] = *at;
  }
  return out;
}

}  // namespace

Json generation_settings(const CompletionRequest& r) {
  Json out{{"seed", static_cast<std::int64_t>(r.sampling.seed)}};
  visit_params(r.sampling, [&](const Param& param, const auto& value) { out[param.name] = value; });
  out["dry_sequence_breakers"] = r.dry_breakers.empty() ? default_dry_breakers() : r.dry_breakers;
  out["mirostat"] = 0;
  out["samplers"] = Json::array();
  for (const Stage s : r.sampling.stages) out["samplers"].push_back(stage_name(s));
  out["logit_bias"] = Json::array();
  for (const auto& [token, bias] : r.sampling.logit_bias)
    out["logit_bias"].push_back({{"bias", bias}, {"token", token}});
  Json lora = Json::array();
  for (std::size_t i = 0; i < r.adapters.size(); ++i) lora.push_back({{"id", i}, {"scale", r.adapters[i]}});
  Json speculative = Json::object();
  visit_params(r.speculation, [&](const Param& param, const auto& value) {
    if constexpr (!std::is_same_v<decltype(value), const Mode&>) speculative[param.name] = value;
  });
  speculative["mode"] = mode_name(r.speculation.mode);
  speculative["max_width"] = r.speculation.width();
  out.update({{"stop", r.stop},
              {"max_tokens", r.max_tokens},
              {"n_predict", r.max_tokens},
              {"n_keep", 0},
              {"n_discard", 0},
              {"ignore_eos", r.ignore_eos},
              {"stream", r.stream},
              {"n_probs", std::max(0, r.logprobs)},
              {"grammar", r.grammar},
              {"timings_per_token", r.timings_per_token},
              {"post_sampling_probs", r.post_sampling},
              {"lora", std::move(lora)},
              {"speculative", std::move(speculative)}});
  return out;
}

Json NativeWriter::probability(const TokenReport& t, bool post_sampling) const {
  const auto entry = [&](Token token, const std::string& piece, float p) {
    return Json{{"id", token},
                {"token", piece},
                {"bytes", bytes_json(piece)},
                {post_sampling ? "prob" : "logprob", post_sampling ? p : std::max(p, -9999.0F)}};
  };
  Json out = entry(t.token, t.bytes, t.log_p);
  Json& top = out[post_sampling ? "top_probs" : "top_logprobs"] = Json::array();
  for (const auto& [token, p] : t.top)
    top.push_back(entry(token, model_.vocabulary.piece(token, ShowControl::kYes), p));
  return out;
}

Json NativeWriter::chunk(const Answers& answers, std::size_t choice, std::string text) const {
  const CompletionRequest& r = answers.request;
  Json out{{"index", choice},
           {"content", std::move(text)},
           {"tokens", Json::array()},
           {"stop", false},
           {"id_slot", -1},
           {"tokens_predicted", n_sent_[choice]},
           {"tokens_evaluated", answers.n_prompt[choice / static_cast<std::size_t>(r.n)]}};
  if (r.timings_per_token) out["timings"] = timings_json(answers.choices[choice].outcome);
  return out;
}

void NativeWriter::add(const Answers& answers, Addition& x, std::string& out) {
  const CompletionRequest& r = answers.request;
  const Answer& a = answers.choices[x.choice];
  n_sent_.resize(answers.choices.size());
  if (a.finished && a.outcome.error) return fail(api_error(*a.outcome.error), out);
  const auto send = [&](const Json& j) { out += event(print(j)); };
  std::string text = x.pieces.empty() ? "" : std::move(x.pieces[0].text);
  if (x.progress) {
    Json j = chunk(answers, x.choice, "");
    j["prompt_progress"] = progress_json(*x.progress);
    send(j);
  }
  for (std::size_t i = 0; i < x.tokens.size(); ++i) {
    const TokenReport& t = x.tokens[i];
    // What else is there (bytes that are no text, at the end) goes with the last token.
    const std::size_t n = i + 1 == x.tokens.size() ? text.size() : std::min(t.n_text, text.size());
    ++n_sent_[x.choice];
    Json j = chunk(answers, x.choice, text.substr(0, n));
    text.erase(0, n);
    j["tokens"].push_back(t.token);
    if (r.logprobs >= 0) j["completion_probabilities"] = Json::array({probability(t, r.post_sampling)});
    send(j);
  }
  if (!text.empty()) send(chunk(answers, x.choice, std::move(text)));
  if (a.finished) send(only_fields(result(answers, x.choice), r.response_fields));
}

void NativeWriter::fail(const ApiError& error, std::string& out) { out += event(error_json(error)); }

// The last chunk of a stream, which has been told the text, or the whole answer.
Json NativeWriter::result(const Answers& answers, std::size_t choice) const {
  const CompletionRequest& r = answers.request;
  const Answer& a = answers.choices[choice];
  const Outcome& o = a.outcome;
  const std::string text = a.text(AnswerItem::Kind::kText);
  std::string prompt;
  for (const Token t : prompts_[choice / static_cast<std::size_t>(r.n)])
    prompt += model_.vocabulary.piece(t, ShowControl::kYes);
  Json out{{"index", choice},
           {"content", r.stream ? "" : text},
           {"tokens", Json::array()},
           {"id_slot", o.slot},
           {"stop", true},
           {"model", model_.id},
           {"tokens_predicted", o.stats.emitted},
           {"tokens_evaluated", o.n_prompt},
           {"generation_settings", generation_settings(r)},
           {"prompt", std::move(prompt)},
           {"has_new_line", text.find('\n') != std::string::npos},
           {"truncated", o.finish == FinishReason::kContextFull},
           {"stop_type", stop_type(a)},
           {"stopping_word", a.stop},
           {"tokens_cached", static_cast<std::int64_t>(o.n_prompt) + std::max<std::int64_t>(0, o.stats.emitted - 1)},
           {"timings", timings_json(o)}};
  if (r.stream) return out;
  Json probabilities = Json::array();
  for (const TokenReport& t : a.tokens) {
    if (r.report_tokens) out["tokens"].push_back(t.token);
    if (r.logprobs >= 0) probabilities.push_back(probability(t, r.post_sampling));
  }
  if (r.logprobs >= 0) out["completion_probabilities"] = std::move(probabilities);
  return out;
}

std::string NativeWriter::whole(const Answers& answers) {
  Json list = Json::array();
  for (std::size_t i = 0; i < answers.choices.size(); ++i) {
    const Answer& a = answers.choices[i];
    if (a.outcome.error) throw api_error(*a.outcome.error);
    list.push_back(only_fields(result(answers, i), answers.request.response_fields));
  }
  return print(list.size() == 1 ? list[0] : list);
}

}  // namespace gsd::server
