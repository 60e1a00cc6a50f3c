// The fields of a request that a chat template sees: messages, tools and what goes with them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "../chat/format.h"

namespace gsd::server {

using Json = nlohmann::ordered_json;

enum class ToolUse : std::uint8_t { kNone, kAuto, kRequired };
enum class ReasoningFormat : std::uint8_t { kNone, kDeepSeek };  // left in the text, or given as reasoning_content

struct Conversation {
  chat::ChatRequest chat;  // without tools where none may be called
  ToolUse tool_use = ToolUse::kNone;
  bool parallel_calls = true;
  ReasoningFormat reasoning = ReasoningFormat::kDeepSeek;
  std::int64_t reasoning_budget = -1;  // tokens of reasoning, then it is ended; -1 = no bound
};

// "none", "auto" or "deepseek" ("deepseek-legacy" is refused). Throws ApiError(400).
ReasoningFormat parse_reasoning_format(const std::string& name);

// A message's content as chats have it: a text, or a list of parts of type text. `types`: those that a client may name
// its parts by. Throws ApiError(400) naming `field` for anything else.
Json text_content(const Json& content, const std::string& field, std::initializer_list<std::string_view> types);
// `messages` with a text before everything else, in the system message if there is one already: some templates take no
// second one. An empty text changes nothing.
Json with_system(Json messages, const std::string& text);

// Reads messages, tools, tool_choice, parallel_tool_calls, chat_template_kwargs, reasoning_effort, enable_thinking,
// add_generation_prompt, continue_final_message, reasoning_format and reasoning_budget. A last message of the assistant
// goes on unless continue_final_message says no, as in llama-server. `defaults`: what fields left out mean; its
// `chat.variables` are merged with the request's. Throws ApiError(400) naming the field. Thread safe.
Conversation read_conversation(const Json& request, const Conversation& defaults);

}  // namespace gsd::server
