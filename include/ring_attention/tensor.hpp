// Tensor: an owning [b, n, h, d] array. TensorView: borrowed memory of that shape with any strides.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Extents {b, n, h, d}: batch, sequence, heads, head dimension.
using Shape = std::array<std::int64_t, 4>;
/// Distances in elements between neighbours along b, n and h; d is contiguous.
using Strides = std::array<std::int64_t, 3>;

/// As errors show a shape: "[1, 16384, 8, 64]".
std::string to_string(const Shape& shape);

namespace detail {

/// Number of elements; throws where an extent is negative or the size in bytes does not fit ptrdiff_t.
std::int64_t checked_size(std::string_view what, const Shape& shape, std::size_t element_bytes);

/// Number of elements of a checked shape. An empty shape may hold extents whose product overflows.
inline std::int64_t element_count(const Shape& shape) {
  for (const std::int64_t extent : shape) {
    if (extent == 0) return 0;
  }
  return shape[0] * shape[1] * shape[2] * shape[3];
}

/// Throws for a shape that checked_size refuses, and for null data of non-zero size.
inline void check_view(const void* data, const Shape& shape, std::size_t element_bytes) {
  if (checked_size("view", shape, element_bytes) != 0 && data == nullptr) {
    throw_invalid("view data", "null", "a view of shape " + to_string(shape) + " needs memory");
  }
}

/// Strides of row-major memory without gaps; of an empty shape, zeros.
inline Strides dense_strides(const Shape& shape) {
  if (element_count(shape) == 0) return {};
  return {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3]};
}

inline constexpr std::size_t tensor_alignment = 64;

struct AlignedDelete {
  void operator()(void* p) const noexcept { ::operator delete (p, std::align_val_t{tensor_alignment}); }
};

struct Uninitialized {};

}  // namespace detail

/// Borrowed memory: [b, n, h, d] with strides of any size and sign in elements; d is contiguous.
/// Checks shape and pointer when built; the memory must outlive the view.
template <class T>
class TensorView {
 public:
  using value_type = std::remove_const_t<T>;  ///< type of an element

  /// No memory; every extent is 0.
  TensorView() = default;

  /// Throws std::invalid_argument for negative extents, a size that overflows, or null data of non-zero size.
  TensorView(T* data, const Shape& shape, const Strides& strides)
      : data_(data), shape_(shape), strides_(strides) {
    detail::check_view(data, shape, sizeof(T));
  }

  /// Row-major memory without gaps. Throws as the constructor above.
  TensorView(T* data, const Shape& shape)
      : TensorView(data, shape,
                   (detail::checked_size("view", shape, sizeof(T)), detail::dense_strides(shape))) {}

  /// A read-only view of a writable one.
  template <class U>
  requires(std::same_as<const U, T> && !std::same_as<U, T>)
      TensorView(const TensorView<U>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.data()), shape_(other.shape()), strides_(other.strides()) {}

  T* data() const { return data_; }                    ///< element (0, 0, 0, 0)
  const Shape& shape() const { return shape_; }        ///< extents {b, n, h, d}
  const Strides& strides() const { return strides_; }  ///< distances in elements along b, n, h
  std::int64_t size() const { return detail::element_count(shape_); }  ///< number of elements

  /// The d elements of one row. Indices are not checked.
  T* row(std::int64_t b, std::int64_t n, std::int64_t h) const {
    return data_ + (b * strides_[0] + n * strides_[1] + h * strides_[2]);
  }
  /// One element. Indices are not checked.
  T& operator()(std::int64_t b, std::int64_t n, std::int64_t h, std::int64_t d) const {
    return row(b, n, h)[d];
  }

 private:
  T* data_ = nullptr;
  Shape shape_{};
  Strides strides_{};
};

/// Owning [b, n, h, d] array, row-major, 64-byte aligned, zero-filled. Move-only would surprise users of
/// Eigen, so it copies.
template <class T>
class Tensor {
 public:
  using value_type = T;  ///< type of an element
  static_assert(std::is_trivially_copyable_v<T>, "Tensor holds plain numbers: its memory is filled bytewise");

  /// No memory; every extent is 0.
  Tensor() = default;

