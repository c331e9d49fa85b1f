// Backward of bfloat16 by instructions that multiply pairs of numbers: the products of Backward, over pairs
// of dimensions, of queries or of keys, with sums in float. Part of the body of a target that has them.
//
// Queries, keys, values and dO are exact as given. P and dS are rounded to bfloat16 where they meet rows,
// which shifts a gradient by at most 2^-8 sum |x| |row|; scores and dP are therefore summed in one go, unlike
// those of forward, whose log-sum-exp has the tolerance of float.
//
// The dS of a query sum up to almost nothing, so what its keys have in common cancels in dQ, however large it
// is. Rounded ones do not: their sum would leave a multiple of it that exceeds the tolerance. What rounding
// takes from the sum therefore meets the mean of the keys of its block; of a block that some query of the
// tile sees in part, its first key, which is seen by whoever sees any of them.

struct PairBackward {
  using T = float;
  using Scalar = Eigen::bfloat16;
  using Tiles = PairForward;
  using Pair = PairForward::Pair;
  static constexpr int lanes = lane_count<T>;
  static constexpr int max_width = lanes * max_vectors;
  /// Fewer than in forward: three arrays share the cache.
  static constexpr std::int64_t key_block = 64;
  static constexpr std::int64_t block_elements = key_block * max_width;
  /// Scores and dP by key, which turn into pairs of P and dS in place, and dS by query.
  static constexpr std::int64_t scratch_elements =
      (std::max)(2 * block_elements + block_elements / 2 + max_width, Backward<Scalar>::scratch_elements);

  static constexpr std::int64_t row_dim(std::int64_t head_dim) { return Backward<Scalar>::row_dim(head_dim); }
  static constexpr std::int64_t pairs(std::int64_t extent) { return PairForward::pairs(extent); }

  static std::int64_t lane_bytes(std::int64_t queries, std::int64_t head_dim) {
    return PairForward::query_bytes(queries, head_dim);
  }
  static std::int64_t panel_bytes(std::int64_t keys, std::int64_t head_dim) {
    return PairForward::key_bytes(keys, head_dim);
  }
  /// With room for the means of blocks that begin at any panel.
  static std::int64_t row_bytes(std::int64_t rows, std::int64_t head_dim) {
    return (pairs(rows) + Tiles::padded(rows) / panel) * row_dim(head_dim) *
           static_cast<std::int64_t>(sizeof(Pair));
  }

