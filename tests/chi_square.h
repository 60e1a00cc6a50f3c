// Chi-square test of observed counts against expected probabilities.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <span>

namespace gsd::test {

// Upper tail of the chi-square distribution by the Wilson-Hilferty approximation: good to a few percent of the
// tail for the thresholds used here.
inline double chi_square_tail(double x, double degrees) {
  const double z = (std::cbrt(x / degrees) - (1 - 2 / (9 * degrees))) / std::sqrt(2 / (9 * degrees));
  return 0.5 * std::erfc(z / std::sqrt(2.0));
}

// Fails if counts as far off as these would come up less than once in 1e6 runs. Cells with fewer than 5 expected are
// pooled.
inline void expect_distribution(std::span<const double> probability, std::span<const long> count) {
  double n = 0;
  for (const long c : count) n += static_cast<double>(c);
  double x = 0;
  int cells = 0;
  double pooled_p = 0;
  double pooled_c = 0;
  for (std::size_t i = 0; i < count.size(); ++i) {
    const double want = probability[i] * n;
    if (want < 5) {
      pooled_p += probability[i];
      pooled_c += static_cast<double>(count[i]);
      continue;
    }
    x += (static_cast<double>(count[i]) - want) * (static_cast<double>(count[i]) - want) / want;
    ++cells;
  }
  if (pooled_p * n >= 1) {
    x += (pooled_c - pooled_p * n) * (pooled_c - pooled_p * n) / (pooled_p * n);
    ++cells;
  } else {
    EXPECT_LE(pooled_c, 20) << "outcomes that are all but impossible";
  }
  ASSERT_GE(cells, 2);
  EXPECT_GT(chi_square_tail(x, cells - 1), 1e-6)
      << "chi-square " << x << " with " << cells - 1 << " degrees of freedom";
}

}  // namespace gsd::test
