// How queries, keys and values of bfloat16 lie in memory for the tile registers of AMX. Part of the body of a
// target.
//
// Keys are rows of the left factor of S^T = K Q^T, in tiles of 16 keys x 32 dimensions; queries are columns
// of the right one, in tiles of 16 pairs of dimensions x 16 queries. Values are columns of the left factor of
// O^T += V^T P^T, in tiles of 16 dimensions x 32 keys. Whatever fills up a tile is zero. Queries and keys
// begin with the square of their largest norm, values with the largest of their magnitudes.

struct TileLayout {
  using T = float;
  using Scalar = Eigen::bfloat16;
  using Pair = std::uint32_t;

  static constexpr int lanes = lane_count<float>;
  static constexpr int depth = 32;  // dimensions or keys that one multiply sums over
  static constexpr std::int64_t header = 64;
  static constexpr std::int64_t depth_tiles(std::int64_t extent) { return (extent + depth - 1) / depth; }
  static constexpr std::int64_t row_tiles(std::int64_t extent) {
    return (extent + tile_rows - 1) / tile_rows;
  }

  static std::int64_t query_bytes(std::int64_t queries, std::int64_t head_dim) {
    return header + row_tiles(queries) * depth_tiles(head_dim) * tile_bytes;
  }
  static std::int64_t key_bytes(std::int64_t keys, std::int64_t head_dim) {
    return header + row_tiles(keys) * depth_tiles(head_dim) * tile_bytes;
  }
  static std::int64_t value_bytes(std::int64_t keys, std::int64_t head_dim) {
    return header + depth_tiles(keys) * row_tiles(head_dim) * tile_bytes;
  }

  /// The bound that packed rows begin with.
  static T bound_of(const std::byte* packed) {
    T bound;
    std::memcpy(&bound, packed, sizeof bound);
    return bound;
  }

  /// [16 keys][32 dimensions][key][dimension]
  static void pack_keys(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                        std::byte* bytes) {
    std::byte* to = bytes + header;
    Lanes<T> largest{};
    for (std::int64_t first = 0; first < count;
         first += tile_rows, to += depth_tiles(head_dim) * tile_bytes) {
      Lanes<T> squares[tile_rows] = {};
      for (int i = 0; i < tile_rows; ++i) {
        const Scalar* row = first + i < count ? rows[first + i] : nullptr;
        for (std::int64_t d = 0; d < head_dim; d += depth) {
          const LaneUnsigned<T> dims = row == nullptr ? LaneUnsigned<T>{} : load_row(row + d, head_dim - d);
          std::memcpy(to + d / depth * tile_bytes + i * tile_row_bytes, &dims, sizeof dims);
          squares[i] = PairProducts::add(squares[i], reinterpret_cast<__m512bh>(dims),
                                         reinterpret_cast<__m512bh>(dims));
        }
      }
      transpose<T>(squares);
      for (int i = 1; i < tile_rows; ++i) squares[0] += squares[i];
      largest = squares[0] > largest ? squares[0] : largest;
    }
    write_largest(largest, bytes);
  }

  /// [32 keys][16 dimensions][dimension][key]
  static void pack_values(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::int64_t, std::byte* bytes) {
    std::byte* to = bytes + header;
    LaneUnsigned<T> largest{};
    for (std::int64_t first = 0; first < count; first += depth) {
      for (std::int64_t d = 0; d < head_dim; d += tile_rows, to += tile_bytes) {
        Lanes<T> square[lanes];
        for (int i = 0; i < lanes; ++i) {
          const std::int64_t key = first + 2 * i;
          const LaneUnsigned<T> both = PairForward::pair_rows(
              key < count ? rows[key] : nullptr, key + 1 < count ? rows[key + 1] : nullptr, d, head_dim - d);
          // Bits of numbers without a sign are ordered as the numbers are, infinity and NaN after them.
          const LaneUnsigned<T> even = both << 16 & 0x7FFF0000U, odd = both & 0x7FFF0000U;
          const LaneUnsigned<T> larger = odd > even ? odd : even;
          largest = larger > largest ? larger : largest;
          square[i] = reinterpret_cast<Lanes<T>>(both);  // moved, never computed with
        }
        transpose<T>(square);
        std::memcpy(to, square, sizeof square);
      }
    }
    std::uint32_t of_all = 0;
    for (int l = 0; l < lanes; ++l) of_all = std::max<std::uint32_t>(of_all, largest[l]);
    std::memcpy(bytes, &of_all, sizeof of_all);
  }

  /// [32 dimensions][vector][pair of dimensions][lane], with the sign of the scale; see PairForward::size_of.
  static void load_queries(const Scalar* const* rows, std::int64_t head_dim, const QueryTile<T>& tile,
                           T scale) {
    const LaneUnsigned<T> keep = LaneUnsigned<T>{} + (scale == 0 ? 0U : ~0U);
    const LaneUnsigned<T> flip = LaneUnsigned<T>{} + (scale < 0 ? 0x80008000U : 0U);
    Lanes<T> largest{};
    for (int v = 0; v < tile.vectors; ++v) {
      const auto write = [&](std::int64_t pair, LaneUnsigned<T> bits) RING_ATTENTION_TARGET_LAMBDA {
        const std::int64_t at =
            (pair / tile_rows * tile.vectors + v) * tile_bytes + pair % tile_rows * tile_row_bytes;
        std::memcpy(tile.query + header + at, &bits, sizeof bits);
      };
      Lanes<T> squares{};
      PairForward::read_pairs(
          rows + v * lanes, head_dim, [&](std::int64_t pair, Lanes<T> of_pair) RING_ATTENTION_TARGET_LAMBDA {
            const LaneUnsigned<T> bits = (reinterpret_cast<LaneUnsigned<T>>(of_pair) & keep) ^ flip;
            squares = PairProducts::add(squares, reinterpret_cast<__m512bh>(bits),
                                        reinterpret_cast<__m512bh>(bits));
            write(pair, bits);
          });
      for (std::int64_t pair = PairForward::pairs(head_dim); pair < depth_tiles(head_dim) * tile_rows;
           ++pair) {
        write(pair, LaneUnsigned<T>{});
      }
      largest = squares > largest ? squares : largest;
    }
    write_largest(largest, tile.query);
  }

  static void load_states(const StateRows<T>& states, const std::int64_t* rows, std::int64_t head_dim,
                          const QueryTile<T>& tile) {
    Forward<Scalar>::load_padded_states(states, rows, row_tiles(head_dim) * tile_rows, tile);
  }
  static void store_states(const QueryTile<T>& tile, const std::int64_t* rows, std::int64_t head_dim,
                           const StateRows<T>& states) {
    Forward<Scalar>::store_padded_states(tile, rows, row_tiles(head_dim) * tile_rows, states);
  }

 private:
  /// Up to 32 numbers of a row of `left`; the rest is zero.
  static LaneUnsigned<T> load_row(const Scalar* from, std::int64_t left) {
    const auto mask = left >= depth ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    return reinterpret_cast<LaneUnsigned<T>>(_mm512_maskz_loadu_epi16(mask, from));
  }

  static void write_largest(Lanes<T> squares, std::byte* to) {
    T largest = 0;
    for (int l = 0; l < lanes; ++l) largest = (std::max)(largest, squares[l]);
    std::memcpy(to, &largest, sizeof largest);
  }
};
