// Packs rows into tiles and attends a tile of queries to a run of keys, all in the accumulator type. Part of
// the body of a target.

/// Scores of keys that a query does not see turn into -infinity.
template <class T, int Vectors>
inline void hide(T* scores, std::int64_t begin, std::int64_t count, const VisibleKeys<T, Vectors>& visible) {
  constexpr int lanes = lane_count<T>;
  for (int v = 0; v < Vectors; ++v) {
    const auto queries = visible.of(v);
    for (std::int64_t k = 0; k < count; ++k) {
      T* at = scores + (k * Vectors + v) * lanes;
      const Lanes<T> score = load(at);
      store(at, queries.see(begin + k) ? score : broadcast(-std::numeric_limits<T>::infinity()));
    }
  }
}

template <class T, int Vectors>
inline void raise(Lanes<T>* maximum, const T* scores, std::int64_t count) {
  constexpr int lanes = lane_count<T>;
  for (std::int64_t k = 0; k < count; ++k) {
    RING_ATTENTION_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Lanes<T> s = load(scores + (k * Vectors + v) * lanes);
      maximum[v] = s > maximum[v] ? s : maximum[v];
    }
  }
}

/// What scores are taken from: a query without keys so far gets any finite number, which keeps -infinity -
/// shift from turning into NaN.
template <class T>
inline Lanes<T> finite_shift(Lanes<T> maximum) {
  return maximum == -std::numeric_limits<T>::infinity() ? Lanes<T>{} : maximum;
}

/// Brings a tile's state to a new maximum and adds the sums of new probabilities to l.
template <class T, int Vectors>
inline void raise_state(const QueryTile<T>& tile, std::int64_t rows, const Lanes<T>* maximum,
                        const Lanes<T>* shift, const Lanes<T>* sums) {
  constexpr int lanes = lane_count<T>;
  for (int v = 0; v < Vectors; ++v) {
    T* m = tile.maximum + v * lanes;
    T* l = tile.sum + v * lanes;
    const Lanes<T> before = load(m);
    const Lanes<T> factor = exp2_lanes<T>(before - shift[v]);
    store(l, load(l) * factor + sums[v]);
    store(m, maximum[v]);
    bool rose = false;
    for (int i = 0; i < lanes; ++i) rose = rose || maximum[v][i] != before[i];
    if (!rose) continue;
    for (std::int64_t d = 0; d < rows; ++d) {
      T* o = tile.output + (d * Vectors + v) * lanes;
      store(o, load(o) * factor);
    }
  }
}

template <class Scalar>
struct Forward {
  using T = accumulator_t<Scalar>;

  static constexpr int lanes = lane_count<T>;
  static constexpr int max_queries = lanes * max_vectors;
  static_assert(max_queries <= largest_tile);
  static constexpr std::int64_t key_block = 512 / static_cast<std::int64_t>(sizeof(T));
  static constexpr std::int64_t score_elements = key_block * max_queries;

  static constexpr std::int64_t padded(std::int64_t extent) { return (extent + panel - 1) / panel * panel; }

  static std::int64_t query_bytes(std::int64_t queries, std::int64_t head_dim) {
    return queries * head_dim * static_cast<std::int64_t>(sizeof(T));
  }
  static std::int64_t key_bytes(std::int64_t keys, std::int64_t head_dim) {
    return padded(keys) * head_dim * static_cast<std::int64_t>(sizeof(T));
  }
  static std::int64_t value_bytes(std::int64_t keys, std::int64_t head_dim) {
    return keys * padded(head_dim) * static_cast<std::int64_t>(sizeof(T));
  }

