#include "context.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "../core/stopwatch.h"
#include "../util/free_cores.h"
#include "remote.h"

namespace gsd {
namespace {

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

// Of one context. A tree's cells come on top of the positions: every sequence must be able to hold one at the end of
// its context.
std::int64_t n_cells(const ContextOptions& o) {
  const std::int64_t n_seq = o.exact ? 1 : o.n_seq;
  return (o.n_shared > 0 ? o.n_shared : n_seq * o.n_ctx) + n_seq * o.max_outputs;
}

void check(const ContextOptions& o, int ids) {
  const auto require = [](bool ok, const char* sentence) {
    if (!ok) throw Error(ErrorCode::kUsage, sentence);
  };
  require(o.n_ctx >= 16 && o.n_ctx <= (1 << 24), "The context size must be from 16 to 16777216 tokens.");
  require(o.n_seq >= 1 && o.n_seq <= 256, "The number of sequences must be from 1 to 256.");
  require(o.max_leaves >= 1 && o.max_leaves <= 64, "The number of leaves must be from 1 to 64.");
  require(
      o.exact || static_cast<std::size_t>(o.n_seq) * static_cast<std::size_t>(ids) <= llama_max_parallel_sequences(),
      "Sequences times leaves must be at most 256; ask for fewer of either.");
  require(o.n_shared == 0 || (!o.exact && o.n_shared >= o.n_ctx),
          "What sequences share must hold the whole of one, and is not for exact mode.");
  require(n_cells(o) < (std::int64_t{1} << 31), "Sequences times context size must be below 2^31 tokens.");
  require(o.n_threads >= 0 && o.n_threads <= 1024, "The number of threads must be from 1 to 1024.");
  require(o.max_batch >= 1 && o.max_outputs >= 1 && o.max_outputs <= o.max_batch,
          "A batch must hold at least one token and all outputs.");
  require(!(o.exact && o.type_v == "q8_0") && !(o.exact && o.type_v == "q4_0"),
          "Exact mode cannot use a quantised V cache; use f16, bf16 or f32.");
}

ContextHandle make_context(const Model& model, const llama_context_params& params) {
  take_llama_errors();
  ContextHandle context(nullptr, {is_remote(model.impl())});
  try {
    call_remote(context.get_deleter().remote,
                [&] { context.reset(llama_init_from_model(model.impl().model.get(), params)); });
  } catch (const Error&) {
    throw;
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

}  // namespace

std::vector<ContextHandle> make_contexts(const Model& model, const ContextOptions& o, int ids, int n_rs_seq,
                                         llama_context* other, bool mtp) {
  check(o, ids);
  const int seq_per_context = o.exact ? 1 : o.n_seq;
  llama_context_params p = llama_context_default_params();
  p.n_seq_max = static_cast<std::uint32_t>(seq_per_context * ids);
  p.n_ctx = static_cast<std::uint32_t>(n_cells(o));
  p.n_batch = p.n_ubatch = static_cast<std::uint32_t>(o.max_batch);
  p.n_outputs_max = static_cast<std::uint32_t>(std::max(o.max_outputs, seq_per_context * ids));
  p.n_rs_seq = static_cast<std::uint32_t>(n_rs_seq);
  p.ctx_other = other;
  if (mtp) p.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
  p.n_threads = p.n_threads_batch =
      o.n_threads > 0 ? o.n_threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  p.kv_unified = true;
  p.type_k = cache_type(o.type_k, "K");
  p.type_v = cache_type(o.type_v, "V");
  p.no_perf = true;
  // The automatic choice looks at devices, and takes attention that another device than the layer's computes, as the
  // narrow backend does, for a reason against it.
  const bool cpu = model.impl().devices.empty();
  if (cpu) p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  const auto declined = o.exact && cpu ? narrow_attentions_declined(o.max_batch) : std::nullopt;
  if (o.exact && !declined) p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  std::vector<ContextHandle> contexts;
  contexts.push_back(make_context(model, p));
  if (declined && narrow_attentions_declined(o.max_batch) != declined) {
    contexts.clear();  // ggml's flash attention rounds differently at different widths
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    contexts.push_back(make_context(model, p));
  }
  while (o.exact && contexts.size() < static_cast<std::size_t>(o.n_seq)) contexts.push_back(make_context(model, p));
  return contexts;
}

void cancel_by(std::span<const ContextHandle> contexts, const std::function<bool()>& cancelled) {
  if (!cancelled) return;
  const auto ask = [](void* user) { return (*static_cast<const std::function<bool()>*>(user))(); };
  for (const ContextHandle& c : contexts)
    llama_set_abort_callback(c.get(), ask, const_cast<std::function<bool()>*>(&cancelled));
}

BackendInfo backend_info(const Model& model, const ContextOptions& o, const llama_context* context) {
  // libllama makes the batch no larger than the context.
  const auto max_batch = std::min(o.max_batch, static_cast<int>(llama_n_batch(context)));
  return {.n_vocab = model.n_vocab(),
          .n_ctx = o.n_ctx,
          .n_seq = o.n_seq,
          .max_batch = max_batch,
          .max_outputs = std::min(o.max_outputs, max_batch),
          .max_leaves = o.max_leaves};
}

void check_pass(std::span<const NodeInput> nodes, const BackendInfo& info) {
  const auto outputs = std::count_if(nodes.begin(), nodes.end(), [](const NodeInput& n) { return n.want_logits; });
  if (nodes.empty() || nodes.size() > static_cast<std::size_t>(info.max_batch) || outputs > info.max_outputs) {
    throw Error(ErrorCode::kUsage, "A pass takes 1 to " + std::to_string(info.max_batch) + " tokens and at most " +
                                       std::to_string(info.max_outputs) + " rows of logits.");
  }
}

const float* logits_of(llama_context* context, std::int32_t token) {
  const float* row = llama_get_logits_ith(context, token);
  if (row == nullptr) throw Error(ErrorCode::kBackend, "libllama gave no logits for a token that they were asked for.");
  return row;
}

void remove_sequence(llama_memory_t memory, llama_seq_id id) {
  if (!llama_memory_seq_rm(memory, id, -1, -1))
    throw Error(ErrorCode::kBackend, "libllama does not remove a sequence from its memory.");
}

std::vector<std::uint8_t> copy_state(llama_context* context, llama_seq_id id, llama_state_seq_flags flags,
                                     std::size_t most) {
  const std::size_t size = llama_state_seq_get_size_ext(context, id, flags);
  std::vector<std::uint8_t> out(size <= most ? size : 0);
  bool copied = false;
  call_remote(is_remote(llama_get_model(context)),
              [&] { copied = llama_state_seq_get_data_ext(context, out.data(), out.size(), id, flags) == out.size(); });
  if (!copied) out.clear();
  return out;
}

bool put_state(llama_context* context, llama_seq_id id, llama_state_seq_flags flags,
               std::span<const std::uint8_t> state) {
  bool taken = false;
  call_remote(is_remote(llama_get_model(context)), [&] {
    taken = llama_state_seq_set_data_ext(context, state.data(), state.size(), id, flags) == state.size();
  });
  return taken;
}

void add_state(SavedPrefix& out, std::int32_t n, std::span<const std::uint8_t> state) {
  const std::uint64_t size = state.size();
  const auto* const raw = reinterpret_cast<const std::uint8_t*>(&size);
  out.bytes.insert(out.bytes.end(), raw, raw + sizeof size);
  out.bytes.insert(out.bytes.end(), state.begin(), state.end());
  out.ends.push_back(n);
  out.n = n;
}

std::span<const std::uint8_t> state_at(const SavedPrefix& saved, std::int32_t n) {
  std::span<const std::uint8_t> left = saved.bytes;
  for (const std::int32_t end : saved.ends) {
    std::uint64_t size = 0;
    if (left.size() < sizeof size) return {};
    std::memcpy(&size, left.data(), sizeof size);
    left = left.subspan(sizeof size);
    if (size > left.size()) return {};
    if (end == n) return left.first(size);
    left = left.subspan(size);
  }
  return {};
}

void Batch::clear() {
  token_.clear();
  pos_.clear();
  n_seq_id_.clear();
  ids_.clear();
  logits_.clear();
  states_.clear();
}

void Batch::add(Token token, llama_pos pos, bool logits) {
  token_.push_back(token);
  pos_.push_back(pos);
  n_seq_id_.push_back(0);
  logits_.push_back(logits ? 1 : 0);
}

void Batch::add_id(llama_seq_id id) {
  ids_.push_back(id);
  ++n_seq_id_.back();
}

void Batch::add_state(std::span<const float> row, StateInput input) {
  states_.push_back({row.data(), 1, row.size()});
  input_ = input;
}

std::int32_t Batch::process(llama_context* context, llama_process_type type) {
  if (!states_.empty()) return process_states(context, type);
  seq_id_.resize(size());
  std::size_t next = 0;
  for (std::size_t i = 0; i < size(); ++i) {
    seq_id_[i] = ids_.data() + next;
    next += static_cast<std::size_t>(n_seq_id_[i]);
  }
  return llama_decode(context, {.n_tokens = static_cast<std::int32_t>(size()),
                                .token = token_.data(),
                                .embd = nullptr,
                                .pos = pos_.data(),
                                .n_seq_id = n_seq_id_.data(),
                                .seq_id = seq_id_.data(),
                                .logits = logits_.data()});
}

std::int32_t Batch::process_states(llama_context* context, llama_process_type type) {
  if (!extended_) extended_.reset(llama_batch_ext_init(context));
  llama_batch_ext* batch = extended_.get();
  llama_batch_ext_clear(batch);
  for (std::size_t i = 0, next = 0; i < size(); ++i) {
    const bool alone = input_ == StateInput::kAlone;
    const std::int32_t at = alone ? llama_batch_ext_add_embd(batch, ids_[next], states_[i])
                                  : llama_batch_ext_add_token(batch, ids_[next], token_[i]);
    bool taken = at >= 0;
    for (std::int32_t k = 1; k < n_seq_id_[i]; ++k)
      taken = taken && llama_batch_ext_add_seq(batch, at, ids_[next + static_cast<std::size_t>(k)]);
    if (input_ == StateInput::kState) taken = taken && llama_batch_ext_set_embd_state(batch, at, states_[i]);
    if (input_ == StateInput::kEmbedding) taken = taken && llama_batch_ext_set_embd_token(batch, at, states_[i]);
    taken = taken && llama_batch_ext_set_pos(batch, at, &pos_[i]) &&
            llama_batch_ext_set_output_logits(batch, at, logits_[i] != 0);
    if (!taken) throw Error(ErrorCode::kBackend, "libllama does not take a token with an inner state.");
    next += static_cast<std::size_t>(n_seq_id_[i]);
  }
  return llama_process(context, type, batch);
}

void Batch::run(llama_context* context, llama_process_type type) {
  take_llama_errors();
  if (most_threads_ == 0) {
    most_threads_ = llama_n_threads(context);
    remote_ = is_remote(llama_get_model(context));
  }
  thread_local FreeCores cores;
  const int threads = team_.choose(static_cast<int>(size()), most_threads_, most_threads_ > 1 ? cores.get() : -1);
  llama_set_n_threads(context, threads, threads);
  const Stopwatch clock;
  // On the heap: a pass on another machine that was given up may still write it.
  const auto result = std::make_shared<std::int32_t>(0);
  call_remote(remote_, [this, context, type, result] {
    *result = process(context, type);
    if (*result == 0) llama_synchronize(context);
  });
  const std::int32_t code = *result;
  if (code == 1)
    throw Error(ErrorCode::kNoKvSlot, "The KV cache has no room for the batch; a larger context size gives more.");
  if (code == 2) throw Error(ErrorCode::kBackend, "The forward pass was cancelled.");
  if (code != 0) {
    const std::string details = take_llama_errors();
    throw Error(ErrorCode::kBackend, "The forward pass failed with code " + std::to_string(code) +
                                         (details.empty() ? "." : " (libllama: " + details + ")."));
  }
  team_.ran(clock.ms());
}

}  // namespace gsd
