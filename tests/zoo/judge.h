// Judges texts with libllama alone.
#pragma once

#include <llama.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "gsd/llama.h"

namespace gsd::zoo {

using Tokens = std::vector<Token>;
using Rows = std::vector<std::vector<float>>;

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

  // Counts ties, other experts and wrong tokens of `generated` after `prompt`. `rows`: the logits that they were drawn
  // from, [generated, n_vocab], or empty.
  void judge(const Tokens& prompt, const Tokens& generated, const Rows& rows, Case& out);

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
  struct Opinion {
    std::vector<float> says;          // [experts]
    std::vector<std::int32_t> order;  // of the experts, the best one first
  };
  // What a watched context is to do and what it saw.
  struct Watch {
    int n_used = 0;          // experts
    int first = 0;           // position of the pass
    int tokens = 0;          // in the pass
    bool shifted = false;    // embeddings are changed
    std::uint32_t dice = 1;  // state of the random numbers that change them
    std::set<Choice> other;  // to be taken the other way
    std::map<Choice, Opinion> seen;
  };
  // What libllama's own results change by when each number of an embedding changes by up to 2^-12 of itself, as it
  // would by rounding to half precision. Products by quantised weights round what they multiply to 8 bits, and so make
  // much of next to nothing. Medians, in standard deviations.
  struct Noise {
    float logits = 0;
    std::map<std::string, float> routers;
    float other_experts = 0;  // share of tokens that get other experts
  };

  Context make_context(llama_context_params params) const;
  llama_context* watched();
  // libllama's logits for each generated token, [generated, n_vocab].
  Rows rows(llama_context* context, const Tokens& prompt, const Tokens& generated);
  void measure(const Tokens& prompt, const Tokens& generated, const Rows& undisturbed);
  bool tie(float regret, const std::vector<float>& row) const;
  std::vector<Choice> tied_choices() const;
  bool by_other_experts(const Tokens& prompt, Tokens generated);
  static bool on_node(ggml_tensor* t, bool ask, void* watch);

  NarrowKernels off_{{.enabled = false}};
  std::unique_ptr<llama_model, Freer> model_;
  llama_context_params params_;
  Context context_;
  Context watched_;  // made when it is needed: the same with a look at embeddings and choices of experts
  Watch watch_;
  std::optional<Noise> noise_;  // measured with the first text
  int n_vocab_ = 0;
};

}  // namespace gsd::zoo