  /// Keys as panels of `panel` rows, [panel][head_dim][row in panel]; the last panel is filled up with zeros.
  static void pack_panels(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim, T* to) {
    constexpr int group = lanes > panel ? lanes : panel;  // rows of whole vectors and whole panels
    const Scalar* row[std::size_t{group}];
    for (std::int64_t first = 0; first < padded(count); first += group, to += group * head_dim) {
      for (int i = 0; i < group; ++i) row[i] = first + i < count ? rows[first + i] : nullptr;
      for (int i = 0; i < group; i += lanes) {
        read_transposed(row + i, head_dim, [&](std::int64_t d, Lanes<T> of_dim) RING_ATTENTION_TARGET_LAMBDA {
          constexpr int part = lanes < panel ? lanes : panel;
          for (int p = 0; p < lanes; p += part) {
            T* at = to + ((i + p) / panel * head_dim + d) * panel + (i + p) % panel;
            if (first + i + p < padded(count)) {
              std::memcpy(at, reinterpret_cast<const T*>(&of_dim) + p, part * sizeof(T));
            }
          }
        });
      }
    }
  }
  static void pack_keys(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                        std::byte* to) {
    pack_panels(rows, count, head_dim, reinterpret_cast<T*>(to));
  }

  /// Values as panels of `panel` dimensions, [panel][row][dimension in panel]; missing dimensions are zeros.
  static void pack_values(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::int64_t capacity, std::byte* bytes) {
    T* const to = reinterpret_cast<T*>(bytes);
    constexpr int step = lanes > panel ? lanes : panel;
    for (std::int64_t i = 0; i < count; ++i) {
      const Scalar* row = rows[i];
      for (std::int64_t first = 0; first < head_dim; first += step) {
        T wide[std::size_t{step}];
        for (int l = 0; l < step; l += lanes) {
          const std::int64_t left = head_dim - first - l;
          store(wide + l, left >= lanes ? load_wide(row + first + l)
                          : left > 0    ? load_wide(row + first + l, left)
                                        : Lanes<T>{});
        }
        for (int p = 0; p < step && first + p < head_dim; p += panel) {
          std::memcpy(to + ((first + p) * capacity + i * panel), wide + p, panel * sizeof(T));
        }
      }
    }
  }

  /// [head_dim][width], scaled into base-2 logarithms.
  static void load_queries(const Scalar* const* rows, std::int64_t head_dim, const QueryTile<T>& tile,
                           T scale) {
    T* const query = reinterpret_cast<T*>(tile.query);
    const std::int64_t width = tile.vectors * lanes;
    for (int v = 0; v < tile.vectors; ++v) {
      read_transposed(rows + v * lanes, head_dim,
                      [&](std::int64_t d, Lanes<T> of_dim) RING_ATTENTION_TARGET_LAMBDA {
                        store(query + d * width + v * lanes, of_dim * scale);
                      });
    }
  }

  static void load_states(const StateRows<T>& states, const std::int64_t* rows, std::int64_t head_dim,
                          const QueryTile<T>& tile) {
    load_padded_states(states, rows, padded(head_dim), tile);
  }
  static void store_states(const QueryTile<T>& tile, const std::int64_t* rows, std::int64_t head_dim,
                           const StateRows<T>& states) {
    store_padded_states(tile, rows, padded(head_dim), states);
  }

  /// The same for whatever number of dimensions states are padded to.
  static void load_padded_states(const StateRows<T>& states, const std::int64_t* rows, std::int64_t dims,
                                 const QueryTile<T>& tile) {
    const std::int64_t width = tile.vectors * lanes;
    const T* row[std::size_t{lanes}];
    for (int v = 0; v < tile.vectors; ++v) {
      for (int i = 0; i < lanes; ++i) {
        const std::int64_t at = rows[v * lanes + i];
        row[i] = at < 0 ? nullptr : states.output + at * dims;
        tile.maximum[v * lanes + i] = at < 0 ? T{0} : states.maximum[at];
        tile.sum[v * lanes + i] = at < 0 ? T{0} : states.sum[at];
      }
      read_transposed(row, dims, [&](std::int64_t d, Lanes<T> of_dim) RING_ATTENTION_TARGET_LAMBDA {
        store(tile.output + d * width + v * lanes, of_dim);
      });
    }
  }

