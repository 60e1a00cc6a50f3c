// Backend over libllama. Source of the rules kept here: llama.h, and experiments with libllama 0.7
// (docs/architecture.md, section 4).
//
// A root-to-leaf path of a tree is a sequence id of libllama; a KV cell carries the ids of all paths through it. Each
// sequence of ours owns a block of ids. One of them, `main`, carries the whole committed prefix; the others are brought
// up to date only when a tree needs them, and only for the range they lack: one call per id, no walk per token.
#include <algorithm>
#include <bit>
#include <new>
#include <thread>

#include "../core/stopwatch.h"
#include "handles.h"

namespace gsd {
namespace {

using Mask = std::uint64_t;  // leaf ids of one sequence

Mask bit(std::int32_t leaf) { return Mask{1} << leaf; }

class LlamaBackend final : public Backend {
 public:
  LlamaBackend(const Model& model, const ContextOptions& options);

  const BackendInfo& info() const override { return info_; }
  bool is_eog(Token token) const override { return llama_vocab_is_eog(vocab_, token); }
  void forward(std::span<const NodeInput> nodes) override;
  std::span<const float> logits(std::int32_t row) const override;
  void commit(std::int32_t seq, std::span<const std::int32_t> path) override;
  void truncate(std::int32_t seq, std::int32_t n_tokens) override;
  std::int32_t n_committed(std::int32_t seq) const override {
    return sequences_[static_cast<std::size_t>(seq)].committed;
  }
  std::int32_t n_speculative(std::int32_t seq) const override {
    return static_cast<std::int32_t>(sequences_[static_cast<std::size_t>(seq)].nodes.size());
  }
  double sequence_ms() const override { return sequence_ms_; }

 private:
  struct Node {
    std::int32_t parent;
    std::int32_t depth;  // 1 = first position below the prefix
    Mask leaves;         // ids that carry its cell
  };
  struct Leaf {
    std::int32_t synced = 0;  // leading positions of the prefix that carry this id
    std::int32_t tip = -1;    // deepest speculative node that carries it, or -1
  };
  struct Sequence {
    std::size_t context = 0;  // index into contexts_
    llama_seq_id first_id = 0;
    std::int32_t committed = 0;
    std::int32_t main = 0;     // leaf that carries the whole prefix
    std::vector<Leaf> leaves;  // [max_leaves]
    std::vector<Node> nodes;
  };
  struct Batch {  // arrays of llama_batch, reused
    std::vector<llama_token> token;
    std::vector<llama_pos> pos;
    std::vector<std::int32_t> n_seq_id;
    std::vector<llama_seq_id> ids;  // flat
    std::vector<llama_seq_id*> seq_id;
    std::vector<std::int8_t> logits;
    std::vector<std::int32_t> row;  // batch index of each row of logits
  };

  llama_memory_t memory(const Sequence& s) const { return llama_get_memory(contexts_[s.context].get()); }
  llama_seq_id id(const Sequence& s, std::int32_t leaf) const { return s.first_id + leaf; }
  void add_nodes(std::span<const NodeInput> nodes);
  void assign_leaves(Sequence& s, std::size_t first_new);
  std::int32_t leaf_for(Sequence& s, std::int32_t attach, Mask taken);
  void decode(std::size_t context, std::span<const NodeInput> nodes, std::span<const std::int32_t> index);
  void undo(std::span<const NodeInput> nodes);
  void cut(Sequence& s, std::int32_t leaf, std::int32_t from);

