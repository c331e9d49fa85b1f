// PortableKernel: packs rows into tiles and attends a tile of queries to a run of keys, in plain C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <ring_attention/kernel/exp2.hpp>
#include <ring_attention/kernel/lanes.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Rows of a strided tensor picked by a list: row i begins at `base + index[i] * stride`.
template <class Scalar>
struct RowSource {
  const Scalar* base;
  std::int64_t stride;
  const std::int64_t* index;
  const Scalar* operator[](std::int64_t i) const { return base + index[i] * stride; }
};

/// The online-softmax state of up to `lanes * vectors` queries, in base-2 logarithms, queries in lanes:
///
///   m = max_k s_k,   l = sum_k 2^(s_k - m),   O = sum_k 2^(s_k - m) v_k,   s_k = scale * log2(e) * q.k
///
/// Keys that arrive later with maximum m' turn it into M = max(m, m'), l * 2^(m - M) + ..., O * 2^(m - M) +
/// ...; nothing overflows because no exponent is positive. A query that met no key has m = -infinity, l = 0,
/// O = 0.
template <class T>
struct QueryTile {
  T* query;    // [head_dim][width], scaled
  T* output;   // O, [padded head_dim][width]
  T* maximum;  // m, [width]
  T* sum;      // l, [width]
  int vectors;
};

/// A run of packed keys and values.
template <class T>
struct PackedKeys {
  const T* keys;
  const T* values;
  std::int64_t count;     // keys in this run
  std::int64_t capacity;  // keys that the buffers were laid out for
};

template <class T>
struct PortableKernel {
  using Accumulator = T;
  using Index = LaneIndex<T>;

  // A register tile of panel x max_vectors accumulators leaves room for max_vectors operands and one
  // broadcast.
  static constexpr int lanes = lane_count<T>;
  static constexpr int max_vectors = 3;
  static constexpr int panel = RING_ATTENTION_VECTOR_REGISTERS == 32 ? 8 : 4;
  static constexpr int max_queries = lanes * max_vectors;
  /// Keys whose scores are held at once: max_queries of them stay in the first-level cache.
  static constexpr std::int64_t key_block = 512 / static_cast<std::int64_t>(sizeof(T));
  /// Dimensions of a score that are summed in one go. One chain over 128 or 256 dimensions would cost a float
  /// three times the rounding error of sums of chains; shorter chains gain nothing more.
  static constexpr std::int64_t chain = 32;
  /// Elements that attend() needs as scratch for scores.
  static constexpr std::int64_t score_elements = key_block * max_queries;

  static constexpr std::int64_t padded(std::int64_t extent) { return (extent + panel - 1) / panel * panel; }
  static constexpr int vectors_for(std::int64_t queries) {
    return static_cast<int>(std::min<std::int64_t>((queries + lanes - 1) / lanes, max_vectors));
  }

  /// Keys as panels of `panel` rows, [panel][head_dim][row in panel]; the last panel is filled up with zeros.
  template <class Scalar>
  static void pack_keys(const RowSource<Scalar>& rows, std::int64_t count, std::int64_t head_dim, T* to) {
    for (std::int64_t first = 0; first < count; first += panel, to += panel * head_dim) {
      const int filled = static_cast<int>(std::min<std::int64_t>(panel, count - first));
      if (filled < panel) std::fill_n(to, panel * head_dim, T{0});
      for (int p = 0; p < filled; ++p) {
        const Scalar* row = rows[first + p];
        for (std::int64_t d = 0; d < head_dim; ++d) to[d * panel + p] = static_cast<T>(row[d]);
      }
    }
  }

  /// Values as panels of `panel` dimensions, [panel][row][dimension in panel]; missing dimensions are zeros.
  template <class Scalar>
  static void pack_values(const RowSource<Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                          std::int64_t capacity, T* to) {
    for (std::int64_t i = 0; i < count; ++i) {
      const Scalar* row = rows[i];
      for (std::int64_t first = 0; first < head_dim; first += panel) {
        T* chunk = to + (first * capacity + i * panel);
        const int filled = static_cast<int>(std::min<std::int64_t>(panel, head_dim - first));
        for (int p = 0; p < filled; ++p) chunk[p] = static_cast<T>(row[first + p]);
        for (int p = filled; p < panel; ++p) chunk[p] = T{0};
      }
    }
  }

  /// Attends the tile's queries to a run of keys. Query j sees the first limits[j] keys of the run; null:
  /// all.
  static void attend(const PackedKeys<T>& keys, const QueryTile<T>& tile, const Index* limits,
                     std::int64_t head_dim, T* scores) {
    switch (tile.vectors) {
      case 1:
        return attend_tile<1>(keys, tile, limits, head_dim, scores);
      case 2:
        return attend_tile<2>(keys, tile, limits, head_dim, scores);
      default:
        return attend_tile<max_vectors>(keys, tile, limits, head_dim, scores);
    }
  }

