// Every small token graph, not a sample of them: what a draft can name of three tokens, every way in which the target
// can agree with it, every place where a caller can stop it. Whatever comes, the text is the target's own.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../src/core/engine_state.h"
#include "gsd/engine.h"
#include "gsd/error.h"
#include "gsd/scripted_backend.h"

namespace gsd {
namespace {

using Text = std::vector<Token>;

constexpr int kNodes = 5;  // of the graph, the root among them
constexpr Token kUndrafted = 3;
constexpr int kVocab = 4;

// What a row of the draft names, best first. Of the root the first four are enough: tokens may be renamed.
const std::vector<Text> kRows{{}, {0}, {0, 1}, {0, 1, 2}, {1}, {2}, {0, 2}, {1, 2}};
constexpr int kRootRows = 4;

// Counts through all combinations of choices, where a choice may depend on those before.
class Odometer {
 public:
  int choose(int bound) {
    if (at_ == digits_.size()) digits_.push_back({0, bound});
    return digits_[at_++].value;
  }
  // To the next combination; false after the last.
  bool advance() {
    at_ = 0;
    while (!digits_.empty() && ++digits_.back().value == digits_.back().bound) digits_.pop_back();
    return !digits_.empty();
  }

 private:
  struct Digit {
    int value;
    int bound;
  };
  std::vector<Digit> digits_;
  std::size_t at_ = 0;
};

struct Setting {
  Mode mode = Mode::kGraph;
  int merge_length = 0;
  Token root = kUndrafted;
  Token eog = -1;
  std::int64_t max_tokens = -1;
  int width = 64;
  bool exact = false;
};

// An engine whose draft and target say in every run what they are told to.
class Workbench {
 public:
  explicit Workbench(const Setting& setting)
      : setting_(setting),
        info_{.n_vocab = kVocab, .n_ctx = 24, .n_seq = 1, .max_batch = 64, .max_outputs = 64, .max_leaves = 64},
        target_(
            info_, [this](auto context, auto logits) { target_says(context, logits); }, 32, setting.eog),
        draft_(
            info_, [this](auto context, auto logits) { draft_says(context, logits); }, 32, setting.eog),
        engine_(target_, &draft_, {.exact = setting.exact}),
        prompt_{1, setting.root} {}

  // Calls `next_graph` for each graph.
  template <typename NextGraph>
  void for_each_graph(NextGraph next_graph) {
    do {
      row_of_.fill(-1);
      open();
      want_ = {kUndrafted};
      discovering_ = true;
      step();
      discovering_ = false;
      next_graph();
      session_.reset();
      Learned fresh;
      engine_.state().exchange(fresh);  // what one graph taught shall not change the next
    } while (odometer_.advance() && !::testing::Test::HasFatalFailure());
  }

  // Root-to-node paths of the tree of the first run on this graph, without the root.
  const std::vector<Text>& paths() const { return paths_; }

  // Lets the target go `path`, then say something that nobody has drafted, then go on. `stop`: the index of the emitted
  // token that the caller stops after, or -1.
  void run(const Text& path, int stop) {
    want_ = path;
    want_.push_back(kUndrafted);
    want_.insert(want_.end(), {0, 1, 0});
    stop_ = stop;
    engine_.set_prompt(*session_, prompt_);
    Text expected = want_;
    FinishReason finish = FinishReason::kNone;
    cut(expected, finish);
    step();
    if (stop < 0) {
      ++n_unstopped;
      n_whole += session_->last().path.size() >= path.size() ? 1 : 0;
    }
    while (!session_->finished() && generated().size() < expected.size()) {
      const std::size_t before = generated().size();
      step();
      ASSERT_GT(generated().size(), before);
    }
    Text text = generated();
    if (!session_->finished()) text.resize(expected.size());  // the last step may have gone on
    ASSERT_EQ(text, expected);
    ASSERT_EQ(session_->finish(), finish);
    ++n_runs;
  }

  int n_runs = 0;
  int n_unstopped = 0;
  int n_whole = 0;  // unstopped runs whose first step accepted the whole path
  int n_merges = 0;

