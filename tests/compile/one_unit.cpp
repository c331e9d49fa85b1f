// What a caller's unit costs to compile: the umbrella, and the calls of one class, with all that they need.
#include <ring_attention/ring_attention.hpp>

namespace ra = ring_attention;

ra::Gradients<float> attend(const ra::Tensor<float>& q, const ra::Tensor<float>& k,
                            const ra::Tensor<float>& v);

ra::Gradients<float> attend(const ra::Tensor<float>& q, const ra::Tensor<float>& k,
                            const ra::Tensor<float>& v) {
  const ra::RingDilatedAttentionV2<float> attention(ra::longnet_preset());
  const ra::AttentionResult<float> result = attention.forward_with_lse(q, k, v);
  return attention.backward(q, k, v, result, result.out);
}
