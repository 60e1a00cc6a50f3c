// What gsd bench reads, searches, keeps and reports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "../src/bench/measurement.h"
#include "../src/bench/peers.h"
#include "../src/bench/prompt_file.h"
#include "../src/bench/report.h"
#include "../src/bench/scripted_draft.h"
#include "../src/bench/workload.h"
#include "gsd/error.h"
#include "gsd/scripted_backend.h"
#include "random.h"

namespace gsd::bench {
namespace {

using testing::HasSubstr;
using testing::Not;

// An engine over a target and a draft that has nothing to do with it, but for its script.
struct ScriptedPair {
  ScriptedPair()
      : info{.n_vocab = 200, .n_ctx = 2000, .n_seq = 2, .max_batch = 128, .max_outputs = 64, .max_leaves = 16},
        target(info, random_script(1, 3, 4), 3),
        other(info, random_script(2, 3, 4), 3),
        draft(other),
        engine(target, &draft) {}

  std::vector<Token> run(Mode mode, std::vector<Token> prompt, std::span<const Token> script, double acceptance) {
    SessionOptions o;
    o.speculation.mode = mode;
    o.speculation.history = false;
    o.speculation.depth = 4;
    o.speculation.path_threshold = 0;
    o.max_tokens = 1500;
    const auto s = engine.open(std::move(o));
    std::vector<Token> text = prompt;
    text.insert(text.end(), script.begin(), script.end());
    draft.script(s->slot(), std::move(text), acceptance);
    engine.set_prompt(*s, prompt);
    while (engine.prefill(*s) > 0) {
    }
    Session* list[] = {s.get()};
    while (!s->finished()) {
      engine.step(list);
      stats = s->stats();
    }
    return {s->generated().begin(), s->generated().end()};
  }

  BackendInfo info;
  ScriptedBackend target;
  ScriptedBackend other;
  ScriptedDraft draft;
  Engine engine;
  Stats stats;
};

// A chain of 4 at acceptance a emits 1 + a + a^2 + a^3 + a^4 tokens a step.
TEST(ScriptedDraft, IsAcceptedAsOftenAsAsked) {
  ScriptedPair pair;
  const std::vector<Token> prompt{1, 2, 3, 4, 5};
  const std::vector<Token> plain = pair.run(Mode::kPlain, prompt, {}, 0);
  ASSERT_EQ(plain.size(), 1500U);
  double tokens_of_a_tree = 0;
  for (const double a : {0.0, 0.3, 0.6, 0.8, 0.95}) {
    EXPECT_EQ(pair.run(Mode::kChain, prompt, plain, a), plain);
    double expected = 0;
    for (int depth = 0; depth <= 4; ++depth) expected += std::pow(a, depth);
    EXPECT_NEAR(pair.stats.tokens_per_step(), expected, 0.08 * expected) << a;
    EXPECT_EQ(pair.run(Mode::kTree, prompt, plain, a), plain);
    if (a > 0.2 && a < 0.9) {
      EXPECT_GT(pair.stats.tokens_per_step(), expected) << "other candidates stand for something too: " << a;
    }
    tokens_of_a_tree = pair.stats.tokens_per_step();
    EXPECT_EQ(pair.run(Mode::kGraph, prompt, plain, a), plain);
    EXPECT_EQ(pair.run(Mode::kAuto, prompt, plain, a), plain);
  }
  EXPECT_GT(tokens_of_a_tree, 4);
}

TEST(ScriptedDraft, KnowsNothingOffItsScript) {
  ScriptedPair pair;
  const std::vector<Token> prompt{1, 2, 3};
  std::vector<Token> plain = pair.run(Mode::kPlain, prompt, {}, 0);
  plain[50] = (plain[50] + 1) % 200;  // what the target says is not what the script says from here on
  pair.run(Mode::kChain, prompt, plain, 0.95);
  EXPECT_LT(pair.stats.tokens_per_step(), 1.2);
  pair.run(Mode::kChain, prompt, std::vector<Token>(1500, 199), 0.95);  // as long as the vocabulary lets it
  EXPECT_LT(pair.stats.tokens_per_step(), 1.2);
}

std::vector<Prompt> read(const std::string& text, int per_kind = 0) {
  std::istringstream in(text);
  return read_prompts(in, "file", per_kind);
}

std::string words(const Prompt& p) {
  std::string out = p.kind + ": " + p.text;
  for (const auto& [role, content] : p.messages) out += role + "=" + content + ";";
  return out;
}

// A form alone in lines, in a list, and as gsd convert-prompts writes it: always the same prompt.
TEST(PromptFile, ReadsEveryForm) {
  const std::vector<std::pair<std::string, std::string>> forms{
      {R"({"prompt": "a", "kind": "docs"})", "docs: a"},
      {R"({"prompt": "e, ]}\"[{"})", "all: e, ]}\"[{"},
      {R"({"category": "coding", "turns": ["b", "never"]})", "coding: b"},
      {R"({"question": "c?", "answer": "d"})", "gsm8k: Question: c?\nAnswer:"},
      {R"({"id": "x_0", "conversations": [{"from": "gpt", "value": "no"}, {"from": "system", "value": "be"},
           {"from": "human", "value": "1 é"}, {"from": "gpt", "value": "2"}, {"from": "human", "value": "3"}]})",
       "sharegpt: system=be;user=1 é;"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "image_url"},
           {"type": "text", "text": "2"}]}, {"role": "assistant", "content": "3"}, {"role": "user", "content": "4"},
           {"role": "assistant", "content": "5"}]})",
       "chat: user=12;assistant=3;user=4;"},
      {R"({"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "max_tokens": 3,
           "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}})",
       "batch: system=s;user=u;"},
      {R"({"custom_id": "r2", "url": "/v1/completions", "body": {"prompt": "p"}})", "batch: p"},
      {R"({"custom_id": "r3", "url": "/v1/completions", "body": {"prompt": ["q"]}})", "batch: q"}};
  std::string lines, list, converted;
  for (std::string form : [&] {
         std::vector<std::string> out;
         for (const auto& f : forms) out.push_back(f.first);
         return out;
       }()) {
    list += (list.empty() ? "\xEF\xBB\xBF\n[ " : " ,\n") + form;
    std::erase(form, '\n');
    lines += form + "\r\n\n";
  }
  list += "\n]\n";
  for (const Prompt& p : read(lines)) converted += prompt_json(p) + "\n";
  for (const std::string& text : {lines, list, converted}) {
    const auto prompts = read(text);
    ASSERT_EQ(prompts.size(), forms.size());
    for (std::size_t i = 0; i < forms.size(); ++i) EXPECT_EQ(words(prompts[i]), forms[i].second);
  }
  EXPECT_EQ(plain_text(read(lines)[6]), "s\n\nu");
}

