// GradientTiles: query rows loaded for backward, and what they and packed keys give each other. Which rows
// meet which keys is the business of the passes that use it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/query_tiles.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Tensors of a backward call, and which of their rows holds a token.
template <class Scalar>
struct BackwardQueries {
  const detail::BackwardTensors<Scalar>& tensors;
  detail::TokenRows rows;
};

/// Keys, values and the rows that their gradients are added to.
template <class Scalar>
struct GradientPiece {
  KeyPiece<Scalar> piece;
  KeyRows<accumulator_t<Scalar>> gradients;
};

/// One number for every token of a member and every head, for one branch or for all.
template <class T>
struct RowNumbers {
  T* data = nullptr;  // [batch item][head][row]
  std::int64_t heads = 0;
  std::int64_t count = 0;          // rows
  std::int64_t branch_stride = 0;  // 0: the branches share their numbers
  detail::TokenRows rows = {};

  T& at(std::size_t branch, std::int64_t item, std::int64_t head, std::int64_t token) const {
    return data[static_cast<std::int64_t>(branch) * branch_stride + (item * heads + head) * count +
                rows(token)];
  }
};

/// What to compute while queries meet keys.
struct GradientsWanted {
  bool queries = false;
  bool keys = false;
  bool sums = false;  // of P and of P * dP
};

struct BackwardSizes {
  std::int64_t group_entries = 640;  // query rows loaded together
  std::int64_t run_keys = 256;       // keys packed together
  // Rows of each item whose gradients are summed up at once in memory of their own, which gradients of 16
  // bits need. Only for whole tensors.
  std::int64_t sum_rows = 0;
};

template <class Scalar>
struct BackwardWorkspace {
  using T = accumulator_t<Scalar>;

  BackwardWorkspace(detail::Carver& carver, const BackwardKernel<Scalar>& kernel, const BackwardSizes& sizes,
                    const CallShape& shape) {
    const std::int64_t most = kernel.tile.max_queries();
    const std::int64_t tiles = detail::ceil_div(sizes.group_entries, most);
    const std::int64_t lanes = tiles * most;
    const std::int64_t dims = kernel.tile.row_dim(shape.head_dim);
    const std::int64_t keys = kernel.tile.padded(sizes.run_keys);
    query = carver.take<std::byte>(tiles * kernel.lane_bytes(most, shape.head_dim));
    grad_out = carver.take<std::byte>(tiles * kernel.lane_bytes(most, shape.head_dim));
    query_rows = carver.take<std::byte>(tiles * kernel.row_bytes(most, shape.head_dim));
    grad_out_rows = carver.take<std::byte>(tiles * kernel.row_bytes(most, shape.head_dim));
    // The kernel writes rows of a tile in whole panels.
    grad_query = carver.take<T>(tiles * kernel.tile.padded(most) * dims);
    lse = carver.take<T>(lanes);
    delta = carver.take<T>(lanes);
    probability = carver.take<T>(lanes);
    weighted = carver.take<T>(lanes);
    query_token = carver.take<std::int64_t>(lanes);
    query_head = carver.take<std::int64_t>(lanes);
    packed_keys = carver.take<std::byte>(kernel.panel_bytes(keys, shape.head_dim));
    packed_values = carver.take<std::byte>(kernel.panel_bytes(keys, shape.head_dim));
    key_rows = carver.take<std::byte>(kernel.row_bytes(keys, shape.head_dim));
    grad_keys = carver.take<T>(keys * dims);
    grad_values = carver.take<T>(keys * dims);
    scratch = carver.take<T>(kernel.scratch);
    query_row = carver.take<const Scalar*>(most);
    grad_row = carver.take<const Scalar*>(most);
    heads = carver.take<std::int64_t>(shape.heads / shape.kv_heads);
  }

  std::byte *query, *grad_out, *query_rows, *grad_out_rows;
  T *grad_query, *lse, *delta, *probability, *weighted;
  std::int64_t *query_token, *query_head;
  std::byte *packed_keys, *packed_values, *key_rows;
  T *grad_keys, *grad_values, *scratch;
  const Scalar **query_row, **grad_row;  // of one tile
  std::int64_t* heads;
};

/// Query rows that lie in consecutive tiles of a workspace, each tile full but for the last.
struct LoadedQueries {
  std::int64_t first_tile = 0;
  std::int64_t entries = 0;
};

template <class Scalar>
class GradientTiles {
  using T = accumulator_t<Scalar>;
  using Workspace = BackwardWorkspace<Scalar>;

 public:
  GradientTiles(const AttentionPlan& plan, const BackwardKernel<Scalar>& kernel,
                const BackwardQueries<Scalar>& queries, const RowNumbers<T>& delta)
      : most(kernel.tile.max_queries()),
        kernel_(kernel),
        queries_(queries),
        delta_(delta),
        causal_(plan.causal),
        head_dim_(plan.shape.head_dim),
        dims_(kernel.tile.row_dim(plan.shape.head_dim)),
        scale_(static_cast<T>(plan.scale)),
        query_scale_(static_cast<T>(plan.scale * std::numbers::log2e)) {}

  /// Queries of a full tile.
  const std::int64_t most;

  /// Factor of the gradients of queries and keys, which the kernel leaves out.
  T scale() const { return scale_; }

