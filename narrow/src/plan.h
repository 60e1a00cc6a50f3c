// A graph of ggml's as steps that all threads take together.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "rows.h"

namespace gsd::narrow {

class Step;

// Memory for packed activations and scores, kept from graph to graph.
class Scratch {
 public:
  std::byte* reserve(size_t bytes) {
    if (bytes > size_) {
      data_.reset(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kBlockBytes})));
      size_ = bytes;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{kBlockBytes}); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// Angles of a rotary embedding, which all layers share.
struct RotationTable {
  const ggml_tensor* node;  // the first that uses it
  Rotation rotation;
  std::vector<float> values;  // [tokens][2 * dims]
};

// One parallel region for a whole graph. Between steps all threads wait for each other, so there are as few as can be:
// neighbouring products of the same activations are one, and so are operations on rows.
class Plan {
 public:
  // Throws std::bad_alloc. REQUIRES: supports() for every node that is no view.
  Plan(ggml_cgraph* graph, int threads, Scratch& scratch);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Called by every thread of an OpenMP region.
  void run();

 private:
  void add(const ggml_tensor& node);
  void add_product(const ggml_tensor& node);
  void add_experts(const ggml_tensor& node);
  void add_rows(const ggml_tensor& node);
  RotationTable& rotation_of(const ggml_tensor& node, bool& fresh);

  std::vector<std::unique_ptr<Step>> steps_;
  std::deque<RotationTable> rotations_;
};

}  // namespace gsd::narrow
