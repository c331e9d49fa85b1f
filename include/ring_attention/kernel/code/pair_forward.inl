// Forward of bfloat16 by instructions that multiply pairs of numbers: S^T = K Q^T over pairs of dimensions,
// O^T += V^T P^T over pairs of keys, sums in float. Part of the body of a target that has them.
//
// Queries stay as they are, so that they are exact; the scale is applied to the scores. Probabilities are
// rounded to bfloat16 where they meet values, and are summed up as they were before. With V the largest |v|,
// that shifts an output by at most 2^-8 V, and rounding the output by at most 2^-8 of it: together 4.7e-3 V
// of a tolerance of 5e-3 V for outputs of V / 5. For larger ones the tolerance grows faster.

struct PairProducts {
  using Sum = float;
  using Element = std::uint32_t;
  using Operand = __m512bh;
  [[gnu::always_inline]] static Operand broadcast(const Element* at) {
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(*at)));
  }
  [[gnu::always_inline]] static Operand load(const Element* at) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(at));
  }
  [[gnu::always_inline]] static Lanes<float> add(Lanes<float> sum, Operand a, Operand b) {
    return _mm512_dpbf16_ps(sum, a, b);
  }
};

struct PairForward {
  using T = float;
  using Scalar = Eigen::bfloat16;
  using Plain = Forward<Scalar>;
  using Pair = std::uint32_t;

  static constexpr int lanes = lane_count<float>;
  static constexpr std::int64_t key_block = Plain::key_block;
  /// Scores turn into probabilities in place.
  static constexpr std::int64_t score_elements = Plain::score_elements;

  static constexpr std::int64_t padded(std::int64_t extent) { return Plain::padded(extent); }
  static constexpr std::int64_t pairs(std::int64_t extent) { return (extent + 1) / 2; }

  static std::int64_t query_bytes(std::int64_t queries, std::int64_t head_dim) {
    return queries * pairs(head_dim) * static_cast<std::int64_t>(sizeof(Pair));
  }
  static std::int64_t key_bytes(std::int64_t keys, std::int64_t head_dim) {
    return padded(keys) * pairs(head_dim) * static_cast<std::int64_t>(sizeof(Pair));
  }
  static std::int64_t value_bytes(std::int64_t keys, std::int64_t head_dim) {
    return pairs(keys) * padded(head_dim) * static_cast<std::int64_t>(sizeof(Pair));
  }

  /// Calls write(p, pairs) with the lanes' elements 2p and 2p + 1; lanes whose row is null hold 0.
  template <class Write>
  [[gnu::always_inline]] static void read_pairs(const Scalar* const* rows, std::int64_t head_dim,
                                                const Write& write) {
    const float* two[lanes];  // moved, never computed with
    for (int i = 0; i < lanes; ++i) two[i] = reinterpret_cast<const float*>(rows[i]);
    read_transposed(two, head_dim / 2, write);
    if (head_dim % 2 == 0) return;
    Pair last[lanes];
    for (int i = 0; i < lanes; ++i) {
      last[i] = rows[i] == nullptr ? 0 : Eigen::numext::bit_cast<std::uint16_t>(rows[i][head_dim - 1]);
    }
    Lanes<float> of_pair;
    std::memcpy(&of_pair, last, sizeof of_pair);
    write(head_dim / 2, of_pair);
  }

  /// [panel][pair of dimensions][row in panel]
  static void pack_keys(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                        std::byte* bytes) {
    static_assert(lanes == 2 * panel);
    Pair* to = reinterpret_cast<Pair*>(bytes);
    const Scalar* row[lanes];
    for (std::int64_t first = 0; first < count; first += lanes, to += lanes * pairs(head_dim)) {
      for (int i = 0; i < lanes; ++i) row[i] = first + i < count ? rows[first + i] : nullptr;
      const bool both = first + panel < padded(count);
      read_pairs(row, head_dim, [&](std::int64_t p, Lanes<float> of_pair) RING_ATTENTION_TARGET_LAMBDA {
        std::memcpy(to + p * panel, &of_pair, panel * sizeof(Pair));
        if (both) {
          std::memcpy(to + (pairs(head_dim) + p) * panel, reinterpret_cast<const Pair*>(&of_pair) + panel,
                      panel * sizeof(Pair));
        }
      });
    }
  }

