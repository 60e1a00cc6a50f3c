// Who proposes by asking a model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "gsd/backend.h"
#include "gsd/hypotheses.h"

namespace gsd {

struct DrafterInfo {
  std::int32_t n_seq = 0;      // sequences ("slots") whose text it can hold
  std::int32_t n_ctx = 0;      // positions of each
  std::int32_t max_batch = 0;  // tokens of one pass
  std::int32_t max_nodes = 0;  // nodes that one pass can expand
  std::int32_t levels = 1;     // that roots() names candidates for; after more than one nothing is left for level()
  std::int32_t beside = 0;     // tokens that roots() evaluates for each text beside those that it lacks
  std::string_view name = "model";  // in statistics and traces; lives as long as the program
};

// A drafter keeps a memory of each slot's text and names candidates for nodes of the slot's graph. The engine calls,
// for the slots that draft in a step:
//   { catch_up }, roots, { level }, and after the verification commit for each of them.
// It decides before each pass what that pass may cost; a drafter never makes one of its own accord. All nodes are
// expanded through Hypotheses, where what several drafters and sources name becomes one candidate. A drafter looks at
// nodes that it or another one has made; a node counts as expanded where this one has expanded it.
//
// One thread owns a drafter, the one that owns the engine. A backend's error passes through every call that makes a
// pass; the slots of that pass then have lost what they speculated, and n_known() tells what is left of the text.
class Drafter {
 public:
  struct Root {
    std::int32_t slot;
    std::span<const Token> text;  // all of it; its last token is the root of `hypotheses`
    Hypotheses* hypotheses;
    int drafter = 0;  // this one's place among those that expand `hypotheses`
  };
  struct Node {
    std::int32_t slot;
    std::int32_t id;  // in the graph of `hypotheses`, not expanded; its parent is
    Hypotheses* hypotheses;
    int drafter = 0;
  };

  virtual ~Drafter() = default;

  virtual const DrafterInfo& info() const = 0;
  // Tokens of the slot's text that the memory holds.
  virtual std::int32_t n_known(std::int32_t slot) const = 0;

  // Takes in text[n_known, end) in one pass, at most info().max_batch tokens. False with nothing changed if the memory
  // has no room.
  virtual bool catch_up(std::int32_t slot, std::span<const Token> text, std::int32_t end) = 0;
  // In one pass takes in what the memory lacks of each text and expands the roots. False with nothing changed if it has
  // no room. REQUIRES: what is lacking, of all together, is at most max_batch tokens, and of each at least one.
  virtual bool roots(std::span<const Root> roots) = 0;
  // Expands the nodes in one pass, and takes those out of the list for which the memory has no branch left. False if
  // none is left or there is no room: nothing is expanded then. REQUIRES: at most max_nodes of them.
  virtual bool level(std::vector<Node>& nodes) = 0;
  // Keeps of what the slot speculated the part of the accepted path that it evaluated after the same tokens; the rest
  // is lacking from now on. `path`: nodes of hypotheses.tree(), as Hypotheses::learn takes it.
  virtual void commit(std::int32_t slot, const Hypotheses& hypotheses, std::span<const std::int32_t> path) = 0;
  // Drops what the slot speculated and all but the first n tokens of its text; n_known() tells what could be kept.
  virtual void truncate(std::int32_t slot, std::int32_t n) = 0;

  // Milliseconds spent so far in keeping memories in step (not in passes).
  virtual double sequence_ms() const { return 0; }
};

// The drafter of a language model: one pass a level. `backend` must outlive it and is used by it alone. Vocabularies
// may differ in ids at the end; `n_vocab` is the target's. `name`: see DrafterInfo.
std::unique_ptr<Drafter> make_model_drafter(Backend& backend, std::int32_t n_vocab, std::string_view name = "model");

}  // namespace gsd