  const llama_vocab* vocab_;
  BackendInfo info_;
  std::vector<std::unique_ptr<llama_context, ContextDeleter>> contexts_;
  std::vector<Sequence> sequences_;
  Batch batch_;
  std::vector<std::int32_t> node_index_;  // of each input, within its sequence
  std::vector<std::size_t> first_new_;    // [n_seq] nodes before this pass
  std::vector<const float*> rows_;
  std::vector<std::int32_t> group_;  // inputs of one context
  double sequence_ms_ = 0;
};

ggml_type cache_type(const std::string& name, const char* what) {
  for (const auto& [known, type] : {std::pair{"f32", GGML_TYPE_F32},
                                    {"f16", GGML_TYPE_F16},
                                    {"bf16", GGML_TYPE_BF16},
                                    {"q8_0", GGML_TYPE_Q8_0},
                                    {"q4_0", GGML_TYPE_Q4_0}}) {
    if (name == known) return type;
  }
  throw Error(ErrorCode::kUsage, std::string("The type of the ") + what +
                                     " cache must be f32, f16, bf16, q8_0 or q4_0, not '" + name + "'.");
}

void check(const ContextOptions& o) {
  const auto require = [](bool ok, const char* sentence) {
    if (!ok) throw Error(ErrorCode::kUsage, sentence);
  };
  require(o.n_ctx >= 16 && o.n_ctx <= (1 << 24), "The context size must be from 16 to 16777216 tokens.");
  require(o.n_seq >= 1 && o.n_seq <= 256, "The number of sequences must be from 1 to 256.");
  require(o.max_leaves >= 1 && o.max_leaves <= 64, "The number of leaves must be from 1 to 64.");
  require(o.exact || static_cast<std::size_t>(o.n_seq) * static_cast<std::size_t>(o.max_leaves) <=
                         llama_max_parallel_sequences(),
          "Sequences times leaves must be at most 256; ask for fewer of either.");
  require((std::int64_t{o.exact ? 1 : o.n_seq}) * (o.n_ctx + o.max_outputs) < (std::int64_t{1} << 31),
          "Sequences times context size must be below 2^31 tokens.");
  require(o.n_threads >= 0 && o.n_threads <= 1024, "The number of threads must be from 1 to 1024.");
  require(o.max_batch >= 1 && o.max_outputs >= 1 && o.max_outputs <= o.max_batch,
          "A batch must hold at least one token and all outputs.");
  require(!(o.exact && o.type_v == "q8_0") && !(o.exact && o.type_v == "q4_0"),
          "Exact mode cannot use a quantised V cache; use f16, bf16 or f32.");
}

std::unique_ptr<llama_context, ContextDeleter> make_context(const Model& model, const llama_context_params& params) {
  take_llama_errors();
  std::unique_ptr<llama_context, ContextDeleter> context;
  try {
    context.reset(llama_init_from_model(model.impl().model.get(), params));
  } catch (const std::exception&) {  // ggml throws when a buffer cannot be had
  }
  if (context == nullptr) {
    const std::string details = take_llama_errors();
    throw Error(ErrorCode::kOutOfMemory,
                "The context for '" + model.path() +
                    "' could not be made; a smaller context size or fewer sequences need less memory" +
                    (details.empty() ? "." : " (libllama: " + details + ")."));
  }
  return context;
}

LlamaBackend::LlamaBackend(const Model& model, const ContextOptions& o) : vocab_(model.impl().vocab) {
  check(o);
  const int seq_per_context = o.exact ? 1 : o.n_seq;
  llama_context_params p = llama_context_default_params();
  p.n_seq_max = static_cast<std::uint32_t>(seq_per_context * o.max_leaves);
  // A tree's cells come on top of the positions: every sequence must be able to hold one at the end of its context.
  p.n_ctx = static_cast<std::uint32_t>(std::int64_t{seq_per_context} * (o.n_ctx + o.max_outputs));
  p.n_batch = p.n_ubatch = static_cast<std::uint32_t>(o.max_batch);
  p.n_outputs_max = static_cast<std::uint32_t>(std::max(o.max_outputs, seq_per_context * o.max_leaves));
  p.n_threads = p.n_threads_batch =
      o.n_threads > 0 ? o.n_threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  p.kv_unified = true;
  p.type_k = cache_type(o.type_k, "K");
  p.type_v = cache_type(o.type_v, "V");
  p.no_perf = true;
  // The automatic choice looks at GPUs, and takes attention that another device than the layer's computes, as the
  // narrow backend does, for a reason against it.
  const bool cpu = model.impl().options.gpu_layers == 0;
  if (cpu) p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  const auto declined = o.exact && cpu ? narrow_attentions_declined(o.max_batch) : std::nullopt;
  if (o.exact && !declined) p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  contexts_.push_back(make_context(model, p));
  if (declined && narrow_attentions_declined(o.max_batch) != declined) {
    contexts_.clear();  // ggml's flash attention rounds differently at different widths
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    contexts_.push_back(make_context(model, p));
  }
  while (o.exact && contexts_.size() < static_cast<std::size_t>(o.n_seq)) contexts_.push_back(make_context(model, p));
  // libllama makes the batch no larger than the context.
  const auto max_batch = std::min(o.max_batch, static_cast<int>(llama_n_batch(contexts_.front().get())));
  info_ = {.n_vocab = model.n_vocab(),
           .n_ctx = o.n_ctx,
           .n_seq = o.n_seq,
           .max_batch = max_batch,
           .max_outputs = std::min(o.max_outputs, max_batch),
           .max_leaves = o.max_leaves};
  sequences_.resize(static_cast<std::size_t>(o.n_seq));
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    sequences_[i].context = o.exact ? i : 0;
    sequences_[i].first_id = o.exact ? 0 : static_cast<llama_seq_id>(i) * o.max_leaves;
    sequences_[i].leaves.resize(static_cast<std::size_t>(o.max_leaves));
    sequences_[i].nodes.reserve(static_cast<std::size_t>(o.max_batch));
  }
  first_new_.resize(sequences_.size());
}

void LlamaBackend::forward(std::span<const NodeInput> nodes) {
  const auto outputs = std::count_if(nodes.begin(), nodes.end(), [](const NodeInput& n) { return n.want_logits; });
  if (nodes.empty() || nodes.size() > static_cast<std::size_t>(info_.max_batch) || outputs > info_.max_outputs) {
    throw Error(ErrorCode::kUsage, "A pass takes 1 to " + std::to_string(info_.max_batch) + " tokens and at most " +
                                       std::to_string(info_.max_outputs) + " rows of logits.");
  }
  for (std::size_t i = 0; i < sequences_.size(); ++i) first_new_[i] = sequences_[i].nodes.size();
  add_nodes(nodes);
  const Stopwatch clock;
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].nodes.size() > first_new_[i]) assign_leaves(sequences_[i], first_new_[i]);
  }
  sequence_ms_ += clock.ms();
  rows_.clear();
  for (const NodeInput& in : nodes) {
    if (in.want_logits) rows_.push_back(nullptr);
  }
  for (std::size_t c = 0; c < contexts_.size(); ++c) {
    group_.clear();
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (sequences_[static_cast<std::size_t>(nodes[i].seq)].context == c)
        group_.push_back(static_cast<std::int32_t>(i));
    }
    if (!group_.empty()) decode(c, nodes, group_);
  }
}

