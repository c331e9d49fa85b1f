// MemberView: a tensor of which a ring member holds all rows or its own, addressed by token.
#pragma once

#include <cstdint>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// [b, rows, h, d], and which row holds a token.
template <class Element>
struct MemberView {
  TensorView<Element> view;
  TokenRows rows;

  /// Whether there is such a tensor.
  explicit operator bool() const { return view.data() != nullptr; }

  Element* row(std::int64_t item, std::int64_t token, std::int64_t head) const {
    return view.row(item, rows(token), head);
  }
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
