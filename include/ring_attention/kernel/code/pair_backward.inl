// Backward of bfloat16 by instructions that multiply pairs of numbers: the products of Backward, over pairs
// of dimensions, of queries or of keys, with sums in float. Part of the body of a target that has them.
//
// Queries, keys, values and dO are exact as given; P and dS are rounded to bfloat16 where they meet rows,
// which shifts a number x by at most 2^-8 |x| and a gradient by at most 2^-8 sum |x| max |row|. The tolerance
// leaves room for that, and each product may use the share of it that belongs to the rows that meet in it, so
// that the shares of all products of a gradient fit the room, whatever the values. Where a product would need
// more (few keys that serve many queries, one query that dominates a key, large rows) what rounding took
// meets the rows, too: eight products instead of five at worst. delta comes from outputs that were rounded
// before; what that takes is not counted here.

struct PairBackward {
  using T = float;
  using Scalar = Eigen::bfloat16;
  using Tiles = PairForward;
  using Index = LaneIndex<T>;
  using Pair = PairForward::Pair;
  static constexpr int lanes = lane_count<T>;
  static constexpr int max_width = lanes * max_vectors;
  /// Fewer than in forward: four arrays share the cache.
  static constexpr std::int64_t key_block = 64;
  static constexpr std::int64_t block_elements = key_block * max_width;
  /// P, dS, the same rounded by key, dS rounded by query.
  static constexpr std::int64_t scratch_elements =
      (std::max)(3 * block_elements + block_elements / 2, Backward<Scalar>::scratch_elements);
  /// What rounding may take from a gradient, in units of 2^-8: 3/4 of its tolerance of an eighth.
  static constexpr T room = 24;

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

  /// The largest |x| of packed rows.
  static T largest(const Pair* rows, std::int64_t count) {
    LaneUnsigned<T> most{};
    for (std::int64_t i = 0; i < count; i += lanes) {
      LaneUnsigned<T> both;
      std::memcpy(&both, rows + i, sizeof both);
      // Bits of numbers without a sign are ordered as the numbers are.
      const LaneUnsigned<T> odd = both & 0x7FFF0000U, even = both << 16 & 0x7FFF0000U;
      const LaneUnsigned<T> larger = odd > even ? odd : even;
      most = larger > most ? larger : most;
    }
    std::uint32_t of_all = 0;
    for (int i = 0; i < lanes; ++i) of_all = std::max<std::uint32_t>(of_all, most[i]);
    return Eigen::numext::bit_cast<T>(of_all);
  }

  [[gnu::always_inline]] static Lanes<T> magnitude(Lanes<T> x) {
    return reinterpret_cast<Lanes<T>>(reinterpret_cast<LaneUnsigned<T>>(x) & 0x7FFFFFFFU);
  }

  [[gnu::always_inline]] static T sum_of(Lanes<T> x) {
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
  }

  /// Adds the halves of blocks of 2 * Step lanes: of `count` vectors half as many are left.
  template <int Step>
  [[gnu::always_inline]] static void add_halves(Lanes<T>* vectors, int count) {
    RING_ATTENTION_UNROLL
    for (int i = 0; i < count; i += 2) {
      swap_blocks<Step>(vectors[i], vectors[i + 1]);
      vectors[i / 2] = vectors[i] + vectors[i + 1];
    }
  }

  /// The largest sum of the lanes of a vector, of a panel's vectors, which are overwritten.
  [[gnu::always_inline]] static T largest_sum(Lanes<T>* vectors) {
    static_assert(panel == 8 && lanes == 16);
    add_halves<8>(vectors, 8);
    add_halves<4>(vectors, 4);
    add_halves<2>(vectors, 2);
    Lanes<T> x = vectors[0];
    x += __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    T most = x[0];
    RING_ATTENTION_UNROLL
    for (int i = 2; i < lanes; i += 2) most = x[i] > most ? x[i] : most;
    return most;
  }

  /// A block of keys on its way from scores to gradients. What lies by key is [key][width]; rounded rows hold
  /// the probabilities of pairs of queries and, behind them, dS. dS by query is [pair of keys][width].
  template <int Vectors>
  struct Work {
    static constexpr int width = Vectors * lanes;

    explicit Work(T* scratch)
        : scores(scratch),
          grads(scratch + block_elements),
          by_key(grads + block_elements),
          by_query(by_key + block_elements) {}

    T *scores, *grads;
    T *by_key, *by_query;
    Lanes<T> sums_by_query[std::size_t{Vectors}] = {};  // sum_k |dS|
    T probability_sums[key_block / panel];              // by panel: no key's sum_j P is larger
    T gradient_sums[key_block / panel];                 // the same of |dS|

