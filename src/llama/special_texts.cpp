#include "special_texts.h"

#include "handles.h"

namespace gsd {

SpecialTexts special_texts(const Model& model) {
  const llama_vocab* vocab = model.impl().vocab;
  const auto text = [&](llama_token t) {
    return t == LLAMA_TOKEN_NULL ? std::string() : model.piece(t, ShowControl::kYes);
  };
  return {text(llama_vocab_bos(vocab)), text(llama_vocab_eos(vocab))};
}

}  // namespace gsd
