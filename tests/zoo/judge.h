// Judges texts with libllama alone.
#pragma once

#include <llama.h>

#include <array>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "gsd/llama.h"

namespace gsd::zoo {

using Tokens = std::vector<Token>;

// One sequence, token by token, no kernels of ours. Throws std::runtime_error where libllama fails. One thread.
class Judge {
 public:
  // `cache`: "f16" or "q8_0". Texts have at most `n_ctx` tokens.
  Judge(const std::string& path, const std::string& cache, int n_ctx);

  const llama_model* model() const { return model_.get(); }

  // Whether libllama keeps snapshots of a recurrent state for it.
  bool has_snapshots() const;

  // Whether libllama makes a context with a cache of that format.
  bool takes(const std::string& cache) const;

  // Counts ties, other experts and wrong tokens of `generated` after `prompt`.
  void judge(const Tokens& prompt, const Tokens& generated, Case& out);

 private:
  struct Freer {
    void operator()(llama_model* m) const { llama_model_free(m); }
    void operator()(llama_context* c) const { llama_free(c); }
  };
  using Context = std::unique_ptr<llama_context, Freer>;

  // A choice of experts: which router of a pass, and for which token. Two that are nearly tied are one choice as likely
  // as the other: rounding decides, and what comes of it may differ by any amount.
  struct Choice {
    int position;
    std::string router;  // name of libllama's tensor
    bool operator<(const Choice& o) const { return std::tie(position, router) < std::tie(o.position, o.router); }
  };
  struct Routing {
    int n_used = 0;          // experts
    int first = 0;           // position of the pass
    int tokens = 0;          // in the pass
    std::set<Choice> other;  // to be taken the other way
    std::set<Choice> tied;   // seen
  };

  Context make_context(llama_context_params params) const;
  // The regret of each generated token, [generated], and what is too much.
  struct Regret {
    float regret;
    bool tie;
  };
  std::vector<Regret> regrets(llama_context* context, const Tokens& prompt, const Tokens& generated);
  bool by_other_experts(const Tokens& prompt, Tokens generated);
  static bool on_node(ggml_tensor* t, bool ask, void* routing);

  NarrowKernels off_{{.enabled = false}};
  std::unique_ptr<llama_model, Freer> model_;
  llama_context_params params_;
  Context context_;
  Context watched_;  // made when it is needed: the same with a look at each choice of experts
  Routing routing_;
  int n_vocab_ = 0;
};

}  // namespace gsd::zoo
