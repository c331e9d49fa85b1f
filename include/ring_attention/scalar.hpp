// Which element types tensors may have, and the type that sums of each are kept in.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// The element types that tensors may have.
template <class T>
concept AttentionScalar = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, Eigen::half> ||
    std::same_as<T, Eigen::bfloat16>;

/// The type of every sum, of partial results between ring hops, and of log-sum-exp: double for double, else
/// float.
template <class Scalar>
using accumulator_t = std::conditional_t<std::same_as<Scalar, double>, double, float>;

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
