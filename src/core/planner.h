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
// gain > rate * cost, with `rate` the tokens per millisecond reached lately. At the best rate this maximises
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
    kDraft,  // what the draft would have said, while nothing is drafted
    kWide,   // what a pass over a few more tokens costs, while none is verified
    kPlain,  // what a plain pass costs, while every step speculates
  };
  static constexpr std::size_t kProbes = 3;

  // What the planner remembers of the steps before.
  struct Recent {
    struct Watch {
      int steps = 0;     // since it was last seen
      int interval = 8;  // steps until it is tried
    };
    double tokens = 0;  // fading sums over the last steps
    double ms = 0;
    std::array<Watch, kProbes> watch;
    double savings_ms = 0;  // what probes may cost: a share of the time that passed, less what they did cost
    int urgent = 0;         // further steps in which probes may run ahead of it
  };

  // `feeds_again`: see BackendInfo.
  Planner(CostModel& target, CostModel& draft, bool feeds_again = false);

  const Recent& recent() const { return recent_; }
  void set_recent(const Recent& recent) { recent_ = recent; }

  CostModel& target_cost() { return target_; }
  CostModel& draft_cost() { return draft_; }

  // What the next draft level may be worth beyond its own candidates: a chain from the best of them.
  struct Ahead {
    float gain;  // expected acceptance of each further level given the one before
    int levels;  // further levels that may be drafted
  };
  // How many of `items` (sorted by gain, best first) the next draft level should evaluate. `roots`: sessions in the
  // step; `width`: tokens that the verification would score without them; `extra`: tokens of the draft pass beside one
  // per item. Looks ahead, because cost is no convex function of width: on many machines the second token costs most.
  std::size_t choose_level(std::span<const Item> items, int roots, int width, int extra, Ahead ahead) const;

  // How many of `items` (sorted by gain, best first) the verification should score beside `width` tokens that it
  // scores anyway, the `roots` among them.
  std::size_t choose_width(std::span<const Item> items, int roots, int width) const;

  // Whether this step, which would not show it by itself, should. True now and then, so that all probes together cost
  // about half a hundredth of the time; sooner where costs are unconfirmed, and at once after a surprise. `roots`: as
  // above.
  bool probe(Probe kind, int roots);
  // Tokens that a wide probe verifies beside the roots.
  static constexpr std::size_t kWideProbe = 3;

  // The draft's acceptance is not what it was thought to be: what is probed is probed again at once.
  void surprise();
  // A step ended. `width`: tokens that the verification scored; `drafted`: a draft level was evaluated; `wanted`: the
  // planner, not a probe, asked for it.
  void end_step(int emitted, double modelled_ms, int roots, int width, bool drafted, bool wanted);

  double rate(int roots) const;  // tokens per millisecond

 private:
  double again_ms(double tokens, int width) const;
  double value_ahead(double probability, int width, int roots, Ahead ahead, double price) const;
  void notice_surprises();

  CostModel& target_;
  CostModel& draft_;
  bool feeds_again_;
  Recent recent_;
  std::array<bool, kProbes> probing_{};  // in the step in progress
  std::int64_t surprises_ = 0;           // of both cost models, as far as noticed
  std::int64_t revisions_ = 0;
};

}  // namespace gsd
