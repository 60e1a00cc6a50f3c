#include "config.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace gsd::narrow {
namespace {

constexpr int32_t kMinWidth = 0;   // by format
constexpr int32_t kAttention = 2;  // libllama asks about one token when it decides whether flash attention is supported
// Handing a product over costs about a microsecond; a matrix smaller than this takes ggml about as long at any width.
constexpr int64_t kMinMatrixBytes = 64 << 10;
constexpr int64_t kWidest = std::numeric_limits<int32_t>::max();
constexpr int32_t kMaxWidth = 512;  // libllama's batch; prompts gain as much as trees
// One column is the least work to hand over, and ggml's own way of doing it is a good one: four times that size.
constexpr int64_t kOneColumnFactor = 4;

int64_t environment(const char* name, int64_t fallback, int64_t least = 0,
                    int64_t most = std::numeric_limits<int64_t>::max()) {
  const char* text = std::getenv(name);
  if (text == nullptr) return fallback;
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  return error == std::errc() && stop == end && stop != text && value >= least && value <= most ? value : fallback;
}

bool valid(const gsd_narrow_params& p) {
  return p.min_width >= 0 && p.max_width >= 1 && p.min_width <= p.max_width && p.min_matrix_bytes >= 0 &&
         p.attention >= 0;
}

}  // namespace

Config::Config()
    : min_width_(kMinWidth), max_width_(kMaxWidth), min_matrix_bytes_(kMinMatrixBytes), attention_(kAttention) {
  gsd_narrow_params p{};
  p.size = sizeof p;
  get(&p);
  p.enabled = environment("GSD_NARROW", p.enabled) != 0 ? 1 : 0;
  p.exact = environment("GSD_NARROW_EXACT", p.exact) != 0 ? 1 : 0;
  p.max_width = static_cast<int32_t>(environment("GSD_NARROW_MAX_WIDTH", p.max_width, 1, kWidest));
  p.min_width = static_cast<int32_t>(environment("GSD_NARROW_MIN_WIDTH", p.min_width, 0, p.max_width));
  p.min_matrix_bytes = environment("GSD_NARROW_MIN_MATRIX_BYTES", p.min_matrix_bytes);
  p.huge_pages = environment("GSD_NARROW_HUGE_PAGES", p.huge_pages) != 0 ? 1 : 0;
  p.attention = static_cast<int32_t>(environment("GSD_NARROW_ATTENTION", p.attention, 0, kWidest));
  p.rows = environment("GSD_NARROW_ROWS", p.rows) != 0 ? 1 : 0;
  set(&p);
}

int Config::set(const gsd_narrow_params* params) {
  if (params == nullptr || params->size != sizeof *params || !valid(*params)) return -1;
  enabled_ = params->enabled != 0;
  exact_ = params->exact != 0;
  min_width_ = params->min_width;
  max_width_ = params->max_width;
  min_matrix_bytes_ = params->min_matrix_bytes;
  huge_pages_ = params->huge_pages != 0;
  attention_ = params->attention;
  rows_ = params->rows != 0;
  return 0;
}

int Config::get(gsd_narrow_params* params) const {
  if (params == nullptr || params->size != sizeof *params) return -1;
  params->enabled = enabled_ ? 1 : 0;
  params->exact = exact_ ? 1 : 0;
  params->min_width = min_width_;
  params->max_width = max_width_;
  params->min_matrix_bytes = min_matrix_bytes_;
  params->huge_pages = huge_pages_ ? 1 : 0;
  params->attention = attention_;
  params->rows = rows_ ? 1 : 0;
  return 0;
}

bool Config::takes(int64_t columns, int64_t matrix_bytes, int32_t format_min_width) const {
  if (!enabled_ || columns < 1 || columns > max_width_) return false;
  const int32_t min_width = min_width_ == 0 ? format_min_width : min_width_.load();
  const int64_t bytes = columns == 1 ? matrix_bytes / kOneColumnFactor : matrix_bytes;
  return exact_ || (columns >= min_width && bytes >= min_matrix_bytes_);
}

bool Config::takes_attention(int64_t tokens) const {
  const int32_t fewest = attention_;
  return enabled_ && fewest > 0 && tokens >= (exact_ ? 1 : fewest) && tokens <= max_width_;
}

}  // namespace gsd::narrow
