// What the backends over libllama share: contexts, batches and the pass itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "../core/team.h"
#include "gsd/backend.h"
#include "handles.h"

namespace gsd {

using ContextHandle = std::unique_ptr<llama_context, ContextDeleter>;

// Contexts for `options.n_seq` sequences of `ids` sequence ids each: one for all, or in exact mode one for each.
// `n_rs_seq`: snapshots of recurrent states per id that are asked for.
// Throws Error(kUsage) for sizes out of range, Error(kOutOfMemory) if one cannot be made.
// `other`, unless null: the target's, for a head; `mtp`: for the model's MTP layers.
std::vector<ContextHandle> make_contexts(const Model& model, const ContextOptions& options, int ids, int n_rs_seq,
                                         llama_context* other = nullptr, bool mtp = false);

// Lets `cancelled` end passes of the contexts; it must outlive them.
void cancel_by(std::span<const ContextHandle> contexts, const std::function<bool()>& cancelled);

// Sizes as they apply to every kind of model.
BackendInfo backend_info(const Model& model, const ContextOptions& options, const llama_context* context);

// Throws Error(kUsage) unless a pass may have these nodes.
void check_pass(std::span<const NodeInput> nodes, const BackendInfo& info);

// The logits of a token of the context's last pass. Throws Error(kBackend) if libllama has none.
const float* logits_of(llama_context* context, std::int32_t token);

// Removes a sequence from a memory. Throws Error(kBackend) if libllama will not.
void remove_sequence(llama_memory_t memory, llama_seq_id id);

// The state of a sequence, as libllama writes it, where it takes at most `most` bytes; empty if not.
std::vector<std::uint8_t> copy_state(llama_context* context, llama_seq_id id, llama_state_seq_flags flags,
                                     std::size_t most = SIZE_MAX);
// Puts it back; false if libllama will not.
bool put_state(llama_context* context, llama_seq_id id, llama_state_seq_flags flags,
               std::span<const std::uint8_t> state);

// States of several places of one text, one after the other, the last one of all of it.
void add_state(SavedPrefix& out, std::int32_t n, std::span<const std::uint8_t> state);
// The state of place `n`; empty if there is none.
std::span<const std::uint8_t> state_at(const SavedPrefix& saved, std::int32_t n);

// How a row of floats is fed to a pass: as the state that its token goes on from, as an embedding beside its token's,
// or in place of a token.
enum class StateInput : std::uint8_t { kState, kEmbedding, kAlone };

// The arrays of a llama_batch, reused from pass to pass, and how many threads compute it. The contexts it is run on are
// made with the same number of them.
class Batch {
 public:
  void clear();
  // `add_id` adds to the token added last, which needs at least one.
  void add(Token token, llama_pos pos, bool logits);
  void add_id(llama_seq_id id);
  // Gives the token added last a row of floats; all of a batch have one of the same length and kind, or none. The row
  // must stay where it is until the pass.
  void add_state(std::span<const float> row, StateInput input);
  std::size_t size() const { return token_.size(); }
  // Runs the pass and waits for it. Throws Error(kNoKvSlot) with nothing changed, Error(kBackend) with the memory of
  // the batch's sequences in an unknown state.
  void decode(llama_context* context) { run(context, LLAMA_PROCESS_TYPE_DECODE); }
  // The same through a model's encoder, which leaves the memory alone.
  void encode(llama_context* context) { run(context, LLAMA_PROCESS_TYPE_ENCODE); }

 private:
  struct Freer {
    void operator()(llama_batch_ext* b) const { llama_batch_ext_free(b); }
  };
  void run(llama_context* context, llama_process_type type);
  std::int32_t process(llama_context* context, llama_process_type type);
  std::int32_t process_states(llama_context* context, llama_process_type type);

  std::vector<llama_token> token_;
  std::vector<llama_pos> pos_;
  std::vector<std::int32_t> n_seq_id_;
  std::vector<llama_seq_id> ids_;  // flat
  std::vector<llama_seq_id*> seq_id_;
  std::vector<std::int8_t> logits_;
  std::vector<llama_embd> states_;  // of each token, or empty
  StateInput input_ = StateInput::kState;
  std::unique_ptr<llama_batch_ext, Freer> extended_;  // made for the context when states are first fed
  Team team_;
  int most_threads_ = 0;  // once a pass has run
  bool remote_ = false;   // as most_threads_
};

class TargetStates;
class HeadStates;
using StatesOfHeads = std::vector<std::shared_ptr<TargetStates>>;  // of a target, for each of its heads

// A backend for models whose state of the text so far is one value that each token changes (recurrent layers).
// `states` are told of all passes. `context`, unless null, becomes the first of its contexts.
std::unique_ptr<Backend> make_recurrent_backend(const Model& model, const ContextOptions& options, StatesOfHeads states,
                                                llama_context** context);

}  // namespace gsd
