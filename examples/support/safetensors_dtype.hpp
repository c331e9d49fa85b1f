// Element types of the safetensors format, and conversion between them and the scalars of the library.
#pragma once

#include <Eigen/Core>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace safetensors {

/// What every reader and writer throws for a file that it refuses; the text names the file and the tensor.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Dtype { f64, f32, f16, bf16, i64, u64, i32, u32, i16, u16, i8, u8, boolean, f8_e5m2, f8_e4m3 };

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;  ///< as files spell it
  std::uint64_t bytes;
};

inline constexpr std::array dtypes{
    DtypeInfo{Dtype::f64, "F64", 8},         DtypeInfo{Dtype::f32, "F32", 4},
    DtypeInfo{Dtype::f16, "F16", 2},         DtypeInfo{Dtype::bf16, "BF16", 2},
    DtypeInfo{Dtype::i64, "I64", 8},         DtypeInfo{Dtype::u64, "U64", 8},
    DtypeInfo{Dtype::i32, "I32", 4},         DtypeInfo{Dtype::u32, "U32", 4},
    DtypeInfo{Dtype::i16, "I16", 2},         DtypeInfo{Dtype::u16, "U16", 2},
    DtypeInfo{Dtype::i8, "I8", 1},           DtypeInfo{Dtype::u8, "U8", 1},
    DtypeInfo{Dtype::boolean, "BOOL", 1},    DtypeInfo{Dtype::f8_e5m2, "F8_E5M2", 1},
    DtypeInfo{Dtype::f8_e4m3, "F8_E4M3", 1},
};

inline const DtypeInfo& info(Dtype dtype) { return dtypes[static_cast<std::size_t>(dtype)]; }

inline std::optional<Dtype> dtype_named(std::string_view name) {
  for (const DtypeInfo& entry : dtypes) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, Eigen::half> ||
    std::same_as<T, Eigen::bfloat16>;

template <Scalar T>
constexpr Dtype dtype_of() {
  if constexpr (std::same_as<T, double>) return Dtype::f64;
  if constexpr (std::same_as<T, float>) return Dtype::f32;
  if constexpr (std::same_as<T, Eigen::half>) return Dtype::f16;
  if constexpr (std::same_as<T, Eigen::bfloat16>) return Dtype::bf16;
}

/// Whether elements of this dtype can be read as numbers of any Scalar.
constexpr bool is_floating_point(Dtype dtype) {
  return dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}

using Shape = std::vector<std::int64_t>;

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text.append(i == 0 ? "" : ", ").append(std::to_string(shape[i]));
  }
  return text + "]";
}

/// Bytes of a tensor, or nothing where an extent is negative or the product overflows.
inline std::optional<std::uint64_t> size_in_bytes(Dtype dtype, const Shape& shape) {
  std::uint64_t bytes = info(dtype).bytes;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
      continue;
    }
    const auto factor = static_cast<std::uint64_t>(extent);
    if (bytes > std::numeric_limits<std::uint64_t>::max() / factor) return std::nullopt;
    bytes *= factor;
  }
  return empty ? 0 : bytes;
}

namespace detail {

template <Scalar From, Scalar To>
void convert(const std::byte* source, std::size_t count, To* target) {
  for (std::size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, source + i * sizeof(From), sizeof(From));  // files do not promise alignment
    target[i] = static_cast<To>(value);
  }
}

}  // namespace detail

/// Converts `count` elements of a floating-point dtype.
template <Scalar To>
void convert(Dtype dtype, const std::byte* source, std::size_t count, To* target) {
  if (dtype == Dtype::f64) detail::convert<double>(source, count, target);
  if (dtype == Dtype::f32) detail::convert<float>(source, count, target);
  if (dtype == Dtype::f16) detail::convert<Eigen::half>(source, count, target);
  if (dtype == Dtype::bf16) detail::convert<Eigen::bfloat16>(source, count, target);
}

}  // namespace safetensors
