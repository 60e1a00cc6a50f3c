// Requests with adapters of their own, on the scripted backend, which does not take memory that others were acting on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "server_rig.h"

namespace gsd::server {
namespace {

struct AdapterRig {
  explicit AdapterRig(int n_seq = 3, bool with_draft = true) : AdapterRig(options(n_seq, with_draft)) {}
  static RigOptions options(int n_seq, bool with_draft) {
    RigOptions o;
    o.n_seq = n_seq;
    o.with_draft = with_draft;
    o.cache_bytes = 1 << 20;
    o.n_stores = 1;
    return o;
  }
  explicit AdapterRig(const RigOptions& o) : rig(o, with_adapters(o)) {}
  static ApiOptions with_adapters(const RigOptions& o) {
    ApiOptions out = api_options(o);
    out.adapters = {{"first.gguf", 1}, {"second.gguf", 0}};
    return out;
  }
  std::unique_ptr<Call> begin(const std::string& prompt, const Json& lora) {
    Json body{{"prompt", prompt}, {"n_predict", 20}, {"temperature", 0}, {"ignore_eos", true}};
    if (!lora.is_null()) body["lora"] = lora;
    return rig.api.native(body.dump());
  }
  void finish(std::vector<std::unique_ptr<Call>>& calls) {
    for (bool all = false; !all;) {
      rig.scheduler.turn();
      all = true;
      for (const auto& c : calls) {
        c->advance(std::chrono::milliseconds(0));
        all &= c->finished();
      }
    }
  }
  Json ask(const std::string& prompt, const Json& lora = {}) {
    std::vector<std::unique_ptr<Call>> calls;
    calls.push_back(begin(prompt, lora));
    finish(calls);
    return Json::parse(calls[0]->response());
  }
  Rig rig;
};

Json scale(int id, float s) { return Json::array({{{"id", id}, {"scale", s}}}); }
const std::string kPrompt(60, 'p');

TEST(Adapters, TheServersScalesHoldUntilTheyAreSet) {
  AdapterRig r;
  const Json first = r.ask(kPrompt);
  EXPECT_EQ(first["generation_settings"]["lora"], Json::parse(R"([{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.0}])"));
  EXPECT_EQ(r.ask(kPrompt, scale(0, 1))["content"], first["content"]);
  const Json none = r.ask(kPrompt, Json::array());
  EXPECT_NE(none["content"], first["content"]);
  EXPECT_EQ(r.rig.api.set_lora_adapters(R"([{"id": 1, "scale": 0.5}])"), R"({"success":true})");
  const Json now = Json::parse(r.rig.api.lora_adapters());
  EXPECT_EQ(now[0]["scale"], 0);
  EXPECT_EQ(now[1]["scale"], 0.5);
  EXPECT_EQ(now[1]["path"], "second.gguf");
  EXPECT_EQ(r.ask(kPrompt)["content"], r.ask(kPrompt, scale(1, 0.5F))["content"]);
  for (const char* bad : {R"([{"id": 2, "scale": 1}])", R"([{"scale": 1}])", R"({"id": 0})",
                          R"([{"id": -1, "scale": 1}])", "[", R"([{"id": 0, "scale": "x"}])"})
    EXPECT_THROW(r.rig.api.set_lora_adapters(bad), ApiError) << bad;
}

TEST(Adapters, NoPrefixIsTakenFromOthers) {
  AdapterRig r;
  r.ask(kPrompt);
  EXPECT_EQ(r.ask(kPrompt, Json::array())["timings"]["cache_n"], 0);
  EXPECT_EQ(r.ask(kPrompt, scale(0, 1))["timings"]["cache_n"], kPrompt.size() - 1);
  EXPECT_EQ(r.ask(kPrompt, scale(0, 0.5F))["timings"]["cache_n"], 0);
  EXPECT_EQ(r.ask(kPrompt, scale(1, 0.5F))["timings"]["cache_n"], 0);
  EXPECT_EQ(r.ask(kPrompt, scale(1, 0.25F))["timings"]["cache_n"], 0) << "all slots were used by now";
  EXPECT_EQ(r.ask(kPrompt)["timings"]["cache_n"], kPrompt.size() - 1) << "from main memory";
}

TEST(Adapters, TheStoreOfAnswersKeepsOutWhatOthersWrote) {
  AdapterRig r(1, false);
  const std::size_t before = r.rig.stores[0]->size();
  r.ask(kPrompt, scale(1, 2));
  EXPECT_EQ(r.rig.stores[0]->size(), before);
  r.ask(kPrompt);
  EXPECT_GT(r.rig.stores[0]->size(), before);
}

// Streams with three kinds of adapters advance together and get what each gets alone.
TEST(Adapters, StreamsWithOthersRunBesideEachOther) {
  AdapterRig r;
  const std::vector<Json> kinds{scale(0, 1), Json::array(), scale(1, 0.5F)};
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 9; ++i)
    calls.push_back(r.begin(kPrompt + static_cast<char>('a' + i), kinds[static_cast<std::size_t>(i) % 3]));
  r.finish(calls);
  std::set<std::string> texts;
  for (int i = 0; i < 9; ++i) {
    const Json answer = Json::parse(calls[static_cast<std::size_t>(i)]->response());
    AdapterRig alone(1, false);
    EXPECT_EQ(answer["content"],
              alone.ask(kPrompt + static_cast<char>('a' + i), kinds[static_cast<std::size_t>(i) % 3])["content"]);
    texts.insert(answer["content"]);
  }
  EXPECT_GE(texts.size(), 3U);
}

}  // namespace
}  // namespace gsd::server