  /// Loads `loaded.entries` rows of a set from `first` on, and clears their gradients.
  void load(const QuerySet& set, std::int64_t first, const LoadedQueries& loaded, std::size_t branch,
            Workspace& work) const {
    const std::int64_t tiles = detail::ceil_div(loaded.entries, most);
    const std::int64_t begin = loaded.first_tile * most;
    const std::int64_t elements = kernel_.tile.padded(most) * dims_;  // of the gradients of a tile
    std::fill_n(work.grad_query + loaded.first_tile * elements, tiles * elements, T{0});
    std::fill_n(work.probability + begin, tiles * most, T{0});
    std::fill_n(work.weighted + begin, tiles * most, T{0});
    for (std::int64_t t = 0; t < tiles; ++t) {
      const GradientTile<T> to = tile(work, loaded, t, {});
      const std::int64_t width = to.vectors * kernel_.tile.lanes;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        const std::int64_t local = t * most + lane;
        const std::int64_t entry = first + (std::min)(local, loaded.entries - 1);
        const std::int64_t head = work.query_head[begin + local] = set.head(entry);
        const std::int64_t token = work.query_token[begin + local] = set.token(entry);
        const std::int64_t row = queries_.rows(token);
        const detail::BackwardTensors<Scalar>& from = queries_.tensors;
        const T lse = *from.lse.row(set.item, head, row);
        // A row without keys has no gradient, whatever its dO holds.
        const bool filled = local < loaded.entries && lse != -std::numeric_limits<T>::infinity();
        work.query_row[lane] = filled ? from.q.row(set.item, row, head) : nullptr;
        work.grad_row[lane] = filled ? from.grad_out.row(set.item, row, head) : nullptr;
        to.lse[lane] = filled ? lse * std::numbers::log2e_v<T> : std::numeric_limits<T>::infinity();
        to.delta[lane] = filled ? delta_.at(branch, set.item, head, token) : T{0};
      }
      kernel_.load_gradients(work.query_row, work.grad_row, head_dim_, query_scale_, to);
    }
  }

  /// Packs the first `count` keys to position `at`, a whole number of panels, and clears their gradients.
  void pack(const KeyPiece<Scalar>& piece, std::int64_t count, std::int64_t at, const GradientsWanted& wanted,
            Workspace& work) const {
    kernel_.pack_panels(piece.keys, count, head_dim_, work.packed_keys + panel_bytes(at));
    kernel_.pack_panels(piece.values, count, head_dim_, work.packed_values + panel_bytes(at));
    if (wanted.queries) kernel_.pack_rows(piece.keys, count, head_dim_, work.key_rows + row_bytes(at));
    if (wanted.keys) {
      std::fill_n(work.grad_keys + at * dims_, kernel_.tile.padded(count) * dims_, T{0});
      std::fill_n(work.grad_values + at * dims_, kernel_.tile.padded(count) * dims_, T{0});
    }
  }

  /// Adds what loaded queries and the packed keys of `tokens` at position `at` give each other.
  void accumulate(const LoadedQueries& loaded, const Progression& tokens, std::int64_t at,
                  const GradientsWanted& wanted, Workspace& work) const {
    const GradientKeys<T> packed{work.packed_keys + panel_bytes(at), work.packed_values + panel_bytes(at),
                                 work.key_rows + row_bytes(at),
                                 wanted.keys ? work.grad_keys + at * dims_ : nullptr,
                                 wanted.keys ? work.grad_values + at * dims_ : nullptr};
    for (std::int64_t t = 0; t < detail::ceil_div(loaded.entries, most); ++t) {
      const std::int64_t lane = (loaded.first_tile + t) * most;
      kernel_.accumulate(packed, tile(work, loaded, t, wanted),
                         {work.query_token + lane, work.query_head + lane, tokens, causal_}, head_dim_,
                         query_scale_, work.scratch);
    }
  }

  /// Gradient of a loaded row but for scale().
  const T* grad_query(const LoadedQueries& loaded, std::int64_t local, const Workspace& work) const {
    const std::int64_t tile = loaded.first_tile + local / most;
    return work.grad_query + (tile * kernel_.tile.padded(most) + local % most) * dims_;
  }

  /// Gradients of packed key `at`, of the key but for scale().
  const T* grad_key(std::int64_t at, const Workspace& work) const { return work.grad_keys + at * dims_; }
  const T* grad_value(std::int64_t at, const Workspace& work) const { return work.grad_values + at * dims_; }

 private:
  std::int64_t panel_bytes(std::int64_t keys) const { return kernel_.panel_bytes(keys, head_dim_); }
  std::int64_t row_bytes(std::int64_t rows) const { return kernel_.row_bytes(rows, head_dim_); }

  GradientTile<T> tile(const Workspace& work, const LoadedQueries& loaded, std::int64_t t,
                       const GradientsWanted& wanted) const {
    const std::int64_t index = loaded.first_tile + t;
    const std::int64_t lane = index * most;
    const std::int64_t lane_bytes = kernel_.lane_bytes(most, head_dim_);
    return {work.query + index * lane_bytes,
            work.grad_out + index * lane_bytes,
            work.query_rows + index * row_bytes(most),
            work.grad_out_rows + index * row_bytes(most),
            work.lse + lane,
            work.delta + lane,
            wanted.queries ? work.grad_query + index * kernel_.tile.padded(most) * dims_ : nullptr,
            wanted.sums ? work.probability + lane : nullptr,
            wanted.sums ? work.weighted + lane : nullptr,
            kernel_.tile.vectors_for(loaded.entries - t * most)};
  }

  const BackwardKernel<Scalar>& kernel_;
  BackwardQueries<Scalar> queries_;
  RowNumbers<T> delta_;
  bool causal_;
  std::int64_t head_dim_, dims_;
  T scale_, query_scale_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
