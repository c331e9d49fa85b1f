// Everything heavy that attention classes call, once per scalar.
#pragma once

#include <ring_attention/ring_attention.hpp>

// clang-format off
#define RING_ATTENTION_INSTANTIATE_ENGINE(PREFIX, SCALAR)                                                             \
  namespace ring_attention {                                                                                          \
  inline namespace RING_ATTENTION_CODE_NAMESPACE {                                                                    \
  PREFIX template std::string kernel_for<SCALAR>(Direction);                                                          \
  namespace engine {                                                                                                  \
  PREFIX template ForwardExecution<SCALAR> execution_of<ForwardKernel<SCALAR>>(const Context&);                       \
  PREFIX template BackwardExecution<SCALAR> execution_of<BackwardKernel<SCALAR>>(const Context&);                     \
  PREFIX template ProbabilityExecution<SCALAR> execution_of<ProbabilityKernel<SCALAR>>(const Context&);               \
  PREFIX template std::size_t forward_whole<SCALAR>(const AttentionPlan&, const detail::ForwardTensors<SCALAR>&,      \
                                                    const ForwardExecution<SCALAR>&, std::size_t, detail::Block&);    \
  PREFIX template std::size_t backward_whole<SCALAR>(const AttentionPlan&, const detail::BackwardTensors<SCALAR>&,    \
                                                     const GradientViews<SCALAR>&, const BackwardExecution<SCALAR>&,  \
                                                     std::size_t, detail::Block&);                                    \
  PREFIX template void require_finite<SCALAR>(std::string_view, const TensorView<const SCALAR>&,                      \
                                              const AttentionPlan&, int);                                             \
  PREFIX template class RingForward<SCALAR>;                                                                          \
  PREFIX template class RingBackward<SCALAR>;                                                                         \
  PREFIX template void forward_blocks<SCALAR>(const AttentionPlan&, const detail::ForwardTensors<SCALAR>&,            \
                                              const ForwardExecution<SCALAR>&, detail::Block&);                       \
  PREFIX template void backward_blocks<SCALAR>(const AttentionPlan&, const detail::BackwardTensors<SCALAR>&,          \
                                               const GradientViews<SCALAR>&, const BackwardExecution<SCALAR>&, detail::Block&);\
  PREFIX template BlockProbabilities<SCALAR> block_probabilities<SCALAR>(                                             \
      const AttentionPlan&, const detail::ForwardTensors<SCALAR>&, const ProbabilityExecution<SCALAR>&, detail::Block&);\
  }                                                                                                                   \
  }                                                                                                                   \
  }
// clang-format on
