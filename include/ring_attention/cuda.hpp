// Attention on NVIDIA GPUs, for units that nvcc compiles or that link ring_attention::cuda_compiled. The core
// is included.
#pragma once

#if !defined(__CUDACC__) && !defined(RING_ATTENTION_CUDA_COMPILED)
#error \
    "<ring_attention/cuda.hpp> needs nvcc, or the CMake target ring_attention::cuda_compiled; <ring_attention/cuda_views.hpp> serves units that only pass views on"
#endif

#include <cuda_runtime_api.h>

#include <cstddef>
#include <optional>
#include <ring_attention/cuda/context.hpp>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/device_plan.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/event_clock.hpp>
#include <ring_attention/cuda/forward_call.hpp>
#include <ring_attention/cuda/kernels.hpp>
#include <ring_attention/ring_attention.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Whether calls of a class can run on a GPU, and of which scalar.
template <class Attention>
struct OnGpus {
  static constexpr bool run = false;
};
template <class Type>
struct RunsOnGpus {
  static constexpr bool run = true;
  using Scalar = Type;
};
template <class Scalar, class CachePolicy>
struct OnGpus<RingDilatedAttentionV2<Scalar, CachePolicy>> : RunsOnGpus<Scalar> {};
template <class Scalar, class CachePolicy>
struct OnGpus<RingDilatedAttentionProduction<Scalar, CachePolicy>> : RunsOnGpus<Scalar> {};
template <class Scalar, class CachePolicy>
struct OnGpus<BlockSparseRingDilatedAttention<Scalar, CachePolicy>> : RunsOnGpus<Scalar> {};

/// The plan of a call, which the context owns; patterns come from `lookup(key)`. Throws as the call does.
template <class Attention, class Lookup>
const detail::DevicePlan* device_plan(detail::ContextState& context, const Attention& attention,
                                      const CallShape& shape, const ForwardOptions& options, bool capturing,
                                      const Lookup& lookup) {
  constexpr std::int64_t largest_head_dim = 256;
  if (shape.head_dim > largest_head_dim) {
    detail::throw_invalid("q head dimension", shape.head_dim, "must be at most 256 on a GPU");
  }
  const AttentionConfig& config = attention.config();
  const BlockSparseConfig* sparse = nullptr;
  if constexpr (requires { attention.sparse_config(); }) sparse = &attention.sparse_config();
  std::size_t limit = no_limit;
  if constexpr (requires { attention.options(); }) limit = attention.options().workspace_limit_bytes;
  using Scalar = typename OnGpus<Attention>::Scalar;
  const std::size_t row_bytes = carried_row_bytes<Scalar>(shape);
  const detail::DeviceKernel kernel = forward_kernel<Scalar>(context.device(), shape.head_dim);
  return &context.plan({config, sparse, shape, options.lengths, row_bytes, limit, kernel}, capturing, [&] {
    return sparse != nullptr ? detail::plan_block_call(config, *sparse, shape, options.lengths, lookup)
                             : detail::plan_call(config, shape, options.lengths, lookup);
  });
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
  static_assert(engine::OnGpus<Derived>::run,
                "on a GPU use RingDilatedAttentionV2, RingDilatedAttentionProduction or "
                "BlockSparseRingDilatedAttention");
  // Production alone counts and checks.
  constexpr bool counts = requires(const Derived& object) { object.counters(); };
  detail::check_lengths(shape, options.lengths);
  std::size_t bytes = 0;
  if (shape.batch > 0 && shape.tokens > 0) {
    detail::ContextState& state = context.state();
    const detail::DeviceScope device(state.device());
    const bool capturing = state.capturing();
    const detail::DevicePlan* const plan =
        engine::device_plan(state, derived(), shape, options, capturing, [this](const PatternKey& key) {
          if constexpr (counts)
            return derived().counted_lookup(key);
          else
            return apply_dilation(key);
        });
    bytes = plan->workspace_bytes();
    std::byte* const workspace = state.workspace(bytes, capturing);
    detail::FiniteCheck* finite_check = nullptr;
    if constexpr (counts) {
      if (derived().options().check_finite) finite_check = state.finite_check(capturing);
    }
    if (capturing) state.keep_for_graph(bytes);
    const detail::ContextState::CallEnd end(state, capturing);
    std::optional<detail::EventClockScope> clock;
    if constexpr (counts) {
      if (!capturing) {
        clock.emplace(derived().shared_->device_clock.template get<detail::EventClock>(), state.device(),
                      state.stream());
      }
    }
    engine::queue_forward<Scalar>(*plan, shape, tensors, workspace, finite_check, state.stream());
    if (clock) clock->finish();
  }
  if constexpr (counts) derived().count(shape, bytes, derived().shared_->forward_calls);
}

}  // namespace RING_ATTENTION_CODE_NAMESPACE

inline namespace RING_ATTENTION_NAMESPACE {
namespace cuda {

template <class Attention>
std::size_t Context::workspace_bytes(const Attention& attention, const CallShape& shape,
                                     const ForwardOptions& options) {
  static_assert(engine::OnGpus<Attention>::run,
                "on a GPU use RingDilatedAttentionV2, RingDilatedAttentionProduction or "
                "BlockSparseRingDilatedAttention");
  ring_attention::detail::check_call_shape(shape);
  ring_attention::detail::check_lengths(shape, options.lengths);
  if (shape.batch == 0 || shape.tokens == 0) return 0;
  const ring_attention::detail::DeviceScope device(state_->device());
  const auto lookup = [&](const PatternKey& key) { return attention.cache_policy().dilated_indices(key); };
  return engine::device_plan(*state_, attention, shape, options, state_->capturing(), lookup)
      ->workspace_bytes();
}

}  // namespace cuda
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
