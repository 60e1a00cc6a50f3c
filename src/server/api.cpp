#include "api.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "../record/step_json.h"
#include "gsd/error.h"
#include "infill.h"
#include "messages.h"
#include "native.h"
#include "slot_file.h"

namespace gsd::server {
namespace {

std::uint64_t next_job_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// What goes wrong in `work` in terms of the API.
template <typename Work>
auto as_api_errors(Work work) {
  try {
    return work();
  } catch (const Error& e) {
    throw api_error(e);
  }
}

// Of an API whose answers have one choice, and no place for reports.
CompletionRequest one_answer(CompletionRequest r) {
  if (r.n != 1) refuse("n", "may only be 1 here; use /v1/chat/completions");
  if (r.logprobs >= 0) refuse("logprobs", "has no place in this API's answers; use /v1/chat/completions");
  if (r.trace) refuse("speculative.trace", "has no place in this API's answers; use /v1/chat/completions");
  return r;
}

// Whether the begin of text in front of the tokens does not stand in the prompt.
bool begin_was_added(const Vocabulary& vocabulary, const Prompt& prompt, std::span<const Token> tokens) {
  return tokens.front() == vocabulary.begin && !prompt.empty() && prompt.front().tokens.empty() &&
         !prompt.front().text.starts_with(vocabulary.piece(vocabulary.begin, ShowControl::kYes));
}

}  // namespace

// --- Call ------------------------------------------------------------------------------------------------------------

Call::Call(const TextModel& model, Scheduler& scheduler, CompletionRequest request,
           std::vector<std::vector<Token>> prompts, const CallSupport* support, ReplyPlan plan,
           std::unique_ptr<AnswerWriter> writer, const std::shared_ptr<AnswerStore>& store)
    : plan_(std::move(plan)), writer_(std::move(writer)), channel_(std::make_shared<Channel>(request.stream)) {
  const auto n = static_cast<std::size_t>(request.n);
  answers_.request = std::move(request);
  answers_.choices.resize(prompts.size() * n);
  parsers_.resize(answers_.choices.size());
  for (const auto& p : prompts) answers_.n_prompt.push_back(p.size());
  const CompletionRequest& r = answers_.request;
  std::optional<Grammar> grammar;  // one for all choices
  if (!r.grammar.empty()) grammar = model.grammar(r.grammar);
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < answers_.choices.size(); ++i) {
    SessionOptions o;
    o.sampling = r.sampling;
    o.sampling.choice = static_cast<std::uint32_t>(i % n);
    o.speculation = r.speculation;
    o.max_tokens = r.max_tokens;
    o.ignore_eog = r.ignore_eos;
    o.reuse_prefix = r.cache_prompt;
    o.client = r.client;
    o.slot = r.slot;
    o.adapters = r.adapters;
    if (grammar) o.constraint = grammar->constraint();
    const bool with_prompt = r.echo && r.logprobs >= 0;
    if (store) o.sources.push_back(store);
    GenerationOptions g{
        .stop = r.stop,
        .logprobs = r.logprobs,
        .post_sampling = r.post_sampling,
        .prompt = with_prompt,
        .begin_added = with_prompt && begin_was_added(model.vocabulary, r.prompts[i / n], prompts[i / n]),
        .tokens = r.report_tokens,
        .progress = r.stream && r.report_progress,
        .max_ms = r.max_predict_ms,
        .trace = r.trace,
        .store = store,
        .shown = {}};
    if (plan_.format != nullptr) {
      parsers_[i] = chat::make_reply_parser(*plan_.format, plan_.options);
      g.shown = support->shared_shown();
    }
    // Under a grammar of the request there is no reasoning to bound.
    if (support != nullptr && !grammar) o.constraint = support->constraint(plan_);
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
  if (stream() && !begun_) writer_->begin(answers_, out);
  // What is known at once is sent at once.
  for (Event& e : channel_->take(out.empty() ? timeout : std::chrono::milliseconds(0))) take(e, out);
  begun_ = true;
  if (channel_->lost()) give_up(out);
  if (finished() && stream()) writer_->end(answers_, out);
  return out;
}

std::string Call::failed(const ApiError& error) {
  cancel();
  std::string out;
  writer_->fail(error, out);
  return out;
}

void Call::give_up(std::string& out) {
  cancel();
  for (std::size_t i = 0; i < answers_.choices.size(); ++i) {
    if (answers_.choices[i].finished) continue;
    Event e;
    e.choice = static_cast<std::uint32_t>(i);
    e.last = true;
    e.outcome.error = Error(ErrorCode::kOutOfMemory, "There was not enough memory to report the answer.");
    take(e, out);
  }
}

void Call::take(Event& e, std::string& out) {
  Answer& a = answers_.choices[e.choice];
  if (a.finished) return;
  if (e.last) {
    a.finished = true;
    ++n_finished_;
    a.outcome = std::move(e.outcome);
    a.stop = std::move(e.stop);
  } else {
    a.outcome.stats = e.stats;
  }
  Addition x{.choice = e.choice,
             .pieces = pieces(e),
             .tokens = std::move(e.tokens),
             .trace = std::move(e.trace),
             .progress = e.progress};
  if (stream()) return writer_->add(answers_, x, out);
  std::move(x.tokens.begin(), x.tokens.end(), std::back_inserter(a.tokens));
}

// Adds an event's text to the items.
std::vector<Addition::Piece> Call::pieces(const Event& e) {
  using Kind = AnswerItem::Kind;
  std::vector<chat::ReplyDelta> parts;
  if (const auto& parser = parsers_[e.choice]) {
    parser->push(e.text, parts);
    if (e.last) parser->finish(parts);
  } else if (!e.text.empty()) {
    parts.push_back({.kind = chat::ReplyDelta::Kind::kContent, .text = e.text});
  }
  std::vector<AnswerItem>& items = answers_.choices[e.choice].items;
  std::vector<Addition::Piece> out;
  for (const chat::ReplyDelta& p : parts) {
    const bool call = p.kind == chat::ReplyDelta::Kind::kCall;
    const Kind kind = p.call >= 0                                    ? Kind::kCall
                      : p.kind == chat::ReplyDelta::Kind::kReasoning ? Kind::kReasoning
                                                                     : Kind::kText;
    const bool begins = call || items.empty() || items.back().kind != kind;
    if (begins) items.push_back({.kind = kind});
    AnswerItem& item = items.back();
    if (begins || out.empty()) out.push_back({.item = items.size() - 1, .begins = begins});
    if (call) {
      item.call = static_cast<std::size_t>(p.call);
      item.id = call_id(*plan_.format);
      item.name = p.text;
    } else {
      item.text += p.text;
      out.back().text += p.text;
    }
  }
  return out;
}

// --- Api -------------------------------------------------------------------------------------------------------------

void Api::check_model(const std::string& name) const {
  if (name.empty() || name == model_.id) return;
  if (std::find(model_.aliases.begin(), model_.aliases.end(), name) != model_.aliases.end()) return;
  throw ApiError(404, fmt::format("The model '{}' is not served here; this server has '{}'.", name, model_.id), "model",
                 "model_not_found");
}

std::vector<Token> Api::prompt_tokens(const Prompt& prompt, bool parse_special) const {
  std::vector<Token> out;
  AddBegin begin = AddBegin::kYes;
  for (const auto& [text, own] : prompt) {
    if (own.empty()) {
      check_length(text, "prompt");
      const ParseControl control = parse_special ? ParseControl::kYes : ParseControl::kNo;
      const std::vector<Token> tokens = begin == AddBegin::kYes ? chat::tokenize_text(text, control, model_.vocabulary)
                                                                : model_.vocabulary.tokenize(text, begin, control);
      out.insert(out.end(), tokens.begin(), tokens.end());
    } else {
      for (const Token t : own) {
        if (t < 0 || t >= model_.vocabulary.size)
          throw ApiError(400, fmt::format("The prompt holds token {}, which is not in the vocabulary.", t), "prompt");
        out.push_back(t);
      }
    }
    begin = AddBegin::kNo;
  }
  return out;
}

std::vector<std::vector<Token>> Api::all_prompt_tokens(const CompletionRequest& r) const {
  check_choices(r.prompts.size() * static_cast<std::size_t>(r.n));
  std::vector<std::vector<Token>> out;
  if (r.suffix.empty()) {
    for (const Prompt& p : r.prompts) out.push_back(prompt_tokens(p, r.parse_special));
  } else {
    for (const InfillRequest& fill : with_suffix(r))
      out.push_back(infill_prompt(fill, model_.vocabulary, model_.n_ctx));
  }
  return out;
}

void Api::check_choices(std::size_t n) const {
  if (n <= scheduler_.capacity()) return;
  throw ApiError(400,
                 fmt::format("The request asks for {} answers and this server takes in {} at a time; ask for fewer, or "
                             "start it with a larger --queue.",
                             n, scheduler_.capacity()),
                 "n");
}

// What takes the vocabulary to understand.
void Api::resolve(CompletionRequest& r) const {
  for (const auto& [text, bias] : r.text_bias) {
    for (const Token t : model_.vocabulary.tokenize(text, AddBegin::kNo, ParseControl::kNo))
      r.sampling.logit_bias.emplace_back(t, bias);
  }
  const auto& stages = r.sampling.stages;
  if (std::find(stages.begin(), stages.end(), Stage::kInfill) != stages.end())
    r.sampling.infill = {std::shared_ptr<void>(), &model_.vocabulary};
  if (!r.sampling.dry()) return;
  if (!r.dry_breakers.empty()) {
    r.sampling.dry_breakers = make_dry_breakers(model_.vocabulary, r.dry_breakers);
    return;
  }
  std::call_once(breakers_made_, [this] { breakers_ = make_dry_breakers(model_.vocabulary, default_dry_breakers()); });
  r.sampling.dry_breakers = breakers_;
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

Api::ChatPrompt Api::chat_prompt(const Conversation& conversation) const {
  const chat::Rendered prompt = model_.chat->render(calls_.with_tools(conversation.chat));
  check_length(prompt.text, "messages");
  return {prompt.text, chat::tokenize_prompt(prompt, control_, model_.vocabulary)};
}

std::unique_ptr<Call> Api::start(CompletionRequest r, std::vector<std::vector<Token>> prompts,
                                 const CallSupport* support, ReplyPlan plan, std::unique_ptr<AnswerWriter> writer) {
  check_choices(prompts.size() * static_cast<std::size_t>(r.n));
  if (r.slot >= std::ssize(scheduler_.slots())) throw ApiError(400, "There is no such slot.", "id_slot");
  resolve(r);
  for (const auto& p : prompts) {
    if (p.empty()) throw ApiError(400, "The prompt is empty; give at least one token.", "prompt");
    if (static_cast<int>(p.size()) >= model_.n_ctx)
      refuse_length(std::to_string(p.size()), support != nullptr ? "messages" : "prompt");
  }
  r.adapters = r.lora ? scales(*r.lora) : scales();
  // What other adapters wrote is no guide.
  const bool stored = r.store && r.client < options_.stores.size() && r.adapters == first_scales();
  const auto store = stored ? options_.stores[r.client] : nullptr;
  return std::make_unique<Call>(model_, scheduler_, std::move(r), std::move(prompts), support, std::move(plan),
                                std::move(writer), store);
}

std::unique_ptr<Call> Api::chat(CompletionRequest r, std::unique_ptr<AnswerWriter> writer) {
  if (options_.strict_model) check_model(r.model);
  ChatPrompt prompt = chat_prompt(r.conversation);
  ReplyPlan plan = calls_.plan(r.conversation, prompt.text, r.answer_rules);
  if (plan.grammar && !r.grammar.empty())
    throw ApiError(400, "The field 'tools' cannot be given beside a grammar, which says what the whole answer is.",
                   "tools");
  return start(std::move(r), {std::move(prompt.tokens)}, &calls_, std::move(plan), std::move(writer));
}

std::unique_ptr<Call> Api::completion(std::string_view body, bool chat_format, std::size_t client) {
  return as_api_errors([&] {
    auto writer = std::make_unique<OpenAiWriter>(model_, chat_format);
    CompletionRequest r = chat_format ? parse_chat(body, options_.defaults) : parse_completion(body, options_.defaults);
    r.client = client;
    if (chat_format) return chat(std::move(r), std::move(writer));
    if (options_.strict_model) check_model(r.model);
    std::vector<std::vector<Token>> prompts = all_prompt_tokens(r);
    return start(std::move(r), std::move(prompts), nullptr, {}, std::move(writer));
  });
}

std::unique_ptr<Call> Api::start_native(CompletionRequest r, std::vector<std::vector<Token>> prompts,
                                        std::size_t client) {
  if (options_.strict_model) check_model(r.model);
  r.client = client;
  r.report_tokens |= r.stream;
  auto writer = std::make_unique<NativeWriter>(model_, prompts);
  return start(std::move(r), std::move(prompts), nullptr, {}, std::move(writer));
}

std::unique_ptr<Call> Api::native(std::string_view body, std::size_t client) {
  return as_api_errors([&] {
    CompletionRequest r = parse_native(body, options_.defaults);
    std::vector<std::vector<Token>> prompts = all_prompt_tokens(r);
    return start_native(std::move(r), std::move(prompts), client);
  });
}

std::unique_ptr<Call> Api::infill(std::string_view body, std::size_t client) {
  return as_api_errors([&] {
    InfillRequest r = parse_infill(body, options_.defaults);
    std::vector<Token> prompt = infill_prompt(r, model_.vocabulary, model_.n_ctx);
    return start_native(std::move(r.completion), {std::move(prompt)}, client);
  });
}

std::unique_ptr<Call> Api::response(std::string_view body, std::size_t client) {
  return as_api_errors([&] {
    ResponseRequest request = read_response(parse_object(body), responses_);
    CompletionRequest r = one_answer(read_chat(request.chat, options_.defaults));
    r.client = client;
    return chat(std::move(r), std::make_unique<ResponseWriter>(model_, std::move(request), responses_));
  });
}

std::unique_ptr<Call> Api::message(std::string_view body, std::size_t client) {
  return as_api_errors([&] {
    CompletionRequest r = one_answer(read_chat(messages_to_chat(parse_object(body)), options_.defaults));
    r.client = client;
    // Agents send a budget with every request: where reasoning has no tags it says nothing.
    if (calls_.format().style == chat::CallStyle::kHarmony) r.conversation.reasoning_budget = -1;
    return chat(std::move(r), std::make_unique<MessageWriter>(model_));
  });
}

std::string Api::count_tokens(std::string_view body) const {
  return as_api_errors([&] {
    const Conversation c = read_conversation(messages_to_chat(parse_object(body)), options_.defaults.conversation);
    return print({{"input_tokens", chat_prompt(c).tokens.size()}});
  });
}

std::string Api::kept_response(const std::string& id) {
  const auto kept = responses_.find(id);
  if (!kept) throw ApiError(404, fmt::format("There is no response '{}' here.", id), "response_id");
  return kept->response;
}

std::string Api::delete_response(const std::string& id) {
  if (!responses_.erase(id)) throw ApiError(404, fmt::format("There is no response '{}' here.", id), "response_id");
  return print({{"id", id}, {"object", "response"}, {"deleted", true}});
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
    text += model_.vocabulary.piece(t, ShowControl::kYes);
  }
  return print({{"content", text}});
}

std::string Api::apply_template(std::string_view body) const {
  const Conversation conversation = parse_conversation(body, options_.defaults);
  return as_api_errors([&] {
    return print({{"prompt", model_.chat->render(calls_.with_tools(conversation.chat)).text}});
  });
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
  CompletionRequest r;
  r.sampling = options_.defaults.sampling;
  r.speculation = options_.defaults.speculation;
  r.max_tokens = options_.defaults.max_tokens;
  r.adapters = scales();
  const auto text = [this](Token t) { return t < 0 ? std::string() : model_.vocabulary.piece(t, ShowControl::kYes); };
  return print({{"default_generation_settings", {{"n_ctx", model_.n_ctx}, {"params", generation_settings(r)}}},
                {"total_slots", scheduler_.slots().size()},
                {"model", model_.id},
                {"model_alias", model_.id},
                {"model_path", model_.path},
                {"modalities", {{"vision", false}, {"video", false}, {"audio", false}}},
                {"draft", model_.draft_description},
                {"chat_template", model_.chat->source()},
                {"chat_template_problem", model_.chat->problem().empty() ? Json() : Json(model_.chat->problem())},
                {"tool_format", calls_.format().name},
                {"own_chat_template", model_.own_chat_template},
                {"bos_token", text(model_.vocabulary.begin)},
                {"eos_token", text(model_.vocabulary.end)},
                {"exact", options_.exact},
                {"endpoint_slots", true},
                {"endpoint_props", false},
                {"endpoint_metrics", true},
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
      Stats sums;
      sums.drafter = s.drafter;
      slot["drafters"] = drafters_json(sums);
    }
    out.push_back(std::move(slot));
  }
  return print(out);
}

std::vector<float> Api::first_scales() const {
  std::vector<float> out;
  for (const auto& a : options_.adapters) out.push_back(a.scale);
  return out;
}

std::vector<float> Api::scales() const {
  const std::lock_guard lock(scales_mutex_);
  return scales_;
}

std::vector<float> Api::scales(const std::vector<LoraScale>& wanted) const {
  std::vector<float> out(options_.adapters.size());
  for (const auto& [id, scale] : wanted) {
    if (id >= std::ssize(out)) throw ApiError(400, fmt::format("There is no adapter {}.", id), "lora");
    out[static_cast<std::size_t>(id)] = scale;
  }
  return out;
}

std::string Api::lora_adapters() const {
  const std::vector<float> now = scales();
  Json out = Json::array();
  for (std::size_t i = 0; i < now.size(); ++i)
    out.push_back(
        {{"id", i}, {"path", options_.adapters[i].path}, {"scale", now[i]}, {"task_name", ""}, {"prompt_prefix", ""}});
  return print(out);
}

std::string Api::set_lora_adapters(std::string_view body) {
  const std::vector<float> wanted = scales(parse_lora(body));
  const std::lock_guard lock(scales_mutex_);
  scales_ = wanted;
  return R"({"success":true})";
}

std::string Api::slot_action(int slot, const std::string& action, std::string_view body) {
  if (options_.slot_path.empty()) throw ApiError(501, "This server saves no slots; start it with --slot-save-path.");
  if (options_.exact) throw ApiError(501, "With --exact slots keep nothing that could be saved.");
  if (slot < 0 || slot >= std::ssize(scheduler_.slots())) throw ApiError(400, "There is no such slot.", "id_slot");
  // The slot's turn comes between two steps.
  const auto with_slot = [&](const auto& work) {
    scheduler_.between_steps([&](Engine& engine) {
      if (engine.is_taken(slot)) return false;
      work(engine);
      return true;
    });
  };
  return as_api_errors([&] {
    Json out{{"id_slot", slot}};
    if (action == "erase") {
      with_slot([&](Engine& engine) { out["n_erased"] = engine.erase_slot(slot); });
      return print(out);
    }
    if (action != "save" && action != "restore")
      throw ApiError(400, "The action must be save, restore or erase.", "action");
    const Json object = parse_object(body);
    const std::string name = Fields(object).text("filename");
    if (!is_file_name(name))
      throw ApiError(400, "The filename must be the name of a file alone, without a path.", "filename");
    const std::string path = options_.slot_path + "/" + name;
    out["filename"] = name;
    const Stopwatch clock;
    std::size_t size = 0;
    Engine::Kept kept;
    if (action == "save") {
      with_slot([&](Engine& engine) { kept = engine.save_slot(slot); });
      if (kept.text.empty()) throw ApiError(400, "The slot keeps nothing that could be saved.", "id_slot");
      out["n_saved"] = kept.text.size();
      out["n_written"] = write_slot_file(path, options_.slots_model, kept);
      out["timings"] = {{"save_ms", clock.ms()}};
    } else {
      kept = read_slot_file(path, options_.slots_model, model_.n_ctx, model_.vocabulary.size, size);
      out["n_restored"] = kept.text.size();
      out["n_read"] = size;
      with_slot([&](Engine& engine) { engine.restore_slot(slot, std::move(kept)); });
      out["timings"] = {{"restore_ms", clock.ms()}};
    }
    return print(out);
  });
}

std::string Api::metrics() const { return metrics_.prometheus(scheduler_.n_processing(), scheduler_.n_waiting()); }

}  // namespace gsd::server