 private:
  void open() {
    SessionOptions o;
    o.speculation.mode = setting_.mode;
    o.speculation.merge_length = setting_.merge_length;
    o.speculation.top_k = 3;
    o.speculation.depth = kNodes;
    o.speculation.path_threshold = 0;
    o.speculation.sibling_threshold = 0.001F;
    o.speculation.max_nodes = kNodes;
    o.speculation.max_width = setting_.width;
    o.speculation.history = false;
    o.max_tokens = setting_.max_tokens;
    o.on_token = [this](Token) { return stop_ < 0 || ++emitted_ <= stop_; };
    o.on_step = [this](const StepView& v) {
      if (discovering_) discover(v);
      if (!setting_.exact) check_walk(v);
    };
    session_ = engine_.open(std::move(o));
    stop_ = -1;
    engine_.set_prompt(*session_, prompt_);
  }

  void step() {
    while (engine_.prefill(*session_) > 0) {
    }
    emitted_ = static_cast<int>(generated().size());
    Session* list[] = {session_.get()};
    engine_.step(list);
    const auto all = session_->tokens();
    for (const ScriptedBackend* b : {&target_, &draft_}) {
      const auto held = b->committed(0);
      ASSERT_LE(held.size(), all.size());
      ASSERT_TRUE(std::equal(held.begin(), held.end(), all.begin())) << "the memory is not the text";
      ASSERT_EQ(b->n_speculative(0), 0);
    }
    if (!session_->finished()) {
      ASSERT_EQ(target_.committed(0).size(), all.size() - 1);
    }
  }

  void discover(const StepView& v) {
    const TokenGraph& graph = v.hypotheses.graph();
    const TokenTree& tree = v.hypotheses.tree();
    ASSERT_NO_THROW(graph.check_integrity());
    ASSERT_NO_THROW(tree.check_integrity());
    ASSERT_LE(graph.size(), kNodes);
    ASSERT_LE(tree.size(), setting_.width);
    n_merges += graph.n_merges();
    paths_.assign(static_cast<std::size_t>(tree.size()), {});
    for (std::size_t i = 1; i < paths_.size(); ++i) {
      paths_[i] = paths_[static_cast<std::size_t>(tree.parent[i])];
      paths_[i].push_back(tree.token[i]);
    }
  }

  // What is accepted is what the tree holds of the text, no more and no less.
  void check_walk(const StepView& v) const {
    const TokenTree& tree = v.hypotheses.tree();
    std::size_t n = 0;
    for (std::int32_t at = 0; n + 1 < v.acceptance.token.size() || v.acceptance.finish == FinishReason::kNone; ++n) {
      at = n < v.acceptance.token.size() ? tree.find_child(at, v.acceptance.token[n]) : -1;
      if (at < 0) break;
      ASSERT_LT(n, v.acceptance.path.size());
      ASSERT_EQ(v.acceptance.path[n], at);
    }
    ASSERT_EQ(v.acceptance.path.size(), n);
  }

  Text generated() const { return {session_->generated().begin(), session_->generated().end()}; }

  // What is left of the text where the first reason to end comes.
  void cut(Text& text, FinishReason& finish) const {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == setting_.eog) {
        finish = FinishReason::kEndOfText;
      } else if (static_cast<int>(i) == stop_) {
        finish = FinishReason::kStopped;
      } else if (static_cast<std::int64_t>(i) + 1 == setting_.max_tokens) {
        finish = FinishReason::kLength;
      }
      if (finish != FinishReason::kNone) return text.resize(i + 1);
    }
  }

  void target_says(std::span<const Token> context, std::span<float> logits) const {
    std::fill(logits.begin(), logits.end(), 0.0F);
    const auto said = context.subspan(std::min(context.size(), prompt_.size()));
    if (said.size() < want_.size() && std::equal(said.begin(), said.end(), want_.begin()))
      logits[static_cast<std::size_t>(want_[said.size()])] = 9;
  }

