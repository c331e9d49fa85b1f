// Progression: rows or tokens at equal distances, the form in which dilated rows go through the engine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// The numbers first, first + stride, first + 2 * stride, ..., `count` of them; stride is positive.
struct Progression {
  std::int64_t first = 0;   ///< of an empty progression any number
  std::int64_t stride = 1;  ///< distance between neighbours
  std::int64_t count = 0;   ///< how many there are

  /// Number i, which must be below count.
  constexpr std::int64_t operator[](std::int64_t i) const { return first + i * stride; }
  /// The last number; there must be one.
  constexpr std::int64_t last() const { return first + (count - 1) * stride; }

  /// How many are below `limit`.
  constexpr std::int64_t count_below(std::int64_t limit) const {
    return limit <= first ? 0 : (std::min)(count, (limit - first - 1) / stride + 1);
  }

  /// Those at positions [begin, end).
  constexpr Progression sub(std::int64_t begin, std::int64_t end) const {
    return {begin < end ? first + begin * stride : first, stride, end - begin};
  }
  /// Those that lie in [begin, end).
  constexpr Progression within(std::int64_t begin, std::int64_t end) const {
    const std::int64_t skipped = count_below(begin);
    return sub(skipped, (std::max)(skipped, count_below(end)));
  }
  /// All of them `distance` later.
  constexpr Progression moved(std::int64_t distance) const { return {first + distance, stride, count}; }

  /// Whether the fields are equal.
  friend bool operator==(const Progression&, const Progression&) = default;
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
