#include "generation.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "../core/topk.h"

namespace gsd::server {

void Channel::put(Event event) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    wake = event.last || (stream_ && now >= next_wake_);
    if (wake) next_wake_ = now + kFrame;
    wake_ |= wake;
    events_.push_back(std::move(event));
  }
  if (wake) something_.notify_one();
}

void Channel::lose() noexcept {
  {
    const std::lock_guard lock(mutex_);
    lost_ = wake_ = true;
  }
  something_.notify_one();
}

bool Channel::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

std::deque<Event> Channel::take(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  something_.wait_for(lock, timeout, [this] { return wake_; });
  std::deque<Event> out;
  out.swap(events_);
  wake_ = false;
  return out;
}

namespace {

// State of one choice. Everything but the channel belongs to the thread that steps the engine.
class Generation {
 public:
  Generation(const TextModel& model, std::span<const Token> prompt, const SessionOptions& session,
             GenerationOptions options, std::uint32_t choice, std::shared_ptr<Channel> channel)
      : model_(model),
        prompt_end_(prompt.end() - std::min<std::ptrdiff_t>(std::ssize(prompt), Source::kMaxMatch), prompt.end()),
        failure_(session.constraint ? session.constraint->failure : nullptr),
        has_grammar_(session.constraint.has_value()),
        has_bias_(!session.sampling.logit_bias.empty()),
        options_(std::move(options)),
        choice_(choice),
        channel_(std::move(channel)),
        text_(options_.stop) {
    if (options_.post_sampling) sampler_.emplace(session.sampling);
    if (!options_.prompt) return;
    for (std::size_t i = 0; i < prompt.size(); ++i) {
      const bool hidden = i == 0 && options_.begin_added;
      const std::string piece = hidden ? "" : model_.vocabulary.piece(prompt[i], ShowControl::kYes);
      pending_.push_back({{.token = prompt[i], .bytes = piece, .scored = i > 0, .top = {}}, 0});
    }
  }

  void on_prompt_row(std::size_t index, std::span<const float> logits) {
    report_log_p(logits, pending_[index + 1].report);
  }

  bool on_token(Token t) {
    if (options_.store) answer_.push_back(t);
    const bool shown = options_.shown != nullptr && options_.shown->contains(t);
    const Vocabulary& v = model_.vocabulary;
    const std::string piece = v.is_eog(t) ? std::string() : v.piece(t, shown ? ShowControl::kYes : ShowControl::kNo);
    const std::size_t before = text_.n_bytes();
    const bool go_on = text_.push(piece);
    const bool cut = !go_on && text_.n_bytes() <= before;  // nothing of it is left
    if (options_.logprobs >= 0 || options_.tokens)
      pending_.push_back(
          {{.token = t, .bytes = piece, .n_text = text_.n_bytes() - std::min(before, text_.n_bytes()), .top = {}},
           cut ? SIZE_MAX : text_.n_bytes()});
    return go_on && !out_of_time(piece);
  }

  void on_prompt(const PromptProgress& p) {
    Event e{.choice = choice_,
            .text = {},
            .tokens = {},
            .trace = {},
            .progress = {},
            .stats = stats_,
            .outcome = {},
            .stop = {}};
    e.progress = p;
    channel_->put(std::move(e));
  }

  void on_step(const StepView& v) {
    stats_.add(v.stats);
    if (options_.logprobs >= 0) options_.post_sampling ? fill_p(v) : fill_log_p(v);
    Event e = next_event();
    if (options_.trace)
      e.trace =
          std::make_shared<StepTrace>(StepTrace{v.hypotheses.graph(), v.hypotheses.tree(), v.acceptance, v.stats});
    if (!e.text.empty() || !e.tokens.empty() || e.trace) channel_->put(std::move(e));
  }

  void on_finish(const Outcome& outcome) noexcept {
    try {
      put_last(outcome);
    } catch (...) {
      channel_->lose();
    }
    try {
      if (options_.store && !outcome.error && outcome.finish != FinishReason::kNone)
        options_.store->add(prompt_end_, answer_);
    } catch (...) {  // what cannot be remembered is not
    }
  }

 private:
  // Why no token could be drawn, unless the grammar is simply at its end.
  std::optional<Error> no_token() const {
    const std::string why = failure_ ? failure_() : "";
    if (!why.empty()) return Error(ErrorCode::kGrammar, why);
    if (has_grammar_) return std::nullopt;
    if (has_bias_) return Error(ErrorCode::kUsage, "The logit_bias leaves no token that could be generated.");
    return Error(ErrorCode::kBackend, "The model's scores are no numbers, so no token can be drawn; check its file.");
  }

  struct Pending {
    TokenReport report;
    std::size_t end;  // bytes of text up to and with this token
  };

