// Two sums over rows in float64, where the oracle spends its time.
#pragma once

#include <cstddef>

namespace oracle {

/// Scalar product. Four sums, for one would make every addition wait for the one before.
inline double dot(const double* x, const double* y, std::size_t size) {
  double a = 0, b = 0, c = 0, d = 0;
  std::size_t i = 0;
  for (; i + 4 <= size; i += 4) {
    a += x[i] * y[i];
    b += x[i + 1] * y[i + 1];
    c += x[i + 2] * y[i + 2];
    d += x[i + 3] * y[i + 3];
  }
  for (; i < size; ++i) a += x[i] * y[i];
  return (a + b) + (c + d);
}

/// row += weight x. The rows do not overlap.
inline void add_scaled(double* __restrict row, double weight, const double* __restrict x, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) row[i] += weight * x[i];
}

}  // namespace oracle
