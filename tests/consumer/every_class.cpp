// Of every class that the compiled library serves: a definition that it lacks fails to link.
#include <Eigen/Core>
#include <cstdint>
#include <ring_attention/ring_attention.hpp>
#include <string>

namespace ra = ring_attention;

bool every_class_attends();

namespace {

template <class Scalar, class Attention, class... Total>
bool attends(const Attention& attention, const ra::Tensor<Scalar>& ones, Total... total) {
  const auto result = attention.forward_with_lse(ones, ones, ones, total...);
  const auto grads = attention.backward(ones, ones, ones, result, ones, total...);
  bool right = grads.v.size() == ones.size();
  for (std::int64_t i = 0; i < ones.size(); ++i) {
    right = right && static_cast<float>(result.out.data()[i]) > 0.99F &&
            static_cast<float>(result.out.data()[i]) < 1.01F;
  }
  return right;
}

template <class Scalar>
bool every_class() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {50};
  config.dilation_rates = {1};
  ra::Tensor<Scalar> ones(1, 50, 2, 8);
  for (std::int64_t i = 0; i < ones.size(); ++i) ones.data()[i] = Scalar(1);
  ra::AloneCommunicator alone;
  using Alone = ra::AloneCommunicator;
  bool right = attends(ra::RingDilatedAttentionV2<Scalar, ra::use_no_cache>(config), ones);
  right = attends(ra::RingDilatedAttentionProduction<Scalar>(config, {.check_finite = true}), ones) && right;
  right = attends(ra::RingDistributedDilatedAttention<Scalar, Alone>(config, alone), ones, 50) && right;
  const ra::BlockSparseConfig blocks{.pattern = ra::BlockPattern::local_window, .block_size = 16};
  const ra::BlockSparseRingDilatedAttention<Scalar> sparse(config, blocks);
  right = attends(sparse, ones) &&
          !sparse.forward_with_probabilities(ones, ones, ones).probabilities.coordinates.empty() && right;
  right = attends(ra::BlockSparseRingDistributedDilatedAttention<Scalar, Alone>(config, blocks, alone), ones,
                  50) &&
          right;
  config.ring_size = 3;
  right = attends(ra::TrueRingDilatedAttention<Scalar>(config), ones) && right;
  return right && !ra::kernel_for<Scalar>(ra::Direction::backward).empty();
}

}  // namespace

bool every_class_attends() {
  ra::set_kernel(ra::available_kernels().back());
  ra::set_kernel("");
  return ra::make_indices({8, {8}, {2}, 1}) != nullptr && every_class<float>() && every_class<double>() &&
         every_class<Eigen::half>() && every_class<Eigen::bfloat16>();
}
