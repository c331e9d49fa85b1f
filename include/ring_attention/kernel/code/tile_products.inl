// Products of matrices that lie in memory as tiles of 16 rows of 64 bytes: pairs of bfloat16 as factors,
// float as sums. Part of the body of a target.

/// Where C = A B, or C += A B, has its tiles; all distances are in bytes.
struct TileMatrices {
  const std::byte* a;  // tiles in one piece
  std::int64_t a_row, a_depth;
  const std::byte* b;
  std::int64_t b_depth, b_column, b_stride;
  std::byte* c;  // tiles of a row side by side
  std::int64_t c_row, c_stride;
  std::int64_t rows, depth;  // in tiles
};

/// One row of tiles of C has two accumulators; those of the next row are two others, so that storing one row
/// overlaps with multiplying for the next.
template <class Tiles, int Columns, bool Accumulate>
struct TileRow {
  static_assert(Columns <= 2);

  /// `before`: the row of C before, still in the other accumulators; null: there is none.
  template <int Group>
  [[gnu::always_inline]] static void multiply(const TileMatrices& t, const std::byte* a, std::byte* c,
                                              std::byte* before) {
    each_column([&](auto column) RING_ATTENTION_TARGET_LAMBDA {
      constexpr int v = decltype(column)::value;
      if constexpr (Accumulate) {
        Tiles::template load<sum<Group, v>>(c + v * tile_row_bytes, t.c_stride);
      } else {
        Tiles::template zero<sum<Group, v>>();
      }
    });
    const std::byte* b = t.b;
    for (std::int64_t k = 0; k < t.depth; ++k, a += t.a_depth, b += t.b_depth) {
      Tiles::template load<left<Group>>(a, tile_row_bytes);
      each_column([&](auto column) RING_ATTENTION_TARGET_LAMBDA {
        constexpr int v = decltype(column)::value;
        Tiles::template load<right<v>>(b + v * t.b_column, t.b_stride);
        Tiles::template multiply<sum<Group, v>, left<Group>, right<v>>();
        if (k == 0 && before != nullptr) store_column<1 - Group, v>(t, before);
      });
    }
  }

  template <int Group>
  [[gnu::always_inline]] static void store(const TileMatrices& t, std::byte* c) {
    each_column([&](auto column)
                    RING_ATTENTION_TARGET_LAMBDA { store_column<Group, decltype(column)::value>(t, c); });
  }

 private:
  template <int Group, int V>
  static constexpr int sum = 2 * Group + V;
  template <int Group>
  static constexpr int left = 4 + Group;
  template <int V>
  static constexpr int right = 6 + V;

  template <int Group, int V>
  [[gnu::always_inline]] static void store_column(const TileMatrices& t, std::byte* c) {
    Tiles::template store<sum<Group, V>>(c + V * tile_row_bytes, t.c_stride);
  }

  /// Numbers of tile registers are part of instructions, so loops over them are unrolled by the language.
  template <class Body>
  [[gnu::always_inline]] static void each_column(const Body& body) {
    body(std::integral_constant<int, 0>{});
    if constexpr (Columns == 2) body(std::integral_constant<int, 1>{});
  }
};

template <class Tiles, int Columns, bool Accumulate>
inline void multiply_tiles(const TileMatrices& t) {
  using Row = TileRow<Tiles, Columns, Accumulate>;
  const std::byte* a = t.a;
  std::byte* c = t.c;
  std::byte* before = nullptr;
  for (std::int64_t row = 0;; row += 2) {
    if (row == t.rows) return before != nullptr ? Row::template store<1>(t, before) : void();
    Row::template multiply<0>(t, a, c, before);
    if (row + 1 == t.rows) return Row::template store<0>(t, c);
    Row::template multiply<1>(t, a + t.a_row, c + t.c_row, c);
    before = c + t.c_row;
    a += 2 * t.a_row;
    c += 2 * t.c_row;
  }
}
