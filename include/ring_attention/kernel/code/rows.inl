// Rows between memory and registers: conversion of 16-bit scalars, and transposition of rows into lanes. Part
// of the body of a target.

/// As many elements of a row as there are lanes, in the accumulator type.
template <class T>
inline Lanes<T> load_wide(const T* from) {
  return load(from);
}

using HalfLanes = std::uint16_t __attribute__((vector_size(vector_bytes / 2)));

inline Lanes<float> load_wide(const Eigen::bfloat16* from) {
  HalfLanes bits;
  std::memcpy(&bits, from, sizeof bits);
  const LaneUnsigned<float> wide = __builtin_convertvector(bits, LaneUnsigned<float>) << 16;
  Lanes<float> lanes;
  std::memcpy(&lanes, &wide, sizeof lanes);
  return lanes;
}

inline Lanes<float> load_wide(const Eigen::half* from) {
  Lanes<float> lanes{};
#if RING_ATTENTION_TARGET_F16C
  RING_ATTENTION_UNROLL
  for (int i = 0; i < lane_count<float>; i += 8) {
    const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    std::memcpy(reinterpret_cast<char*>(&lanes) + sizeof(float) * static_cast<std::size_t>(i), &eight,
                sizeof eight);
  }
#else
  for (int i = 0; i < lane_count<float>; ++i) lanes[i] = static_cast<float>(from[i]);
#endif
  return lanes;
}

template <class T>
inline void store_narrow(T* to, Lanes<T> lanes) {
  store(to, lanes);
}

inline void store_narrow(Eigen::bfloat16* to, Lanes<float> lanes) {
  LaneUnsigned<float> bits;
  std::memcpy(&bits, &lanes, sizeof bits);
  // To the nearest, ties to even; NaN stays NaN.
  const LaneUnsigned<float> rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  LaneUnsigned<float> not_a_number{};
  not_a_number += 0x7FC0U;  // a constant by itself, nvcc 13 crashes on it
  const HalfLanes halves = __builtin_convertvector(lanes == lanes ? rounded : not_a_number, HalfLanes);
  std::memcpy(static_cast<void*>(to), &halves, sizeof halves);
}

inline void store_narrow(Eigen::half* to, Lanes<float> lanes) {
#if RING_ATTENTION_TARGET_F16C
  RING_ATTENTION_UNROLL
  for (int i = 0; i < lane_count<float>; i += 8) {
    __m256 eight;
    std::memcpy(&eight, reinterpret_cast<const char*>(&lanes) + sizeof(float) * static_cast<std::size_t>(i),
                sizeof eight);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  for (int i = 0; i < lane_count<float>; ++i) to[i] = static_cast<Eigen::half>(lanes[i]);
#endif
}

/// The same for `count` < lanes elements; the lanes that follow hold 0.
template <class Scalar>
inline Lanes<accumulator_t<Scalar>> load_wide(const Scalar* from, std::int64_t count) {
  Scalar elements[lane_count<accumulator_t<Scalar>>] = {};
  std::memcpy(static_cast<void*>(elements), static_cast<const void*>(from),
              static_cast<std::size_t>(count) * sizeof(Scalar));
  return load_wide(elements);
}
template <class Scalar>
inline void store_narrow(Scalar* to, Lanes<accumulator_t<Scalar>> lanes, std::int64_t count) {
  Scalar elements[lane_count<accumulator_t<Scalar>>];
  store_narrow(elements, lanes);
  std::copy_n(elements, count, to);
}

template <class Scalar>
void round_row(const accumulator_t<Scalar>* from, accumulator_t<Scalar> factor, std::int64_t count,
               Scalar* to) {
  constexpr int lanes = lane_count<accumulator_t<Scalar>>;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store_narrow(to + i, load(from + i) * factor);
  if (i < count) store_narrow(to + i, load_wide(from + i, count - i) * factor, count - i);
}

template <class T>
void add_row(const T* from, T factor, std::int64_t count, T* to) {
  constexpr int lanes = lane_count<T>;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load(to + i) + load(from + i) * factor);
  for (; i < count; ++i) to[i] += from[i] * factor;
}

