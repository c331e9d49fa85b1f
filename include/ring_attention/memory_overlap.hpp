// Whether strided tensors share memory: exact, also for views that interleave, such as q, k, v and out in one
// packed buffer. Views of host and of device memory alike: nothing is read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/version.hpp>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// All sums of a fixed distance and one multiple of each of several steps.
class StepSums {
 public:
  explicit StepSums(std::int64_t fixed) : fixed_(fixed) {}

  /// `size` times any number from `least` to `most`.
  void add(std::int64_t size, std::int64_t least, std::int64_t most) {
    if (size == 0) return;
    if (size < 0) {
      size = -size;
      least = -std::exchange(most, -least);
    }
    const std::int64_t largest = (std::max)(-least, most);
    if (largest > (farthest - reach_) / size) {
      too_far_ = true;
      return;
    }
    reach_ += size * largest;
    Step* const end = steps_.data() + count_;
    Step* const place = std::find_if(steps_.data(), end, [size](const Step& s) { return s.size <= size; });
    if (place != end && place->size == size) {
      place->least += least;
      place->most += most;
      return;
    }
    std::copy_backward(place, end, end + 1);
    *place = {size, least, most};
    ++count_;
  }

  /// Whether a sum lies in [low, high]. Steps of ordinary layouts are nested and leave one or two multiples
  /// of each to try. Where the search does not end soon, or the steps reach further than memory does, the
  /// answer is yes.
  bool any_in(std::int64_t low, std::int64_t high) const {
    if (too_far_) return true;
    if (fixed_ > 2 * farthest || fixed_ < -2 * farthest) return false;
    int tries = 1 << 16;
    return any_in(0, (std::max)(low, -farthest) - fixed_, (std::min)(high, farthest) - fixed_, tries);
  }

 private:
  /// In bytes: beyond any address space, and so far below 2^63 that no sum of distances overflows.
  static constexpr std::int64_t farthest = std::int64_t{1} << 59;

  struct Step {
    std::int64_t size = 0;  // positive
    std::int64_t least = 0;
    std::int64_t most = 0;
  };

  bool any_in(std::size_t from, std::int64_t low, std::int64_t high, int& tries) const {
    const std::size_t count = (std::min)(count_, steps_.size());  // as g++ 13 does not see, and warns
    if (from >= count) return low <= 0 && 0 <= high;
    std::int64_t rest_low = 0, rest_high = 0;
    for (std::size_t i = from + 1; i < count; ++i) {
      rest_low += steps_[i].least * steps_[i].size;
      rest_high += steps_[i].most * steps_[i].size;
    }
    const Step& step = steps_[from];
    const std::int64_t first = (std::max)(step.least, -floor_div(rest_high - low, step.size));
    const std::int64_t last = (std::min)(step.most, floor_div(high - rest_low, step.size));
    for (std::int64_t multiple = first; multiple <= last; ++multiple) {
      const std::int64_t distance = multiple * step.size;
      if (--tries < 0 || any_in(from + 1, low - distance, high - distance, tries)) return true;
    }
    return false;
  }

  static std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

  std::int64_t fixed_;
  std::int64_t reach_ = 0;  // the largest sum of steps, and more than the opposite of the smallest
  bool too_far_ = false;
  std::array<Step, 6> steps_{};  // the largest first
  std::size_t count_ = 0;
};

template <class View>
std::int64_t row_bytes(const View& view) {
  return view.shape()[3] * static_cast<std::int64_t>(sizeof(typename View::value_type));
}

/// Bytes between neighbours along an axis; the stride of an axis of extent 1 means nothing.
template <class View>
std::int64_t step_bytes(const View& view, std::size_t axis) {
  if (view.shape()[axis] <= 1) return 0;
  constexpr auto element = static_cast<std::int64_t>(sizeof(typename View::value_type));
  constexpr std::int64_t longest = (std::numeric_limits<std::int64_t>::max)() / element;
  return std::clamp(view.strides()[axis], -longest, longest) * element;
}

/// Whether two different rows of a view share memory.
template <class View>
bool rows_overlap(const View& view) {
  if (view.size() == 0) return false;
  const std::int64_t row = row_bytes(view);
  // Of two rows the later in the order of indices comes after the other along the first axis that differs.
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (view.shape()[axis] == 1) continue;
    StepSums distances(0);
    distances.add(step_bytes(view, axis), 1, view.shape()[axis] - 1);
    for (std::size_t later = axis + 1; later < 3; ++later) {
      distances.add(step_bytes(view, later), 1 - view.shape()[later], view.shape()[later] - 1);
    }
    if (distances.any_in(1 - row, row - 1)) return true;
  }
  return false;
}

/// Whether a row of one view shares memory with a row of the other.
template <class A, class B>
bool views_overlap(const A& a, const B& b) {
  if (a.size() == 0 || b.size() == 0) return false;
  StepSums distances(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(a.data()) -
                                               reinterpret_cast<std::uintptr_t>(b.data())));
  for (std::size_t axis = 0; axis < 3; ++axis) {
    distances.add(step_bytes(a, axis), 0, a.shape()[axis] - 1);
    distances.add(step_bytes(b, axis), 1 - b.shape()[axis], 0);
  }
  return distances.any_in(1 - row_bytes(a), row_bytes(b) - 1);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
