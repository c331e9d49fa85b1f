// What the engine asks of an instruction set, as tables of functions, so that the engine is compiled once per
// scalar and not once per instruction set; a table for each pass, so that a unit that makes forward calls
// alone compiles no backward kernel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/scalar.hpp>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Number of a key in a run, as wide as the accumulator type.
template <class T>
using LaneIndex = std::conditional_t<std::is_same_v<T, double>, std::int64_t, std::int32_t>;

/// No kernel has larger tiles.
inline constexpr std::int64_t largest_tile = 64;

/// The online-softmax state of up to `lanes * vectors` queries, in base-2 logarithms, queries in lanes:
///
///   m = max_k s_k,   l = sum_k 2^(s_k - m),   O = sum_k 2^(s_k - m) v_k,   s_k = scale * log2(e) * q.k
///
/// Keys that arrive later with maximum m' turn it into M = max(m, m'), l * 2^(m - M) + ..., O * 2^(m - M) +
/// ...; nothing overflows because no exponent is positive. A query that met no key has m = -infinity, l = 0,
/// O = 0.
template <class T>
struct QueryTile {
  std::byte* query;  // as load_queries writes it
  T* output;         // O, [padded head_dim][width]
  T* maximum;        // m, [width]
  T* sum;            // l, [width]
  int vectors;
};

/// The same state between visits, a row at a time.
template <class T>
struct StateRows {
  T* output;   // [row][padded head_dim]
  T* maximum;  // [row]
  T* sum;      // [row]
};

/// Where the queries of a tile and a run of keys lie in the sequence, which decides who sees whom. Lanes
/// without a query repeat the position of one that has.
struct TilePositions {
  const std::int64_t* query_tokens;  // [width]
  const std::int64_t* query_heads;   // [width]
  Progression keys;                  // tokens of the run
  bool causal;                       // queries see keys at their own token and before
};

/// A run of packed keys and values.
struct PackedKeys {
  const std::byte* keys;
  const std::byte* values;
  std::int64_t capacity;  // keys that the buffers were laid out for
};

/// Up to max_queries queries for backward: once in lanes, once as rows padded to whole vectors. Both as
/// load_gradients writes them.
template <class T>
struct GradientTile {
  std::byte* query;
  std::byte* grad_out;
  std::byte* query_rows;
  std::byte* grad_out_rows;
  T* lse;          // [width], base 2; +infinity for lanes without a query or without keys
  T* delta;        // [width], sum_d dO O minus the gradient of the log-sum-exp
  T* grad_query;   // [width rounded up to panels][row_dim], summed up; null: not wanted
  T* probability;  // [width], sum of probabilities; null: not wanted
  T* weighted;     // [width], sum of probabilities times dO.v; null: not wanted
  int vectors;
};

/// Queries whose probabilities are recomputed.
template <class T>
struct ProbabilityTile {
  const T* query;  // [head_dim][width], scaled into base-2 logarithms
  const T* lse;
  int vectors;
};

/// A run of keys for backward.
template <class T>
struct GradientKeys {
  std::byte* keys;      // as pack_panels writes them
  std::byte* values;    // of the same form
  std::byte* key_rows;  // as pack_rows writes them
  T* grad_keys;         // [padded count][row_dim], summed up; null: not wanted
  T* grad_values;       // [padded count][row_dim], null with grad_keys
};

/// How many queries a tile holds, and how far extents are rounded up.
struct TileExtents {
  int lanes;        // queries in a vector
  int max_vectors;  // vectors in a tile
  int panel;        // extents that kernels read and write in whole panels are rounded up to it

  std::int64_t max_queries() const { return static_cast<std::int64_t>(lanes) * max_vectors; }
  std::int64_t padded(std::int64_t extent) const { return (extent + panel - 1) / panel * panel; }
  /// Rows of backward are padded to whole vectors of dimensions.
  std::int64_t row_dim(std::int64_t head_dim) const { return (head_dim + lanes - 1) / lanes * lanes; }
  int vectors_for(std::int64_t queries) const {
    return static_cast<int>(std::min<std::int64_t>((queries + lanes - 1) / lanes, max_vectors));
  }
};

/// Forward of one instruction set for one scalar. Rows of queries may be null: lanes without a query hold
/// zeros, so that nothing in them can turn into NaN. `rows` of states are numbers of rows, or -1.
template <class Element>
struct ForwardKernel {
  using Scalar = Element;
  using T = accumulator_t<Scalar>;

  const char* name;
  TileExtents tile;
  std::int64_t scratch;  // elements of T that attend() needs
  std::int64_t (*query_bytes)(std::int64_t queries, std::int64_t head_dim);
  std::int64_t (*key_bytes)(std::int64_t keys, std::int64_t head_dim);
  std::int64_t (*value_bytes)(std::int64_t keys, std::int64_t head_dim);
  void (*pack_keys)(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim, std::byte* to);
  void (*pack_values)(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                      std::int64_t capacity, std::byte* to);
  void (*load_queries)(const Scalar* const* rows, std::int64_t head_dim, const QueryTile<T>& tile, T scale);
  void (*load_states)(const StateRows<T>& states, const std::int64_t* rows, std::int64_t head_dim,
                      const QueryTile<T>& tile);
  void (*store_states)(const QueryTile<T>& tile, const std::int64_t* rows, std::int64_t head_dim,
                       const StateRows<T>& states);
  void (*attend)(const PackedKeys& keys, const QueryTile<T>& tile, const TilePositions& positions,
                 std::int64_t head_dim, T scale, T* scratch);
  void (*round_row)(const T* from, T factor, std::int64_t count, Scalar* to);  // to = factor * from
};

/// Backward. `scale` is that of the scores in base-2 logarithms.
template <class Element>
struct BackwardKernel {
  using Scalar = Element;
  using T = accumulator_t<Scalar>;

  const char* name;
  TileExtents tile;
  std::int64_t scratch;  // elements of T that accumulate() needs
  std::int64_t (*lane_bytes)(std::int64_t queries, std::int64_t head_dim);
  std::int64_t (*panel_bytes)(std::int64_t keys, std::int64_t head_dim);
  std::int64_t (*row_bytes)(std::int64_t rows, std::int64_t head_dim);
  void (*pack_panels)(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim,
                      std::byte* to);
  void (*pack_rows)(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim, std::byte* to);
  void (*load_gradients)(const Scalar* const* queries, const Scalar* const* grads, std::int64_t head_dim,
                         T scale, const GradientTile<T>& tile);
  void (*accumulate)(const GradientKeys<T>& keys, const GradientTile<T>& tile, const TilePositions& positions,
                     std::int64_t head_dim, T scale, T* scratch);
  void (*round_row)(const T* from, T factor, std::int64_t count, Scalar* to);  // to = factor * from
  void (*add_row)(const T* from, T factor, std::int64_t count, T* to);         // to += factor * from
  T (*dot)(const Scalar* a, const Scalar* b, std::int64_t count);              // sum_d a b
};

/// Probabilities [count][width] of at most key_block keys, which are packed in panels of T.
template <class Element>
struct ProbabilityKernel {
  using Scalar = Element;
  using T = accumulator_t<Scalar>;

  const char* name;
  TileExtents tile;
  std::int64_t key_block;
  std::int64_t scratch;  // elements of T that probabilities() needs
  void (*pack_panels)(const Rows<const Scalar>& rows, std::int64_t count, std::int64_t head_dim, T* to);
  void (*probabilities)(const T* panels, const ProbabilityTile<T>& tile, const TilePositions& positions,
                        std::int64_t head_dim, T* to);
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
