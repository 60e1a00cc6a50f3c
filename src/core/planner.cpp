#include "planner.h"

#include <algorithm>

namespace gsd {
namespace {
constexpr double kFade = 0.97;         // about the last 30 steps count
constexpr double kRevised = 0.25;      // what is left of that when costs turn out to be others
constexpr double kDoubt = 1.07;        // times as fast as plain decoding must be what is done in its place
constexpr double kProbeShare = 0.005;  // of the time that probes may cost
constexpr double kUrgentSteps = 3;     // plain steps that they may cost in advance after a surprise
constexpr int kUrgent = 3;             // steps that a surprise is urgent for
constexpr int kLastDraftProbe = 64;    // and at most, after probes without a result
constexpr int kLastWidthProbe = 512;   // likewise
constexpr int kLeastProbe = 4;         // steps between plain ones that are affordable
constexpr int kConfirmedProbe = 64;    // where what it would cost was measured in this run

std::size_t watch_of(Planner::Probe kind, int drafter) {
  return kind == Planner::Probe::kDraft ? static_cast<std::size_t>(drafter)
                                        : kMaxDrafters + static_cast<std::size_t>(kind) - 1;
}

// Tokens that are computed again, on average, because a chain has a `length`th token, which is accepted with
// `probability` and the token before it with `before`: unless all of the chain is accepted, what is of it is lost.
double lost(int length, double before, double probability) { return length * std::max(0.0, before - probability); }
}  // namespace

Planner::Planner(CostModel& target, std::span<CostModel> drafts, bool feeds_again)
    : target_(target), drafts_(drafts), feeds_again_(feeds_again) {}

double Planner::rate(int roots) const {
  const double plain = roots / std::max(1e-9, target_.ms(roots));
  return recent_.ms > 0 ? std::max(plain, recent_.tokens / recent_.ms) : plain;
}

// What looks best among estimates that err is on average worse than it looks: what is little better than plain decoding
// is left.
double Planner::price_of_time(int roots) const {
  return std::max(rate(roots), kDoubt * roots / std::max(1e-9, target_.ms(roots)));
}

// What computing `tokens` again costs, with the next pass, which is taken to be as wide as this one.
double Planner::again_ms(double tokens, int width) const {
  return feeds_again_ ? tokens * (target_.ms(2 * width) - target_.ms(width)) / width : 0;
}

Planner::Level Planner::choose_level(std::span<const Item> items, int roots, int width, int extra, Ahead ahead,
                                     int drafter) const {
  const CostModel& draft = drafts_[static_cast<std::size_t>(drafter)];
  const double price = price_of_time(roots);
  const int length = (width - roots) / roots + 1;  // of the chains with this level
  double gain = 0;
  double again = 0;
  Level best;
  for (std::size_t n = 1; n <= items.size(); ++n) {
    const double probability = items[n - 1].gain;
    gain += probability;
    // The level before was as likely to follow on its own as the next one is thought to be.
    const double before = width == roots ? 1 : ahead.gain > 0 ? std::min(1.0, probability / ahead.gain) : probability;
    again += lost(length, before, probability);
    const int more = static_cast<int>(n);
    const double cost =
        draft.ms(more + extra) + target_.ms(width + more) - target_.ms(width) + again_ms(again, width + more);
    const double value = gain - price * cost + value_ahead(items[0].gain, width + more, roots, ahead, price, draft);
    if (value > best.value) best = {n, value};
  }
  return best;
}

// The best that a chain of one to `levels` further levels can add; 0 if none pays.
double Planner::value_ahead(double probability, int width, int roots, Ahead ahead, double price,
                            const CostModel& draft) const {
  double value = 0;
  double best = 0;
  for (int level = 1; level <= ahead.levels && width + level <= target_.max_width(); ++level) {
    const double before = probability;
    probability *= ahead.gain;
    const double again = lost((width - roots) / roots + level, before, probability);
    const double pass = level <= ahead.free ? 0 : draft.ms(1);
    value += probability - price * (pass + target_.ms(width + level) - target_.ms(width + level - 1) +
                                    again_ms(again, width + level));
    best = std::max(best, value);
  }
  return best;
}

std::size_t Planner::choose_width(std::span<const Item> items, int roots, int width) const {
  const double price = price_of_time(roots);
  const double base = target_.ms(width);
  double gain = 0;
  double again = 0;
  double best = 0;
  std::size_t count = 0;
  for (std::size_t n = 1; n <= items.size(); ++n) {
    const Item& item = items[n - 1];
    gain += item.gain;
    if (feeds_again_) {  // chains: an item's id is its place in one
      const auto is_before = [&](const Item& i) { return i.session == item.session && i.id == item.id - 1; };
      const auto before = std::find_if(items.begin(), items.end(), is_before);
      again += lost(item.id + 1, before == items.end() ? 1 : before->gain, item.gain);
    }
    const int wide = width + static_cast<int>(n);
    const double value = gain - price * (target_.ms(wide) - base + again_ms(again, wide));
    if (value > best) {
      best = value;
      count = n;
    }
  }
  return count;
}

bool Planner::probe(Probe kind, int roots, int drafter) {
  const std::size_t k = watch_of(kind, drafter);
  const Recent::Watch& watch = recent_.watch[k];
  int interval = recent_.urgent > 0 ? 0 : watch.interval;
  if (kind != Probe::kDraft) {
    if (target_.frozen()) return false;  // nothing to learn
    const bool plain = kind == Probe::kPlain;
    const bool confirmed = target_.confirmed(plain ? roots : roots + 1, plain ? roots : roots + 2 * int{kWideProbe});
    if (confirmed) interval = std::max(interval, kConfirmedProbe);
    // A plain step costs what speculation gains. Where that is little it is affordable often, and it must be: costs
    // that were measured while the machine was slower or faster may make plain decoding look worse than it is.
    const double advantage = rate(roots) * target_.ms(roots) / roots - 1;
    if (plain) interval = std::min(interval, std::max(kLeastProbe, static_cast<int>(advantage / kProbeShare)));
  }
  const double ahead = recent_.urgent > 0 ? kUrgentSteps * target_.ms(roots) : 0;
  probing_[k] = watch.steps >= interval && recent_.savings_ms + ahead >= 0;
  return probing_[k];
}

void Planner::end_step(int emitted, double modelled_ms, int roots, int width, DrafterSet drafted, DrafterSet wanted) {
  const double plain_ms = target_.ms(roots);
  const bool probed = std::find(probing_.begin(), probing_.end(), true) != probing_.end();
  const double price = probed ? modelled_ms - emitted / rate(roots) : 0;
  recent_.savings_ms = std::min(recent_.savings_ms + kProbeShare * modelled_ms - price, plain_ms);
  recent_.tokens = kFade * recent_.tokens + emitted;
  recent_.ms = kFade * recent_.ms + modelled_ms;
  const auto end = [&](std::size_t k, bool seen, int last) {
    Recent::Watch& watch = recent_.watch[k];
    ++watch.steps;
    if (!seen) return;
    watch.steps = 0;
    if (probing_[k]) watch.interval = price < 0 ? 0 : std::clamp(watch.interval * 2, 1, last);
  };
  for (int d = 0; d < kMaxDrafters; ++d) end(watch_of(Probe::kDraft, d), contains(drafted, d), kLastDraftProbe);
  end(watch_of(Probe::kWide, 0), width > roots, kLastWidthProbe);
  end(watch_of(Probe::kPlain, 0), width == roots, kLastWidthProbe);
  recent_.roots = roots;
  notice_surprises();
  for (int d = 0; d < kMaxDrafters; ++d)
    if (contains(drafted, d) && contains(wanted, d))
      recent_.watch[watch_of(Probe::kDraft, d)].interval = Recent::Watch().interval;
  probing_ = {};
}

void Planner::surprise() {
  recent_.urgent = kUrgent;
  for (Recent::Watch& watch : recent_.watch) watch.interval = 0;
}

// A measurement far from what was believed is repeated at once, and so is what else was believed. What was reached at
// the old costs counts less, and as a ratio to plain decoding: where speculation paid, it is thought to go on to.
void Planner::notice_surprises() {
  recent_.urgent = std::max(0, recent_.urgent - 1);
  std::int64_t surprises = target_.surprises();
  std::int64_t revisions = target_.revisions();
  for (const CostModel& draft : drafts_) {
    surprises += draft.surprises();
    revisions += draft.revisions();
  }
  const double plain_ms = target_.ms(recent_.roots);
  if (revisions != revisions_ && recent_.plain_ms > 0) {
    recent_.ms *= kRevised * plain_ms / recent_.plain_ms;
    recent_.tokens *= kRevised;
  }
  recent_.plain_ms = plain_ms;
  if (surprises != surprises_ || revisions != revisions_) surprise();
  surprises_ = surprises;
  revisions_ = revisions;
}

}  // namespace gsd
