// Which keys of a run the queries of a tile see, by their positions: the one place that knows. Part of the
// body of a target.

/// The first `end` keys of a run are those that any of the tile's queries sees; every query sees the first
/// `shared`.
template <class T, int Vectors>
class VisibleKeys {
  using Index = LaneIndex<T>;
  static constexpr int lanes = lane_count<T>;
  static constexpr int width = Vectors * lanes;

 public:
  /// Of the queries in one vector.
  struct OfVector {
    LaneBits<T> limit;

    /// Lanes that see a key of the run.
    [[gnu::always_inline]] LaneBits<T> see(std::int64_t key) const { return limit > static_cast<Index>(key); }
    /// Lanes that see any.
    [[gnu::always_inline]] LaneBits<T> see_any() const { return limit > Index{0}; }
  };

  explicit VisibleKeys(const TilePositions& at) : end(at.keys.count), shared(at.keys.count) {
    if (at.causal) {
      const auto [least, greatest] = std::minmax_element(at.query_tokens, at.query_tokens + width);
      end = at.keys.count_below(*greatest + 1);
      shared = at.keys.count_below(*least + 1);
    }
    for (int v = 0; v < Vectors; ++v) store_limits(v, LaneBits<T>{} + static_cast<Index>(end));
    if (shared == end) return;
    for (int lane = 0; lane < width; ++lane) {
      limits_[lane] = static_cast<Index>(at.keys.count_below(at.query_tokens[lane] + 1));
    }
  }

  OfVector of(int v) const {
    OfVector queries;
    std::memcpy(&queries.limit, limits_ + v * lanes, sizeof queries.limit);
    return queries;
  }

  std::int64_t end, shared;

 private:
  void store_limits(int v, LaneBits<T> limits) { std::memcpy(limits_ + v * lanes, &limits, sizeof limits); }

  Index limits_[std::size_t{width}];
};
