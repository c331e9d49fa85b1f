// Rows of a tensor at equal distances, the form in which kernels read keys and write their gradients.
#pragma once

#include <cstdint>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Row i begins at `base + i * stride`.
template <class Element>
struct Rows {
  Element* base = nullptr;
  std::int64_t stride = 0;

  Element* operator[](std::int64_t i) const { return base + i * stride; }

  /// The same rows without the first `count`.
  Rows skip(std::int64_t count) const { return {base + count * stride, stride}; }
};

/// Rows of keys and of values, or of their gradients.
template <class Element>
struct KeyRows {
  Rows<Element> keys, values;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
