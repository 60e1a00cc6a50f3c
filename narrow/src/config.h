// Settings of the process (include/gsd_narrow.h) and what they say about one operation.
#pragma once

#include <atomic>

#include "gsd_narrow.h"

namespace gsd::narrow {

class Config {
 public:
  // Defaults, overridden by the environment variables named in gsd_narrow.h. Values that are no number or out of range
  // are ignored.
  Config();

  int set(const gsd_narrow_params* params);
  int get(gsd_narrow_params* params) const;

  bool huge_pages() const { return huge_pages_; }
  bool exact() const { return exact_; }
  bool takes_rows() const { return enabled_ && rows_; }
  // format_min_width: fewest columns at which our kernels win for the matrix's format on this machine.
  bool takes(int64_t columns, int64_t matrix_bytes, int32_t format_min_width) const;
  bool takes_attention(int64_t tokens) const;

 private:
  std::atomic<bool> enabled_{true};
  std::atomic<bool> exact_{false};
  std::atomic<int32_t> min_width_;
  std::atomic<int32_t> max_width_;
  std::atomic<int64_t> min_matrix_bytes_;
  std::atomic<bool> huge_pages_{true};
  std::atomic<int32_t> attention_;
  std::atomic<bool> rows_{true};
};

}  // namespace gsd::narrow