  static void store_padded_states(const QueryTile<T>& tile, const std::int64_t* rows, std::int64_t dims,
                                  const StateRows<T>& states) {
    const std::int64_t width = tile.vectors * lanes;
    T* row[std::size_t{lanes}];
    for (int v = 0; v < tile.vectors; ++v) {
      for (int i = 0; i < lanes; ++i) {
        const std::int64_t at = rows[v * lanes + i];
        row[i] = at < 0 ? nullptr : states.output + at * dims;
        if (at < 0) continue;
        states.maximum[at] = tile.maximum[v * lanes + i];
        states.sum[at] = tile.sum[v * lanes + i];
      }
      write_transposed<T>(row, dims, [&](std::int64_t d) RING_ATTENTION_TARGET_LAMBDA {
        return load(tile.output + d * width + v * lanes);
      });
    }
  }

  /// Attends the tile's queries to a run of keys.
  static void attend(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                     std::int64_t head_dim, T, T* scores) {
    switch (tile.vectors) {
      case 1:
        return attend_tile<1>(keys, tile, positions, head_dim, scores);
      case 2:
        return attend_tile<2>(keys, tile, positions, head_dim, scores);
      default:
        return attend_tile<max_vectors>(keys, tile, positions, head_dim, scores);
    }
  }

 private:
  template <int Vectors>
  static void attend_tile(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                          std::int64_t head_dim, T* scores) {
    constexpr int width = Vectors * lanes;
    const T* const packed_keys = reinterpret_cast<const T*>(keys.keys);
    const T* const packed_values = reinterpret_cast<const T*>(keys.values);
    const T* const query = reinterpret_cast<const T*>(tile.query);
    const std::int64_t chain = chain_length(head_dim);
    const VisibleKeys<T, Vectors> visible(positions);
    for (std::int64_t begin = 0; begin < visible.end; begin += key_block) {
      const std::int64_t count = (std::min)(key_block, visible.end - begin);
      Lanes<T> maximum[std::size_t{Vectors}];
      for (int v = 0; v < Vectors; ++v) maximum[v] = load(tile.maximum + v * lanes);
      // Keys that are hidden or fill up the last panel must not raise the maximum: then it is found apart.
      const bool all_seen = begin + count <= visible.shared && count % panel == 0;
      // S^T = K Q^T
      for (std::int64_t k = 0; k < count; k += panel) {
        dot_products<Products<T>, Vectors>(packed_keys + (begin + k) * head_dim, query, head_dim, chain,
                                           scores + k * width, all_seen ? maximum : nullptr);
      }
      if (!all_seen) {
        if (begin + count > visible.shared) hide<T, Vectors>(scores, begin, count, visible);
        raise<T, Vectors>(maximum, scores, count);
      }
      // P = 2^(S - m), l = l * 2^(m_old - m) + sum P, O = O * 2^(m_old - m)
      Lanes<T> shift[std::size_t{Vectors}], sums[std::size_t{Vectors}] = {};
      for (int v = 0; v < Vectors; ++v) shift[v] = finite_shift<T>(maximum[v]);
      for (std::int64_t k = 0; k < count; ++k) {
        RING_ATTENTION_UNROLL
        for (int v = 0; v < Vectors; ++v) {
          T* at = scores + k * width + v * lanes;
          const Lanes<T> p = exp2_lanes<T>(load(at) - shift[v]);
          sums[v] += p;
          store(at, p);
        }
      }
      raise_state<T, Vectors>(tile, padded(head_dim), maximum, shift, sums);
      // O^T += V^T P^T
      for (std::int64_t d = 0; d < head_dim; d += panel) {
        multiply<Products<T>, Vectors, true>({packed_values + (d * keys.capacity + begin * panel), panel, 1},
                                             scores, width, count, tile.output + d * width, width);
      }
    }
  }
};
