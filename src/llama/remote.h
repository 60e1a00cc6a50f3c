// What is done on other machines: see gsd/remote.h.
#pragma once

#include <functional>

#include "gsd/remote.h"
#include "handles.h"

namespace gsd {

// Whether some of the model's layers lie on another machine; the same of a model that Model has loaded.
bool is_remote(const Model::Impl& model);
bool is_remote(const llama_model* model);

// To be called for each that is loaded there.
void note_remote(const llama_model* model);

// Calls `call`, in a thread of its own if it needs other machines (`remote`), and waits; libllama's error messages are
// the caller's. Throws what it throws, and Error(kBackend) if a connection broke before or meanwhile: `call` then has
// not begun, or never ends, and what it works on must neither be touched nor freed. Any thread; one call is done at a
// time.
void call_remote(bool remote, const std::function<void()>& call);

// Has the system break connections to machines that have vanished. To be called when some may have been made.
void watch_connections();

// Adds to the messages that take_llama_errors() gives to this thread.
void add_llama_errors(const std::string& text);

}  // namespace gsd
