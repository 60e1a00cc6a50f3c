#include "judge.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string_view>

namespace gsd::zoo {
namespace {

constexpr float kNearTie = 0.02F;  // in standard deviations of a row of logits, or of what a router says of its experts
// Where libllama's own noise is larger: the difference of two numbers that noise of deviation 1 moved has 1.4; this is
// four times as much.
constexpr float kNoise = 6;
constexpr float kShift = 1.0F / 4096;
constexpr std::size_t kChunk = 256;
constexpr int kMostExplained = 3;       // wrong tokens of a case, after which none is explained any more
constexpr std::size_t kMostTried = 24;  // choices taken the other way, one at a time

float deviation(std::span<const float> row) {
  double sum = 0;
  double squares = 0;
  for (const float x : row) {
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  const double n = static_cast<double>(row.size());
  return static_cast<float>(std::sqrt(std::max(0.0, squares / n - sum / n * sum / n)));
}

// Of a - b, in deviations of a.
float distance(std::span<const float> a, std::span<const float> b) {
  std::vector<float> difference(a.size());
  std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<>());
  return deviation(difference) / deviation(a);
}

// Without those that are no numbers.
float median(std::vector<float> values) {
  std::erase_if(values, [](float v) { return !std::isfinite(v); });
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

float median_distance(const Rows& a, const Rows& b) {
  std::vector<float> all;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) all.push_back(distance(a[i], b[i]));
  return median(std::move(all));
}

// The best logit minus the token's.
float regret_of(Token token, const std::vector<float>& row) {
  return *std::max_element(row.begin(), row.end()) - row[static_cast<std::size_t>(token)];
}

void set_cache(llama_context_params& params, const std::string& cache) {
  if (cache != "q8_0") return;
  params.type_k = params.type_v = GGML_TYPE_Q8_0;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
}

}  // namespace

Judge::Judge(const std::string& path, const std::string& cache, int n_ctx) {
  llama_model_params m = llama_model_default_params();
  m.use_extra_bufts = false;
  model_.reset(llama_model_load_from_file(path.c_str(), m));
  if (!model_) throw std::runtime_error("libllama does not load the model");
  params_ = llama_context_default_params();
  params_.n_ctx = static_cast<std::uint32_t>(n_ctx);
  params_.n_batch = params_.n_ubatch = 512;
  params_.n_threads = params_.n_threads_batch = 1;
  params_.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  set_cache(params_, cache);
  context_ = make_context(params_);
  n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
  char text[64];
  if (llama_model_meta_val_str(model_.get(), "general.architecture", text, sizeof text) > 0 &&
      llama_model_meta_val_str(model_.get(), (std::string(text) + ".expert_used_count").c_str(), text, sizeof text) > 0)
    watch_.n_used = std::atoi(text);
}

Judge::Context Judge::make_context(llama_context_params params) const {
  Context context(llama_init_from_model(model_.get(), params));
  if (!context) throw std::runtime_error("libllama makes no context for the model");
  return context;
}

bool Judge::takes(const std::string& cache) const {
  llama_context_params params = params_;
  set_cache(params, cache);
  return Context(llama_init_from_model(model_.get(), params)) != nullptr;
}

bool Judge::has_snapshots() const {
  llama_context_params params = params_;
  params.n_rs_seq = 1;
  return llama_n_rs_seq(make_context(params).get()) > 0;
}

void Judge::judge(const Tokens& prompt, const Tokens& generated, const Rows& ours, Case& out) {
  const Rows all = rows(context_.get(), prompt, generated);
  if (!noise_) measure(prompt, generated, all);
  out.own_noise = noise_->logits;
  out.own_other_experts = noise_->other_experts;
  out.noise = median_distance(all, ours);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const float regret = regret_of(generated[i], all[i]);
    const bool best = regret <= 0;
    const bool tied = tie(regret, all[i]);
    if (!best && !tied && out.wrong < kMostExplained &&
        by_other_experts(prompt, {generated.begin(), generated.begin() + static_cast<long>(i + 1)})) {
      ++out.other_experts;
      continue;
    }
    out.ties += !best && tied ? 1 : 0;
    out.wrong += best || tied ? 0 : 1;
    out.regret = std::max(out.regret, static_cast<double>(regret));
  }
}

// No tie where something is no number.
bool Judge::tie(float regret, const std::vector<float>& row) const {
  return regret <= std::max(kNearTie, kNoise * noise_->logits) * deviation(row);
}

llama_context* Judge::watched() {
  if (!watched_) {
    llama_context_params params = params_;
    params.cb_eval = on_node;
    params.cb_eval_user_data = &watch_;
    watched_ = make_context(params);
  }
  return watched_.get();
}

Rows Judge::rows(llama_context* context, const Tokens& prompt, const Tokens& generated) {
  llama_memory_clear(llama_get_memory(context), true);
  watch_.first = 0;
  watch_.dice = 1;
  watch_.seen.clear();
  const auto decode = [&](const Token* tokens, std::size_t n) {
    watch_.tokens = static_cast<int>(n);
    const auto batch = llama_batch_get_one(const_cast<Token*>(tokens), static_cast<std::int32_t>(n));
    if (llama_decode(context, batch) != 0) throw std::runtime_error("libllama does not decode the model");
    watch_.first += watch_.tokens;
  };
  // The last one alone: asked for one row of several, libllama's graph of cogvlm gives the first.
  const std::size_t n = prompt.size() - 1;
  for (std::size_t done = 0; done < n; done += kChunk) decode(prompt.data() + done, std::min(kChunk, n - done));
  decode(&prompt[n], 1);
  Rows out;
  for (const Token& token : generated) {
    const float* row = llama_get_logits_ith(context, -1);
    out.emplace_back(row, row + n_vocab_);
    decode(&token, 1);
  }
  return out;
}

