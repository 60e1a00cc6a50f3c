// Decides what a step spends: whether to draft another level, and how many tree nodes to verify.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cost_model.h"
#include "gsd/hypotheses.h"

namespace gsd {

// The rule of all decisions: one more unit of work is done where its expected accepted tokens are worth its time,
// gain > rate * cost, with `rate` the tokens per millisecond reached lately, and a little more than plain decoding's. At the best rate this maximises
// tokens / time over the run (Dinkelbach's argument for ratios); it is never below the rate of plain decoding.
//
// One planner serves all sessions of an engine: they share the forward passes and so the width. Not thread safe.
class Planner {
 public:
  struct Item {            // a unit that may be bought
    std::int32_t session;  // index in the step's list
    std::int32_t id;       // node or rank within the session
    float gain;            // expected accepted tokens
    // The order of all lists of items: best gain first, equal gains in a fixed order.
    static bool better(const Item& a, const Item& b) {
      return a.gain != b.gain ? a.gain > b.gain : std::pair(a.session, a.id) < std::pair(b.session, b.id);
    }
  };

  // What one kind of step does not show, and so must be tried now and then while another kind goes on: nothing may be
  // absorbing.
  enum class Probe : std::uint8_t {
    kDraft,  // what a drafter would have said, while it is not asked
    kWide,   // what a pass over a few more tokens costs, while none is verified
    kPlain,  // what a plain pass costs, while every step speculates
  };
  static constexpr std::size_t kProbes = 2 + kMaxDrafters;  // of kDraft one for each drafter

  // What the planner remembers of the steps before.
  struct Recent {
    struct Watch {
      int steps = 0;     // since it was last seen
      int interval = 8;  // steps until it is tried
    };
    double tokens = 0;  // fading sums over the last steps
    double ms = 0;
    int roots = 1;        // of the last step
    double plain_ms = 0;  // what a plain pass of so many was thought to cost then; 0 before the first
    std::array<Watch, kProbes> watch;  // of the drafters, then the other kinds
    double savings_ms = 0;             // what probes may cost: a share of the time that passed, less what they did cost
    int urgent = 0;                    // further steps in which probes may run ahead of it
  };

  // `drafts`: what passes of each drafter cost, at least one. Both must outlive it. `feeds_again`: see BackendInfo.
  Planner(CostModel& target, std::span<CostModel> drafts, bool feeds_again = false);

  const Recent& recent() const { return recent_; }
  void set_recent(const Recent& recent) { recent_ = recent; }

  CostModel& target_cost() { return target_; }
  CostModel& draft_cost(int drafter = 0) { return drafts_[static_cast<std::size_t>(drafter)]; }
  std::span<CostModel> draft_costs() { return drafts_; }

  // What the next draft level may be worth beyond its own candidates: a chain from the best of them.
  struct Ahead {
    float gain;    // expected acceptance of each further level given the one before
    int levels;    // further levels that may be drafted
    int free = 0;  // the first of them that the same pass gives
  };
  struct Level {
    std::size_t count = 0;  // items that it should evaluate
    double value = 0;       // what it is worth beyond its cost, with what lies ahead; in tokens
  };
  // How many of `items` (sorted by gain, best first) the next draft level should evaluate. `roots`: sessions in the
  // step; `width`: tokens that the verification would score without them; `extra`: tokens of the drafter's pass beside
  // one per item. Looks ahead, because cost is no convex function of width: on many machines the second token costs
  // most.
  Level choose_level(std::span<const Item> items, int roots, int width, int extra, Ahead ahead, int drafter = 0) const;

  // How many of `items` (sorted by gain, best first) the verification should score beside `width` tokens that it
  // scores anyway, the `roots` among them.
  std::size_t choose_width(std::span<const Item> items, int roots, int width) const;

  // Whether this step, which would not show it by itself, should. True now and then, so that all probes together cost
  // about half a hundredth of the time; sooner where costs are unconfirmed, and at once after a surprise. `roots`: as
  // above.
  bool probe(Probe kind, int roots, int drafter = 0);
  // Tokens that a wide probe verifies beside the roots.
  static constexpr std::size_t kWideProbe = 3;

  // A drafter's acceptance is not what it was thought to be: what is probed is probed again at once.
  void surprise();
  // A step ended. `width`: tokens that the verification scored; `drafted`: who evaluated a draft level; `wanted`: whom
  // the planner, not a probe, asked for it.
  void end_step(int emitted, double modelled_ms, int roots, int width, DrafterSet drafted, DrafterSet wanted);

  double rate(int roots) const;  // tokens per millisecond

 private:
  double price_of_time(int roots) const;
  double again_ms(double tokens, int width) const;
  double value_ahead(double probability, int width, int roots, Ahead ahead, double price, const CostModel& draft) const;
  void notice_surprises();

  CostModel& target_;
  std::span<CostModel> drafts_;
  bool feeds_again_;
  Recent recent_;
  std::array<bool, kProbes> probing_{};  // in the step in progress
  std::int64_t surprises_ = 0;           // of all cost models, as far as noticed
  std::int64_t revisions_ = 0;
};

}  // namespace gsd
