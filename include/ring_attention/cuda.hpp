// Attention on NVIDIA GPUs, for units that nvcc compiles. The core is included.
#pragma once

#if !defined(__CUDACC__)
#error \
    "<ring_attention/cuda.hpp> needs nvcc; <ring_attention/cuda_views.hpp> serves units that only pass views on"
#endif

#include <cuda_runtime_api.h>

#include <ring_attention/cuda/context.hpp>
#include <ring_attention/cuda/device_plan.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/forward_call.hpp>
#include <ring_attention/ring_attention.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Whether calls of a class can run on a GPU.
template <class Attention>
inline constexpr bool runs_on_gpus = false;
template <class Scalar, class CachePolicy>
inline constexpr bool runs_on_gpus<RingDilatedAttentionV2<Scalar, CachePolicy>> = true;
template <class Scalar, class CachePolicy>
inline constexpr bool runs_on_gpus<RingDilatedAttentionProduction<Scalar, CachePolicy>> = true;
template <class Scalar, class CachePolicy>
inline constexpr bool runs_on_gpus<BlockSparseRingDilatedAttention<Scalar, CachePolicy>> = true;

/// What a call may use for states that items leave for others.
template <class Attention>
std::size_t workspace_limit(const Attention& attention) {
  if constexpr (requires { attention.options(); }) {
    if (attention.options().check_finite) {
      detail::throw_invalid("options.check_finite", "true", "is not available on a GPU yet");
    }
    return attention.options().workspace_limit_bytes;
  } else {
    return no_limit;
  }
}

}  // namespace engine

template <class Derived, typename Scalar, typename CachePolicy>
void WholeTensorAttention<Derived, Scalar, CachePolicy>::forward(cuda::Context& context, DeviceInput q,
                                                                 DeviceInput k, DeviceInput v,
                                                                 DeviceOutput out,
                                                                 const ForwardOptions& options) const {
  const CallShape shape = detail::check_inputs(q, k, v);
  const engine::DeviceForwardTensors<Scalar> tensors{q, k, v, out, {}};
  detail::check_forward_outputs(q, k, v, out, tensors.lse, false);
  queue_forward(context, shape, tensors, options);
}

template <class Derived, typename Scalar, typename CachePolicy>
void WholeTensorAttention<Derived, Scalar, CachePolicy>::forward(cuda::Context& context, DeviceInput q,
                                                                 DeviceInput k, DeviceInput v,
                                                                 DeviceOutput out, DeviceLseOutput lse,
                                                                 const ForwardOptions& options) const {
  const CallShape shape = detail::check_inputs(q, k, v);
  const engine::DeviceForwardTensors<Scalar> tensors{q, k, v, out, lse};
  detail::check_forward_outputs(q, k, v, out, lse, true);
  queue_forward(context, shape, tensors, options);
}

template <class Derived, typename Scalar, typename CachePolicy>
template <class Tensors>
void WholeTensorAttention<Derived, Scalar, CachePolicy>::queue_forward(cuda::Context& context,
                                                                       const CallShape& shape,
                                                                       const Tensors& tensors,
                                                                       const ForwardOptions& options) const {
  static_assert(engine::runs_on_gpus<Derived>,
                "on a GPU use RingDilatedAttentionV2, RingDilatedAttentionProduction or "
                "BlockSparseRingDilatedAttention");
  detail::check_lengths(shape, options.lengths);
  const BlockSparseConfig* sparse = nullptr;
  if constexpr (requires { derived().sparse_config(); }) sparse = &derived().sparse_config();
  const detail::PlanRequest request{config_,
                                    sparse,
                                    shape,
                                    options.lengths,
                                    engine::carried_row_bytes<Scalar>(shape),
                                    engine::workspace_limit(derived())};
  if (shape.batch == 0 || shape.tokens == 0) return;
  engine::queue_forward<Scalar>(context.state(), request, tensors, [&] {
    const auto lookup = [this](const PatternKey& key) { return apply_dilation(key); };
    return sparse != nullptr ? detail::plan_block_call(config_, *sparse, shape, options.lengths, lookup)
                             : detail::plan_call(config_, shape, options.lengths, lookup);
  });
}

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
