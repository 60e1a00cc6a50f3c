// ggml with its CPU device and the backend under test loaded into this process.
#pragma once

#include <ggml-backend.h>
#include <ggml-cpp.h>
#include <ggml.h>

namespace gsd::narrow::test {

struct Devices {
  ggml_backend_dev_t cpu = nullptr;  // null where ggml's backends are not found
  ggml_backend_dev_t gsd = nullptr;  // null on a machine without AVX2
  ggml_backend_reg_t reg = nullptr;
};

// Loads both once.
const Devices& devices();

ggml_context_ptr make_context();  // for up to 256 tensors without data

}  // namespace gsd::narrow::test
