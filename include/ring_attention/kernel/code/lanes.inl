// Lanes: as many floats or doubles as one vector register of the target holds, by the compiler's vector
// extension, so that one source serves every instruction set. Part of the body of a target: see targets.hpp.

inline constexpr int vector_bytes = RING_ATTENTION_TARGET_BYTES;
inline constexpr int vector_registers = RING_ATTENTION_TARGET_REGISTERS;

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float Vector __attribute__((vector_size(vector_bytes)));
  typedef std::int32_t Bits __attribute__((vector_size(vector_bytes)));
  typedef std::uint32_t Unsigned __attribute__((vector_size(vector_bytes)));
};
template <>
struct LanesOf<double> {
  typedef double Vector __attribute__((vector_size(vector_bytes)));
  typedef std::int64_t Bits __attribute__((vector_size(vector_bytes)));
  typedef std::uint64_t Unsigned __attribute__((vector_size(vector_bytes)));
};

template <class T>
using Lanes = typename LanesOf<T>::Vector;
/// Integers as wide as T: comparison masks and positions.
template <class T>
using LaneBits = typename LanesOf<T>::Bits;
template <class T>
using LaneUnsigned = typename LanesOf<T>::Unsigned;
template <class T>
inline constexpr int lane_count = vector_bytes / static_cast<int>(sizeof(T));

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
/// Every lane the same. Not a sum: a compiler must keep the addition of 0 (0 + -0 is +0), and before each
/// multiply-add it costs as much as one; `value - 0` is `value` for every number, so it vanishes.
template <class T>
[[gnu::always_inline]] inline Lanes<T> broadcast(T value) {
  return value - Lanes<T>{};
}
