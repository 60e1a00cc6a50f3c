// One generation with everything that is reported about it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "gsd/runtime.h"
#include "record.h"

namespace gsd::app {

struct Run {
  std::string text;
  std::vector<Token> tokens;
  std::vector<float> margins;  // of each token's draw, see Choice
  Stats stats;
  FinishReason finish = FinishReason::kNone;
  double prefill_ms = 0;
  double first_token_ms = 0;  // from the start of the prefill
  double decode_ms = 0;
  bool closed = false;  // the reader of stdout is gone
  double tokens_per_second() const { return decode_ms > 0 ? 1000 * static_cast<double>(tokens.size()) / decode_ms : 0; }
};

// Generates behind `prompt`; `stream` writes the text to stdout as it comes. Ends early at Ctrl-C or a closed pipe.
Run run_prompt(Runtime& pair, const std::vector<Token>& prompt, SessionOptions options, bool stream,
               Recorder* recorder);

nlohmann::json to_json(const Run& run);

}  // namespace gsd::app
