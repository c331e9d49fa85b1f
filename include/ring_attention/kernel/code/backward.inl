// Gradients of a tile of queries and a run of keys, with probabilities recomputed from the log-sum-exp. Part
// of the body of a target.

/// With P = 2^(S - lse), the gradients of out = sum_k P_k v_k are (FlashAttention-2, arXiv 2307.08691,
/// section 2.3)
///
///   dV = P^T dO,   dP = dO V^T,   dS = P * (dP - delta),   dQ = scale * dS K,   dK = scale * dS^T Q
///
/// where scale is left to the caller.
template <class Scalar>
struct Backward {
  using T = accumulator_t<Scalar>;
  using Tiles = Forward<Scalar>;
  static constexpr int lanes = lane_count<T>;

  /// Rows are padded to whole vectors of dimensions.
  static constexpr std::int64_t row_dim(std::int64_t head_dim) {
    return (head_dim + lanes - 1) / lanes * lanes;
  }
  /// Fewer than in forward: scores and their gradients share the cache.
  static constexpr std::int64_t key_block = Tiles::key_block / 2;
  /// The tail is read past a tile's last query.
  static constexpr std::int64_t block_elements = key_block * Tiles::max_queries + panel;
  /// For scores and their gradients.
  static constexpr std::int64_t scratch_elements = 2 * block_elements;
  static_assert(scratch_elements >= Tiles::score_elements, "probabilities() writes as many");

  static std::int64_t lane_bytes(std::int64_t queries, std::int64_t head_dim) {
    return queries * head_dim * static_cast<std::int64_t>(sizeof(T));
  }
  static std::int64_t panel_bytes(std::int64_t keys, std::int64_t head_dim) {
    return Tiles::key_bytes(keys, head_dim);
  }
  static std::int64_t row_bytes(std::int64_t rows, std::int64_t head_dim) {
    return rows * row_dim(head_dim) * static_cast<std::int64_t>(sizeof(T));
  }

  static void pack_panels(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::byte* to) {
    Tiles::pack_keys(rows, count, head_dim, to);
  }
  /// [row][row_dim]
  static void pack_rows(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                        std::byte* bytes) {
    T* to = reinterpret_cast<T*>(bytes);
    for (std::int64_t i = 0; i < count; ++i, to += row_dim(head_dim)) copy_row(rows[i], head_dim, to);
  }

  /// Lanes: [head_dim][width], queries scaled into base-2 logarithms. Rows: [width][row_dim], as given.
  static void load_gradients(const Scalar* const* queries, const Scalar* const* grads, std::int64_t head_dim,
                             T scale, const GradientTile<T>& tile) {
    const std::int64_t width = tile.vectors * lanes;
    for (int v = 0; v < tile.vectors; ++v) {
      T* const query = reinterpret_cast<T*>(tile.query) + v * lanes;
      T* const grad = reinterpret_cast<T*>(tile.grad_out) + v * lanes;
      read_transposed(queries + v * lanes, head_dim,
                      [&](std::int64_t d, Lanes<T> of_dim)
                          RING_ATTENTION_TARGET_LAMBDA { store(query + d * width, of_dim * scale); });
      read_transposed(grads + v * lanes, head_dim,
                      [&](std::int64_t d, Lanes<T> of_dim)
                          RING_ATTENTION_TARGET_LAMBDA { store(grad + d * width, of_dim); });
    }
    for (std::int64_t i = 0; i < width; ++i) {
      copy_row(queries[i], head_dim, reinterpret_cast<T*>(tile.query_rows) + i * row_dim(head_dim));
      copy_row(grads[i], head_dim, reinterpret_cast<T*>(tile.grad_out_rows) + i * row_dim(head_dim));
    }
  }

  /// sum_d a b, in the chains in which accumulate() sums dO.v, from which it is taken.
  static T dot(const Scalar* a, const Scalar* b, std::int64_t count) {
    const std::int64_t chain = chain_length(count);
    T sum{0};
    for (std::int64_t begin = 0; begin < count; begin += chain) {
      T part{0};
      for (std::int64_t d = begin; d < (std::min)(begin + chain, count); ++d) {
        part += static_cast<T>(a[d]) * static_cast<T>(b[d]);
      }
      sum += part;
    }
    return sum;
  }

  /// Adds what the tile and the run give each other.
  static void accumulate(const GradientKeys<T>& keys, const GradientTile<T>& tile,
                         const TilePositions& positions, std::int64_t head_dim, T, T* scratch) {
    switch (tile.vectors) {
      case 1:
        return accumulate_tile<1>(keys, tile, positions, head_dim, scratch);
      case 2:
        return accumulate_tile<2>(keys, tile, positions, head_dim, scratch);
      default:
        return accumulate_tile<max_vectors>(keys, tile, positions, head_dim, scratch);
    }
  }

  /// Writes the probabilities [count][width] of at most key_block packed keys.
  static void probabilities(const T* packed_keys, const ProbabilityTile<T>& tile,
                            const TilePositions& positions, std::int64_t head_dim, T* to) {
    switch (tile.vectors) {
      case 1:
        return write_probabilities<1>(packed_keys, tile, positions, head_dim, to);
      case 2:
        return write_probabilities<2>(packed_keys, tile, positions, head_dim, to);
      default:
        return write_probabilities<max_vectors>(packed_keys, tile, positions, head_dim, to);
    }
  }

 private:
  /// Padded with zeros to whole vectors; all zeros where there is no row.
  static void copy_row(const Scalar* row, std::int64_t head_dim, T* to) {
    for (std::int64_t d = 0; d < head_dim; d += lanes) {
      const std::int64_t left = head_dim - d;
      store(to + d, row == nullptr  ? Lanes<T>{}
                    : left >= lanes ? load_wide(row + d)
                                    : load_wide(row + d, left));
    }
  }

