// The answer of a model, taken apart while it comes: reasoning, text for the user, calls of functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tool_format.h"

namespace gsd::chat {

struct ReplyDelta {
  enum class Kind : std::uint8_t {
    kReasoning,
    kContent,
    kCall,      // a call begins; text = the function's name
    kArguments  // text = the next piece of the JSON object
  };
  Kind kind = Kind::kContent;
  int call = -1;  // of kCall and kArguments: counts from 0
  std::string text;
};

// One answer. However the text is cut into pieces, the deltas joined are the same. White space around reasoning and
// calls is dropped, the markers are too, and nothing else: what turns out to be no call is content. Not thread safe.
class ReplyParser {
 public:
  virtual ~ReplyParser() = default;
  // Appends to `out` what is certain now.
  virtual void push(std::string_view text, std::vector<ReplyDelta>& out) = 0;
  // Nothing more comes.
  virtual void finish(std::vector<ReplyDelta>& out) = 0;
};

struct ReplyOptions {
  bool calls = false;           // calls are looked for
  bool reasoning = true;        // it is split off
  bool reasoning_open = false;  // the prompt has opened it already
  bool json_answer = false;     // what does not begin with a call is JSON: whatever its texts hold, there is no call
  Json tools;                   // of the request: types of parameters
};
std::unique_ptr<ReplyParser> make_reply_parser(const ToolFormat& format, ReplyOptions options);

// True if all values under the schema are texts: between tags they stand without quotes.
bool is_text_schema(const Json& schema);

// True if `prompt` ends with the begin of reasoning, so that the answer goes on inside it.
bool opens_reasoning(const ToolFormat& format, std::string_view prompt);
// True if it ends with the end of reasoning: the model is to answer at once.
bool closes_reasoning(const ToolFormat& format, std::string_view prompt);

}  // namespace gsd::chat
