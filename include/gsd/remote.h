// Models on other machines, by ggml's RPC, and what is left when the connection to one breaks.
//
// ggml ends the process then. Here what needs other machines is done by a thread that can be given up: whoever waits
// for it gets an Error(kBackend) that names the machine, and so does every later pass on other machines. Nothing of
// what lay there can be saved or freed; to go on, the process must begin anew.
#pragma once

#include <string>
#include <vector>

namespace gsd {

// Whether a connection broke. Any thread.
bool connection_lost();
// Those of the servers that were added (add_rpc_servers) where nobody answers now, "HOST:PORT"; takes up to a second
// for each. For when a connection broke: one that is busy with another program seems silent. Any thread.
std::vector<std::string> silent_servers();

}  // namespace gsd
