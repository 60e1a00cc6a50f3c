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
  bool closed = false;   // the reader of stdout is gone
  bool stopped = false;  // at one of RunText's
  double tokens_per_second() const { return decode_ms > 0 ? 1000 * static_cast<double>(tokens.size()) / decode_ms : 0; }
};

struct RunText {
  bool stream = false;                 // write the text to stdout as it comes
  std::string before = {};             // is written first, once the prompt is known to fit
  std::vector<std::string> stop = {};  // the text ends before the first of these
};

// Generates after `prompt`. Ends early at Ctrl-C or a closed pipe.
Run run_prompt(Runtime& pair, const std::vector<Token>& prompt, SessionOptions options, const RunText& text,
               Recorder* recorder);

nlohmann::json to_json(const Run& run);

}  // namespace gsd::app
