// Seconds of repeated calls, each between two measurements of the peak rate, so that a sample which a
// neighbour or the clock disturbed is found out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "clock.hpp"
#include "peaks.hpp"

namespace benchmarks {

/// A sample counts only where the peaks on its two sides differ by no more than this part of the larger,
inline constexpr double bracket_tolerance = 0.07;
/// and neither is below this part of the best peak of the run.
inline constexpr double slow_peak = 0.8;
/// Short calls are repeated within a sample until they take this long; the first has to wake up threads that
/// slept during the probe.
inline constexpr double least_sample_seconds = 0.06;

struct BracketedSamples {
  std::vector<double> seconds;  ///< of one call, by sample that counts
  std::vector<double> peak;     ///< operations per second beside it
  int dropped = 0;
};

/// `wanted` samples of `call`, out of at most three times as many.
template <class Call>
BracketedSamples take_samples(PeakMeter& meter, const PeakProbe& probe, int threads, int wanted,
                              const Call& call) {
  BracketedSamples samples;
  const double first = seconds_of(call);
  const auto calls = static_cast<std::int64_t>(std::clamp(least_sample_seconds / first, 1.0, 1e6));
  double before = meter.measure(probe, threads);
  for (int taken = 0; taken < 3 * wanted && std::ssize(samples.seconds) < wanted; ++taken) {
    const double seconds = seconds_of([&] {
      for (std::int64_t i = 0; i < calls; ++i) call();
    });
    const double after = meter.measure(probe, threads);
    const auto [low, high] = std::minmax(before, after);
    if (low >= (1.0 - bracket_tolerance) * high && low >= slow_peak * meter.best(probe, threads)) {
      samples.seconds.push_back(seconds / static_cast<double>(calls));
      samples.peak.push_back((before + after) / 2);
    } else {
      ++samples.dropped;
    }
    before = after;
  }
  return samples;
}

}  // namespace benchmarks
