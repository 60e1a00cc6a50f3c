#include "judge.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string_view>

namespace gsd::zoo {
namespace {

constexpr float kNearTie = 0.02F;  // in standard deviations of a row of logits, or of what a router says of its experts
constexpr std::size_t kChunk = 256;

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
    routing_.n_used = std::atoi(text);
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

void Judge::judge(const Tokens& prompt, const Tokens& generated, Case& out) {
  const std::vector<Regret> all = regrets(context_.get(), prompt, generated);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool best = all[i].regret <= 0;
    if (!best && !all[i].tie &&
        by_other_experts(prompt, {generated.begin(), generated.begin() + static_cast<long>(i + 1)})) {
      ++out.other_experts;
      continue;
    }
    out.ties += !best && all[i].tie ? 1 : 0;
    out.wrong += best || all[i].tie ? 0 : 1;
    out.regret = std::max(out.regret, static_cast<double>(all[i].regret));
  }
}

std::vector<Judge::Regret> Judge::regrets(llama_context* context, const Tokens& prompt, const Tokens& generated) {
  llama_memory_clear(llama_get_memory(context), true);
  routing_.first = 0;
  const auto decode = [&](const Token* tokens, std::size_t n) {
    routing_.tokens = static_cast<int>(n);
    const auto batch = llama_batch_get_one(const_cast<Token*>(tokens), static_cast<std::int32_t>(n));
    if (llama_decode(context, batch) != 0) throw std::runtime_error("libllama does not decode the model");
    routing_.first += routing_.tokens;
  };
  // The last one alone: asked for one row of several, libllama's graph of cogvlm gives the first.
  const std::size_t n = prompt.size() - 1;
  for (std::size_t done = 0; done < n; done += kChunk) decode(prompt.data() + done, std::min(kChunk, n - done));
  decode(&prompt[n], 1);
  std::vector<Regret> out;
  for (const Token& token : generated) {
    const std::span row(llama_get_logits_ith(context, -1), static_cast<std::size_t>(n_vocab_));
    const float regret = *std::max_element(row.begin(), row.end()) - row[static_cast<std::size_t>(token)];
    out.push_back({regret, regret <= kNearTie * deviation(row)});  // no tie where something is no number
    decode(&token, 1);
  }
  return out;
}

// Whether libllama alone gives the last token too, or nearly, with one of its nearly tied choices of experts taken the
// other way.
bool Judge::by_other_experts(const Tokens& prompt, Tokens generated) {
  if (routing_.n_used == 0) return false;
  if (!watched_) {
    llama_context_params params = params_;
    params.cb_eval = on_node;
    params.cb_eval_user_data = &routing_;
    watched_ = make_context(params);
  }
  routing_.tied.clear();
  regrets(watched_.get(), prompt, generated);
  const std::set<Choice> tied = std::move(routing_.tied);
  const bool found = std::any_of(tied.begin(), tied.end(), [&](const Choice& choice) {
    routing_.other = {choice};
    const Regret last = regrets(watched_.get(), prompt, generated).back();
    return last.regret <= 0 || last.tie;
  });
  routing_.other.clear();
  return found;
}

// Called by libllama for each node of a graph: whether it is to be shown (`ask`), and then with its values.
bool Judge::on_node(ggml_tensor* t, bool ask, void* user) {
  const bool router = t->op == GGML_OP_ARGSORT && std::string_view(t->name).starts_with("ffn_moe_argsort");
  if (!router || ask) return router;
  auto& routing = *static_cast<Routing*>(user);
  const auto n_experts = static_cast<std::size_t>(t->ne[0]);
  const auto last_taken = static_cast<std::size_t>(routing.n_used - 1);
  if (last_taken + 1 >= n_experts) return true;
  for (std::int64_t i = 0; i < t->ne[1]; ++i) {
    const auto row = static_cast<std::size_t>(i);
    auto* order = reinterpret_cast<std::int32_t*>(static_cast<char*>(t->data) + row * t->nb[1]);
    const auto* says =
        reinterpret_cast<const float*>(static_cast<const char*>(t->src[0]->data) + row * t->src[0]->nb[1]);
    // The last layer computes only the tokens whose logits are wanted: here the last one.
    const Choice choice{routing.first + static_cast<int>(t->ne[1] == routing.tokens ? i : routing.tokens - 1), t->name};
    if (says[order[last_taken]] - says[order[last_taken + 1]] <= kNearTie * deviation({says, n_experts}))
      routing.tied.insert(choice);
    if (routing.other.contains(choice)) std::swap(order[last_taken], order[last_taken + 1]);
  }
  return true;
}

}  // namespace gsd::zoo
