// Peak rates by loops of nothing but an instruction set's multiply-adds on registers, measured beside what is
// compared with them: frequency and neighbours change from second to second.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "measuring.hpp"

namespace benchmarks {

namespace probe {

/// Independent chains of dependent operations: enough to hide the latency, few enough for 16 registers.
inline constexpr int chains = 12;

/// Numbers that the compiler does not know, or it would merge the chains; x -> x * factor + term stays
/// near 1.
template <class T>
struct Coefficients {
  volatile T start = T(1), factor = T(0.99), term = T(0.01);
};

// Each function is compiled for its own instructions, whatever the program is compiled for; a target
// attribute cannot depend on a template argument. Call one only if the processor has them.
#define RING_ATTENTION_FMA_PROBE(name, vector_bytes, ...)                                      \
  template <class T>                                                                           \
  [[gnu::noinline __VA_ARGS__]] void name(std::int64_t rounds) {                               \
    using Vector [[gnu::vector_size(vector_bytes)]] = T;                                       \
    const Coefficients<T> coefficients;                                                        \
    const Vector factor = Vector{} + coefficients.factor, term = Vector{} + coefficients.term; \
    Vector sums[chains];                                                                       \
    for (Vector & sum : sums) sum = Vector{} + coefficients.start;                             \
    for (std::int64_t round = 0; round < rounds; ++round) {                                    \
      _Pragma("GCC unroll 12") for (Vector & sum : sums) sum = sum * factor + term;            \
    }                                                                                          \
    volatile T sink = 0;                                                                       \
    for (const Vector& sum : sums) sink = sink + sum[0];                                       \
  }
RING_ATTENTION_FMA_PROBE(generic_fma, 16)
#if defined(__x86_64__)
RING_ATTENTION_FMA_PROBE(avx2_fma, 32, , gnu::target("avx2,fma"))
RING_ATTENTION_FMA_PROBE(avx512_fma, 64, , gnu::target("avx512f"))

/// AVX512-BF16's dot products of pairs.
[[gnu::noinline, gnu::target("avx512f,avx512bf16")]] inline void bfloat16_pair_products(std::int64_t rounds) {
  const Coefficients<float> coefficients;
  const __m512 value = _mm512_set1_ps(coefficients.term);
  const __m512bh a = _mm512_cvtne2ps_pbh(value, value), b = a;
  __m512 sums[chains];
  for (__m512& sum : sums) sum = _mm512_set1_ps(coefficients.start);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
  }
  volatile float sink = 0;
  for (const __m512& sum : sums) sink = sink + sum[0];
}

/// AMX: four products of 16 x 32 by 32 x 16.
[[gnu::noinline, gnu::target("amx-tile,amx-bf16")]] inline void tile_products(std::int64_t rounds) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of tiles 0 to 7; the rest must be 0
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shape;
  alignas(64) std::uint16_t numbers[16 * 32];
  for (std::uint16_t& number : numbers) number = 0x3c24;  // 0.01
  // g++ does not see that the instructions below read all of these.
  asm volatile("" : : "r"(&shape), "r"(numbers) : "memory");
  _tile_loadconfig(&shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, numbers, 64);
  _tile_loadd(5, numbers, 64);
  _tile_loadd(6, numbers, 64);
  _tile_loadd(7, numbers, 64);
  for (std::int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
#endif
#undef RING_ATTENTION_FMA_PROBE

}  // namespace probe

struct PeakProbe {
  std::string name;
  double operations_per_round = 0.0;
  void (*run)(std::int64_t rounds) = nullptr;
};

/// The loop of the instructions that a kernel computes with: half and bfloat16 as float if the kernel has no
/// products of its own for them.
template <class Scalar>
PeakProbe matching_probe([[maybe_unused]] std::string_view kernel) {
  using T = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
  const std::string type = std::is_same_v<T, double> ? " double FMA" : " float FMA";
  const auto operations = [](int vector_bytes) {
    return 2.0 * vector_bytes / static_cast<int>(sizeof(T)) * probe::chains;
  };
#if defined(__x86_64__)
  const bool amx = kernel.find("amx") != kernel.npos;
  if (std::is_same_v<Scalar, Eigen::bfloat16>) {
    if (amx) return {"AMX bfloat16", 4 * 2.0 * 16 * 32 * 16, &probe::tile_products};
    if (kernel.find("bf16") != kernel.npos) {
      return {"AVX512-BF16", 16 * 2 * 2.0 * probe::chains, &probe::bfloat16_pair_products};
    }
  }
  if (amx || kernel.starts_with("avx512")) return {"AVX-512" + type, operations(64), &probe::avx512_fma<T>};
  if (kernel.starts_with("avx2")) return {"AVX2" + type, operations(32), &probe::avx2_fma<T>};
#endif
  return {"generic" + type, operations(16), &probe::generic_fma<T>};
}

/// The loops of all kernels that this machine can run, by name.
inline std::map<std::string, PeakProbe> all_probes() {
  std::map<std::string, PeakProbe> probes;
  for (const std::string& kernel : ra::available_kernels()) {
    for (const PeakProbe& made : {matching_probe<float>(kernel), matching_probe<double>(kernel),
                                  matching_probe<Eigen::bfloat16>(kernel)}) {
      probes.emplace(made.name, made);
    }
  }
  return probes;
}

/// Runs probes for about as long as it is told.
class PeakMeter {
 public:
  explicit PeakMeter(double seconds) : seconds_(seconds) {}

  /// Operations per second of `threads` threads together.
  double measure(const PeakProbe& probe, int threads) {
    const std::int64_t rounds = rounds_of(probe);
    std::vector<double> rates(static_cast<std::size_t>(threads));
    const auto measure_one = [&](double& rate) {
      const double seconds = seconds_of([&] { probe.run(rounds); });
      rate = static_cast<double>(rounds) * probe.operations_per_round / seconds;
    };
    {
      std::vector<std::jthread> others;
      for (std::size_t i = 1; i < rates.size(); ++i) others.emplace_back(measure_one, std::ref(rates[i]));
      measure_one(rates[0]);
    }
    double sum = 0.0;
    for (const double rate : rates) sum += rate;
    double& most = best(probe, threads);
    most = std::max(most, sum);
    return sum;
  }

  /// The most that measure() has given for these arguments so far.
  double& best(const PeakProbe& probe, int threads) { return best_[{probe.name, threads}]; }

 private:
  std::int64_t rounds_of(const PeakProbe& probe) {
    std::int64_t& rounds = rounds_[probe.name];
    for (std::int64_t trial = 1000; rounds == 0; trial *= 2) {
      const double seconds = seconds_of([&] { probe.run(trial); });
      if (seconds > seconds_ / 10)
        rounds = static_cast<std::int64_t>(static_cast<double>(trial) * seconds_ / seconds);
    }
    return rounds;
  }

  double seconds_;
  std::map<std::string, std::int64_t> rounds_;
  std::map<std::pair<std::string, int>, double> best_;
};

}  // namespace benchmarks