  static void pack_panels(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::byte* to) {
    PairForward::pack_keys(rows, count, head_dim, to);
  }
  /// Blocks of key_block rows: their mean and 0 as one pair, then the pairs of rows, [pair][row_dim].
  static void pack_rows(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                        std::byte* to) {
    for (std::int64_t begin = 0; begin < count; begin += key_block) {
      const std::int64_t end = (std::min)(begin + key_block, count);
      const std::int64_t first = block_row(begin) + 1;
      for (std::int64_t i = begin; i < end; i += 2) {
        write_pair(rows[i], i + 1 < end ? rows[i + 1] : nullptr, head_dim, first + (i - begin) / 2, to);
      }
      T* const mean = reinterpret_cast<T*>(to) + block_row(begin) * row_dim(head_dim);
      for (std::int64_t d = 0; d < row_dim(head_dim); d += lanes) {
        Lanes<T> sum{};
        for (std::int64_t i = 1; i <= pairs(end - begin); ++i) {
          sum = PairProducts::add(
              sum, PairProducts::load(reinterpret_cast<const Pair*>(mean) + i * row_dim(head_dim) + d),
              PairProducts::broadcast(&shares));
        }
        constexpr T block_keys{key_block};
        PairForward::store_interleaved(sum * (block_keys / static_cast<T>(end - begin)), Lanes<T>{},
                                       mean + d);
      }
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

  /// sum_d a b, in any order: outputs of bfloat16 are far coarser than their sums.
  static T dot(const Scalar* a, const Scalar* b, std::int64_t count) {
    Lanes<T> sums{};
    for (std::int64_t d = 0; d < count; d += 2 * lanes) {
      const std::int64_t left = count - d;
      const auto mask = left >= 2 * lanes ? ~__mmask32{0} : (1U << left) - 1U;
      sums = PairProducts::add(sums, reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, a + d)),
                               reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, b + d)));
    }
    return sum_of(sums);
  }

  static void accumulate(const GradientKeys<T>& keys, const GradientTile<T>& tile,
                         const TilePositions& positions, std::int64_t head_dim, T scale, T* scratch) {
    const T size = PairForward::size_of(scale);
    with_vectors(tile.vectors, [&](auto vectors) RING_ATTENTION_TARGET_LAMBDA {
      accumulate_tile<decltype(vectors)::value>(keys, tile, positions, head_dim, size, scratch);
    });
  }

 private:
  static constexpr Pair ones = 0x3F803F80;
  /// 1 / key_block twice: sums of the largest numbers stay finite.
  static constexpr Pair shares = 0x3C803C80;
  static_assert(key_block == 64);

  /// Where a block of packed rows begins, its mean first.
  static constexpr std::int64_t block_row(std::int64_t begin) { return begin / 2 + begin / key_block; }

  static void write_pair(const Scalar* even, const Scalar* odd, std::int64_t head_dim, std::int64_t pair,
                         std::byte* bytes) {
    Pair* const to = reinterpret_cast<Pair*>(bytes) + pair * row_dim(head_dim);
    for (std::int64_t d = 0; d < head_dim; d += lanes) {
      const LaneUnsigned<T> both = PairForward::pair_rows(even, odd, d, head_dim - d);
      std::memcpy(to + d, &both, sizeof both);
    }
  }

  [[gnu::always_inline]] static T sum_of(Lanes<T> x) {
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
  }

  template <int Vectors>
  static void accumulate_tile(const GradientKeys<T>& keys, const GradientTile<T>& tile,
                              const TilePositions& positions, std::int64_t head_dim, T scale, T* scratch) {
    constexpr int width = Vectors * lanes;
    const std::int64_t dims = row_dim(head_dim);
    const std::int64_t depth = pairs(head_dim);
    const Pair* const panels_of_keys = reinterpret_cast<const Pair*>(keys.keys);
    const Pair* const panels_of_values = reinterpret_cast<const Pair*>(keys.values);
    const Pair* const key_rows = reinterpret_cast<const Pair*>(keys.key_rows);
    const Pair* const query_rows = reinterpret_cast<const Pair*>(tile.query_rows);
    const Pair* const grad_out_rows = reinterpret_cast<const Pair*>(tile.grad_out_rows);
    T* const scores = scratch;
    T* const grads = scores + block_elements;
    T* const by_query = grads + block_elements;
    const Pair* const p_by_key = reinterpret_cast<const Pair*>(scores);
    const Pair* const ds_by_key = reinterpret_cast<const Pair*>(grads);
    const Pair* const ds_by_query = reinterpret_cast<const Pair*>(by_query);
    const VisibleKeys<T, Vectors> visible(positions);
    for (std::int64_t begin = 0; begin < visible.end; begin += key_block) {
      const std::int64_t count = (std::min)(key_block, visible.end - begin);
      for (std::int64_t k = 0; k < count; k += panel) {
        multiply<PairProducts, Vectors, false>({panels_of_keys + (begin + k) * depth, panel, 1},
                                               reinterpret_cast<const Pair*>(tile.query), width, depth,
                                               scores + k * width, width);
        multiply<PairProducts, Vectors, false>({panels_of_values + (begin + k) * depth, panel, 1},
                                               reinterpret_cast<const Pair*>(tile.grad_out), width, depth,
                                               grads + k * width, width);
      }
      to_pairs<Vectors>(scores, grads, by_query, begin, count, tile, visible, scale);
      for (std::int64_t k = 0; k < count && keys.grad_values != nullptr; k += panel) {
        multiply_rows<PairProducts>({p_by_key + k * width, 1, width}, grad_out_rows, dims, width / 2,
                                    keys.grad_values + (begin + k) * dims, dims, dims / lanes);
        multiply_rows<PairProducts>({ds_by_key + k * width, 1, width}, query_rows, dims, width / 2,
                                    keys.grad_keys + (begin + k) * dims, dims, dims / lanes);
      }
      const bool all_seen = (std::min)(begin + key_block, positions.keys.count) <= visible.shared;
      const Pair* const rows = key_rows + block_row(begin) * dims;
      for (std::int64_t q = 0; q < width && tile.grad_query != nullptr; q += panel) {
        T* const to = tile.grad_query + q * dims;
        if (all_seen) {
          multiply_rows<PairProducts>({ds_by_query + q, width, 1}, rows, dims, 1 + pairs(count), to, dims,
                                      dims / lanes);
          continue;
        }
        multiply_rows<PairProducts>({ds_by_query + width + q, width, 1}, rows + dims, dims, pairs(count), to,
                                    dims, dims / lanes);
        multiply_rows<PairProducts>({ds_by_query + q, width, 1}, rows + dims, dims, 1, to, dims,
                                    dims / lanes);
      }
    }
  }

  /// Turns scores into P and dP into dS, both rounded: by key in place, the first half of each row holding
  /// pairs of queries, and by query, [1 + pair of keys][width], first what rounding takes from their sum.
  /// Keys from `count` on, which fill up the last panel, get 0.
  template <int Vectors>
  static void to_pairs(T* scores, T* grads, T* by_query, std::int64_t begin, std::int64_t count,
                       const GradientTile<T>& tile, const VisibleKeys<T, Vectors>& visible, T scale) {
    constexpr int width = Vectors * lanes;
    const bool masked = begin + Tiles::padded(count) > visible.shared;
    const bool sums_wanted = tile.probability != nullptr;
    // Vector after vector, so that no half row overwrites what is still to be read.
    for (int v = 0; v < Vectors; ++v) {
      const Lanes<T> lse = load(tile.lse + v * lanes);
      const Lanes<T> delta = load(tile.delta + v * lanes);
      const auto queries = visible.of(v);
      Lanes<T> sum{}, weighted{}, exact{}, rounded{};
      for (std::int64_t k = 0; k < Tiles::padded(count); k += 2) {
        Lanes<T> of_scores[2];
        RING_ATTENTION_UNROLL
        for (int i = 0; i < 2; ++i) {
          T* const score = scores + (k + i) * width;
          T* const grad = grads + (k + i) * width;
          Lanes<T> p = exp2_lanes<T>(load(score + v * lanes) * scale - lse);
          if (masked) p = queries.see(begin + k + i) ? p : Lanes<T>{};
          const Lanes<T> given = load(grad + v * lanes);
          of_scores[i] = p * (given - delta);
          if (sums_wanted) {
            sum += p;
            weighted += p * given;
          }
          store_halves(score, v * lanes, p);
          store_halves(grad, v * lanes, of_scores[i]);
        }
        exact += of_scores[0] + of_scores[1];
        const auto both = PairForward::store_interleaved(of_scores[0], of_scores[1],
                                                         by_query + (1 + k / 2) * width + v * lanes);
        rounded = PairProducts::add(rounded, both, PairProducts::broadcast(&ones));
      }
      PairForward::store_interleaved(exact - rounded, Lanes<T>{}, by_query + v * lanes);
      if (!sums_wanted) continue;
      store(tile.probability + v * lanes, load(tile.probability + v * lanes) + sum);
      store(tile.weighted + v * lanes, load(tile.weighted + v * lanes) + weighted);
    }
  }

  /// As bfloat16, `at` numbers of 16 bits behind `row`.
  [[gnu::always_inline]] static void store_halves(T* row, std::int64_t at, Lanes<T> numbers) {
    const __m256bh rounded = _mm512_cvtneps_pbh(numbers);
    std::memcpy(reinterpret_cast<char*>(row) + 2 * at, &rounded, sizeof rounded);
  }
};