void LlamaBackend::add_nodes(std::span<const NodeInput> nodes) {
  node_index_.clear();
  for (const NodeInput& in : nodes) {
    Sequence& s = sequences_[static_cast<std::size_t>(in.seq)];
    node_index_.push_back(static_cast<std::int32_t>(s.nodes.size()));
    const std::int32_t depth = in.parent < 0 ? 1 : s.nodes[static_cast<std::size_t>(in.parent)].depth + 1;
    s.nodes.push_back({in.parent, depth, 0});
  }
}

// Gives every new leaf an id and every new node the ids of the leaves below it.
void LlamaBackend::assign_leaves(Sequence& s, std::size_t first_new) {
  Mask taken = 0;
  for (std::size_t i = s.nodes.size(); i-- > first_new;) {
    Node& n = s.nodes[i];
    if (n.leaves == 0) {  // no new child: a leaf
      std::int32_t attach = n.parent;
      while (attach >= static_cast<std::int32_t>(first_new)) attach = s.nodes[static_cast<std::size_t>(attach)].parent;
      const std::int32_t leaf = leaf_for(s, attach, taken);
      taken |= bit(leaf);
      n.leaves = bit(leaf);
      s.leaves[static_cast<std::size_t>(leaf)].tip = static_cast<std::int32_t>(i);
    }
    if (n.parent >= static_cast<std::int32_t>(first_new))
      s.nodes[static_cast<std::size_t>(n.parent)].leaves |= n.leaves;
  }
}