TEST(PromptFile, TakesSoManyOfAKindAndNamesABadEntry) {
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += i % 2 == 0 ? "{\"prompt\":\"x\",\"kind\":\"a\"}\n" : "{\"prompt\":\"y\",\"kind\":\"b\"}\n";
  EXPECT_EQ(read(lines, 2).size(), 4U);
  for (const char* bad : {"{\"prompt\": 1}", "[]", "{", "{\"turns\": [\"a\"]}", "{\"category\": \"a\", \"turns\": []}",
                          "{\"prompt\": \"\"}", "{\"messages\": []}", "{\"messages\": [1]}",
                          "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}",
                          "{\"custom_id\": \"x\", \"body\": {\"prompt\": [1, 2]}}", "{\"conversations\": [\"x\"]}",
                          "\"x\"", "{\"prompt\": \"\xFF\"}"}) {
    for (const bool list : {false, true}) {
      try {
        read(list ? std::string("[{\"prompt\":\"x\"},") + bad + "]" : std::string("{\"prompt\":\"x\"}\n") + bad);
        ADD_FAILURE() << bad;
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kIo);
        EXPECT_THAT(e.what(), HasSubstr(list ? "Entry 2 of 'file'" : "Line 2 of 'file'")) << bad;
      }
    }
  }
  for (const char* none : {"", "\n \n", "[]", "[ ]", "[{\"conversations\": []}]"})
    EXPECT_THROW(read(none), Error) << none;
}