/// The lane of two vectors side by side that lane i of the first, or of the second, of two rows takes when
/// they swap their off-diagonal blocks of Step lanes.
template <int Step, int lanes>
constexpr int lane_of_first(int i) {
  return (i & Step) != 0 ? lanes + i - Step : i;
}
template <int Step, int lanes>
constexpr int lane_of_second(int i) {
  return (i & Step) != 0 ? lanes + i : i + Step;
}

/// Lanes from(0), from(1), ... of two vectors side by side. Written out: nvcc 13 loses the dots of a pack
/// here.
template <auto from, class V>
[[gnu::always_inline]] inline V pick_lanes(V a, V b) {
  constexpr int lanes = sizeof(V) / sizeof(a[0]);
  if constexpr (lanes == 2) {
    return __builtin_shufflevector(a, b, from(0), from(1));
  } else if constexpr (lanes == 4) {
    return __builtin_shufflevector(a, b, from(0), from(1), from(2), from(3));
  } else if constexpr (lanes == 8) {
    return __builtin_shufflevector(a, b, from(0), from(1), from(2), from(3), from(4), from(5), from(6),
                                   from(7));
  } else {
    static_assert(lanes == 16);
    return __builtin_shufflevector(a, b, from(0), from(1), from(2), from(3), from(4), from(5), from(6),
                                   from(7), from(8), from(9), from(10), from(11), from(12), from(13),
                                   from(14), from(15));
  }
}

/// Swaps the off-diagonal blocks of Step lanes in two rows that are Step apart.
template <int Step, class V>
[[gnu::always_inline]] inline void swap_blocks(V& a, V& b) {
  constexpr int lanes = sizeof(V) / sizeof(a[0]);
  const V first = pick_lanes<lane_of_first<Step, lanes>>(a, b);
  b = pick_lanes<lane_of_second<Step, lanes>>(a, b);
  a = first;
}

template <class T, int Step>
[[gnu::always_inline]] inline void transpose_steps(Lanes<T>* rows) {
  constexpr int lanes = lane_count<T>;
  if constexpr (Step < lanes) {
    RING_ATTENTION_UNROLL
    for (int i = 0; i < lanes; ++i) {
      if ((i & Step) == 0) swap_blocks<Step>(rows[i], rows[i + Step]);
    }
    transpose_steps<T, 2 * Step>(rows);
  }
}

/// Transposes a square of lanes x lanes numbers.
template <class T>
[[gnu::always_inline]] inline void transpose(Lanes<T>* rows) {
  transpose_steps<T, 1>(rows);
}

/// Calls write(d, vector) with the lanes' elements of each dimension d; lanes whose row is null hold 0.
template <class Scalar, class Write>
[[gnu::always_inline]] inline void read_transposed(const Scalar* const* rows, std::int64_t dims,
                                                   const Write& write) {
  using T = accumulator_t<Scalar>;
  constexpr int lanes = lane_count<T>;
  for (std::int64_t d = 0; d < dims; d += lanes) {
    const std::int64_t filled = std::min<std::int64_t>(dims - d, lanes);
    Lanes<T> square[std::size_t{lanes}];
    for (int i = 0; i < lanes; ++i) {
      if (rows[i] == nullptr) {
        square[i] = Lanes<T>{};
      } else {
        square[i] = filled == lanes ? load_wide(rows[i] + d) : load_wide(rows[i] + d, filled);
      }
    }
    transpose<T>(square);
    for (std::int64_t i = 0; i < filled; ++i) write(d + i, square[i]);
  }
}

/// Writes the lanes' rows from read(d), the lanes' elements of dimension d; null rows are left out.
template <class T, class Read>
[[gnu::always_inline]] inline void write_transposed(T* const* rows, std::int64_t dims, const Read& read) {
  constexpr int lanes = lane_count<T>;
  for (std::int64_t d = 0; d < dims; d += lanes) {
    const std::int64_t filled = std::min<std::int64_t>(dims - d, lanes);
    Lanes<T> square[std::size_t{lanes}];
    for (int i = 0; i < lanes; ++i) square[i] = i < filled ? read(d + i) : Lanes<T>{};
    transpose<T>(square);
    for (int i = 0; i < lanes; ++i) {
      if (rows[i] == nullptr) continue;
      if (filled == lanes) {
        store(rows[i] + d, square[i]);
      } else {
        store_narrow(rows[i] + d, square[i], filled);
      }
    }
  }
}
