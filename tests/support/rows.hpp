// Two sums over rows in float64, where the oracle spends its time.
#pragma once

#include <cstddef>
#include <cstring>

namespace oracle {

/// What every 64-bit processor computes at once. The tests are compiled at -O1, which makes none of its own.
using Pair [[gnu::vector_size(16)]] = double;

inline Pair pair_at(const double* x) {
  Pair pair;
  std::memcpy(&pair, x, sizeof pair);
  return pair;
}

/// Scalar product. Four sums, for one would make every addition wait for the one before.
inline double dot(const double* x, const double* y, std::size_t size) {
  Pair a{}, b{}, c{}, d{};
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    a += pair_at(x + i) * pair_at(y + i);
    b += pair_at(x + i + 2) * pair_at(y + i + 2);
    c += pair_at(x + i + 4) * pair_at(y + i + 4);
    d += pair_at(x + i + 6) * pair_at(y + i + 6);
  }
  a = (a + b) + (c + d);
  double rest = 0;
  for (; i < size; ++i) rest += x[i] * y[i];
  return a[0] + a[1] + rest;
}

/// row += weight x. The rows do not overlap.
inline void add_scaled(double* __restrict row, double weight, const double* __restrict x, std::size_t size) {
  std::size_t i = 0;
  for (; i + 2 <= size; i += 2) {
    const Pair sum = pair_at(row + i) + weight * pair_at(x + i);
    std::memcpy(row + i, &sum, sizeof sum);
  }
  if (i < size) row[i] += weight * x[i];
}

}  // namespace oracle
