// Files of prompts in the forms that they are handed around in.
#pragma once

#include <functional>
#include <istream>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gsd::bench {

struct Prompt {
  std::string kind;                                                // what results are grouped by
  std::string text;                                                // empty for a chat, until it has been rendered
  std::vector<std::pair<std::string, std::string>> messages = {};  // of a chat: role and content
};

enum class PromptForm : std::uint8_t {
  kJson,        // what read_prompts() says
  kLines,       // plain text: every line that is not blank
  kParagraphs,  // plain text: what stands between blank lines
};

// Reads JSON lines, or one JSON list, of objects of these forms:
//   {"prompt": "…", "kind": "…"}                   our own; the kind may be left out
//   {"messages": [{"role", "content"}, …], "kind"}  the same for a chat: up to and with the user's last message
//   {"conversations": [{"from", "value"}, …]}       ShareGPT: what the system says, and the first words of the person
//   {"custom_id", "url", "body": {…}}               OpenAI's batches: "messages" or "prompt" of the body
//   {"category": "…", "turns": ["…"]}               Spec-Bench (Xia et al., 2024): its first turn
//   {"question": "…"}                               GSM8K: as "Question: …\nAnswer:", kind "gsm8k"
// or plain text, and hands over one prompt after the other. Conversations in which no person speaks are left out.
// One entry takes memory at a time, at most 16 MiB of the file. `name` names the source in errors. Throws Error(kIo)
// naming the entry that is of no such form or too large, and if there is no prompt at all.
void for_each_prompt(std::istream& in, const std::string& name, PromptForm form,
                     const std::function<void(Prompt)>& take);
// All of them, at most `per_kind` of a kind (0 = all).
std::vector<Prompt> read_prompts(std::istream& in, const std::string& name, int per_kind);
// The same of a file, or of standard input for "-". Throws Error(kIo) if it cannot be read.
std::vector<Prompt> read_prompt_file(const std::string& path, int per_kind);

// The prompt in our own form, one line without its end.
std::string prompt_json(const Prompt& prompt);
// What a chat says, for a model without a chat template: the contents with a blank line between.
std::string plain_text(const Prompt& prompt);

}  // namespace gsd::bench
