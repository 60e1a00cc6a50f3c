#include "state_functions.h"

#include <dlfcn.h>

#include <string_view>

namespace gsd {
namespace {

constexpr std::string_view kVersion = "0.7.";

struct Lookup {
  StateFunctions functions{};
  std::string why_not;

  Lookup() {
    if (!std::string_view(llama_version()).starts_with(kVersion)) {
      why_not = std::string("needs libllama 0.7, and this one is ") + llama_version();
      return;
    }
    // The types stand in the names, so that a function that changed them is not found.
    find(functions.set_nextn, "_Z26llama_set_embeddings_nextnP13llama_contextbb");
    find(functions.nextn, "_Z26llama_get_embeddings_nextnP13llama_context");
    find(functions.nextn_ith, "_Z30llama_get_embeddings_nextn_ithP13llama_contexti");
    find(functions.set_layer_input, "_Z30llama_set_embeddings_layer_inpP13llama_contextjb");
    find(functions.layer_input, "_Z30llama_get_embeddings_layer_inpP13llama_contextj");
    find(functions.layer_ids, "_Z28llama_model_target_layer_idsPK11llama_model");
    find(functions.n_layer_ids, "_Z30llama_model_target_layer_ids_nPK11llama_model");
  }

  template <typename F>
  void find(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
    if (function == nullptr && why_not.empty())
      why_not = std::string("needs a function that this libllama does not export (") + name + ")";
  }
};

const Lookup& lookup() {
  static const Lookup found;
  return found;
}

}  // namespace

const StateFunctions* state_functions() { return lookup().why_not.empty() ? &lookup().functions : nullptr; }
std::string no_state_functions() { return lookup().why_not; }

}  // namespace gsd