  // The time counts from the first token.
  bool out_of_time(const std::string& piece) {
    if (options_.max_ms <= 0) return false;
    if (!since_) since_.emplace();
    has_line_ |= piece.find('\n') != std::string::npos;
    return timed_out_ = has_line_ && since_->ms() > static_cast<double>(options_.max_ms);
  }

  void put_last(const Outcome& outcome) {
    text_.finish();
    Event e = next_event();
    e.last = true;
    e.outcome = outcome;
    if (e.outcome.finish == FinishReason::kConstraint && !e.outcome.error) e.outcome.error = no_token();
    e.stop = text_.stop();
    if (timed_out_ && e.outcome.finish == FinishReason::kStopped) e.outcome.finish = FinishReason::kLength;
    channel_->put(std::move(e));
  }

  Event next_event() {
    Event e{.choice = choice_,
            .text = text_.take(),
            .tokens = {},
            .trace = {},
            .progress = {},
            .stats = stats_,
            .outcome = {},
            .stop = {}};
    const std::size_t released = text_.n_released();
    // A token that a stop string has cut off is not reported.
    while (!pending_.empty() && pending_.front().end <= released) {
      e.tokens.push_back(std::move(pending_.front().report));
      pending_.pop_front();
    }
    return e;
  }

  void fill_log_p(const StepView& v) {
    const std::size_t n = v.acceptance.token.size();
    for (std::size_t i = 0; i < n; ++i) report_log_p(v.logits(i), pending_[pending_.size() - n + i].report);
  }

  void report_log_p(std::span<const float> row, TokenReport& r) const {
    constexpr std::size_t kMost = 256;
    std::array<Token, kMost> token;
    std::array<float, kMost> log_p;
    const std::size_t wanted = std::clamp<std::size_t>(static_cast<std::size_t>(options_.logprobs), 1, kMost);
    const auto found = static_cast<std::size_t>(
        top_k_log_softmax(row, 1, std::span(token).first(wanted), std::span(log_p).first(wanted)));
    if (found == 0) return;
    const float log_sum = row[static_cast<std::size_t>(token[0])] - log_p[0];
    r.log_p = row[static_cast<std::size_t>(r.token)] - log_sum;
    for (std::size_t k = 0; k < std::min(found, static_cast<std::size_t>(options_.logprobs)); ++k)
      r.top.emplace_back(token[k], log_p[k]);
  }

  // What the token was drawn from, and how probable it was there: 0 where a grammar took another one.
  void fill_p(const StepView& v) {
    const std::size_t n = v.acceptance.token.size();
    const std::span<const Token> all = v.session.tokens();
    const std::size_t n_before = v.session.generated().size() - n;
    for (std::size_t i = 0; i < n; ++i) {
      sampler_->distribution(v.logits(i), static_cast<std::uint32_t>(n_before + i), all.first(all.size() - n + i),
                             distribution_);
      TokenReport& r = pending_[pending_.size() - n + i].report;
      for (std::size_t k = 0; k < distribution_.size(); ++k) {
        if (k < static_cast<std::size_t>(options_.logprobs))
          r.top.emplace_back(distribution_[k].token, distribution_[k].p);
        if (distribution_[k].token == r.token) r.log_p = distribution_[k].p;
      }
    }
  }

  const TextModel& model_;
  std::vector<Token> prompt_end_;  // with `answer_`: for the store
  std::vector<Token> answer_;
  std::function<std::string()> failure_;  // of the grammar
  bool has_grammar_;
  bool has_bias_;
  GenerationOptions options_;
  std::optional<Sampler> sampler_;  // for reports of what tokens were drawn from
  std::vector<TokenProbability> distribution_;
  std::optional<Stopwatch> since_;
  bool has_line_ = false;
  bool timed_out_ = false;
  std::uint32_t choice_;
  std::shared_ptr<Channel> channel_;
  TextStream text_;
  Stats stats_;
  std::deque<Pending> pending_;
};

}  // namespace

Job make_job(const TextModel& model, std::vector<Token> prompt, SessionOptions session, GenerationOptions options,
             std::uint32_t choice, std::shared_ptr<Channel> channel, std::shared_ptr<std::atomic<bool>> cancelled) {
  const bool progress = options.progress;
  const bool rows = options.prompt;
  auto g = std::make_shared<Generation>(model, prompt, session, std::move(options), choice, std::move(channel));
  session.on_token = [g](Token t) { return g->on_token(t); };
  session.on_step = [g](const StepView& v) { g->on_step(v); };
  if (rows) session.on_prompt_row = [g](std::size_t i, std::span<const float> logits) { g->on_prompt_row(i, logits); };
  Job job;
  job.prompt = std::move(prompt);
  job.options = std::move(session);
  job.cancelled = std::move(cancelled);
  if (progress) job.on_prompt = [g](const PromptProgress& p) { g->on_prompt(p); };
  job.on_finish = [g](const Outcome& o) { g->on_finish(o); };
  return job;
}

}  // namespace gsd::server
