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
template <class T>
inline Lanes<T> broadcast(T value) {
  return Lanes<T>{} + value;
}
