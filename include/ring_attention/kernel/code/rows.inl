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
  Lanes<float> lanes;
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
  const LaneUnsigned<float> not_a_number = LaneUnsigned<float>{} + 0x7FC0U;
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

/// Swaps the off-diagonal blocks of Step lanes in two rows that are Step apart.
template <int Step, class V, int... Lane>
[[gnu::always_inline]] inline void swap_blocks(V& a, V& b, std::integer_sequence<int, Lane...>) {
  constexpr int lanes = sizeof...(Lane);
  const V low = __builtin_shufflevector(a, b, ((Lane & Step) != 0 ? lanes + Lane - Step : Lane)...);
  const V high = __builtin_shufflevector(a, b, ((Lane & Step) != 0 ? lanes + Lane : Lane + Step)...);
  a = low;
  b = high;
}

template <class T, int Step>
[[gnu::always_inline]] inline void transpose_steps(Lanes<T>* rows) {
  constexpr int lanes = lane_count<T>;
  if constexpr (Step < lanes) {
    RING_ATTENTION_UNROLL
    for (int i = 0; i < lanes; ++i) {
      if ((i & Step) == 0) {
        swap_blocks<Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, lanes>{});
      }
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
