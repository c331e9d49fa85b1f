// What the finite check of a call on a GPU leaves for Context::check().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <string>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The first element, in row-major order, of the first tensor of the first call that was not finite.
struct FiniteReport {
  std::int32_t tensor;  ///< 1: q, 2: k, 3: v; 0: all were finite
  std::int32_t unused;
  std::int64_t item, token, head, column;
  double value;
};

/// Memory of a context on its device.
struct FiniteCheck {
  /// By tensor: number of the first such element of the call that runs, in row-major order; none: all bits.
  unsigned long long first[3];
  unsigned int blocks_done;  ///< of the kernel that runs
  FiniteReport report;
};

[[noreturn]] inline void throw_not_finite(const FiniteReport& report) {
  constexpr std::array names{"q", "k", "v"};
  std::string place(names.at(static_cast<std::size_t>(report.tensor - 1)));
  place.append("(").append(std::to_string(report.item)).append(", ").append(std::to_string(report.token));
  place.append(", ").append(std::to_string(report.head)).append(", ").append(std::to_string(report.column));
  throw_invalid(place.append(")"), std::to_string(report.value), "must be finite");
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
