// Answers in llama-server's own form: /completion and /infill.
#pragma once

#include <string>
#include <vector>

#include "answer.h"
#include "text_model.h"

namespace gsd::server {

// A request's parameters under llama-server's names, as its answer and /props report them.
Json generation_settings(const CompletionRequest& request);

class NativeWriter : public AnswerWriter {
 public:
  // `prompts`: of the request, shown in the answer. The model must outlive the object.
  NativeWriter(const TextModel& model, std::vector<std::vector<Token>> prompts)
      : model_(model), prompts_(std::move(prompts)) {}

  // A chunk for each token.
  void add(const Answers& answers, Addition& addition, std::string& out) override;
  void end(const Answers& /*answers*/, std::string& /*out*/) override {}
  void fail(const ApiError& error, std::string& out) override;
  std::string whole(const Answers& answers) override;

 private:
  Json chunk(const Answers& answers, std::size_t choice, std::string text) const;
  Json result(const Answers& answers, std::size_t choice) const;
  Json probability(const TokenReport& token, bool post_sampling) const;

  const TextModel& model_;
  std::vector<std::vector<Token>> prompts_;
  std::vector<std::size_t> n_sent_;  // [choices] tokens
};

}  // namespace gsd::server
