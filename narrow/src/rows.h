// What stands between the products of a transformer, a row of floats at a time: so small that handing it over to ggml
// and back takes longer than doing it.
//
// Outputs may be the same memory as an input, but must not overlap one otherwise. REQUIRES: AVX2, FMA, F16C
#pragma once

#include <cstdint>

namespace gsd::narrow {

void add_row(const float* a, const float* b, float* out, int64_t n);
void multiply_row(const float* a, const float* b, float* out, int64_t n);
void scale_row(const float* x, float factor, float* out, int64_t n);
// x / sqrt(mean(x^2) + epsilon)
void rms_norm_row(const float* x, float epsilon, float* out, int64_t n);
// gate / (1 + e^-gate) * up
void swiglu_row(const float* gate, const float* up, float* out, int64_t n);
// With a bounded from above and b on both sides by `limit`: a / (1 + e^(-alpha a)) * (b + 1)
void swiglu_oai_row(const float* a, const float* b, float alpha, float limit, float* out, int64_t n);
void half_row(const float* x, uint16_t* out, int64_t n);  // to the nearest half-precision float

// Rotary position embedding (Su et al., "RoFormer", section 3.2.2) of the first `dims` elements of a vector.
struct Rotation {
  int64_t dims;          // even
  bool halves;           // element i turns with i + dims / 2; else with its neighbour
  float base, scale;     // pair i turns by position * scale * base^(-2i / dims)
  float magnitude;       // of the result
  const float* factors;  // [dims / 2] divide the angles; or null
};
// table: [2 * dims], for rotate_row
void fill_rotation(const Rotation& rotation, int32_t position, float* table);
// x, out: [n], n >= dims; what follows dims is copied
void rotate_row(const Rotation& rotation, const float* table, const float* x, float* out, int64_t n);

}  // namespace gsd::narrow
