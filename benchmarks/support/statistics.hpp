// Medians and ranges of repeated measurements, and when two of them count as different.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <vector>

namespace benchmarks {

struct Summary {
  double median = 0.0;
  double minimum = 0.0;
  double maximum = 0.0;
  double lower_quartile = 0.0;
  double upper_quartile = 0.0;
  std::size_t count = 0;
};

/// Quantile by linear interpolation between the neighbours of an ascending list.
inline double quantile(const std::vector<double>& ascending, double fraction) {
  const double position = fraction * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (position - static_cast<double>(below)) * (ascending[above] - ascending[below]);
}

inline Summary summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {quantile(samples, 0.5),  samples.front(),         samples.back(),
          quantile(samples, 0.25), quantile(samples, 0.75), samples.size()};
}

/// Whether two measurements differ by more than they scatter: their ranges have no value in common and the
/// medians are further apart than either range is wide. A disturbed repetition can hide a small difference,
/// hardly invent one.
inline bool differ(const Summary& a, const Summary& b) {
  const bool apart = a.maximum < b.minimum || b.maximum < a.minimum;
  const double widest = std::max(a.maximum - a.minimum, b.maximum - b.minimum);
  return std::min(a.count, b.count) >= 3 && apart && std::abs(a.median - b.median) > widest;
}

inline nlohmann::json to_json(const Summary& summary) {
  return {{"median", summary.median},
          {"minimum", summary.minimum},
          {"maximum", summary.maximum},
          {"lower_quartile", summary.lower_quartile},
          {"upper_quartile", summary.upper_quartile},
          {"repetitions", summary.count}};
}

}  // namespace benchmarks
