// How a model's own tokens for begin and end of text are written, for chat templates.
#pragma once

#include <string>

#include "gsd/llama.h"

namespace gsd {

struct SpecialTexts {
  std::string bos;  // empty if the model has none
  std::string eos;
};
SpecialTexts special_texts(const Model& model);

}  // namespace gsd
