#include "request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "fields.h"
#include "gsd/error.h"
#include "json_schema.h"

namespace gsd::server {
namespace {

constexpr std::size_t kMaxStops = 16;
constexpr std::size_t kMaxStopBytes = 1024;
constexpr std::size_t kMaxBiases = 4096;
constexpr int kMaxTopLogprobs = 20;
constexpr int kMaxProbs = 256;  // of the native form

std::vector<Token> token_list(const Json& list, const char* field) {
  std::vector<Token> out;
  for (const Json& t : list) {
    if (!t.is_number_integer() || t.get<std::int64_t>() < 0 || t.get<std::int64_t>() > INT32_MAX)
      refuse(field, "must hold token numbers only");
    out.push_back(static_cast<Token>(t.get<std::int64_t>()));
  }
  return out;
}

void read_stop(const Fields& f, std::vector<std::string>& out) {
  const Json* v = f.find("stop");
  if (v == nullptr) return;
  if (v->is_string()) {
    out.push_back(v->get<std::string>());
  } else if (v->is_array()) {
    for (const Json& s : *v) {
      if (!s.is_string()) refuse("stop", "must be a string or a list of strings");
      out.push_back(s.get<std::string>());
    }
  } else {
    refuse("stop", "must be a string or a list of strings");
  }
  std::erase(out, "");
  if (out.size() > kMaxStops) refuse("stop", fmt::format("may hold at most {} strings", kMaxStops));
  for (const std::string& s : out) {
    if (s.size() > kMaxStopBytes) refuse("stop", fmt::format("may hold strings of at most {} bytes", kMaxStopBytes));
  }
}

// A token by its number, or all tokens of a text.
void add_bias(const Json& token, const Json& bias, CompletionRequest& r) {
  std::int64_t id = -1;
  if (token.is_number_integer()) id = token.get<std::int64_t>();
  if (token.is_string()) {
    const auto& text = token.get_ref<const std::string&>();
    char* end = nullptr;
    if (!text.empty() && text.size() < 11) id = std::strtoll(text.c_str(), &end, 10);
    if (end == nullptr || *end != '\0') id = -1;
  }
  const bool text = id == -1 && token.is_string() && !token.get_ref<const std::string&>().empty();
  if (!text && (id < 0 || id > INT32_MAX)) refuse("logit_bias", "must name tokens by their number or their text");
  float value = -std::numeric_limits<float>::infinity();  // `false`: never
  if (bias.is_number() && std::isfinite(bias.get<double>()) && std::abs(bias.get<double>()) <= 1e6) {
    value = static_cast<float>(bias.get<double>());
  } else if (bias != Json(false)) {
    refuse("logit_bias", "must give each token a number or false");
  }
  if (text) {
    r.text_bias.emplace_back(token.get<std::string>(), value);
  } else {
    r.sampling.logit_bias.emplace_back(static_cast<Token>(id), value);
  }
}

void read_logit_bias(const Fields& f, CompletionRequest& r) {
  const Json* v = f.find("logit_bias");
  if (v == nullptr) return;
  if (!v->is_structured()) refuse("logit_bias", "must be an object of tokens and biases, or a list of pairs");
  if (v->size() > kMaxBiases) refuse("logit_bias", fmt::format("may hold at most {} tokens", kMaxBiases));
  for (const auto& [key, value] : v->items()) {
    if (v->is_object()) {
      add_bias(Json(key), value, r);
    } else if (value.is_array() && value.size() == 2) {
      add_bias(value[0], value[1], r);
    } else {
      refuse("logit_bias", "must be an object of tokens and biases, or a list of pairs");
    }
  }
}

// The list of samplers, also a text of their letters. "adaptive_p" is off, see read_common().
void read_samplers(const Fields& f, SamplingParams& p) {
  const Json* v = f.find("samplers");
  if (v == nullptr) return;
  std::vector<Stage> stages;
  const auto add = [&](std::string_view name) {
    if (name != "adaptive_p" && name != "a") stages.push_back(parse_stage(name));
  };
  if (v->is_string()) {
    for (const char& c : v->get_ref<const std::string&>()) add({&c, 1});
  } else {
    for (const std::string& name : f.texts("samplers")) add(name);
  }
  set_stages(p, std::move(stages));
}

void read_dry(const Fields& f, CompletionRequest& r) {
  if (f.find("dry_sequence_breakers") == nullptr) return;
  r.dry_breakers = f.texts("dry_sequence_breakers");
  if (r.dry_breakers.empty()) refuse("dry_sequence_breakers", "must hold at least one text");
  if (r.dry_breakers.size() > kMaxStops)
    refuse("dry_sequence_breakers", fmt::format("may hold at most {} texts", kMaxStops));
}

void read_sampling(const Fields& f, const RequestDefaults& defaults, CompletionRequest& r) {
  SamplingParams& p = r.sampling;
  f.read("top_k", p.top_k, INT32_MIN, INT32_MAX);
  visit_params(p, [&](const Param& param, auto& field) {
    if (&field != static_cast<void*>(&p.top_k)) f.read(param, field);
  });
  p.top_k = std::max(0, p.top_k);  // below 0 is off, as in llama.cpp
  read_samplers(f, p);
  read_dry(f, r);
  read_logit_bias(f, r);
  std::int64_t seed = -1;
  const bool given = f.read("seed", seed, INT64_MIN, INT64_MAX);
  if (given && seed != -1 && seed != UINT32_MAX) {
    p.seed = static_cast<std::uint64_t>(seed);
  } else if (given ||
             defaults.random_seed) {  // -1 asks for a random one, as in llama.cpp, which also writes it without a sign
    std::random_device random;
    p.seed = (static_cast<std::uint64_t>(random()) << 32 | random()) >> 11;  // exact in every JSON reader
  }
}

void read_speculation(const Fields& f, SpeculationParams& p, bool& trace, bool& store) {
  const Json* v = f.find("speculative");
  if (v == nullptr) return;
  if (!v->is_object()) refuse("speculative", "must be an object");
  std::set<std::string> known{"trace", "store"};
  visit_params(p, [&](const Param& param, auto&) { known.insert(param.name); });
  for (const auto& [key, value] : v->items()) {
    if (!known.contains(key)) refuse("speculative." + key, "is not known");
  }
  const Fields s(*v, "speculative");
  visit_params(p, [&](const Param& param, auto& field) { s.read(param, field); });
  if (s.find("max_width") != nullptr && p.max_width == 0) refuse("speculative.max_width", "must be from 1 to 64");
  s.read("trace", trace);
  s.read("store", store);
}

// Sets `answer_rules` to what response_format asks for, if anything.
void read_response_format(const Fields& f, CompletionRequest& r) {
  const Json* top_schema = f.find("json_schema");  // llama.cpp's
  const Json* v = f.find("response_format");
  std::string out;
  if (v != nullptr) {
    if (!v->is_object()) refuse("response_format", "must be an object");
    const Fields format(*v, "response_format");
    std::string type;
    format.read("type", type);
    if (type == "json_object") {
      const Json* schema = format.find("schema");
      out = schema != nullptr ? schema_rules(*schema) : json_object_rules();
    } else if (type == "json_schema") {
      const Json* wrapper = format.find("json_schema");
      if (wrapper == nullptr || !wrapper->is_object() || !wrapper->contains("schema"))
        refuse("response_format.json_schema", "must be an object with a schema");
      out = schema_rules((*wrapper)["schema"]);
    } else if (type != "text") {
      refuse("response_format.type", "must be text, json_object or json_schema");
    }
  }
  if (top_schema != nullptr) {
    if (!out.empty()) refuse("json_schema", "cannot be given beside response_format");
    out = schema_rules(*top_schema);
  }
  if (!out.empty() && !r.grammar.empty()) refuse("grammar", "cannot be given beside response_format");
  r.answer_rules = std::move(out);
}

// Outside of chats there is nothing beside the answer.
void answer_only(CompletionRequest& r) {
  if (!r.answer_rules.empty()) r.grammar = answer_grammar(r.answer_rules);
  r.answer_rules.clear();
}

std::vector<LoraScale> read_lora(const Json& list) {
  if (!list.is_array()) refuse("lora", "must be a list of objects with id and scale");
  std::vector<LoraScale> out;
  for (const Json& item : list) {
    if (!item.is_object()) refuse("lora", "must be a list of objects with id and scale");
    const Fields f(item, "lora");
    LoraScale& s = out.emplace_back();
    if (f.find("id") == nullptr) refuse("lora.id", "is missing");
    f.read("id", s.id, 0, INT32_MAX);
    f.read("scale", s.scale);
  }
  return out;
}

void read_common(const Fields& f, const RequestDefaults& defaults, CompletionRequest& r) {
  r.sampling = defaults.sampling;
  r.speculation = defaults.speculation;
  r.max_tokens = defaults.max_tokens;
  f.refuse_unsupported({"functions", "function_call", "audio", "modalities", "prediction", "web_search_options",
                        "images", "mirostat", "n_indent"});
  if (const Json* target = f.find("adaptive_target"); target != nullptr && !(target->is_number() && *target < 0))
    refuse("adaptive_target", "is not supported by this server");
  f.read("model", r.model);
  for (const char* name : {"max_tokens", "max_completion_tokens", "n_predict"})
    f.read(name, r.max_tokens, -1, INT64_MAX);
  if (defaults.max_tokens >= 0 && (r.max_tokens < 0 || r.max_tokens > defaults.max_tokens))
    r.max_tokens = defaults.max_tokens;
  f.read("n", r.n, 1, kMaxChoices);
  f.read("stream", r.stream);
  f.read("cache_prompt", r.cache_prompt);
  if (const Json* lora = f.find("lora")) r.lora = read_lora(*lora);
  f.read("id_slot", r.slot, -1, INT32_MAX);
  f.read("ignore_eos", r.ignore_eos);
  f.read("timings_per_token", r.timings_per_token);
  f.read("return_progress", r.report_progress);
  f.read("t_max_predict_ms", r.max_predict_ms, -1, INT64_MAX);
  read_stop(f, r.stop);
  f.read("grammar", r.grammar);
  read_response_format(f, r);
  if (const Json* o = f.find("stream_options"); o != nullptr) {
    if (!o->is_object()) refuse("stream_options", "must be an object");
    Fields(*o, "stream_options").read("include_usage", r.include_usage);
  }
  try {
    read_sampling(f, defaults, r);
    read_speculation(f, r.speculation, r.trace, r.store);
    validate(r.sampling);
    validate(r.speculation);
  } catch (const Error& e) {
    throw ApiError(400, e.what());
  }
}

constexpr const char* kPrompts =
    "must be a text, a list of texts and token numbers, an object with a prompt_string, or a list of such";

Prompt read_prompt(const Json& v) {
  if (v.is_string()) return {{v.get<std::string>(), {}}};
  if (v.is_object()) {
    const Fields o(v, "prompt");
    o.refuse_unsupported({"multimodal_data"});
    if (o.find("prompt_string") == nullptr) refuse("prompt.prompt_string", "is missing");
    return {{o.text("prompt_string"), {}}};
  }
  if (!v.is_array()) refuse("prompt", kPrompts);
  Prompt out;
  for (const Json& part : v) {
    if (part.is_string()) {
      out.push_back({part.get<std::string>(), {}});
    } else if (part.is_number()) {
      if (out.empty() || out.back().tokens.empty()) out.emplace_back();
      out.back().tokens.push_back(token_list(Json::array({part}), "prompt")[0]);
    } else {
      refuse("prompt", kPrompts);
    }
  }
  return out;
}

// Numbers make a list one prompt, with the texts between them.
std::vector<Prompt> read_prompts(const Fields& f) {
  const Json* v = f.find("prompt");
  if (v == nullptr) refuse("prompt", "is missing");
  const auto is_number = [](const Json& j) { return j.is_number(); };
  if (!v->is_array() || std::any_of(v->begin(), v->end(), is_number)) return {read_prompt(*v)};
  if (v->empty()) refuse("prompt", kPrompts);
  std::vector<Prompt> out;
  for (const Json& p : *v) out.push_back(read_prompt(p));
  return out;
}

}  // namespace

CompletionRequest parse_chat(std::string_view body, const RequestDefaults& defaults) {
  return read_chat(parse_object(body), defaults);
}

CompletionRequest read_chat(const Json& object, const RequestDefaults& defaults) {
  const Fields f(object);
  CompletionRequest r;
  f.refuse_unsupported({"n_probs", "echo", "suffix"});
  read_common(f, defaults, r);
  r.conversation = read_conversation(object, defaults.conversation);
  bool report = false;
  int top = 0;
  f.read("logprobs", report);
  f.read("top_logprobs", top, 0, kMaxTopLogprobs);
  if (top > 0 && !report) refuse("top_logprobs", "needs logprobs to be true");
  if (report) r.logprobs = top;
  return r;
}

CompletionRequest parse_completion(std::string_view body, const RequestDefaults& defaults) {
  const Json object = parse_object(body);
  const Fields f(object);
  CompletionRequest r;
  f.refuse_unsupported({"n_probs"});
  read_common(f, defaults, r);
  answer_only(r);
  r.prompts = read_prompts(f);
  f.read("parse_special", r.parse_special);
  std::int64_t best_of = r.n;
  f.read("best_of", best_of, 1, kMaxChoices);
  if (best_of != r.n) refuse("best_of", "is not supported by this server");
  f.read("logprobs", r.logprobs, 0, kMaxTopLogprobs);
  f.read("echo", r.echo);
  f.read("suffix", r.suffix);
  if (r.echo && r.logprobs >= 0 && !r.suffix.empty())
    refuse("echo", "cannot be given beside logprobs and suffix, whose prompt has another order");
  return r;
}

CompletionRequest parse_native(std::string_view body, const RequestDefaults& defaults) {
  const Json object = parse_object(body);
  CompletionRequest r = read_native(object, defaults);
  r.prompts = read_prompts(Fields(object));
  return r;
}

CompletionRequest read_native(const Json& object, const RequestDefaults& defaults) {
  const Fields f(object);
  CompletionRequest r;
  f.refuse_unsupported({"echo", "suffix"});
  read_common(f, defaults, r);
  answer_only(r);
  f.read("parse_special", r.parse_special);
  f.read("n_cmpl", r.n, 1, kMaxChoices);
  int n_probs = 0;
  f.read("n_probs", n_probs, 0, kMaxProbs);
  if (n_probs > 0) r.logprobs = n_probs;
  f.read("post_sampling_probs", r.post_sampling);
  f.read("return_tokens", r.report_tokens);
  r.response_fields = f.texts("response_fields");
  if (r.trace) refuse("speculative.trace", "has no place in this API's answers; use /v1/chat/completions");
  return r;
}

TokenizeRequest parse_tokenize(std::string_view body) {
  const Json object = parse_object(body);
  const Fields f(object);
  TokenizeRequest r;
  if (f.find("content") == nullptr) refuse("content", "is missing");
  f.read("content", r.content);
  f.read("add_special", r.add_special);
  f.read("parse_special", r.parse_special);
  f.read("with_pieces", r.with_pieces);
  return r;
}

std::vector<Token> parse_detokenize(std::string_view body) {
  const Json object = parse_object(body);
  const Json* list = Fields(object).find("tokens");
  if (list == nullptr || !list->is_array()) refuse("tokens", "must be a list of token numbers");
  return token_list(*list, "tokens");
}

std::vector<LoraScale> parse_lora(std::string_view body) { return read_lora(parse_json(body)); }

Conversation parse_conversation(std::string_view body, const RequestDefaults& defaults) {
  return read_conversation(parse_object(body), defaults.conversation);
}

}  // namespace gsd::server
