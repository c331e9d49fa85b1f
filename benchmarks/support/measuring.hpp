// Seconds of calls, and medians with ranges.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace benchmarks {

/// Seconds that `action` takes.
template <class Action>
double seconds_of(const Action& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Summary {
  double median = 0.0, minimum = 0.0, maximum = 0.0;
  std::size_t count = 0;
};

inline Summary summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const std::size_t count = samples.size();
  return {(samples[(count - 1) / 2] + samples[count / 2]) / 2, samples.front(), samples.back(), count};
}

/// What nlohmann::json makes of a Summary.
inline void to_json(nlohmann::json& json, const Summary& summary) {
  json = {{"median", summary.median},
          {"minimum", summary.minimum},
          {"maximum", summary.maximum},
          {"repetitions", summary.count}};
}

/// Samples that each lie between two measurements of the peak rate.
template <class Sample>
struct Bracketed {
  std::vector<Sample> samples;
  std::vector<double> peaks;  ///< operations per second beside each
  bool noisy = false;         ///< fewer samples than wanted count; if none does, all are here
};

/// A sample counts only if the peaks on its two sides differ by no more than this part of the larger.
inline constexpr double bracket_tolerance = 0.07;

/// `wanted` samples of take(), out of at most three times as many. peak() measures the peak rate; a sample
/// with a peak below `slow_peak` of `best`, which peak() may raise, does not count.
template <class Take, class Peak>
auto take_bracketed(int wanted, double slow_peak, const double& best, const Take& take, const Peak& peak) {
  Bracketed<decltype(take())> counted, disturbed;
  double before = peak();
  for (int taken = 0; taken < 3 * wanted && std::ssize(counted.samples) < wanted; ++taken) {
    auto sample = take();
    const double after = peak();
    const auto [low, high] = std::minmax(before, after);
    const bool counts = low >= (1.0 - bracket_tolerance) * high && low >= slow_peak * best;
    auto& kept = counts ? counted : disturbed;
    kept.samples.push_back(std::move(sample));
    kept.peaks.push_back((before + after) / 2);
    before = after;
  }
  auto& result = counted.samples.empty() ? disturbed : counted;
  result.noisy = std::ssize(counted.samples) < wanted;
  return result;
}

/// Largest resident size of this process so far, in bytes; nothing if the system does not say. Read from
/// /proc because ru_maxrss is inherited across exec and would count the parent.
inline std::optional<std::int64_t> peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(line.find(':') + 1)) * 1024;
  }
  return std::nullopt;
}

}  // namespace benchmarks
