// Batches on the scripted backend: what is answered, and that no end of a run loses or doubles an answer.
#include "../../src/server/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "../random.h"
#include "server_rig.h"

namespace gsd::server {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

Json request(const std::string& id, Json body, const std::string& url = "/v1/completions") {
  return {{"custom_id", id}, {"method", "POST"}, {"url", url}, {"body", std::move(body)}};
}

Json prompt(const std::string& text, int max_tokens = 20) {
  return {{"prompt", text}, {"max_tokens", max_tokens}, {"temperature", 0}, {"seed", 1}};
}

// A folder with the two files of a batch.
class Batch : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "gsd-batch-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir = name;
  }
  void TearDown() override { fs::remove_all(dir); }

  void put(const std::vector<Json>& requests) {
    std::ofstream file(in());
    for (const Json& r : requests) file << r.dump() << "\n";
  }
  std::string in() const { return (dir / "in.jsonl").string(); }
  std::string out() const { return (dir / "out.jsonl").string(); }
  std::string text() const {
    std::ifstream file(out());
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Answers by custom_id; each must be there once.
  std::map<std::string, Json> answers() const {
    std::map<std::string, Json> out_;
    std::istringstream lines(text());
    for (std::string line; std::getline(lines, line);) {
      const Json j = Json::parse(line);
      EXPECT_TRUE(out_.emplace(j["custom_id"], j).second) << line;
    }
    return out_;
  }
  // A run that is ended after so many answers and turns of the scheduler.
  void run(int most_answers = 1 << 30, int most_turns = 1 << 30) {
    Rig rig;
    BatchInput input(in());
    BatchOutput output(out(), input);
    run_batch(rig.api, rig.scheduler,
              {.next = [&] { return input.next(); },
               .answer =
                   [&](const std::string& line, int) {
                     output.write(line);
                     --most_answers;
                   },
               .go_on = [&] { return most_answers > 0 && most_turns-- > 0; }});
  }
  std::string problem() {
    try {
      BatchInput input(in());
      BatchOutput output(out(), input);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
      return e.what();
    }
    return "";
  }

  fs::path dir;
};

TEST_F(Batch, AnswersAreThoseOfTheServer) {
  put({request("a", prompt("once upon")),
       request("b", {{"messages", {{{"role", "user"}, {"content", "hello"}}}}, {"max_tokens", 12}, {"temperature", 0}},
               "/v1/chat/completions"),
       request("many", {{"prompt", {"one", "two"}}, {"n", 8}, {"max_tokens", 4}})});
  run();
  const auto all = answers();
  ASSERT_EQ(all.size(), 3U);
  SessionOptions o;
  o.max_tokens = 20;
  EXPECT_EQ(all.at("a")["response"]["body"]["choices"][0]["text"], Rig::alone("once upon", o));
  EXPECT_EQ(all.at("a")["response"]["status_code"], 200);
  EXPECT_EQ(all.at("a")["error"], nullptr);
  EXPECT_THAT(all.at("a")["id"], testing::StartsWith("batch_req_"));
  EXPECT_EQ(all.at("b")["response"]["body"]["object"], "chat.completion");
  EXPECT_EQ(all.at("b")["response"]["body"]["usage"]["completion_tokens"], 12);
  EXPECT_EQ(all.at("many")["response"]["body"]["choices"].size(), 16U);
}

TEST_F(Batch, RequestsThatMakeNoSenseHaveOpenAisErrors) {
  put({request("hot", {{"prompt", "x"}, {"temperature", -1}}), request("streamed", {{"prompt", "x"}, {"stream", true}}),
       request("long", prompt(std::string(600, 'x'))), request("empty", Json::object()), request("good", prompt("x")),
       request("grammar", {{"prompt", "x"}, {"grammar", "root ::= ("}})});
  run();
  const auto all = answers();
  ASSERT_EQ(all.size(), 6U);
  for (const auto& [id, answer] : all) {
    const Json& r = answer["response"];
    EXPECT_EQ(answer["error"], nullptr);
    EXPECT_EQ(r["status_code"], id == "good" ? 200 : 400) << id;
    if (id == "good") continue;
    EXPECT_EQ(r["body"]["error"]["type"], "invalid_request_error") << id;
    EXPECT_FALSE(r["body"]["error"]["message"].get<std::string>().empty());
  }
  EXPECT_EQ(all.at("streamed")["response"]["body"]["error"]["param"], "stream");
  EXPECT_EQ(all.at("long")["response"]["body"]["error"]["code"], "context_length_exceeded");
}

TEST_F(Batch, LinesThatAreNoRequestsAreNamed) {
  const auto with = [&](const std::string& line) {
    std::ofstream(in()) << request("a", prompt("x")).dump() << "\n\n" << line << "\n";
    return problem();
  };
  EXPECT_THAT(with("{"), HasSubstr("Line 3 of"));
  EXPECT_THAT(with("[]"), HasSubstr("Line 3 of"));
  EXPECT_THAT(with(request("a", prompt("y")).dump()), HasSubstr("'a' stands in an earlier line"));
  Json r = request("b", prompt("y"));
  EXPECT_EQ(with(r.dump()), "");
  r["custom_id"] = 7;
  EXPECT_THAT(with(r.dump()), HasSubstr("custom_id"));
  EXPECT_THAT(with(request("", prompt("y")).dump()), HasSubstr("custom_id"));
  EXPECT_THAT(with(request("b", "text").dump()), HasSubstr("body"));
  EXPECT_THAT(with(request("b", prompt("y"), "/v1/embeddings").dump()), HasSubstr("url"));
  r = request("b", prompt("y"));
  r["method"] = "GET";
  EXPECT_THAT(with(r.dump()), HasSubstr("method"));
  r.erase("method");
  EXPECT_THAT(with(r.dump()), HasSubstr("'method' is missing"));
  std::ofstream(in()) << "\n \n";
  EXPECT_THAT(problem(), HasSubstr("holds no requests"));
  fs::remove(in());
  EXPECT_THAT(problem(), HasSubstr("cannot be opened"));
  fs::create_directory(in());
  EXPECT_THAT(problem(), HasSubstr("no ordinary file"));
}

