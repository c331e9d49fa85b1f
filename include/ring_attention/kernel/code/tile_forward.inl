// Forward of bfloat16 by the tile registers of AMX: S^T = K Q^T and O^T += V^T P^T, sums in float. Part of
// the body of a target.
//
// Tests run it with tile registers that are emulated, too, on processors with AVX512-BF16 and no AMX.
//
// Scores are transposed, keys in rows and queries in lanes, so that maxima and sums are vertical and pairs of
// probabilities are the second product's right factor as they are made. The order of instructions follows
// what was fastest on such a processor: 32 queries at once, tile products and exponentials in turn, scores of
// 64 keys between the two, and outputs read and written once for 128 or 256 keys.
//
// If the norms of queries and keys show that no score is large, probabilities are 2^s, without a maximum.
// Otherwise, and for values that such numbers could take beyond float, they are 2^(s - m), m the maximum so
// far.
//
// Probabilities are rounded to bfloat16 where they meet values, and summed up as they were before: the
// log-sum-exp has the tolerance of float, which sums of rounded ones would not keep.

template <class Tiles>
struct TileForward {
  using T = float;
  using Scalar = Eigen::bfloat16;
  using Layout = TileLayout;

  static constexpr int lanes = lane_count<float>;
  static constexpr int max_vectors = 2;
  static constexpr std::int64_t chunk = 64;  // keys whose scores are held at once
  static constexpr std::int64_t longest_block = 256;
  static constexpr std::int64_t score_elements = chunk * max_vectors * lanes;
  /// Pairs of probabilities of a block.
  static constexpr std::int64_t pair_elements = longest_block / 2 * max_vectors * lanes;
  static constexpr std::int64_t scratch_elements = score_elements + pair_elements;
  /// Sums of 2^s and of their products with values stay far from float's limit of 2^128.
  static constexpr double largest_exponent = 60;
  static constexpr T largest_value = 0x1p30F;

  static void attend(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                     std::int64_t head_dim, T scale, T* scratch) {
    if (tile.vectors == 1) return attend_queries<1>(keys, tile, positions, head_dim, scale, scratch);
    attend_queries<2>(keys, tile, positions, head_dim, scale, scratch);
  }

 private:
  template <int Vectors>
  static void attend_queries(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                             std::int64_t head_dim, T scale, T* scratch) {
    const VisibleKeys<T, Vectors> visible(positions);
    if (visible.end == 0) return;
    const T size = PairForward::size_of(scale);
    const double bound = static_cast<double>(size) * static_cast<double>(size) *
                         static_cast<double>(Layout::bound_of(keys.keys)) *
                         static_cast<double>(Layout::bound_of(tile.query));
    const bool bounded = bound < largest_exponent * largest_exponent &&
                         Layout::bound_of(keys.values) < largest_value;  // false for NaN
    const TileShapes shapes;
    Tiles::configure(shapes);
    const auto attend = bounded ? attend_tile<Vectors, true> : attend_tile<Vectors, false>;
    attend(keys, tile, visible, head_dim, size, scratch);
    Tiles::release();
  }

