// The online-softmax state of a row, and how two of them become one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// What a row knows of the keys that it met, in base-2 logarithms:
///
///   m = max_k s_k,   l = sum_k 2^(s_k - m),   O = sum_k 2^(s_k - m) v_k,   s_k = scale * log2(e) * q.k
///
/// A row without keys has m = -infinity, l = 0, O = 0.
template <class T>
struct SoftmaxState {
  T* maximum;
  T* sum;
  T* output;          // [dims]; null in a state whose values are all zero
  std::int64_t dims;  // of the head
};

/// Merges the keys of `other` into `state` (FlashAttention, arXiv 2205.14135, section 3.1). With M = max(m,
/// m'):
///
///   l = l 2^(m - M) + l' 2^(m' - M),   O = O 2^(m - M) + O' 2^(m' - M),   m = M
///
/// No exponent is positive, so nothing overflows. A state without keys changes nothing, on either side; NaN
/// in one becomes NaN in the result.
template <class T>
void merge(const SoftmaxState<T>& state, const SoftmaxState<const T>& other) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  if (*other.maximum == none) return;
  // A comparison that NaN fails keeps NaN.
  const T maximum = *state.maximum < *other.maximum ? *other.maximum : *state.maximum;
  const T kept = *state.maximum == none ? T{0} : std::exp2(*state.maximum - maximum);
  const T added = std::exp2(*other.maximum - maximum);
  *state.maximum = maximum;
  *state.sum = *state.sum * kept + *other.sum * added;
  if (kept == T{1} && other.output == nullptr) return;
  for (std::int64_t d = 0; d < state.dims; ++d) {
    state.output[d] = state.output[d] * kept + (other.output != nullptr ? other.output[d] * added : T{0});
  }
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
