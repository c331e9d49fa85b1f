// Arguments of calls that run on a GPU: views of device memory, and options. Needs no CUDA header, so that
// units which only pass them on need none either.
#pragma once

#include <concepts>
#include <cstdint>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <type_traits>
#include <variant>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Attention on NVIDIA GPUs: `<ring_attention/cuda.hpp>`, but for views and options.
namespace cuda {

/// A CUDA stream and what its calls work in. Defined by `<ring_attention/cuda.hpp>`.
class Context;

/// Borrowed device memory: [b, n, h, d] with strides of any size and sign in elements; d is contiguous.
/// Checks shape and pointer when built; the memory must outlive the calls that are queued with the view.
/// Unlike a TensorView it has no element access, and neither converts to the other.
template <class T>
class View {
 public:
  using value_type = std::remove_const_t<T>;  ///< type of an element

  /// No memory; every extent is 0.
  View() = default;

  /// Throws std::invalid_argument for negative extents, a size that overflows, or null data of non-zero size.
  View(T* data, const Shape& shape, const Strides& strides) : data_(data), shape_(shape), strides_(strides) {
    ring_attention::detail::check_view(data, shape, sizeof(T));
  }

  /// Row-major memory without gaps. Throws as the constructor above.
  View(T* data, const Shape& shape)
      : View(data, shape,
             (ring_attention::detail::check_view(data, shape, sizeof(T)),
              ring_attention::detail::dense_strides(shape))) {}

  /// A read-only view of a writable one.
  template <class U>
  requires(std::same_as<const U, T> && !std::same_as<U, T>)
      View(const View<U>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.data()), shape_(other.shape()), strides_(other.strides()) {}

  T* data() const { return data_; }                    ///< address of element (0, 0, 0, 0) on the device
  const Shape& shape() const { return shape_; }        ///< extents {b, n, h, d}
  const Strides& strides() const { return strides_; }  ///< distances in elements along b, n, h
  std::int64_t size() const {                          ///< number of elements
    return ring_attention::detail::element_count(shape_);
  }

 private:
  T* data_ = nullptr;
  Shape shape_{};
  Strides strides_{};
};

/// Device tensors that backward writes gradients to, shaped like q, k and v. They are overwritten and need
/// not hold zeros. For backward calls on GPUs, which this version does not have yet.
template <class Scalar>
struct GradientViews {
  View<Scalar> q;  ///< [b, n, h, d]
  View<Scalar> k;  ///< [b, n, h_kv, d], summed over the query heads that share a key/value head
  View<Scalar> v;  ///< [b, n, h_kv, d], summed over the query heads that share a key/value head
};

/// What a backward call on a GPU may be given beside its tensors; this version has no such call yet.
struct BackwardOptions {
  /// As given to forward; host memory, copied before the call returns.
  std::vector<std::int64_t> lengths = {};
  /// Gradient of the log-sum-exp, {b, h, n, 1} in the type of the log-sum-exp; by default none. Under
  /// MixGradient::detached, too, the log-sum-exp is differentiated exactly.
  std::variant<std::monostate, View<const float>, View<const double>> grad_lse = {};
};

}  // namespace cuda
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