 private:
  template <int Vectors>
  static void attend_tile(const PackedKeys<T>& keys, const QueryTile<T>& tile, const Index* limits,
                          std::int64_t head_dim, T* scores) {
    constexpr int width = Vectors * lanes;
    std::int64_t visible = keys.count;
    if (limits != nullptr)
      visible = std::min<std::int64_t>(visible, *std::max_element(limits, limits + width));
    const std::int64_t unmasked =
        limits == nullptr ? keys.count : static_cast<std::int64_t>(*std::min_element(limits, limits + width));
    for (std::int64_t begin = 0; begin < visible; begin += key_block) {
      const std::int64_t count = std::min(key_block, visible - begin);
      // S^T = K Q^T
      for (std::int64_t k = 0; k < count; k += panel) {
        const T* key_panel = keys.keys + (begin + k) * head_dim;
        T* to = scores + k * width;
        multiply<Vectors, false>(key_panel, tile.query, std::min(head_dim, chain), to);
        for (std::int64_t d = chain; d < head_dim; d += chain) {
          multiply<Vectors, true>(key_panel + d * panel, tile.query + d * width,
                                  std::min(head_dim - d, chain), to);
        }
      }
      if (begin + count > unmasked) mask<Vectors>(scores, begin, count, limits);
      // P = 2^(S - m), l = l * 2^(m_old - m) + sum P, O = O * 2^(m_old - m)
      absorb_scores<Vectors>(scores, count, tile, padded(head_dim));
      // O^T += V^T P^T
      for (std::int64_t d = 0; d < head_dim; d += panel) {
        multiply<Vectors, true>(keys.values + (d * keys.capacity + begin * panel), scores, count,
                                tile.output + d * width);
      }
    }
  }

  /// c[p][j] = or += sum_k a[k][p] * b[k][j], the one multiply of both products.
  template <int Vectors, bool Accumulate>
  static void multiply(const T* a, const T* b, std::int64_t depth, T* c) {
    constexpr int width = Vectors * lanes;
    Lanes<T> sums[panel][Vectors] = {};
    for (std::int64_t k = 0; k < depth; ++k, a += panel, b += width) {
      Lanes<T> operand[Vectors];
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) operand[v] = load(b + v * lanes);
      RING_ATTENTION_UNROLL
      for (int p = 0; p < panel; ++p) {
        const Lanes<T> factor = broadcast(a[p]);
        RING_ATTENTION_UNROLL
        for (int v = 0; v < Vectors; ++v) sums[p][v] += factor * operand[v];
      }
    }
    RING_ATTENTION_UNROLL
    for (int p = 0; p < panel; ++p) {
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        T* to = c + p * width + v * lanes;
        if constexpr (Accumulate) sums[p][v] += load(to);
        store(to, sums[p][v]);
      }
    }
  }

  template <int Vectors>
  static void mask(T* scores, std::int64_t begin, std::int64_t count, const Index* limits) {
    constexpr int width = Vectors * lanes;
    for (int v = 0; v < Vectors; ++v) {
      LaneBits<T> limit;
      std::memcpy(&limit, limits + v * lanes, sizeof limit);
      for (std::int64_t k = 0; k < count; ++k) {
        T* at = scores + k * width + v * lanes;
        const Lanes<T> seen = load(at);
        store(at,
              limit > static_cast<Index>(begin + k) ? seen : broadcast(-std::numeric_limits<T>::infinity()));
      }
    }
  }

  template <int Vectors>
  static void absorb_scores(T* scores, std::int64_t count, const QueryTile<T>& tile, std::int64_t rows) {
    constexpr int width = Vectors * lanes;
    Lanes<T> maximum[Vectors];
    for (int v = 0; v < Vectors; ++v) maximum[v] = load(tile.maximum + v * lanes);
    for (std::int64_t k = 0; k < count; ++k) {
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const Lanes<T> s = load(scores + k * width + v * lanes);
        maximum[v] = s > maximum[v] ? s : maximum[v];
      }
    }
    Lanes<T> shift[Vectors];
    Lanes<T> sums[Vectors] = {};
    for (int v = 0; v < Vectors; ++v) {
      // A query without keys so far: any finite shift keeps -infinity - shift from turning into NaN.
      shift[v] = maximum[v] == -std::numeric_limits<T>::infinity() ? Lanes<T>{} : maximum[v];
    }
    for (std::int64_t k = 0; k < count; ++k) {
      RING_ATTENTION_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        T* at = scores + k * width + v * lanes;
        const Lanes<T> p = exp2_lanes<T>(load(at) - shift[v]);
        sums[v] += p;
        store(at, p);
      }
    }
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
        T* o = tile.output + d * width + v * lanes;
        store(o, load(o) * factor);
      }
    }
  }
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
