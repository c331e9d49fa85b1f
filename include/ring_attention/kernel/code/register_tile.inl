// The one multiply of the kernels: a block of sums that stays in registers. Part of the body of a target.

// `panel` rows x `max_vectors` vectors of sums leave room for max_vectors operands and one broadcast.
inline constexpr int max_vectors = 3;
inline constexpr int panel = vector_registers == 32 ? 8 : 4;

/// Calls body(vectors) with the number of a tile's vectors as a constant.
template <class Body>
[[gnu::always_inline]] inline void with_vectors(int vectors, const Body& body) {
  if (vectors == 1) return body(std::integral_constant<int, 1>{});
  if (vectors == 2) return body(std::integral_constant<int, 2>{});
  body(std::integral_constant<int, max_vectors>{});
}

/// Products of numbers: the element that is broadcast, the lanes that it meets, and the sums they are added
/// to.
template <class T>
struct Products {
  using Sum = T;
  using Element = T;
  using Operand = Lanes<T>;
  [[gnu::always_inline]] static Operand broadcast(const Element* at) {
    return RING_ATTENTION_TARGET::broadcast(*at);
  }
  [[gnu::always_inline]] static Operand load(const Element* at) { return RING_ATTENTION_TARGET::load(at); }
  [[gnu::always_inline]] static Lanes<T> add(Lanes<T> sum, Operand a, Operand b) { return sum + a * b; }
};

/// Where the factors that are broadcast lie: element (k, p) at `data[k * depth_stride + p * row_stride]`.
template <class Element>
struct Factors {
  const Element* data;
  std::int64_t depth_stride;
  std::int64_t row_stride;
};

/// c[p][j] = or += sum_k a(k, p) * b[k][j] for p < panel, j < Vectors * lanes and k < depth. `maximum`:
/// raised to the largest c[p][j] of each j, while they are in registers; null: not wanted.
template <class P, int Vectors, bool Accumulate>
[[gnu::always_inline]] inline void multiply(Factors<typename P::Element> a, const typename P::Element* b,
                                            std::int64_t b_stride, std::int64_t depth, typename P::Sum* c,
                                            std::int64_t c_stride,
                                            Lanes<typename P::Sum>* maximum = nullptr) {
  using T = typename P::Sum;
  constexpr int lanes = lane_count<T>;
  Lanes<T> sums[panel][std::size_t{Vectors}] = {};
  for (std::int64_t k = 0; k < depth; ++k, a.data += a.depth_stride, b += b_stride) {
    typename P::Operand operand[std::size_t{Vectors}];
    RING_ATTENTION_UNROLL
    for (int v = 0; v < Vectors; ++v) operand[v] = P::load(b + v * lanes);
    RING_ATTENTION_UNROLL
    for (int p = 0; p < panel; ++p) {
      const typename P::Operand factor = P::broadcast(a.data + p * a.row_stride);
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[p][v] = P::add(sums[p][v], factor, operand[v]);
    }
  }
  RING_ATTENTION_UNROLL
  for (int p = 0; p < panel; ++p) {
    RING_ATTENTION_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      T* to = c + p * c_stride + v * lanes;
      if constexpr (Accumulate) sums[p][v] += load(to);
      store(to, sums[p][v]);
    }
  }
  if (maximum == nullptr) return;
  RING_ATTENTION_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    Lanes<T> largest = maximum[v];
    RING_ATTENTION_UNROLL
    for (int p = 0; p < panel; ++p) largest = sums[p][v] > largest ? sums[p][v] : largest;
    maximum[v] = largest;
  }
}

/// Dimensions of a dot product that are summed in one go. The rounding error of a chain of n terms of one
/// sign grows with n^1.5, that of c chains with (d / c)^1.5 c^0.5: as many chains as keep it at what 64
/// dimensions have in one. Twice as much would break the tolerance of float at d = 256; shorter chains cost
/// time and gain little.
inline std::int64_t chain_length(std::int64_t depth) {
  if (depth <= 64) return depth;
  const std::int64_t chains = depth <= 96 ? 2 : depth <= 128 ? 3 : (depth + 31) / 32;
  return (depth + chains - 1) / chains;
}

/// c[p][j] = sum_d a[d][p] * b[d][j], dot products of a packed panel of rows with a tile of rows in lanes.
/// `maximum` as that of multiply.
template <class P, int Vectors>
inline void dot_products(const typename P::Element* a, const typename P::Element* b, std::int64_t depth,
                         std::int64_t chain, typename P::Sum* c, Lanes<typename P::Sum>* maximum = nullptr) {
  constexpr int width = Vectors * lane_count<typename P::Sum>;
  if (chain == depth) return multiply<P, Vectors, false>({a, panel, 1}, b, width, depth, c, width, maximum);
  multiply<P, Vectors, false>({a, panel, 1}, b, width, chain, c, width);
  for (std::int64_t d = chain; d < depth; d += chain) {
    const bool last = d + chain >= depth;
    multiply<P, Vectors, true>({a + d * panel, panel, 1}, b + d * width, width, last ? depth - d : chain, c,
                               width, last ? maximum : nullptr);
  }
}

/// c[p][j] += sum_k a(k, p) * b[k][j] over `vectors` vectors of columns, as many at a time as registers hold.
template <class P>
inline void multiply_rows(const Factors<typename P::Element>& a, const typename P::Element* b,
                          std::int64_t b_stride, std::int64_t depth, typename P::Sum* c,
                          std::int64_t c_stride, std::int64_t vectors) {
  constexpr int lanes = lane_count<typename P::Sum>;
  while (vectors > 0) {
    const std::int64_t taken = vectors == 4 ? 2 : vectors < max_vectors ? vectors : max_vectors;
    if (taken == 3) multiply<P, 3, true>(a, b, b_stride, depth, c, c_stride);
    if (taken == 2) multiply<P, 2, true>(a, b, b_stride, depth, c, c_stride);
    if (taken == 1) multiply<P, 1, true>(a, b, b_stride, depth, c, c_stride);
    b += taken * lanes;
    c += taken * lanes;
    vectors -= taken;
  }
}