TEST_F(Batch, OtherPeoplesFilesAreLeftAlone) {
  put({request("a", prompt("x")), request("b", prompt("y"))});
  run();
  const std::string before = text();
  put({request("a", prompt("x")), request("b", prompt("z"))});
  EXPECT_THAT(problem(), HasSubstr("asks something else in the request 'b'"));
  put({request("a", prompt("x"))});
  EXPECT_THAT(problem(), HasSubstr("has no request 'b'"));
  put({request("a", prompt("x")), request("b", prompt("y"))});
  EXPECT_EQ(problem(), "");
  EXPECT_EQ(text(), before);
  std::ofstream(out(), std::ios::app) << before.substr(0, before.find('\n') + 1);
  EXPECT_THAT(problem(), HasSubstr("answered twice"));
  const std::string notes = "my notes\n";
  std::ofstream(out()) << notes << "half a line";
  EXPECT_THAT(problem(), HasSubstr("holds in line 1"));
  EXPECT_EQ(text(), notes + "half a line");
  // The requests themselves as the file of answers.
  BatchInput input(in());
  EXPECT_THROW(BatchOutput(in(), input), Error);
  std::ifstream file(in());
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}).substr(0, 12), R"({"custom_id")");
}

TEST_F(Batch, OneProcessWrites) {
  put({request("a", prompt("x"))});
  BatchInput first(in());
  const BatchOutput output(out(), first);
  EXPECT_THAT(problem(), HasSubstr("another process"));
}

// Runs that are ended anywhere, with the file cut anywhere in what was last written, until all is answered.
TEST_F(Batch, NoEndLosesOrDoublesAnAnswer) {
  for (std::uint64_t index = 0; index < 6; ++index) {
    GSD_SEEDED(rng, index);
    std::vector<Json> requests;
    for (int i = 0; i < 30; ++i) {
      Json body = prompt(random_prompt(rng, 30, 20), 1 + static_cast<int>(rng() % 40));
      if (rng() % 8 == 0) body["n"] = 1 + rng() % 6;
      if (rng() % 8 == 0) body["max_tokens"] = "many";
      requests.push_back(request("r" + std::to_string(i), std::move(body)));
    }
    put(requests);
    fs::remove(out());
    run();
    const auto whole = answers();
    ASSERT_EQ(whole.size(), requests.size());
    fs::remove(out());
    int n_runs = 0;
    for (std::size_t n = 0; n < requests.size(); ++n_runs) {
      ASSERT_LT(n_runs, 500);
      run(static_cast<int>(1 + rng() % 5), static_cast<int>(1 + rng() % 200));
      if (rng() % 2 == 0 && fs::file_size(out()) > 0)
        fs::resize_file(out(), fs::file_size(out()) - std::min<std::uintmax_t>(fs::file_size(out()), rng() % 400));
      const std::string now = text();
      n = static_cast<std::size_t>(std::count(now.begin(), now.end(), '\n'));
    }
    run();  // for what the last cut took
    EXPECT_GT(n_runs, 3);
    const auto pieces = answers();
    ASSERT_EQ(pieces.size(), requests.size());
    for (const auto& [id, answer] : whole) {
      EXPECT_EQ(pieces.at(id)["id"], answer["id"]);
      EXPECT_EQ(pieces.at(id)["response"]["status_code"], answer["response"]["status_code"]);
      if (answer["response"]["status_code"] == 200) {
        EXPECT_EQ(pieces.at(id)["response"]["body"]["choices"], answer["response"]["body"]["choices"]) << id;
      }
    }
    fs::remove(out());
  }
}

TEST_F(Batch, AnEndGivesUpWhatRuns) {
  put({request("a", prompt("x", 400)), request("b", prompt("y", 400))});
  run(1 << 30, 12);
  EXPECT_EQ(text(), "");
  run();
  EXPECT_EQ(answers().size(), 2U);
}

TEST_F(Batch, AFullQueueWaits) {
  std::vector<Json> requests;
  for (int i = 0; i < 12; ++i)
    requests.push_back(request(std::to_string(i), {{"prompt", "x"}, {"n", 5}, {"max_tokens", 8}}));
  requests.push_back(request("too many", {{"prompt", "x"}, {"n", 16}, {"max_tokens", 8}}));
  put(requests);
  RigOptions small;
  small.max_queue = 4;
  Rig rig(small);
  BatchInput input(in());
  std::map<int, int> by_status;
  run_batch(rig.api, rig.scheduler,
            {.next = [&] { return input.next(); },
             .answer = [&](const std::string&, int status) { ++by_status[status]; },
             .go_on = [] { return true; }});
  EXPECT_EQ(by_status, (std::map<int, int>{{200, 12}, {400, 1}}));
}

TEST_F(Batch, AnAnswerThatCannotBeWrittenEndsTheRun) {
  put({request("a", prompt("x")), request("b", prompt("y"))});
  Rig rig;
  BatchInput input(in());
  const auto run = [&] {
    run_batch(rig.api, rig.scheduler,
              {.next = [&] { return input.next(); },
               .answer = [](const std::string&, int) { throw Error(ErrorCode::kIo, "The disk is full."); },
               .go_on = [] { return true; }});
  };
  EXPECT_THROW(run(), Error);
}

}  // namespace
}  // namespace gsd::server