  template <int Vectors>
  static void write_probabilities(const T* packed_keys, const ProbabilityTile<T>& tile,
                                  const TilePositions& positions, std::int64_t head_dim, T* to) {
    const std::int64_t chain = chain_length(head_dim);
    const std::int64_t count = positions.keys.count;
    for (std::int64_t k = 0; k < count; k += panel) {
      dot_products<Products<T>, Vectors>(packed_keys + k * head_dim, tile.query, head_dim, chain,
                                         to + k * Vectors * lanes);
    }
    to_probabilities<Vectors>(to, 0, count, tile.lse, VisibleKeys<T, Vectors>(positions));
  }

  template <int Vectors>
  static void accumulate_tile(const GradientKeys<T>& keys, const GradientTile<T>& tile,
                              const TilePositions& positions, std::int64_t head_dim, T* scratch) {
    constexpr int width = Vectors * lanes;
    const std::int64_t dims = row_dim(head_dim);
    const std::int64_t chain = chain_length(head_dim);
    const T* const panels_of_keys = reinterpret_cast<const T*>(keys.keys);
    const T* const panels_of_values = reinterpret_cast<const T*>(keys.values);
    const T* const key_rows = reinterpret_cast<const T*>(keys.key_rows);
    const T* const query_rows = reinterpret_cast<const T*>(tile.query_rows);
    const T* const grad_out_rows = reinterpret_cast<const T*>(tile.grad_out_rows);
    T* const scores = scratch;
    T* const grads = scratch + block_elements;
    const VisibleKeys<T, Vectors> visible(positions);
    for (std::int64_t begin = 0; begin < visible.end; begin += key_block) {
      const std::int64_t count = (std::min)(key_block, visible.end - begin);
      for (std::int64_t k = 0; k < count; k += panel) {
        dot_products<Products<T>, Vectors>(panels_of_keys + (begin + k) * head_dim,
                                           reinterpret_cast<const T*>(tile.query), head_dim, chain,
                                           scores + k * width);
        dot_products<Products<T>, Vectors>(panels_of_values + (begin + k) * head_dim,
                                           reinterpret_cast<const T*>(tile.grad_out), head_dim, chain,
                                           grads + k * width);
      }
      to_probabilities<Vectors>(scores, begin, count, tile.lse, visible);
      // Keys of the last panel that no query sees take part in its multiplies with probability 0.
      std::fill(scores + count * width, scores + Tiles::padded(count) * width, T{0});
      std::fill(grads + count * width, grads + Tiles::padded(count) * width, T{0});
      if (tile.probability != nullptr) sum_probabilities<Vectors>(scores, grads, count, tile);
      if (keys.grad_values != nullptr) {
        for (std::int64_t k = 0; k < count; k += panel) {
          multiply_rows<Products<T>>({scores + k * width, 1, width}, grad_out_rows, dims, width,
                                     keys.grad_values + (begin + k) * dims, dims, dims / lanes);
        }
      }
      if (keys.grad_keys == nullptr && tile.grad_query == nullptr) continue;
      to_score_gradients<Vectors>(scores, grads, count, tile.delta);
      if (keys.grad_keys != nullptr) {
        for (std::int64_t k = 0; k < count; k += panel) {
          multiply_rows<Products<T>>({grads + k * width, 1, width}, query_rows, dims, width,
                                     keys.grad_keys + (begin + k) * dims, dims, dims / lanes);
        }
      }
      if (tile.grad_query != nullptr) {
        for (std::int64_t q = 0; q < width; q += panel) {
          multiply_rows<Products<T>>({grads + q, width, 1}, key_rows + begin * dims, dims, count,
                                     tile.grad_query + q * dims, dims, dims / lanes);
        }
      }
    }
  }

  template <int Vectors>
  static void to_probabilities(T* scores, std::int64_t begin, std::int64_t count, const T* lse,
                               const VisibleKeys<T, Vectors>& visible) {
    constexpr int width = Vectors * lanes;
    for (int v = 0; v < Vectors; ++v) {
      const Lanes<T> shift = load(lse + v * lanes);
      const auto queries = visible.of(v);
      for (std::int64_t k = 0; k < count; ++k) {
        T* at = scores + k * width + v * lanes;
        const Lanes<T> p = exp2_lanes<T>(load(at) - shift);
        store(at, queries.see(begin + k) ? p : Lanes<T>{});
      }
    }
  }

  template <int Vectors>
  static void sum_probabilities(const T* scores, const T* grads, std::int64_t count,
                                const GradientTile<T>& tile) {
    constexpr int width = Vectors * lanes;
    for (int v = 0; v < Vectors; ++v) {
      Lanes<T> probability{}, weighted{};
      for (std::int64_t k = 0; k < count; ++k) {
        const Lanes<T> p = load(scores + k * width + v * lanes);
        probability += p;
        weighted += p * load(grads + k * width + v * lanes);
      }
      T* a = tile.probability + v * lanes;
      T* b = tile.weighted + v * lanes;
      store(a, load(a) + probability);
      store(b, load(b) + weighted);
    }
  }

  template <int Vectors>
  static void to_score_gradients(const T* scores, T* grads, std::int64_t count, const T* delta) {
    constexpr int width = Vectors * lanes;
    for (int v = 0; v < Vectors; ++v) {
      const Lanes<T> shift = load(delta + v * lanes);
      for (std::int64_t k = 0; k < count; ++k) {
        T* at = grads + k * width + v * lanes;
        store(at, load(scores + k * width + v * lanes) * (load(at) - shift));
      }
    }
  }
};