void Judge::measure(const Tokens& prompt, const Tokens& generated, const Rows& undisturbed) {
  noise_.emplace();
  if (watch_.n_used > 0) rows(watched(), prompt, generated);
  const std::map<Choice, Opinion> before = std::exchange(watch_.seen, {});
  watch_.shifted = true;
  noise_->logits = median_distance(undisturbed, rows(watched(), prompt, generated));
  watch_.shifted = false;
  std::map<std::string, std::vector<float>> changes;
  std::set<int> other;
  for (const auto& [choice, was] : before) {
    const Opinion& is = watch_.seen.at(choice);
    changes[choice.router].push_back(distance(was.says, is.says));
    const auto taken = [&](const Opinion& o) {
      return std::set<std::int32_t>(o.order.begin(),
                                    o.order.begin() + std::min<long>(watch_.n_used, std::ssize(o.order)));
    };
    if (taken(was) != taken(is)) other.insert(choice.position);
  }
  for (auto& [router, values] : changes) noise_->routers[router] = median(std::move(values));
  noise_->other_experts = static_cast<float>(other.size()) / static_cast<float>(prompt.size() + generated.size());
}

// Of what the watched context saw last, the nearest ones first.
std::vector<Judge::Choice> Judge::tied_choices() const {
  std::vector<std::pair<float, Choice>> tied;
  for (const auto& [choice, opinion] : watch_.seen) {
    const auto last_taken = static_cast<std::size_t>(watch_.n_used - 1);
    if (last_taken + 1 >= opinion.order.size()) continue;
    const auto says = [&](std::size_t rank) { return opinion.says[static_cast<std::size_t>(opinion.order[rank])]; };
    const float margin = says(last_taken) - says(last_taken + 1);
    const float near = std::max(kNearTie, kNoise * noise_->routers.at(choice.router));
    const float size = deviation(opinion.says);
    if (margin <= near * size) tied.emplace_back(size > 0 ? margin / (near * size) : 0, choice);
  }
  std::sort(tied.begin(), tied.end());
  std::vector<Choice> out;
  for (auto& [nearness, choice] : tied) out.push_back(std::move(choice));
  return out;
}

// Whether libllama alone gives the last token too, or nearly, with one of its nearly tied choices of experts taken the
// other way; or with two, of which the first is the one that helps most.
bool Judge::by_other_experts(const Tokens& prompt, Tokens generated) {
  if (watch_.n_used == 0) return false;
  bool found = false;
  for (int round = 0; round < 2 && !found; ++round) {
    rows(watched(), prompt, generated);
    std::vector<Choice> tied = tied_choices();
    tied.resize(std::min(tied.size(), kMostTried));
    const std::set<Choice> before = watch_.other;
    std::set<Choice> most = before;
    for (float least = INFINITY; const Choice& choice : tied) {
      watch_.other = before;
      watch_.other.insert(choice);
      const std::vector<float> last = std::move(rows(watched(), prompt, generated).back());
      const float regret = regret_of(generated.back(), last);
      found = tie(regret, last);
      if (found) break;
      if (regret < least) most = watch_.other;
      least = std::min(least, regret);
    }
    watch_.other = most;
  }
  watch_.other.clear();
  return found;
}

// Called by libllama for each node of a graph: whether it is to be shown (`ask`), and then with its values.
bool Judge::on_node(ggml_tensor* t, bool ask, void* user) {
  auto& watch = *static_cast<Watch*>(user);
  if (watch.shifted && t->op == GGML_OP_GET_ROWS && std::string_view(t->src[0]->name) == "token_embd.weight") {
    for (std::int64_t i = 0; !ask && i < ggml_nelements(t); ++i) {
      watch.dice = watch.dice * 1664525U + 1013904223U;
      static_cast<float*>(t->data)[i] *= 1 + kShift * (static_cast<float>(watch.dice >> 8) / (1 << 23) - 1);
    }
    return true;
  }
  const bool router = t->op == GGML_OP_ARGSORT && std::string_view(t->name).starts_with("ffn_moe_argsort");
  if (!router || ask) return router;
  const auto n_experts = static_cast<std::size_t>(t->ne[0]);
  const auto last_taken = static_cast<std::size_t>(watch.n_used - 1);
  for (std::int64_t i = 0; i < t->ne[1]; ++i) {
    const auto row = static_cast<std::size_t>(i);
    auto* order = reinterpret_cast<std::int32_t*>(static_cast<char*>(t->data) + row * t->nb[1]);
    const auto* says =
        reinterpret_cast<const float*>(static_cast<const char*>(t->src[0]->data) + row * t->src[0]->nb[1]);
    // The last layer computes only the tokens whose logits are wanted: here the last one.
    const Choice choice{watch.first + static_cast<int>(t->ne[1] == watch.tokens ? i : watch.tokens - 1), t->name};
    watch.seen[choice] = {{says, says + n_experts}, {order, order + n_experts}};
    if (last_taken + 1 < n_experts && watch.other.contains(choice)) std::swap(order[last_taken], order[last_taken + 1]);
  }
  return true;
}

}  // namespace gsd::zoo