// Files that mean harm: an entry is bounded in bytes and depth, and one that is cut off is named.
TEST(PromptFile, HostileFilesAreRefusedInOneSentence) {
  const auto refused = [](const std::string& text, const char* why) {
    try {
      read(text);
      ADD_FAILURE() << why;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
      EXPECT_THAT(e.what(), HasSubstr(why));
    }
  };
  const std::string whole = "[{\"prompt\": \"a, ]\\\"\"}, {\"prompt\": \"b\"}]";
  for (std::size_t n = 1; n < whole.size(); ++n) refused(whole.substr(0, n), n < 3 ? "of 'file'" : "is not complete");
  refused("[" + std::string(17 << 20, ' '), "longer than 16 MiB");
  refused("{\"prompt\": \"" + std::string(17 << 20, 'x') + "\"}", "longer than 16 MiB");
  refused("[" + std::string(1 << 20, '['), "is not complete");
  for (const char* open : {"[", "{\"a\":"}) {
    std::string deep = "{\"prompt\": ";
    for (int i = 0; i < 100000; ++i) deep += open;
    refused(deep, "Line 1 of 'file' is no JSON object");
    for (int i = 0; i < 100000; ++i) deep += *open == '[' ? "]" : "1}";
    refused(deep + "}", "Line 1 of 'file' is no JSON object");
  }
  std::mt19937_64 rng(7);
  for (int i = 0; i < 3000; ++i) {  // whatever it is, it ends
    std::string text = whole;
    for (auto n = rng() % 6; n > 0; --n) text[rng() % text.size()] = "[]{}\",:\\\n x1"[rng() % 12];
    try {
      read(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
    }
  }
}

TEST(PromptFile, PlainTextByLinesAndParagraphs) {
  const auto all = [](PromptForm form) {
    std::istringstream in("\n\n[one\r\ntwo\n \t\n\n{three");
    std::vector<std::string> out;
    for_each_prompt(in, "file", form, [&](Prompt p) { out.push_back(words(p)); });
    return out;
  };
  EXPECT_EQ(all(PromptForm::kLines), (std::vector<std::string>{"text: [one", "text: two", "text: {three"}));
  EXPECT_EQ(all(PromptForm::kParagraphs), (std::vector<std::string>{"text: [one\ntwo", "text: {three"}));
  Prompt broken{"text", "\xFF x"};
  EXPECT_THAT(prompt_json(broken), HasSubstr("\xEF\xBF\xBD x"));
}

TEST(Workload, SettingsAreChosenOnEverySecondPromptOfAKind) {
  const std::vector<Prompt> prompts{{"a", ""}, {"b", ""}, {"a", ""}, {"a", ""}, {"b", ""}, {"a", ""}, {"b", ""}};
  EXPECT_EQ(tuning_prompts(prompts, 0), (std::vector<bool>{true, true, false, true, false, false, true}));
  EXPECT_EQ(tuning_prompts(prompts, 1), (std::vector<bool>{true, true, false, false, false, false, false}));
  EXPECT_EQ(tuning_prompts(prompts, 9), tuning_prompts(prompts, 0));
  EXPECT_THROW(tuning_prompts(std::vector<Prompt>{{"a", ""}, {"a", ""}, {"b", ""}}, 0), Error);
}

TEST(Workload, ConfigurationsNameTheirParameters) {
  const Config c =
      parse_config("graph merge-length=2 sibling-threshold=0.25 path-threshold=0.1 width=9 history=0 depth=3", {});
  EXPECT_EQ(c.params.mode, Mode::kGraph);
  EXPECT_EQ(c.params.merge_length, 2);
  EXPECT_FLOAT_EQ(c.params.sibling_threshold, 0.25F);
  EXPECT_FLOAT_EQ(c.params.path_threshold, 0.1F);
  EXPECT_EQ(c.params.max_width, 9);
  EXPECT_EQ(c.params.depth, 3);
  EXPECT_FALSE(c.params.history);
  EXPECT_EQ(parse_config("auto", {}).params.width(), 32);
  EXPECT_EQ(parse_config("tree", {}).params.width(), 16);
  for (const char* bad :
       {"", "fast", "tree depth", "tree depth=", "tree depth=x", "tree depth=0", "tree speed=1", "tree depth=3x"})
    EXPECT_THROW(parse_config(bad, {}), Error) << bad;
  for (const auto& text : ablation_configs()) EXPECT_NO_THROW(parse_config(text, {})) << text;
  for (const auto& text : chain_configs()) EXPECT_EQ(parse_config(text, {}).params.mode, Mode::kChain);
}

TEST(Search, FindsTheSummitOfASeparableHillAndMeasuresEachPointOnce) {
  for (int round = 0; round < 100; ++round) {
    GSD_SEEDED(rng, round);
    const std::vector<std::size_t> sizes{1 + rng() % 5, 1 + rng() % 5, 1 + rng() % 5};
    const Point summit{rng() % sizes[0], rng() % sizes[1], rng() % sizes[2]};
    std::map<Point, int> asked;
    const Point best = coordinate_search(sizes, [&](const Point& p) {
      ++asked[p];
      double value = 0;
      for (std::size_t d = 0; d < p.size(); ++d)
        value -= std::abs(static_cast<double>(p[d]) - static_cast<double>(summit[d]));
      return value;
    });
    EXPECT_EQ(best, summit);
    for (const auto& [p, n] : asked) EXPECT_EQ(n, 1);
  }
}

TEST(Search, ATieStaysWithTheFirst) {
  const std::vector<std::size_t> sizes{3, 2};
  EXPECT_EQ(coordinate_search(sizes, [](const Point&) { return 1.0; }), (Point{0, 0}));
}

TEST(Search, ARaceFindsTheBestAndGivesUpWhoIsFarBehind) {
  Race race;
  int asked = 0;
  // Items differ by much more than candidates do.
  const auto run = [&](double candidate) {
    asked = 0;
    return race.mean(4, [&](std::size_t i) {
      ++asked;
      return candidate + 10 * static_cast<double>(i);
    });
  };
  EXPECT_DOUBLE_EQ(run(1), 16);
  EXPECT_DOUBLE_EQ(run(0.5), 15.5);
  EXPECT_EQ(asked, 2) << "0.5 behind";
  EXPECT_DOUBLE_EQ(run(0.9), 15.9);
  EXPECT_EQ(asked, 4) << "0.1 behind";
  EXPECT_DOUBLE_EQ(run(2), 17);
  EXPECT_DOUBLE_EQ(run(1.5), 16.5);
  EXPECT_EQ(asked, 2) << "behind the new best";
  EXPECT_DOUBLE_EQ(Race().mean(1, [](std::size_t) { return -3.0; }), -3);
}

Measurement sample(const std::string& config, int prompt, double ms, const std::string& kind = "docs") {
  Measurement m;
  m.kind = kind;
  m.config = config;
  m.prompt = prompt;
  m.tokens = 100;
  m.decode_ms = 100 * ms;
  m.stats.steps = 50;
  m.stats.emitted = 100;
  m.stats.total_ms = m.decode_ms;
  m.stats.draft_ms = m.decode_ms / 4;
  m.stats.verify_ms = m.decode_ms / 2;
  m.seen.tried[0] = 50;
  m.seen.accepted[0] = 25;
  m.seen.by_origin[1].observe(0.75, true);
  return m;
}

class File {
 public:
  explicit File(const std::string& text)
      : path_(testing::TempDir() + "gsd_bench_test." + std::to_string(::getpid()) + ".jsonl") {
    std::ofstream(path_) << text;
  }
  ~File() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(MeasurementFile, GivesBackWhatWasWritten) {
  Measurement m = sample("auto", 3, 2.5);
  m.temperature = 0.7;
  m.sessions = 4;
  m.repetition = 2;
  m.tuning = true;
  m.plain_ms_per_token = 1.5;
  m.same_text = false;
  m.first_token_ms = 12.25;
  m.seen.by_origin.at(static_cast<std::size_t>(Origin::kHint)).observe(0.25, false);  // the last one
  m.stats.drafter[0] = {"model", 1, 2, 3, 4, 5.5};
  m.stats.drafter[1] = {"dflash", 6, 7, 8, 9, 10.5};
  const File file(to_line(Conditions{{"target", "t"}}) + to_line(m));
  const Measurements back = read_measurements(file.path());
  EXPECT_EQ(back.conditions.at("target"), "t");
  ASSERT_EQ(back.list.size(), 1U);
  EXPECT_EQ(back.list[0].key(), m.key());
  EXPECT_EQ(to_line(back.list[0]), to_line(m));
  EXPECT_EQ(back.list[0].stats.drafter[1].name, "dflash");
  EXPECT_EQ(back.list[0].stats.drafter[1].accepted, 9);
  m.stats.steps = 1;
  m.tuning = false;
  EXPECT_THAT(markdown({{}, {m}}), testing::HasSubstr("dflash: 6.00 passes, 10.50 ms, 8.00 tokens verified, 9.00"));
}

TEST(MeasurementFile, LeavesOutAHalfWrittenEndAndRefusesTheRest) {
  const std::string head = to_line(Conditions{{"target", "t"}});
  const std::string line = to_line(sample("auto", 0, 1));
  EXPECT_EQ(read_measurements(File(head + line + line.substr(0, 60)).path()).list.size(), 1U);
  EXPECT_THROW(read_measurements(File(head + line.substr(0, 60) + "\n" + line).path()), Error);
  EXPECT_THROW(read_measurements(File(line).path()), Error);
  EXPECT_THROW(read_measurements(File("").path()), Error);
  EXPECT_THROW(read_measurements(File("{\"gsd_bench\":2,\"conditions\":{}}\n").path()), Error);
  EXPECT_THROW(read_measurements("/nowhere/at/all"), Error);
}

Measurements four_prompts() {
  Measurements m{.conditions = {{"prompts", "4 of p"}}, .list = {}};
  for (int p = 0; p < 4; ++p) {
    const std::string kind = p < 2 ? "docs" : "math";
    m.list.push_back(sample("plain", p, 4, kind));
    m.list.push_back(sample("auto", p, p < 2 ? 2 : 1, kind));
    m.list.push_back(sample("chain depth=4 path-threshold=0 history=0 width=5", p, 2, kind));
  }
  Measurement tuning = sample("auto", 0, 1000);
  tuning.tuning = true;
  m.list.push_back(tuning);
  return m;
}

TEST(Report, SpeedUpIsTheGeometricMeanOverPromptsAndTuningDoesNotCount) {
  const auto rows = summarise(four_prompts());
  ASSERT_EQ(rows.size(), 9U) << "three configurations times docs, math and all";
  const Row& docs = rows[1];
  EXPECT_EQ(docs.config, "auto");
  EXPECT_EQ(docs.kind, "docs");
  EXPECT_NEAR(docs.speed_up.mean, 2, 1e-9);
  EXPECT_NEAR(docs.tokens_per_second, 500, 1e-9);
  const Row& all = rows[7];
  EXPECT_EQ(all.kind, "");
  EXPECT_NEAR(all.speed_up.mean, std::sqrt(8), 1e-9);
  EXPECT_EQ(all.prompts, 4);
  EXPECT_NEAR(all.tokens_per_second, 1000 * 400 / 600.0, 1e-9);
  EXPECT_NEAR(all.stats.tokens_per_step(), 2, 1e-9);
}

TEST(Report, TheMedianOfRepetitionsCounts) {
  Measurements m = four_prompts();
  for (int r = 1; r < 3; ++r) {
    Measurement again = sample("auto", 0, r == 1 ? 2 : 500);
    again.repetition = r;
    m.list.push_back(again);
  }
  EXPECT_NEAR(summarise(m)[1].speed_up.mean, 2, 1e-9);
}

TEST(Report, TheIntervalHoldsTheMeanAndNarrowsWithPrompts) {
  GSD_SEEDED(rng, 1);
  std::vector<double> logs;
  double last = 1e9;
  for (const int n : {4, 40, 400}) {
    while (static_cast<int>(logs.size()) < n) logs.push_back(static_cast<double>(rng() % 1000) / 1000);
    const Ratio r = geometric_mean(logs);
    EXPECT_LE(r.low, r.mean);
    EXPECT_GE(r.high, r.mean);
    EXPECT_LT(r.high - r.low, last);
    last = r.high - r.low;
  }
  EXPECT_EQ(geometric_mean({}).n, 0);
}

TEST(Report, ChainsAreInterpolatedAtEqualTimePerStep) {
  std::vector<Row> rows(3);
  const auto fill = [](Row& r, const char* config, double ms, double tokens) {
    r.config = config;
    r.stats.steps = 100;
    r.stats.total_ms = 100 * ms;
    r.stats.emitted = static_cast<std::int64_t>(100 * tokens);
  };
  fill(rows[0], "plain", 4, 1);
  fill(rows[1], "chain depth=4 path-threshold=0 history=0 width=5", 8, 3);
  fill(rows[2], "auto", 6, 3);
  const EqualTime e = equal_time(rows, "auto");
  EXPECT_NEAR(e.chain_tokens_per_step, 2, 1e-9);
  EXPECT_NEAR(e.tokens_per_step, 3, 1e-9);
  fill(rows[2], "auto", 20, 3);
  EXPECT_EQ(equal_time(rows, "auto").chain_tokens_per_step, 0) << "no chain is so dear: nothing is made up";
}

TEST(Report, ComparesAndSaysWhatBecameSlower) {
  const Measurements before = four_prompts();
  Measurements after = before;
  bool slower = true;
  EXPECT_THAT(compare(before, after, 0.97, slower), HasSubstr("1.00x"));
  EXPECT_FALSE(slower);
  for (Measurement& m : after.list) {
    if (m.config == "auto") m.decode_ms *= 1.1;
  }
  const std::string table = compare(before, after, 0.97, slower);
  EXPECT_TRUE(slower);
  EXPECT_THAT(table, HasSubstr("0.91x"));
  for (Measurement& m : after.list) m.config = "other";
  EXPECT_THROW(compare(before, after, 0.97, slower), Error);
  after = before;
  after.conditions["prompts"] = "5 of q";
  EXPECT_THROW(compare(before, after, 0.97, slower), Error) << "prompts are compared by number";
}

TEST(Report, NothingInTheDataEndsTheScriptOfThePage) {
  Measurements m = four_prompts();
  m.conditions["target"] = "</script><script>alert(1)</script>";
  const std::string html = page(m);
  EXPECT_THAT(html, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(html, HasSubstr("u003c/script>"));
  EXPECT_THAT(html, Not(HasSubstr("@RESULTS@")));
}

TEST(Peers, ReadsTheProgramsOwnCountAndText) {
  const PeerRun r = parse_peer_output("\n\n<|endoftext|># tar\n\n> Archive.",
                                      "encoded 3 tokens in 0.1 seconds, speed: 30 t/s\n"
                                      "I decoded  131 tokens in    0.500 seconds, speed:  262.0 t/s\n",
                                      "# tar");
  EXPECT_EQ(r.tokens, 131);
  EXPECT_NEAR(r.decode_ms, 500, 1e-9);
  EXPECT_EQ(r.text, "\n\n> Archive.");
  for (const char* bad :
       {"", "decoded", "decoded x tokens in 1 seconds", "decoded 0 tokens in 0 seconds", "decoded 5 tokens"})
    EXPECT_THROW(parse_peer_output("", bad, "p"), Error) << bad;
}

TEST(Peers, ACommandHoldsTheSettingAndOurBackendTurnsRepackingOff) {
  const Peer& peer = peers()[0];
  PeerOptions o;
  o.folder = "/bin";
  o.target = "t";
  o.draft = "d";
  o.sampling.top_k = 7;
  const auto plain = peer_command(peer, {2, 1}, o, "f", 0.5);
  EXPECT_THAT(plain, testing::IsSupersetOf({"/bin/llama-speculative-simple", "--spec-draft-n-max", "4", "0.2", "-md",
                                            "-f", "f", "--temp", "0.5", "--top-k", "7"}));
  EXPECT_THAT(plain, Not(testing::Contains("--no-repack")));
  o.plugin = "x.so";
  EXPECT_THAT(peer_command(peer, {2, 1}, o, "f", 0), testing::IsSupersetOf({"--no-repack", "--load-mode", "-fa"}));
  EXPECT_EQ(peer.setting({2, 1}), "n-max=4 p-min=0.2");
}

TEST(Process, GivesOutputAndStatusAndEndsWhatRunsTooLong) {
  Process ok({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, {});
  EXPECT_EQ(ok.wait(10, {}), 3);
  EXPECT_EQ(ok.output(), "out\n");
  EXPECT_EQ(ok.errors(), "err\n");
  Process environment({"/bin/sh", "-c", "echo $GSD_TEST_VALUE"}, {"GSD_TEST_VALUE=7"});
  EXPECT_EQ(environment.wait(10, {}), 0);
  EXPECT_EQ(environment.output(), "7\n");
  Process endless({"/bin/sh", "-c", "sleep 60"}, {});
  EXPECT_EQ(endless.wait(0.05, {}), -1);
  Process cancelled({"/bin/sh", "-c", "sleep 60"}, {});
  EXPECT_EQ(cancelled.wait(60, [] { return true; }), -1);
  EXPECT_THROW(Process({"/no/such/program"}, {}), Error);
}

}  // namespace
}  // namespace gsd::bench
