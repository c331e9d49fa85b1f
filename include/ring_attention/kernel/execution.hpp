// What a call computes with, as its context says.
#pragma once

#include <ring_attention/context.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
struct Execution {
  const TileKernel<Scalar>* kernel;
  int threads;                     ///< the caller's included
  Workspace* workspace = nullptr;  ///< of the caller's; null: none
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