  void draft_says(std::span<const Token> context, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), std::numeric_limits<float>::quiet_NaN());
    float score = 3;
    for (const Token t : named(context.subspan(std::min(context.size(), prompt_.size())))) {
      logits[static_cast<std::size_t>(t)] = score;
      score -= 0.5F;
    }
  }

  const Text& named(std::span<const Token> path) {
    std::size_t key = 1;
    for (const Token t : path) key = key * kVocab + static_cast<std::size_t>(t);
    if (path.size() >= kNodes || std::find(path.begin(), path.end(), kUndrafted) != path.end()) return kRows[2];
    if (row_of_[key] < 0 && discovering_)
      row_of_[key] = odometer_.choose(path.empty() ? kRootRows : static_cast<int>(kRows.size()));
    return kRows[static_cast<std::size_t>(std::max(0, row_of_[key]))];
  }

  Setting setting_;
  BackendInfo info_;
  ScriptedBackend target_;
  ScriptedBackend draft_;
  Engine engine_;
  Text prompt_;
  std::unique_ptr<Session> session_;
  Odometer odometer_;
  bool discovering_ = false;
  std::array<int, 2 * kVocab * kVocab * kVocab * kVocab * kVocab> row_of_{};  // by path; -1 = not asked yet
  std::vector<Text> paths_;
  Text want_;
  int stop_ = -1;
  int emitted_ = 0;
};

struct Count {
  int graphs = 0;
  int runs = 0;
  int unstopped = 0;
  int whole = 0;
  int merges = 0;
};

// All graphs; in each the target goes every path of the tree. `every_stop`: and the caller stops at every place.
Count enumerate(const Setting& setting, bool every_stop) {
  Workbench bench(setting);
  Count count;
  bench.for_each_graph([&] {
    ++count.graphs;
    const std::vector<Text> paths = bench.paths();
    for (const Text& path : paths) {
      const int last = static_cast<int>(path.size());
      bench.run(path, -1);
      // To stop earlier is to stop on a shorter path.
      if (every_stop) bench.run(path, last);
      if (every_stop && last > 0) bench.run(path, last - 1);
      if (::testing::Test::HasFatalFailure()) return;
    }
  });
  count.runs = bench.n_runs;
  count.unstopped = bench.n_unstopped;
  count.whole = bench.n_whole;
  count.merges = bench.n_merges;
  return count;
}

// Where the graph is full, what earlier runs taught may give a node to another candidate than at first, and a path
// ends before its end.
void expect_complete(const Count& c) {
  EXPECT_GT(c.graphs, 10000);
  EXPECT_GT(c.whole, 0.97 * c.unstopped);
}

TEST(SmallGraphs, EveryTreeEveryPathEveryStop) {
  const Count c = enumerate({.mode = Mode::kTree}, true);
  expect_complete(c);
  EXPECT_EQ(c.merges, 0);
}

TEST(SmallGraphs, EveryGraphEveryPathEveryStop) {
  const Count c = enumerate({}, true);
  expect_complete(c);
  EXPECT_GT(c.merges, 10000);
}

TEST(SmallGraphs, EveryGraphOfMergedPairs) {
  for (const Token root : {0, kUndrafted}) {  // one that is named in the graph too, and one that is not
    const Count c = enumerate({.merge_length = 1, .root = root}, false);
    expect_complete(c);
    EXPECT_GT(c.merges, 1000);
  }
}

TEST(SmallGraphs, EveryGraphWhereTheTextEnds) {
  for (const Token eog : {0, 2, kUndrafted}) EXPECT_GT(enumerate({.eog = eog}, false).runs, 50000);
}

TEST(SmallGraphs, EveryGraphAtEveryLimit) {
  for (const int most : {1, 2, 3, 4}) {
    const Count c = enumerate({.max_tokens = most}, false);
    EXPECT_GT(c.whole, 0.97 * c.unstopped);
  }
}

TEST(SmallGraphs, EveryGraphCutToAWidth) { EXPECT_GT(enumerate({.width = 3}, false).runs, 10000); }

TEST(SmallGraphs, EveryGraphInExactMode) { EXPECT_GT(enumerate({.exact = true}, false).runs, 50000); }

}  // namespace
}  // namespace gsd
