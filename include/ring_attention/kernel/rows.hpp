// Rows of a tensor picked by a list, the form in which kernels read keys and write their gradients.
#pragma once

#include <cstdint>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Row i begins at `base + (index[i] + shift) * stride`; without a list at `base + (i + shift) * stride`.
template <class Element>
struct Rows {
  Element* base = nullptr;
  std::int64_t stride = 0;
  const std::int64_t* index = nullptr;
  std::int64_t shift = 0;

  Element* operator[](std::int64_t i) const {
    return base + ((index != nullptr ? index[i] : i) + shift) * stride;
  }

  /// The same rows without the first `count`.
  Rows skip(std::int64_t count) const {
    return index != nullptr ? Rows{base, stride, index + count, shift}
                            : Rows{base, stride, index, shift + count};
  }
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
