// Failures of the library: one exception type with a code and a sentence for the user.
#pragma once

#include <stdexcept>
#include <string>

namespace gsd {

// What went wrong. The numeric values are the exit codes of the `gsd` program and part of its interface.
enum class ErrorCode : int {
  kInternal = 1,          // a bug of ours
  kUsage = 2,             // a parameter that makes no sense
  kModelFile = 3,         // missing, unreadable, truncated or not a GGUF model
  kModelUnsupported = 4,  // a model that cannot generate text or cannot be used this way
  kPairMismatch = 5,      // draft and target do not fit together
  kContextFull = 6,       // the prompt does not fit the context
  kOutOfMemory = 7,       // memory for weights, cache or work buffers could not be had
  kNoKvSlot = 8,          // the KV cache has no room for this batch; nothing was changed, retry with fewer nodes
  kBackend = 9,           // the forward pass failed
  kGrammar = 10,          // a grammar that does not parse
  kIo = 11,               // a file could not be read or written
};

// Thrown by every part of the library. `what()` is one sentence that says what happened and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace gsd
