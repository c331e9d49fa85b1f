// What the units of this program give one another: views, options and contexts, none of which needs CUDA.
#pragma once

#include <Eigen/Core>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/options.hpp>

struct Call {
  ring_attention::cuda::View<const Eigen::bfloat16> q, k, v;
  ring_attention::cuda::View<Eigen::bfloat16> out;
  ring_attention::ForwardOptions options;
};

/// The second half of the tokens of a call whose items are all of them valid: in views.cpp, which g++
/// compiles.
Call second_half(const Call& call);
/// Attention within a window of blocks: in second_unit.cu.
void attend_locally(ring_attention::cuda::Context& context, const Call& call);