// An id whose cells are exactly the prefix and the path to `attach` (-1: the prefix alone), not in `taken`.
std::int32_t LlamaBackend::leaf_for(Sequence& s, std::int32_t attach, Mask taken) {
  std::int32_t fresh = -1;
  for (std::int32_t leaf = 0; leaf < info_.max_leaves; ++leaf) {
    const Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if ((taken & bit(leaf)) != 0 || l.tip != attach) {
      if ((taken & bit(leaf)) == 0 && l.tip < 0 && fresh < 0) fresh = leaf;
      continue;
    }
    if (attach >= 0 || l.synced == s.committed) return leaf;
    if (fresh < 0) fresh = leaf;
  }
  if (fresh < 0) throw Error(ErrorCode::kInternal, "A tree has more leaves than the backend was made for.");
  std::int32_t source = s.main;
  std::int32_t end = s.committed;
  if (attach >= 0) {
    const Node& a = s.nodes[static_cast<std::size_t>(attach)];
    source = std::countr_zero(a.leaves);
    end += a.depth;
  }
  Leaf& l = s.leaves[static_cast<std::size_t>(fresh)];
  llama_memory_seq_cp(memory(s), id(s, source), id(s, fresh), l.synced, end);
  l.synced = s.committed;
  l.tip = attach;
  for (std::int32_t at = attach; at >= 0; at = s.nodes[static_cast<std::size_t>(at)].parent)
    s.nodes[static_cast<std::size_t>(at)].leaves |= bit(fresh);
  return fresh;
}

void LlamaBackend::decode(std::size_t context, std::span<const NodeInput> nodes, std::span<const std::int32_t> index) {
  Batch& b = batch_;
  const std::size_t n = index.size();
  b.token.resize(n);
  b.pos.resize(n);
  b.n_seq_id.resize(n);
  b.seq_id.resize(n);
  b.logits.resize(n);
  b.ids.clear();
  for (std::size_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(index[i]);
    const Sequence& s = sequences_[static_cast<std::size_t>(nodes[at].seq)];
    const Node& node = s.nodes[static_cast<std::size_t>(node_index_[at])];
    b.token[i] = nodes[at].token;
    b.pos[i] = s.committed + node.depth - 1;
    b.logits[i] = nodes[at].want_logits;
    b.n_seq_id[i] = std::popcount(node.leaves);
    for (Mask m = node.leaves; m != 0; m &= m - 1) b.ids.push_back(id(s, std::countr_zero(m)));
  }
  std::size_t next = 0;
  for (std::size_t i = 0; i < n; ++i) {
    b.seq_id[i] = b.ids.data() + next;
    next += static_cast<std::size_t>(b.n_seq_id[i]);
  }
  llama_context* ctx = contexts_[context].get();
  const llama_batch batch{.n_tokens = static_cast<std::int32_t>(n),
                          .token = b.token.data(),
                          .embd = nullptr,
                          .pos = b.pos.data(),
                          .n_seq_id = b.n_seq_id.data(),
                          .seq_id = b.seq_id.data(),
                          .logits = b.logits.data()};
  const std::int32_t code = llama_decode(ctx, batch);
  if (code != 0) {
    undo(nodes);
    if (code == 1)
      throw Error(ErrorCode::kNoKvSlot, "The KV cache has no room for the batch; a larger context size gives more.");
    const std::string details = take_llama_errors();
    throw Error(ErrorCode::kBackend, "The forward pass failed with code " + std::to_string(code) +
                                         (details.empty() ? "." : " (libllama: " + details + ")."));
  }
  llama_synchronize(ctx);
  std::size_t row = 0;
  for (std::size_t i = 0, done = 0; i < nodes.size(); ++i) {
    const bool mine = done < n && index[done] == static_cast<std::int32_t>(i);
    if (mine && nodes[i].want_logits) rows_[row] = llama_get_logits_ith(ctx, static_cast<std::int32_t>(done));
    done += mine ? 1 : 0;
    row += nodes[i].want_logits ? 1 : 0;
  }
}