    const Pair* probability_factors(std::int64_t key) const {
      return reinterpret_cast<const Pair*>(by_key) + key * width;
    }
    const Pair* gradient_factors(std::int64_t key) const {
      return reinterpret_cast<const Pair*>(by_key) + key * width + width / 2;
    }
    const Pair* query_factors(std::int64_t query) const {
      return reinterpret_cast<const Pair*>(by_query) + query;
    }
  };

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
    std::int64_t visible = keys.count;
    if (limits != nullptr)
      visible = std::min<std::int64_t>(visible, *std::max_element(limits, limits + width));
    // Factors that turn sums of P and |dS| into multiples of the room; `scale` belongs to base 2.
    constexpr T ln2 = 0.69314718F;
    T of_value = 0, of_key = 0;
    if (keys.grad_values != nullptr) {
      const auto queries = width - std::count(tile.lse, tile.lse + width, std::numeric_limits<T>::infinity());
      const T share = room * static_cast<T>(queries) / static_cast<T>(keys.queries_of_key);
      of_value = largest(grad_out_rows, width / 2 * dims) / share;
      of_key = largest(query_rows, width / 2 * dims) * scale * ln2 / share;
    }
    for (std::int64_t begin = 0; begin < visible; begin += key_block) {
      const std::int64_t count = (std::min)(key_block, visible - begin);
      Work<Vectors> work(scratch);
      for (std::int64_t k = 0; k < count; k += panel) {
        dot_products<PairProducts, Vectors>(panels_of_keys + (begin + k) * depth,
                                            reinterpret_cast<const Pair*>(tile.query), depth, chain,
                                            work.scores + k * width);
        dot_products<PairProducts, Vectors>(panels_of_values + (begin + k) * depth,
                                            reinterpret_cast<const Pair*>(tile.grad_out), depth, chain,
                                            work.grads + k * width);
      }
      for (std::int64_t k = 0; k < count; k += panel) {
        to_gradients<Vectors>(work, k, begin, std::min<std::int64_t>(panel, count - k), tile, limits, scale);
      }
      if (keys.grad_values == nullptr && tile.grad_query == nullptr) continue;
      const std::int64_t rows = Tiles::padded(count);
      for (std::int64_t k = 0; k < rows; k += 2) to_pairs<Vectors, false>(work, k);
      T of_query = 0;
      if (tile.grad_query != nullptr) {
        const T share = room * static_cast<T>(count) / static_cast<T>(tile.keys_of_query);
        of_query = largest(key_rows + begin / 2 * dims, pairs(count) * dims) * scale * ln2 / share;
      }
      const auto add_products = [&](auto needed) RING_ATTENTION_TARGET_LAMBDA {
        for (std::int64_t k = 0; k < count && keys.grad_values != nullptr; k += panel) {
          if (needed(work.probability_sums[k / panel] * of_value)) {
            multiply_rows<PairProducts>({work.probability_factors(k), 1, width}, grad_out_rows, dims,
                                        width / 2, keys.grad_values + (begin + k) * dims, dims, dims / lanes);
          }
          if (needed(work.gradient_sums[k / panel] * of_key)) {
            multiply_rows<PairProducts>({work.gradient_factors(k), 1, width}, query_rows, dims, width / 2,
                                        keys.grad_keys + (begin + k) * dims, dims, dims / lanes);
          }
        }
        for (std::int64_t q = 0; q < width && tile.grad_query != nullptr; q += panel) {
          T most = 0;
          for (std::int64_t i = q; i < q + panel; ++i) {
            most = std::max<T>(most, work.sums_by_query[i / lanes][i % lanes]);
          }
          if (needed(most * of_query)) {
            multiply_rows<PairProducts>({work.query_factors(q), width, 1}, key_rows + begin / 2 * dims, dims,
                                        pairs(count), tile.grad_query + q * dims, dims, dims / lanes);
          }
        }
      };
      add_products([](T) { return true; });
      if (!exceeds_room<Vectors>(work, count, of_value, of_key, of_query)) continue;
      for (std::int64_t k = 0; k < rows; k += 2) to_pairs<Vectors, true>(work, k);
      add_products([](T used) { return used > T{1}; });
    }
  }

  /// Turns a panel's scores into P and its dP into dS, in place. Keys of the panel from `count` on, which no
  /// query sees, get 0.
  template <int Vectors>
  [[gnu::always_inline]] static void to_gradients(Work<Vectors>& work, std::int64_t first, std::int64_t begin,
                                                  std::int64_t count, const GradientTile<T>& tile,
                                                  const Index* limits, T scale) {
    constexpr int width = Vectors * lanes;
    Lanes<T> of_p{}, of_grad{};
    for (std::int64_t k = 0; k < panel; ++k) {
      Lanes<T> p_sum{}, grad_sum{};
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        T* const score = work.scores + (first + k) * width + v * lanes;
        T* const grad = work.grads + (first + k) * width + v * lanes;
        if (k >= count) {
          store(score, Lanes<T>{});
          store(grad, Lanes<T>{});
          continue;
        }
        Lanes<T> p = exp2_lanes<T>(load(score) * scale - load(tile.lse + v * lanes));
        if (limits != nullptr) {
          LaneBits<T> limit;
          std::memcpy(&limit, limits + v * lanes, sizeof limit);
          p = limit > static_cast<Index>(begin + first + k) ? p : Lanes<T>{};
        }
        const Lanes<T> given = load(grad);
        const Lanes<T> of_score = p * (given - load(tile.delta + v * lanes));
        store(score, p);
        store(grad, of_score);
        p_sum += p;
        grad_sum += magnitude(of_score);
        work.sums_by_query[v] += magnitude(of_score);
        if (tile.probability == nullptr) continue;
        T* const sum = tile.probability + v * lanes;
        T* const weighted = tile.weighted + v * lanes;
        store(sum, load(sum) + p);
        store(weighted, load(weighted) + p * given);
      }
      of_p = p_sum > of_p ? p_sum : of_p;
      of_grad = grad_sum > of_grad ? grad_sum : of_grad;
    }
    // Never too small; exceeds_room looks closer where they seem too large.
    work.probability_sums[first / panel] = sum_of(of_p);
    work.gradient_sums[first / panel] = sum_of(of_grad);
  }

  /// Rounds P and dS of the keys k and k + 1; Rest: what rounding took from them.
  template <int Vectors, bool Rest>
  [[gnu::always_inline]] static void to_pairs(Work<Vectors>& work, std::int64_t k) {
    constexpr int width = Vectors * lanes;
    RING_ATTENTION_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      Lanes<T> grads[2];
      RING_ATTENTION_UNROLL
      for (int i = 0; i < 2; ++i) {
        const std::int64_t at = (k + i) * width + v * lanes;
        Lanes<T> p = load(work.scores + at);
        grads[i] = load(work.grads + at);
        if constexpr (Rest) {
          p -= PairForward::rounded(p);
          grads[i] -= PairForward::rounded(grads[i]);
        }
        store_halves(work.by_key + (k + i) * width, v * lanes, p);
        store_halves(work.by_key + (k + i) * width, width + v * lanes, grads[i]);
      }
      PairForward::store_interleaved(grads[0], grads[1], work.by_query + k / 2 * width + v * lanes);
    }
  }

  /// The largest sum_j |x| of a panel's keys.
  template <int Vectors>
  static T largest_row_sum(const T* rows) {
    Lanes<T> sums[panel] = {};
    for (int k = 0; k < panel; ++k) {
      for (int v = 0; v < Vectors; ++v) sums[k] += magnitude(load(rows + (k * Vectors + v) * lanes));
    }
    return largest_sum(sums);
  }

  template <int Vectors>
  static bool exceeds_room(Work<Vectors>& work, std::int64_t count, T of_value, T of_key, T of_query) {
    bool any = false;
    for (std::int64_t k = 0; k < count; k += panel) {
      const auto exceeds = [k](T* sums, const T* rows, T factor) RING_ATTENTION_TARGET_LAMBDA {
        T& sum = sums[k / panel];
        if (sum * factor > T{1}) sum = largest_row_sum<Vectors>(rows + k * Vectors * lanes);
        return sum * factor > T{1};
      };
      const bool of_p = exceeds(work.probability_sums, work.scores, of_value);
      const bool of_grad = exceeds(work.gradient_sums, work.grads, of_key);
      any = any || of_p || of_grad;
    }
    for (int v = 0; v < Vectors; ++v) {
      for (int i = 0; i < lanes; ++i) any = any || work.sums_by_query[v][i] * of_query > T{1};
    }
    return any;
  }

  /// As bfloat16, `at` numbers of 16 bits behind `row`.
  [[gnu::always_inline]] static void store_halves(T* row, std::int64_t at, Lanes<T> numbers) {
    const __m256bh rounded = _mm512_cvtneps_pbh(numbers);
    std::memcpy(reinterpret_cast<char*>(row) + 2 * at, &rounded, sizeof rounded);
  }
};
