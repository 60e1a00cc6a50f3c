// Calls into foreign code that recurses once per character of its input.
#pragma once

#include <cstddef>
#include <functional>

namespace gsd {

// Runs `work` on a thread of its own with a stack of at least `bytes`, of which only what is used takes memory, and
// waits for it. Throws what `work` throws, Error(kOutOfMemory) if there is no room. Thread safe.
void run_on_deep_stack(std::size_t bytes, const std::function<void()>& work);
// The same; returns how many bytes of the stack were in use at most.
std::size_t measure_stack(std::size_t bytes, const std::function<void()>& work);

}  // namespace gsd
