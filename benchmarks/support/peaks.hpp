// Peak rates, measured beside what is compared with them: frequency and neighbours change from second to
// second.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <ring_attention/kernel/tile_permission.hpp>
#include <ring_attention/scalar.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "bfloat16_probe.hpp"
#include "clock.hpp"
#include "fma_probe.hpp"

namespace benchmarks {

struct PeakProbe {
  std::string name;
  double operations_per_round = 0.0;
  void (*run)(std::int64_t rounds) = nullptr;
};

/// The loop of the instructions that a kernel computes with: half and bfloat16 as float where the kernel has
/// no products of its own for them.
template <class Scalar>
PeakProbe matching_probe([[maybe_unused]] std::string_view kernel) {
  using T = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
  const std::string type = std::is_same_v<T, double> ? " double FMA" : " float FMA";
#if defined(__x86_64__)
  if (std::is_same_v<Scalar, Eigen::bfloat16>) {
    if (kernel.find("amx") != kernel.npos) {
      return {"AMX bfloat16", probe::tile_product_operations, &probe::tile_products};
    }
    if (kernel.find("bf16") != kernel.npos) {
      return {"AVX512-BF16", probe::pair_product_operations, &probe::bfloat16_pair_products};
    }
  }
  if (kernel.find("amx") != kernel.npos || kernel.starts_with("avx512")) {
    return {"AVX-512" + type, probe::operations<T>(64), &probe::avx512_fma<T>};
  }
  if (kernel.starts_with("avx2")) {
    return {"AVX2" + type, probe::operations<T>(32), &probe::avx2_fma<T>};
  }
#endif
  return {"generic" + type, probe::operations<T>(16), &probe::generic_fma<T>};
}

/// Every loop that this machine can run, and a remark for each that it cannot.
inline std::pair<std::vector<PeakProbe>, std::vector<std::string>> all_probes() {
  std::vector<PeakProbe> probes{matching_probe<float>("generic"), matching_probe<double>("generic")};
  std::vector<std::string> skipped;
#if defined(__x86_64__)
  const auto add = [&](bool supported, const PeakProbe& made) {
    supported ? probes.push_back(made)
              : skipped.push_back(made.name + ": neither processor nor system offers it");
  };
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f");
  add(avx2, matching_probe<float>("avx2"));
  add(avx2, matching_probe<double>("avx2"));
  add(avx512, matching_probe<float>("avx512"));
  add(avx512, matching_probe<double>("avx512"));
  add(avx512 && __builtin_cpu_supports("avx512bf16"), matching_probe<Eigen::bfloat16>("avx512_bf16"));
  add(ring_attention::detail::tiles_permitted(), matching_probe<Eigen::bfloat16>("amx"));
#endif
  return {probes, skipped};
}

/// Runs probes for about as long as it is told.
class PeakMeter {
 public:
  explicit PeakMeter(double seconds) : seconds_(seconds) {}

  /// Operations per second of `threads` threads together.
  double measure(const PeakProbe& probe, int threads) {
    const std::int64_t rounds = rounds_of(probe);
    std::vector<double> rates(static_cast<std::size_t>(threads));
    const auto measure_one = [&](std::size_t i) {
      const double seconds = seconds_of([&] { probe.run(rounds); });
      rates[i] = static_cast<double>(rounds) * probe.operations_per_round / seconds;
    };
    {
      std::vector<std::jthread> others;
      for (std::size_t i = 1; i < rates.size(); ++i) others.emplace_back(measure_one, i);
      measure_one(0);
    }
    double sum = 0.0;
    for (const double rate : rates) sum += rate;
    double& best = best_[{probe.name, threads}];
    best = std::max(best, sum);
    return sum;
  }

  /// The most that measure() has given for these arguments so far.
  double best(const PeakProbe& probe, int threads) const {
    const auto found = best_.find({probe.name, threads});
    return found == best_.end() ? 0.0 : found->second;
  }

 private:
  std::int64_t rounds_of(const PeakProbe& probe) {
    std::int64_t& rounds = rounds_[probe.name];
    if (rounds == 0) {
      std::int64_t trial = 1000;
      double seconds = 0.0;
      for (;; trial *= 2) {
        seconds = seconds_of([&] { probe.run(trial); });
        if (seconds > seconds_ / 10) break;
      }
      rounds = static_cast<std::int64_t>(static_cast<double>(trial) * seconds_ / seconds);
    }
    return rounds;
  }

  double seconds_;
  std::map<std::string, std::int64_t> rounds_;
  std::map<std::pair<std::string, int>, double> best_;
};

}  // namespace benchmarks
