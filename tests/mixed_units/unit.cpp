// One unit of a program whose units are built for different processors; UNIT names its function.
#include <cmath>
#include <ring_attention/ring_attention.hpp>

namespace ra = ring_attention;

/// Sum of an output, which no kernel changes beyond rounding; each unit uses its own copy of the engine.
/// Null leaves the kernel as it is.
double UNIT(const char* kernel) {
  if (kernel != nullptr) ra::set_kernel(kernel);
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {64, 200};
  config.dilation_rates = {1, 3};
  ra::Tensor<float> q(1, 200, 2, 40), k(1, 200, 2, 40), v(1, 200, 2, 40);
  for (std::int64_t i = 0; i < q.size(); ++i) {
    q.data()[i] = std::sin(0.1F * static_cast<float>(i));
    k.data()[i] = std::cos(0.3F * static_cast<float>(i));
    v.data()[i] = std::sin(0.7F * static_cast<float>(i)) + 1.0F;
  }
  const ra::RingDilatedAttentionV2<float> attention(config);
  const ra::AttentionResult<float> result = attention.forward_with_lse(q, k, v);
  const ra::Gradients<float> grads = attention.backward(q, k, v, result, q);
  double sum = 0;
  for (std::int64_t i = 0; i < q.size(); ++i) {
    sum += result.out.data()[i] + grads.q.data()[i] + grads.k.data()[i] + grads.v.data()[i];
  }
  if (kernel != nullptr) ra::set_kernel("");
  return sum;
}
