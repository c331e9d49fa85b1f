// Register-only loops of multiply-adds in float and double: the most that a core can do, by instruction set.
// Each is compiled for its own, whatever the program is compiled for. Call one only where the processor has
// it.
#pragma once

#include <cstdint>

namespace benchmarks::probe {

/// Independent chains of dependent operations: enough to hide the latency, few enough for 16 registers.
inline constexpr int chains = 12;

/// Floating-point operations of one round.
template <class T>
constexpr double operations(int vector_bytes) {
  return 2.0 * vector_bytes / static_cast<int>(sizeof(T)) * chains;
}

/// Numbers that the compiler does not know, or it would merge the chains; x -> x * factor + term stays
/// near 1.
template <class T>
struct Coefficients {
  volatile T start = T(1);
  volatile T factor = T(0.99);
  volatile T term = T(0.01);
};

/// Vectors of 16 bytes with the instructions that the program is compiled for.
template <class T>
[[gnu::noinline]] void generic_fma(std::int64_t rounds) {
  using Vector [[gnu::vector_size(16)]] = T;
  const Coefficients<T> coefficients;
  const Vector factor = Vector{} + coefficients.factor, term = Vector{} + coefficients.term;
  Vector sums[chains];
  for (Vector& sum : sums) sum = Vector{} + coefficients.start;
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (Vector& sum : sums) sum = sum * factor + term;
  }
  volatile T sink = 0;
  for (const Vector& sum : sums) sink = sink + sum[0];
}

#if defined(__x86_64__)

template <class T>
[[gnu::noinline, gnu::target("avx2,fma")]] void avx2_fma(std::int64_t rounds) {
  using Vector [[gnu::vector_size(32)]] = T;
  const Coefficients<T> coefficients;
  const Vector factor = Vector{} + coefficients.factor, term = Vector{} + coefficients.term;
  Vector sums[chains];
  for (Vector& sum : sums) sum = Vector{} + coefficients.start;
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (Vector& sum : sums) sum = sum * factor + term;
  }
  volatile T sink = 0;
  for (const Vector& sum : sums) sink = sink + sum[0];
}

template <class T>
[[gnu::noinline, gnu::target("avx512f")]] void avx512_fma(std::int64_t rounds) {
  using Vector [[gnu::vector_size(64)]] = T;
  const Coefficients<T> coefficients;
  const Vector factor = Vector{} + coefficients.factor, term = Vector{} + coefficients.term;
  Vector sums[chains];
  for (Vector& sum : sums) sum = Vector{} + coefficients.start;
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (Vector& sum : sums) sum = sum * factor + term;
  }
  volatile T sink = 0;
  for (const Vector& sum : sums) sink = sink + sum[0];
}

#endif

}  // namespace benchmarks::probe
