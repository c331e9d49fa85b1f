// Comparison of results with float64 references. NaN never passes, nor does an infinity that is not expected.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace test {

/// Allowed |actual - reference| / max(1, |reference|, size). The size is 0 for float and double and for lse;
/// for 16-bit scalars it is that of output_size() and gradient_size().
struct Tolerance {
  double out;
  double lse;
  double gradient;
};

/// The contract's tolerances; `factor` is max(1, largest |score| / 100).
template <class Scalar>
constexpr Tolerance tolerance_of(double factor = 1) {
  double out = 0;
  if constexpr (std::same_as<Scalar, double>) {
    out = 1e-12;
  } else if constexpr (std::same_as<Scalar, float>) {
    out = 2e-5;
  } else if constexpr (std::same_as<Scalar, Eigen::half>) {
    out = 4e-3;
  } else {
    static_assert(std::same_as<Scalar, Eigen::bfloat16>, "no tolerance is agreed for this type");
    out = 2.5e-2;
  }
  const double lse = std::same_as<Scalar, double> ? 1e-12 : 2e-5;
  return {out * factor, lse * factor, 5 * out * factor};
}

/// Rounding errors of 16 bits grow with what was rounded, which sums that cancel do not show: for an output
/// that is the largest |v| among the keys that its row attends to.
template <class Scalar>
constexpr double output_size(double largest_value) {
  return sizeof(Scalar) == 2 ? largest_value / 5 : 0;
}

/// For gradients, the largest number of the tensor.
template <class Scalar>
double gradient_size(const std::vector<double>& reference) {
  double largest = 0;
  if (sizeof(Scalar) == 2) {
    for (const double x : reference) largest = std::max(largest, std::abs(x));
  }
  return largest;
}

template <class T>
double to_double(const T& value) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<double>(value);
  } else {
    return static_cast<double>(static_cast<float>(value));
  }
}

/// Collects element by element; keeps the worst.
class Comparison {
 public:
  using Position = std::array<std::int64_t, 4>;

  Comparison(std::string name, double tolerance) : name_(std::move(name)), tolerance_(tolerance) {}

  template <class T>
  void add(const T& actual, double reference, const Position& position, double size = 0) {
    add_double(to_double(actual), reference, position, size);
  }

  bool passed() const { return failures_ == 0; }
  std::int64_t count() const { return count_; }
  /// Largest error met, in units of the tolerance; infinite after NaN.
  double worst() const { return worst_; }

  /// What was compared, and position and values of the worst element.
  std::string message() const {
    std::ostringstream text;
    text.precision(17);
    text << name_ << ": " << failures_ << " of " << count_ << " elements differ";
    if (count_ == 0) return text.str();
    text << "; worst at [" << position_[0] << ", " << position_[1] << ", " << position_[2] << ", "
         << position_[3] << "]: " << actual_ << ", expected " << reference_ << " (" << worst_
         << " times the tolerance of " << tolerance_ << ")";
    return text.str();
  }

 private:
  void add_double(double actual, double reference, const Position& position, double size) {
    double error = 0;
    if (std::isinf(reference) || !std::isfinite(size)) {
      error = actual == reference ? 0 : std::numeric_limits<double>::infinity();
    } else {
      error = std::abs(actual - reference) / (tolerance_ * std::max({1.0, std::abs(reference), size}));
      if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    }
    if (error > 1) ++failures_;
    if (count_++ == 0 || error > worst_) {
      worst_ = error;
      position_ = position;
      actual_ = actual;
      reference_ = reference;
    }
  }

  std::string name_;
  double tolerance_;
  std::int64_t count_ = 0;
  std::int64_t failures_ = 0;
  double worst_ = 0;
  Position position_{};
  double actual_ = 0;
  double reference_ = 0;
};

/// Compares flat arrays of equal length; a length that differs is a failure.
template <class A>
Comparison compare_all(std::string name, const A& actual, const std::vector<double>& reference,
                       double tolerance, double size = 0) {
  Comparison comparison(std::move(name), tolerance);
  const std::size_t length = std::max(static_cast<std::size_t>(actual.size()), reference.size());
  constexpr double missing = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < length; ++i) {
    const Comparison::Position position{0, 0, 0, static_cast<std::int64_t>(i)};
    if (i < actual.size() && i < reference.size()) {
      comparison.add(actual[i], reference[i], position, size);
    } else {
      comparison.add(missing, 0.0, position);
    }
  }
  return comparison;
}

}  // namespace test
