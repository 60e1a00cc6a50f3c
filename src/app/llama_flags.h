// llama-server's flags that gsd has no flag for: what becomes of each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gsd::app {

struct LlamaFlag {
  std::vector<std::string> names;
  std::string variable;  // of the environment, or empty
  int values = 0;        // words that follow it
  // True: it changes how llama-server gets to its answers and not what they are, so it is passed over with a note.
  // False: passing it over would be wrong; only with a value out of `neutral`, which asks for what gsd does anyway, it
  // is taken.
  bool noted = false;
  std::vector<std::string> neutral;
  std::string why;  // a clause
};

// All of them, of llama-server 0.7.
const std::vector<LlamaFlag>& llama_flags();
// By one of its names or its variable. Null for what is none of them.
const LlamaFlag* find_llama_flag(std::string_view name);

// Whether the flag may be passed over with this value; then `notes` may get a sentence. Throws Error(kUsage) if not.
// `given_as`: the name or variable that the user wrote.
void pass_over(const LlamaFlag& flag, const std::string& given_as, const std::string& value,
               std::vector<std::string>& notes);

}  // namespace gsd::app