  template <int Vectors, bool Bounded>
  static void attend_tile(const PackedKeys& keys, const QueryTile<T>& tile,
                          const VisibleKeys<T, Vectors>& visible, std::int64_t head_dim, T scale, T* scores) {
    constexpr int width = Vectors * lanes;
    T* const pairs = scores + score_elements;
    const std::int64_t output_rows = Layout::row_tiles(head_dim) * tile_rows;
    Lanes<T> shift[std::size_t{Vectors}], sums[std::size_t{Vectors}] = {};
    if constexpr (Bounded) drop_maximum<Vectors>(tile, output_rows, visible, shift);
    const std::int64_t block = !Bounded ? chunk : head_dim <= 64 ? longest_block / 2 : longest_block;
    for (std::int64_t begin = 0; begin < visible.end; begin += block) {
      const std::int64_t end = (std::min)(begin + block, visible.end);
      for (std::int64_t k = begin; k < end; k += chunk) {
        const std::int64_t count = (std::min)(chunk, end - k);
        score<Vectors>(keys, tile, k, count, head_dim, scores);
        if (k + count > visible.shared) hide<T, Vectors>(scores, k, count, visible);
        T* const to = pairs + (k - begin) / 2 * width;
        if constexpr (Bounded) {
          to_pairs<Vectors>(scores, count, scale, shift, sums, to);
        } else {
          Lanes<T> maximum[std::size_t{Vectors}], of_chunk[std::size_t{Vectors}] = {};
          find_maximum<Vectors>(tile, scores, count, scale, maximum, shift);
          to_pairs<Vectors>(scores, count, scale, shift, of_chunk, to);
          raise_state<T, Vectors>(tile, output_rows, maximum, shift, of_chunk);
        }
      }
      add_values<Vectors>(keys, tile, begin, end - begin, head_dim, pairs);
    }
    for (int v = 0; Bounded && v < Vectors; ++v) {
      T* const l = tile.sum + v * lanes;
      store(l, load(l) + sums[v]);
    }
  }

  /// Scores of `count` keys, [key][width].
  template <int Vectors>
  static void score(const PackedKeys& keys, const QueryTile<T>& tile, std::int64_t first, std::int64_t count,
                    std::int64_t head_dim, T* to) {
    const std::int64_t depth = Layout::depth_tiles(head_dim);
    constexpr std::int64_t stride = Vectors * tile_row_bytes;
    multiply_tiles<Tiles, Vectors, false>({
        .a = keys.keys + Layout::header + first / tile_rows * depth * tile_bytes,
        .a_row = depth * tile_bytes,
        .a_depth = tile_bytes,
        .b = tile.query + Layout::header,
        .b_depth = Vectors * tile_bytes,
        .b_column = tile_bytes,
        .b_stride = tile_row_bytes,
        .c = reinterpret_cast<std::byte*>(to),
        .c_row = tile_rows * stride,
        .c_stride = stride,
        .rows = Layout::row_tiles(count),
        .depth = depth,
    });
  }

  /// O^T += V^T P^T for `count` keys.
  template <int Vectors>
  static void add_values(const PackedKeys& keys, const QueryTile<T>& tile, std::int64_t first,
                         std::int64_t count, std::int64_t head_dim, const T* pairs) {
    const std::int64_t rows = Layout::row_tiles(head_dim);
    constexpr std::int64_t stride = Vectors * tile_row_bytes;
    multiply_tiles<Tiles, Vectors, true>({
        .a = keys.values + Layout::header + first / Layout::depth * rows * tile_bytes,
        .a_row = tile_bytes,
        .a_depth = rows * tile_bytes,
        .b = reinterpret_cast<const std::byte*>(pairs),
        .b_depth = tile_rows * stride,
        .b_column = tile_row_bytes,
        .b_stride = stride,
        .c = reinterpret_cast<std::byte*>(tile.output),
        .c_row = tile_rows * stride,
        .c_stride = stride,
        .rows = rows,
        .depth = Layout::depth_tiles(count),
    });
  }

  /// Brings lanes that see a key to m = 0 or to the maximum they have, whichever is larger.
  template <int Vectors>
  static void drop_maximum(const QueryTile<T>& tile, std::int64_t output_rows,
                           const VisibleKeys<T, Vectors>& visible, Lanes<T>* shift) {
    Lanes<T> maximum[std::size_t{Vectors}], none[std::size_t{Vectors}] = {};
    for (int v = 0; v < Vectors; ++v) {
      const Lanes<T> before = load(tile.maximum + v * lanes);
      const Lanes<T> raised = before > T{0} ? before : Lanes<T>{};
      maximum[v] = visible.of(v).see_any() ? raised : before;
      shift[v] = finite_shift<T>(maximum[v]);
    }
    raise_state<T, Vectors>(tile, output_rows, maximum, shift, none);
  }

