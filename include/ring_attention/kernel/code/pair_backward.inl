// Backward of bfloat16 by instructions that multiply pairs of numbers: the products of Backward, over pairs
// of dimensions, of queries or of keys, with sums in float. Probabilities and gradients of scores are rounded
// to bfloat16 where they meet rows; everything else is exact as given. Part of the body of a target that has
// them.
//
// A rounded gradient of a score is off by 2^-9 of itself, which matters where few keys with large gradients
// cancel each other: there the remainders of the rounding meet the rows, too, at the price of two products
// more.

struct PairBackward {
  using T = float;
  using Scalar = Eigen::bfloat16;
  using Tiles = PairForward;
  using Index = LaneIndex<T>;
  using Pair = PairForward::Pair;
  static constexpr int lanes = lane_count<T>;
  static constexpr std::int64_t block_elements = Tiles::score_elements + panel * lanes;
  static constexpr std::int64_t scratch_elements = 3 * block_elements;

  static constexpr std::int64_t row_dim(std::int64_t head_dim) { return Backward<Scalar>::row_dim(head_dim); }
  static constexpr std::int64_t pairs(std::int64_t extent) { return PairForward::pairs(extent); }

  static std::int64_t lane_bytes(std::int64_t queries, std::int64_t head_dim) {
    return PairForward::query_bytes(queries, head_dim);
  }
  static std::int64_t panel_bytes(std::int64_t keys, std::int64_t head_dim) {
    return PairForward::key_bytes(keys, head_dim);
  }
  static std::int64_t row_bytes(std::int64_t rows, std::int64_t head_dim) {
    return pairs(rows) * row_dim(head_dim) * static_cast<std::int64_t>(sizeof(Pair));
  }

  static void pack_panels(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::byte* to) {
    PairForward::pack_keys(rows, count, head_dim, to);
  }
  /// [pair of rows][row_dim]
  static void pack_rows(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                        std::byte* to) {
    for (std::int64_t i = 0; i < count; i += 2) {
      write_pair(rows[i], i + 1 < count ? rows[i + 1] : nullptr, head_dim, i / 2, to);
    }
  }

  /// Lanes: [pair of dimensions][width], queries as PairForward loads them. Rows: [pair of queries][row_dim].
  static void load_gradients(const Scalar* const* queries, const Scalar* const* grads, std::int64_t head_dim,
                             T scale, const GradientTile<T>& tile) {
    PairForward::load_lanes(queries, head_dim, tile.vectors, scale, tile.query);
    PairForward::load_lanes(grads, head_dim, tile.vectors, T{1}, tile.grad_out);
    for (std::int64_t i = 0; i < tile.vectors * lanes; i += 2) {
      write_pair(queries[i], queries[i + 1], head_dim, i / 2, tile.query_rows);
      write_pair(grads[i], grads[i + 1], head_dim, i / 2, tile.grad_out_rows);
    }
  }

  static void accumulate(const GradientKeys<T>& keys, const GradientTile<T>& tile, const Index* limits,
                         std::int64_t head_dim, T scale, T* scratch) {
    const T size = PairForward::size_of(scale);
    switch (tile.vectors) {
      case 1:
        return accumulate_tile<1>(keys, tile, limits, head_dim, size, scratch);
      case 2:
        return accumulate_tile<2>(keys, tile, limits, head_dim, size, scratch);
      default:
        return accumulate_tile<max_vectors>(keys, tile, limits, head_dim, size, scratch);
    }
  }

 private:
  static void write_pair(const Scalar* even, const Scalar* odd, std::int64_t head_dim, std::int64_t pair,
                         std::byte* bytes) {
    Pair* const to = reinterpret_cast<Pair*>(bytes) + pair * row_dim(head_dim);
    for (std::int64_t d = 0; d < head_dim; d += lanes) {
      const LaneUnsigned<T> both = PairForward::pair_rows(even, odd, d, head_dim - d);
      std::memcpy(to + d, &both, sizeof both);
    }
  }

