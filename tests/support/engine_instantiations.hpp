// The engine is compiled once per scalar, in tests/engine/, and not in every test that calls it.
#pragma once

#include <ring_attention/ring_attention.hpp>

// clang-format off
#define RING_ATTENTION_INSTANTIATE_ENGINE(PREFIX, SCALAR)                                                             \
  namespace ring_attention {                                                                                         \
  inline namespace RING_ATTENTION_CODE_NAMESPACE {                                                                   \
  namespace engine {                                                                                                 \
  PREFIX template const TileKernel<SCALAR>& active_kernel<SCALAR>();                                                 \
  PREFIX template const TileKernel<SCALAR>& kernel_of_name<SCALAR>(std::string_view);                                \
  PREFIX template Execution<SCALAR> execution_of<SCALAR>(const Context&);                                            \
  PREFIX template std::size_t forward_whole<SCALAR>(const AttentionPlan&, const detail::ForwardTensors<SCALAR>&,     \
                                                    const Execution<SCALAR>&, std::size_t, detail::Block&);          \
  PREFIX template std::size_t backward_whole<SCALAR>(const AttentionPlan&, const detail::BackwardTensors<SCALAR>&,   \
                                                     const GradientViews<SCALAR>&, const Execution<SCALAR>&,         \
                                                     std::size_t, detail::Block&);                                   \
  PREFIX template std::uint64_t forward_ring<SCALAR, ThreadCommunicator>(const RingPlace&, ThreadCommunicator&,      \
                                                                         const detail::ForwardTensors<SCALAR>&,              \
                                                                         const TileKernel<SCALAR>&);                 \
  PREFIX template class RingBackward<SCALAR, ThreadCommunicator>;                                                    \
  PREFIX template void forward_blocks<SCALAR>(const AttentionPlan&, const detail::ForwardTensors<SCALAR>&,                   \
                                              const Execution<SCALAR>&, detail::Block&);                             \
  PREFIX template void backward_blocks<SCALAR>(const AttentionPlan&, const detail::BackwardTensors<SCALAR>&,                 \
                                               const GradientViews<SCALAR>&, const Execution<SCALAR>&,               \
                                               detail::Block&);                                                      \
  PREFIX template class BlockProbabilityPass<SCALAR>;                                                                \
  }                                                                                                                  \
  }                                                                                                                  \
  }
// clang-format on

RING_ATTENTION_INSTANTIATE_ENGINE(extern, float)
RING_ATTENTION_INSTANTIATE_ENGINE(extern, double)
RING_ATTENTION_INSTANTIATE_ENGINE(extern, Eigen::half)
RING_ATTENTION_INSTANTIATE_ENGINE(extern, Eigen::bfloat16)