  template <int Vectors>
  static void find_maximum(const QueryTile<T>& tile, const T* scores, std::int64_t count, T scale,
                           Lanes<T>* maximum, Lanes<T>* shift) {
    for (int v = 0; v < Vectors; ++v) maximum[v] = broadcast(-std::numeric_limits<T>::infinity());
    raise<T, Vectors>(maximum, scores, count);
    for (int v = 0; v < Vectors; ++v) {
      const Lanes<T> before = load(tile.maximum + v * lanes);
      const Lanes<T> scaled = maximum[v] * scale;
      maximum[v] = scaled > before ? scaled : before;
      shift[v] = finite_shift<T>(maximum[v]);
    }
  }

  /// Pairs of probabilities, [pair of keys][width], filled up to whole tiles; adds them to `sums` before they
  /// are rounded.
  template <int Vectors>
  static void to_pairs(T* scores, std::int64_t count, T scale, const Lanes<T>* shift, Lanes<T>* sums,
                       T* pairs) {
    constexpr int width = Vectors * lanes;
    // The other half of the last pair; a tile of scores has room for it.
    if (count % 2 != 0) std::fill_n(scores + count * width, width, -std::numeric_limits<T>::infinity());
    Lanes<T> of_even[std::size_t{Vectors}] = {}, of_odd[std::size_t{Vectors}] = {};
    for (std::int64_t k = 0; k < count; k += 2) {
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const T* at = scores + k * width + v * lanes;
        const Lanes<T> even = exp2_short(load(at) * scale - shift[v]);
        const Lanes<T> odd = exp2_short(load(at + width) * scale - shift[v]);
        of_even[v] += even;
        of_odd[v] += odd;
        PairForward::store_interleaved(even, odd, pairs + k / 2 * width + v * lanes);
      }
    }
    for (int v = 0; v < Vectors; ++v) sums[v] += of_even[v] + of_odd[v];
    const std::int64_t filled = (count + 1) / 2 * width;
    const std::int64_t whole = Layout::depth_tiles(count) * tile_rows * width;
    std::fill(pairs + filled, pairs + whole, T{0});
  }

  /// 2^x with a relative error of 2.9e-6, which the tolerance of the log-sum-exp, 2e-5, has room for; 0 for
  /// -infinity, NaN for NaN.
  [[gnu::always_inline]] static Lanes<T> exp2_short(Lanes<T> lanes_of_x) {
    constexpr int down = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    const __m512 x = lanes_of_x;
    const Lanes<T> fraction = _mm512_reduce_ps(x, down);
    Lanes<T> polynomial = fraction * 0.013426684289533461F + 0.052242474187575313F;
    polynomial = polynomial * fraction + 0.24128020477403309F;
    polynomial = polynomial * fraction + 0.6930448448986979F;
    polynomial = polynomial * fraction + 1.0F;
    return _mm512_maskz_scalef_ps(__mmask16{0xFFFF}, polynomial, x);
  }
};

template <class Tiles>
inline constexpr ForwardKernel<Eigen::bfloat16> tile_kernel{
    .name = "amx_bf16",
    .tile = {TileForward<Tiles>::lanes, TileForward<Tiles>::max_vectors, tile_rows},
    .scratch = TileForward<Tiles>::scratch_elements,
    .query_bytes = TileLayout::query_bytes,
    .key_bytes = TileLayout::key_bytes,
    .value_bytes = TileLayout::value_bytes,
    .pack_keys = TileLayout::pack_keys,
    .pack_values = TileLayout::pack_values,
    .load_queries = TileLayout::load_queries,
    .load_states = TileLayout::load_states,
    .store_states = TileLayout::store_states,
    .attend = TileForward<Tiles>::attend,
    .round_row = round_row<Eigen::bfloat16>,
};
