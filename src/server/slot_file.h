// What a slot keeps, in a file.
#pragma once

#include <cstddef>
#include <string>

#include "gsd/engine.h"

namespace gsd::server {

// Whether `name` may be that of a file in the folder of slots: no separators, nothing that begins with a point.
bool is_file_name(const std::string& name);

// Writes the file, whole or not at all. `model`: what the state belongs to. Returns its size. Throws Error(kIo).
std::size_t write_slot_file(const std::string& path, const std::string& model, const Engine::Kept& kept);

// Reads one that write_slot_file() wrote for the same model: version, model and sizes are looked at before anything
// else is read, and a sum over every byte before anybody uses it. At most `n_ctx` tokens, each below `n_vocab`. `size`:
// of the file. Throws Error(kUsage) for a file that cannot be read, of another kind, of another model, or that is
// damaged.
Engine::Kept read_slot_file(const std::string& path, const std::string& model, int n_ctx, Token n_vocab,
                            std::size_t& size);

}  // namespace gsd::server
