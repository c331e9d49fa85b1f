// What a call computes with, as its context says.
#pragma once

#include <ring_attention/context.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Kernel>
struct Execution {
  const Kernel* kernel;
  int threads;                     ///< the caller's included
  Workspace* workspace = nullptr;  ///< of the caller's; null: none
};

template <class Scalar>
using ForwardExecution = Execution<ForwardKernel<Scalar>>;
template <class Scalar>
using BackwardExecution = Execution<BackwardKernel<Scalar>>;
template <class Scalar>
using ProbabilityExecution = Execution<ProbabilityKernel<Scalar>>;

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