  /// Zeros of shape [b, n, h, d]. Throws std::invalid_argument for negative extents or a size that overflows.
  Tensor(std::int64_t b, std::int64_t n, std::int64_t h, std::int64_t d) : Tensor(Shape{b, n, h, d}) {}
  /// The same.
  explicit Tensor(const Shape& shape) : Tensor(shape, detail::Uninitialized{}) {
    std::uninitialized_fill_n(data_.get(), size(), T{});
  }
  /// Leaves the elements unset, for results that are about to be written.
  Tensor(const Shape& shape, detail::Uninitialized) : shape_(shape) {
    const auto count = static_cast<std::size_t>(detail::checked_size("tensor", shape, sizeof(T)));
    if (count > 0) {
      data_.reset(
          static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{detail::tensor_alignment})));
    }
  }

  /// Copies the elements.
  Tensor(const Tensor& other) : Tensor(other.shape_, detail::Uninitialized{}) {
    std::uninitialized_copy_n(other.data(), size(), data_.get());
  }
  /// Takes the memory over; `other` becomes empty.
  Tensor(Tensor&& other) noexcept : data_(std::move(other.data_)), shape_(std::exchange(other.shape_, {})) {}
  /// Copies, or takes the memory over where the argument is moved.
  Tensor& operator=(Tensor other) noexcept {
    data_.swap(other.data_);
    std::swap(shape_, other.shape_);
    return *this;
  }
  ~Tensor() = default;

  const Shape& shape() const { return shape_; }                        ///< extents {b, n, h, d}
  std::int64_t size() const { return detail::element_count(shape_); }  ///< number of elements
  T* data() { return data_.get(); }                                    ///< the elements, row-major
  const T* data() const { return data_.get(); }                        ///< the elements, row-major

  /// One element. Indices are not checked.
  T& operator()(std::int64_t b, std::int64_t n, std::int64_t h, std::int64_t d) {
    return data()[offset(b, n, h, d)];
  }
  /// One element. Indices are not checked.
  const T& operator()(std::int64_t b, std::int64_t n, std::int64_t h, std::int64_t d) const {
    return data()[offset(b, n, h, d)];
  }

  TensorView<T> view() { return {data(), shape_}; }              ///< valid while the tensor keeps its memory
  TensorView<const T> view() const { return {data(), shape_}; }  ///< valid while the tensor keeps its memory
  /// As view(). Not of a temporary, whose memory would be gone.
  operator TensorView<T>() & { return view(); }  // NOLINT(google-explicit-constructor)
  /// As view().
  operator TensorView<const T>() const& { return view(); }  // NOLINT(google-explicit-constructor)

 private:
  std::int64_t offset(std::int64_t b, std::int64_t n, std::int64_t h, std::int64_t d) const {
    return ((b * shape_[1] + n) * shape_[2] + h) * shape_[3] + d;
  }

  std::unique_ptr<T[], detail::AlignedDelete> data_;
  Shape shape_{};
};

/// A view of the same memory with the axes n and h exchanged: turns [b, h, n, d] data into [b, n, h, d].
template <class T>
TensorView<T> swap_sequence_and_heads(const TensorView<T>& view) {
  const auto [b, x, y, d] = view.shape();
  const auto [stride_b, stride_x, stride_y] = view.strides();
  return {view.data(), {b, y, x, d}, {stride_b, stride_y, stride_x}};
}

/// What view() takes: an Eigen::Tensor or Eigen::TensorMap, known by its interface.
template <class E>
concept EigenTensorLike = requires(E& tensor) {
  tensor.data();
  tensor.dimension(0);
  { E::Layout } -> std::convertible_to<int>;
};

/// View of an Eigen::Tensor or Eigen::TensorMap of rank 4 laid out [b, n, h, d], without a copy. For data
/// laid out [b, h, n, d] wrap the result in swap_sequence_and_heads(). Throws std::invalid_argument where the
/// last dimension is not contiguous, which is so for column-major tensors.
template <EigenTensorLike E>
auto view(E& tensor) {
  static_assert(static_cast<int>(E::NumDimensions) == 4,
                "ring_attention::view needs a tensor of rank 4: [b, n, h, d]");
  using Element = std::remove_pointer_t<decltype(tensor.data())>;
  constexpr int row_major =
      1;  // Eigen::RowMajor, named here so that Eigen's Tensor module need not be included
  const Shape shape{tensor.dimension(0), tensor.dimension(1), tensor.dimension(2), tensor.dimension(3)};
  if constexpr (static_cast<int>(E::Layout) != row_major) {
    if (shape[3] > 1 && shape[0] * shape[1] * shape[2] > 1) {
      detail::throw_invalid("Eigen tensor layout", "ColMajor",
                            "the last dimension (d) must be contiguous: use Eigen::RowMajor");
    }
    return TensorView<Element>(tensor.data(), shape, Strides{1, shape[0], shape[0] * shape[1]});
  } else {
    return TensorView<Element>(tensor.data(), shape);
  }
}
/// The same, read-only.
template <EigenTensorLike E>
auto view(const E& tensor) {
  using Element = std::remove_pointer_t<decltype(tensor.data())>;
  return TensorView<const Element>(view(const_cast<E&>(tensor)));
}

#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) text += std::to_string(extent) + ", ";
  text.replace(text.size() - 2, 2, "]");
  return text;
}

RING_ATTENTION_INLINE std::int64_t detail::checked_size(std::string_view what, const Shape& shape,
                                                        std::size_t element_bytes) {
  constexpr std::array axes{"b", "n", "h", "d"};
  bool empty = false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) {
      throw_invalid(std::string(what) + " extent " + axes[i], shape[i], "must not be negative");
    }
    empty = empty || shape[i] == 0;
  }
  if (empty) return 0;
  std::int64_t limit =
      (std::numeric_limits<std::ptrdiff_t>::max)() / static_cast<std::int64_t>(element_bytes);
  for (const std::int64_t extent : shape) limit /= extent;
  if (limit == 0)
    throw_invalid(std::string(what) + " shape", to_string(shape), "its size in bytes overflows");
  return shape[0] * shape[1] * shape[2] * shape[3];
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
