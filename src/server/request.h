// Requests of the API: JSON text to checked values. Knows nothing of HTTP or of a loaded model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api_error.h"
#include "conversation.h"
#include "fields.h"
#include "gsd/hypotheses.h"
#include "gsd/sampling.h"

namespace gsd::server {

// Values of the fields that a request leaves out.
struct RequestDefaults {
  SamplingParams sampling;
  SpeculationParams speculation;
  bool random_seed = true;       // without one in the request
  std::int64_t max_tokens = -1;  // also the most that a request gets; -1 = no limit
  Conversation conversation;     // of chats; without messages
};

// A text, or tokens. No std::variant: libstdc++ 12's frees what it never had where a copy finds no memory.
struct PromptPart {
  std::string text;
  std::vector<Token> tokens;  // empty: it is a text
};
// Texts and tokens, one after the other. A begin of text is put before a text in front, not before tokens.
using Prompt = std::vector<PromptPart>;

// How strongly an adapter is to act.
struct LoraScale {
  int id = 0;
  float scale = 0;
};

struct CompletionRequest {
  std::string model;
  Conversation conversation;    // of a chat
  std::vector<Prompt> prompts;  // of a completion
  bool parse_special = true;    // names of control tokens in a prompt are these tokens
  SamplingParams sampling;
  SpeculationParams speculation;
  std::int64_t max_tokens = -1;
  int n = 1;  // choices per prompt
  std::vector<std::string> stop;
  std::string grammar;         // GBNF of the whole text
  std::string answer_rules;    // GBNF of what a chat's response_format asks for, see json_schema.h
  bool echo = false;           // the text begins with the prompt; of OpenAI's completions, as the next one
  std::string suffix;          // what comes after the text
  int logprobs = -1;           // alternatives per token, -1 = no report
  bool post_sampling = false;  // reported are probabilities of what is drawn from, not log-probabilities of the model
  bool report_tokens = false;
  bool report_progress = false;              // of taking in the prompt, in streams
  std::int64_t max_predict_ms = 0;           // the text ends after this time and its first line; 0 = no limit
  std::vector<std::string> response_fields;  // of the native answer; empty = all
  // For what has the vocabulary to resolve:
  std::vector<std::pair<std::string, float>> text_bias;  // of each token of the text
  std::vector<std::string> dry_breakers;                 // empty: the usual ones
  bool stream = false;
  bool include_usage = false;
  bool cache_prompt = true;
  std::optional<std::vector<LoraScale>> lora;  // those left out do not act; empty: as the server says
  std::vector<float> adapters;                 // resolved: of each adapter
  std::int32_t slot = -1;                      // the one to generate in; -1 = any
  bool ignore_eos = false;
  bool timings_per_token = false;
  bool trace = false;      // the graph of every step
  bool store = true;       // draw on earlier answers, and be drawn on, where the server keeps some
  std::size_t client = 0;  // who asks: one of another number sees nothing of prompts and answers
};

struct TokenizeRequest {
  std::string content;
  bool add_special = false;
  bool parse_special = true;
  bool with_pieces = false;
};

constexpr int kMaxChoices = 16;  // of one prompt

// All throw ApiError(400) naming the field, for text that is no JSON, nested deeper than kMaxJsonDepth, of a wrong
// type, out of range, or asking for what is not supported. Thread safe.
CompletionRequest parse_chat(std::string_view body, const RequestDefaults& defaults);
// The same of a body that was parsed: other APIs are put into the words of chats.
CompletionRequest read_chat(const Json& object, const RequestDefaults& defaults);
CompletionRequest parse_completion(std::string_view body, const RequestDefaults& defaults);
// llama-server's own form of a completion.
CompletionRequest parse_native(std::string_view body, const RequestDefaults& defaults);
// The same without its prompts.
CompletionRequest read_native(const Json& object, const RequestDefaults& defaults);
TokenizeRequest parse_tokenize(std::string_view body);
std::vector<Token> parse_detokenize(std::string_view body);
// A list of adapters with their scales.
std::vector<LoraScale> parse_lora(std::string_view body);
Conversation parse_conversation(std::string_view body, const RequestDefaults& defaults);

}  // namespace gsd::server