  /// Scores become, by key, the probabilities of pairs of queries and, behind them, their gradients;
  /// gradients become, by pair of keys, the gradients of the scores of every query.
  template <int Vectors>
  static void accumulate_tile(const GradientKeys<T>& keys, const GradientTile<T>& tile, const Index* limits,
                              std::int64_t head_dim, T scale, T* scratch) {
    constexpr int width = Vectors * lanes;
    const std::int64_t dims = row_dim(head_dim);
    const std::int64_t depth = pairs(head_dim);
    const std::int64_t chain = pairs(chain_length(2 * depth));
    const Pair* const panels_of_keys = reinterpret_cast<const Pair*>(keys.keys);
    const Pair* const panels_of_values = reinterpret_cast<const Pair*>(keys.values);
    const Pair* const key_rows = reinterpret_cast<const Pair*>(keys.key_rows);
    const Pair* const query_rows = reinterpret_cast<const Pair*>(tile.query_rows);
    const Pair* const grad_out_rows = reinterpret_cast<const Pair*>(tile.grad_out_rows);
    T* const scores = scratch;
    T* const grads = scratch + block_elements;
    T* const exact = grads + block_elements;  // gradients of scores
    const Pair* const by_key = reinterpret_cast<const Pair*>(scores);
    const Pair* const by_query = reinterpret_cast<const Pair*>(grads);
    std::int64_t visible = keys.count;
    if (limits != nullptr)
      visible = std::min<std::int64_t>(visible, *std::max_element(limits, limits + width));
    for (std::int64_t begin = 0; begin < visible; begin += Tiles::key_block) {
      const std::int64_t count = std::min(Tiles::key_block, visible - begin);
      for (std::int64_t k = 0; k < count; k += panel) {
        dot_products<PairProducts, Vectors>(panels_of_keys + (begin + k) * depth,
                                            reinterpret_cast<const Pair*>(tile.query), depth, chain,
                                            scores + k * width);
        dot_products<PairProducts, Vectors>(panels_of_values + (begin + k) * depth,
                                            reinterpret_cast<const Pair*>(tile.grad_out), depth, chain,
                                            grads + k * width);
      }
      Lanes<T> sizes[Vectors] = {};
      // Keys of the last panel that no query sees take part in its multiplies with probability 0.
      for (std::int64_t k = 0; k < Tiles::padded(count); k += 2) {
        to_pairs<Vectors>(scores, grads, exact, begin, k, count, tile, limits, scale, sizes);
      }
      if (keys.grad_values != nullptr) {
        for (std::int64_t k = 0; k < count; k += panel) {
          multiply_rows<PairProducts>({by_key + k * width, 1, width}, grad_out_rows, dims, width / 2,
                                      keys.grad_values + (begin + k) * dims, dims, dims / lanes);
        }
      }
      if (keys.grad_keys == nullptr && tile.grad_query == nullptr) continue;
      const auto multiply_score_gradients = [&]() RING_ATTENTION_TARGET_LAMBDA {
        if (keys.grad_keys != nullptr) {
          for (std::int64_t k = 0; k < count; k += panel) {
            multiply_rows<PairProducts>({by_key + k * width + width / 2, 1, width}, query_rows, dims,
                                        width / 2, keys.grad_keys + (begin + k) * dims, dims, dims / lanes);
          }
        }
        if (tile.grad_query != nullptr) {
          for (std::int64_t q = 0; q < width; q += panel) {
            multiply_rows<PairProducts>({by_query + q, 2 * width, 1}, key_rows + begin / 2 * dims, dims,
                                        pairs(count), tile.grad_query + q * dims, dims, dims / lanes);
          }
        }
      };
      multiply_score_gradients();
      if (!matters<Vectors>(sizes, scale)) continue;
      for (std::int64_t k = 0; k < count; k += 2) to_remainders<Vectors>(scores, grads, exact, k);
      multiply_score_gradients();
    }
  }

  /// The keys k and k + 1. All vectors are read before any is written, in the same rows.
  template <int Vectors>
  [[gnu::always_inline]] static void to_pairs(T* scores, T* grads, T* exact, std::int64_t begin,
                                              std::int64_t k, std::int64_t count, const GradientTile<T>& tile,
                                              const Index* limits, T scale, Lanes<T>* sizes) {
    constexpr int width = Vectors * lanes;
    Lanes<T> p[2][Vectors] = {}, of_score[2][Vectors] = {};
    RING_ATTENTION_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (k + i >= count) continue;
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const std::int64_t at = (k + i) * width + v * lanes;
        const Lanes<T> seen = exp2_lanes<T>(load(scores + at) * scale - load(tile.lse + v * lanes));
        LaneBits<T> limit = LaneBits<T>{} + std::numeric_limits<Index>::max();
        if (limits != nullptr) std::memcpy(&limit, limits + v * lanes, sizeof limit);
        p[i][v] = limit > static_cast<Index>(begin + k + i) ? seen : Lanes<T>{};
        const Lanes<T> grad = load(grads + at);
        of_score[i][v] = p[i][v] * (grad - load(tile.delta + v * lanes));
        sizes[v] += of_score[i][v] < 0 ? -of_score[i][v] : of_score[i][v];
        if (tile.probability == nullptr) continue;
        T* const sum = tile.probability + v * lanes;
        T* const weighted = tile.weighted + v * lanes;
        store(sum, load(sum) + p[i][v]);
        store(weighted, load(weighted) + p[i][v] * grad);
      }
    }
    RING_ATTENTION_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      RING_ATTENTION_UNROLL
      for (int i = 0; i < 2; ++i) {
        store(exact + (k + i) * width + v * lanes, of_score[i][v]);
        store_halves(scores + (k + i) * width, v * lanes, p[i][v]);
        store_halves(scores + (k + i) * width, width + v * lanes, of_score[i][v]);
      }
      PairForward::store_interleaved(of_score[0][v], of_score[1][v], grads + k * width + v * lanes);
    }
  }

  /// Replaces rounded gradients of scores by what rounding took from them.
  template <int Vectors>
  [[gnu::always_inline]] static void to_remainders(T* scores, T* grads, const T* exact, std::int64_t k) {
    constexpr int width = Vectors * lanes;
    RING_ATTENTION_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      Lanes<T> rest[2];
      RING_ATTENTION_UNROLL
      for (int i = 0; i < 2; ++i) {
        T* const row = scores + (k + i) * width;
        Scalar rounded[lanes];
        std::memcpy(static_cast<void*>(rounded), reinterpret_cast<const char*>(row) + 2 * (width + v * lanes),
                    sizeof rounded);
        rest[i] = load(exact + (k + i) * width + v * lanes) - load_wide(rounded);
        store_halves(row, width + v * lanes, rest[i]);
      }
      PairForward::store_interleaved(rest[0], rest[1], grads + k * width + v * lanes);
    }
  }

  /// Whether the scaled gradients of a query's scores are large enough for their rounding to matter.
  template <int Vectors>
  static bool matters(const Lanes<T>* sizes, T scale) {
    bool large = false;
    for (int v = 0; v < Vectors; ++v) {
      for (int i = 0; i < lanes; ++i) large = large || sizes[v][i] * scale > T{0.5};
    }
    return large;
  }

  /// As bfloat16, `at` numbers of 16 bits behind `row`.
  [[gnu::always_inline]] static void store_halves(T* row, std::int64_t at, Lanes<T> numbers) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)numbers);
    std::memcpy(reinterpret_cast<char*>(row) + 2 * at, &rounded, sizeof rounded);
  }
};