// Takes the nodes of a failed pass back. libllama may have kept some of their cells.
void LlamaBackend::undo(std::span<const NodeInput> nodes) {
  for (const NodeInput& in : nodes) {
    const auto at = static_cast<std::size_t>(in.seq);
    Sequence& s = sequences_[at];
    if (s.nodes.size() == first_new_[at]) continue;
    for (std::int32_t leaf = 0; leaf < info_.max_leaves; ++leaf) {
      Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
      if (l.tip < static_cast<std::int32_t>(first_new_[at])) continue;
      while (l.tip >= static_cast<std::int32_t>(first_new_[at]))
        l.tip = s.nodes[static_cast<std::size_t>(l.tip)].parent;
      cut(s, leaf, s.committed + (l.tip < 0 ? 0 : s.nodes[static_cast<std::size_t>(l.tip)].depth));
    }
    s.nodes.resize(first_new_[at]);
  }
}

void LlamaBackend::cut(Sequence& s, std::int32_t leaf, std::int32_t from) {
  llama_memory_seq_rm(memory(s), id(s, leaf), from, -1);
}

std::span<const float> LlamaBackend::logits(std::int32_t row) const {
  return {rows_[static_cast<std::size_t>(row)], static_cast<std::size_t>(info_.n_vocab)};
}

void LlamaBackend::commit(std::int32_t seq, std::span<const std::int32_t> path) {
  const Stopwatch clock;
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  const auto kept = static_cast<std::int32_t>(path.size());
  for (std::int32_t leaf = 0; leaf < info_.max_leaves; ++leaf) {
    Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if (l.tip < 0) continue;
    std::int32_t keep = 0;  // leading nodes of the path that carry this id
    while (keep < kept &&
           (s.nodes[static_cast<std::size_t>(path[static_cast<std::size_t>(keep)])].leaves & bit(leaf)) != 0)
      ++keep;
    if (s.nodes[static_cast<std::size_t>(l.tip)].depth > keep) cut(s, leaf, s.committed + keep);
    l.synced = s.committed + keep;
    l.tip = -1;
  }
  if (kept > 0) {
    s.committed += kept;
    const Mask carriers = s.nodes[static_cast<std::size_t>(path.back())].leaves;
    if ((carriers & bit(s.main)) == 0) s.main = std::countr_zero(carriers);
  }
  s.nodes.clear();
  sequence_ms_ += clock.ms();
}

void LlamaBackend::truncate(std::int32_t seq, std::int32_t n_tokens) {
  commit(seq, {});
  Sequence& s = sequences_[static_cast<std::size_t>(seq)];
  for (std::int32_t leaf = 0; leaf < info_.max_leaves; ++leaf) {
    Leaf& l = s.leaves[static_cast<std::size_t>(leaf)];
    if (l.synced <= n_tokens) continue;
    cut(s, leaf, n_tokens);
    l.synced = n_tokens;
  }
  s.committed = n_tokens;
}

}  // namespace

std::unique_ptr<Backend> make_backend(const Model& model, const ContextOptions& options) {
  return std::make_unique<LlamaBackend>(model, options);
}

}  // namespace gsd
