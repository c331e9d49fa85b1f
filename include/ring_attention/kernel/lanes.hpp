// Lanes: as many floats or doubles as one vector register holds, by the compiler's vector extension, so that
// one source serves every instruction set that a unit is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <ring_attention/version.hpp>

#if defined(__AVX512F__) && defined(__AVX512DQ__)  // as in version.hpp, which names the code after it
#define RING_ATTENTION_VECTOR_BYTES 64
#define RING_ATTENTION_VECTOR_REGISTERS 32
#elif defined(__AVX__)
#define RING_ATTENTION_VECTOR_BYTES 32
#define RING_ATTENTION_VECTOR_REGISTERS 16
#elif defined(__aarch64__)
#define RING_ATTENTION_VECTOR_BYTES 16
#define RING_ATTENTION_VECTOR_REGISTERS 32
#else
#define RING_ATTENTION_VECTOR_BYTES 16
#define RING_ATTENTION_VECTOR_REGISTERS 16
#endif

// Register tiles need their short loops unrolled, which g++ leaves undone at -O2.
#if defined(__clang__)
#define RING_ATTENTION_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define RING_ATTENTION_UNROLL _Pragma("GCC unroll 16")
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float Vector __attribute__((vector_size(RING_ATTENTION_VECTOR_BYTES)));
  typedef std::int32_t Bits __attribute__((vector_size(RING_ATTENTION_VECTOR_BYTES)));
  typedef std::uint32_t Unsigned __attribute__((vector_size(RING_ATTENTION_VECTOR_BYTES)));
  using Index = std::int32_t;
};
template <>
struct LanesOf<double> {
  typedef double Vector __attribute__((vector_size(RING_ATTENTION_VECTOR_BYTES)));
  typedef std::int64_t Bits __attribute__((vector_size(RING_ATTENTION_VECTOR_BYTES)));
  typedef std::uint64_t Unsigned __attribute__((vector_size(RING_ATTENTION_VECTOR_BYTES)));
  using Index = std::int64_t;
};

template <class T>
using Lanes = typename LanesOf<T>::Vector;
/// Integers as wide as T: comparison masks and positions.
template <class T>
using LaneBits = typename LanesOf<T>::Bits;
template <class T>
using LaneUnsigned = typename LanesOf<T>::Unsigned;
template <class T>
using LaneIndex = typename LanesOf<T>::Index;
template <class T>
inline constexpr int lane_count = RING_ATTENTION_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
inline Lanes<T> load(const T* from) {
  Lanes<T> lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
template <class T>
inline void store(T* to, Lanes<T> lanes) {
  std::memcpy(to, &lanes, sizeof lanes);
}
template <class T>
inline Lanes<T> broadcast(T value) {
  return Lanes<T>{} + value;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