  /// Elements `first` and on, `left` of them at most, of two rows as pairs; a row that is null counts as
  /// zeros.
  static LaneUnsigned<float> pair_rows(const Scalar* even, const Scalar* odd, std::int64_t first,
                                       std::int64_t left) {
    const auto mask = left >= lanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1 << left) - 1);
    __m256i words[2] = {};
    if (even != nullptr) words[0] = _mm256_maskz_loadu_epi16(mask, even + first);
    if (odd != nullptr) words[1] = _mm256_maskz_loadu_epi16(mask, odd + first);
    return __builtin_convertvector(reinterpret_cast<HalfLanes>(words[0]), LaneUnsigned<float>) |
           __builtin_convertvector(reinterpret_cast<HalfLanes>(words[1]), LaneUnsigned<float>) << 16;
  }

  /// Lane j of `to` gets the pair of even's and odd's lane j, rounded to bfloat16. Returns the pairs.
  [[gnu::always_inline]] static __m512bh store_interleaved(Lanes<T> even, Lanes<T> odd, T* to) {
    alignas(64) static constexpr std::uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    const __m512i pairs = _mm512_maskz_permutexvar_epi16(~__mmask32{0}, _mm512_load_si512(order), rounded);
    _mm512_storeu_si512(to, pairs);
    return reinterpret_cast<__m512bh>(pairs);
  }

  /// What scores are multiplied by. For scale 0, load_queries writes queries of zeros, so any positive factor
  /// will do.
  static T size_of(T scale) { return scale < 0 ? -scale : scale == 0 ? T{1} : scale; }

  /// [panel of dimensions][pair of rows][dimension in panel]
  static void pack_values(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::int64_t capacity, std::byte* bytes) {
    Pair* const to = reinterpret_cast<Pair*>(bytes);
    for (std::int64_t i = 0; i < count; i += 2) {
      const Scalar* even = rows[i];
      const Scalar* odd = i + 1 < count ? rows[i + 1] : nullptr;
      for (std::int64_t first = 0; first < head_dim; first += lanes) {
        const LaneUnsigned<float> both = pair_rows(even, odd, first, head_dim - first);
        for (int p = 0; p < lanes && first + p < head_dim; p += panel) {
          std::memcpy(to + ((first + p) * pairs(capacity) + i / 2 * panel),
                      reinterpret_cast<const Pair*>(&both) + p, panel * sizeof(Pair));
        }
      }
    }
  }

  /// [pair of dimensions][width], with the sign of the scale; see size_of.
  static void load_lanes(const Scalar* const* rows, std::int64_t head_dim, int vectors, T scale,
                         std::byte* bytes) {
    const std::int64_t width = vectors * lanes;
    const LaneUnsigned<T> keep = LaneUnsigned<T>{} + (scale == 0 ? 0U : ~0U);
    const LaneUnsigned<T> flip = LaneUnsigned<T>{} + (scale < 0 ? 0x80008000U : 0U);
    for (int v = 0; v < vectors; ++v) {
      Pair* const to = reinterpret_cast<Pair*>(bytes) + v * lanes;
      read_pairs(rows + v * lanes, head_dim,
                 [&](std::int64_t p, Lanes<float> of_pair) RING_ATTENTION_TARGET_LAMBDA {
                   const LaneUnsigned<T> bits = (reinterpret_cast<LaneUnsigned<T>>(of_pair) & keep) ^ flip;
                   std::memcpy(to + p * width, &bits, sizeof bits);
                 });
    }
  }
  static void load_queries(const Scalar* const* rows, std::int64_t head_dim, const QueryTile<T>& tile,
                           T scale) {
    load_lanes(rows, head_dim, tile.vectors, scale, tile.query);
  }

  static void attend(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                     std::int64_t head_dim, T scale, T* scores) {
    const T size = size_of(scale);
    switch (tile.vectors) {
      case 1:
        return attend_tile<1>(keys, tile, positions, head_dim, size, scores);
      case 2:
        return attend_tile<2>(keys, tile, positions, head_dim, size, scores);
      default:
        return attend_tile<max_vectors>(keys, tile, positions, head_dim, size, scores);
    }
  }

 private:
  template <int Vectors>
  static void attend_tile(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                          std::int64_t head_dim, T scale, T* scores) {
    constexpr int width = Vectors * lanes;
    const Pair* const packed_keys = reinterpret_cast<const Pair*>(keys.keys);
    const Pair* const packed_values = reinterpret_cast<const Pair*>(keys.values);
    const Pair* const query = reinterpret_cast<const Pair*>(tile.query);
    const std::int64_t depth = pairs(head_dim);
    const std::int64_t chain = pairs(chain_length(2 * depth));
    const VisibleKeys<T, Vectors> visible(positions);
    for (std::int64_t begin = 0; begin < visible.end; begin += key_block) {
      const std::int64_t count = (std::min)(key_block, visible.end - begin);
      Lanes<T> maximum[std::size_t{Vectors}];
      for (int v = 0; v < Vectors; ++v) maximum[v] = broadcast(-std::numeric_limits<T>::infinity());
      const bool all_seen = begin + count <= visible.shared && count % panel == 0;
      // S^T = K Q^T
      for (std::int64_t k = 0; k < count; k += panel) {
        dot_products<PairProducts, Vectors>(packed_keys + (begin + k) * depth, query, depth, chain,
                                            scores + k * width, all_seen ? maximum : nullptr);
      }
      if (!all_seen) {
        if (begin + count > visible.shared) hide<T, Vectors>(scores, begin, count, visible);
        raise<T, Vectors>(maximum, scores, count);
      }
      // P = 2^(scale * S - m), l = l * 2^(m_old - m) + sum P, O = O * 2^(m_old - m)
      Lanes<T> shift[std::size_t{Vectors}], sums[std::size_t{Vectors}] = {};
      for (int v = 0; v < Vectors; ++v) {
        const Lanes<T> before = load(tile.maximum + v * lanes);
        const Lanes<T> scaled = maximum[v] * scale;
        maximum[v] = scaled > before ? scaled : before;
        shift[v] = finite_shift<T>(maximum[v]);
      }
      to_pairs<Vectors>(scores, count, scale, shift, sums);
      raise_state<T, Vectors>(tile, padded(head_dim), maximum, shift, sums);
      // O^T += V^T P^T
      for (std::int64_t d = 0; d < head_dim; d += panel) {
        multiply<PairProducts, Vectors, true>(
            {packed_values + (d * pairs(keys.capacity) + begin / 2 * panel), panel, 1},
            reinterpret_cast<const Pair*>(scores), width, pairs(count), tile.output + d * width, width);
      }
    }
  }

  /// Turns the scores of keys 2i and 2i + 1 into pairs of probabilities, in place: [pair of keys][width].
  template <int Vectors>
  static void to_pairs(T* scores, std::int64_t count, T scale, const Lanes<T>* shift, Lanes<T>* sums) {
    constexpr int width = Vectors * lanes;
    for (std::int64_t k = 0; k < count; k += 2) {
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const T* at = scores + k * width + v * lanes;
        const Lanes<T> even = exp2_lanes<T>(load(at) * scale - shift[v]);
        const Lanes<T> odd = k + 1 < count ? exp2_lanes<T>(load(at + width) * scale - shift[v]) : Lanes<T>{};
        sums[v] += even;
        sums[v] += odd;
        store_interleaved(even, odd, scores + k / 2 * width + v * lanes);
      }
    }
  }
};
