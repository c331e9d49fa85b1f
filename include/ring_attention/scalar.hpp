// Which element types tensors may have, and the type that sums of each are kept in.
#pragma once

#include <concepts>
#include <ring_attention/version.hpp>
#include <type_traits>

#if RING_ATTENTION_DEFINES_ENGINE
#include <Eigen/Core>
#else
// Only who uses tensors of them needs Eigen, whose headers take a third of a unit's time beside the compiled
// library.
namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen
#endif

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
