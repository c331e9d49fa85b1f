// QueryTiles: a set of query rows loaded into kernel tiles together with their softmax state.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/cpu/key_pieces.hpp>
#include <ring_attention/cpu/member_view.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Softmax state (m, l, O) of query rows between visits: row-major, in the accumulator type.
template <class T>
struct RowStates {
  T* output = nullptr;  // [rows][padded head dimension]
  T* maximum = nullptr;
  T* sum = nullptr;
  std::int64_t head_stride = 0;  // rows from one head to the next
  std::int64_t first_head = 0;   // of row 0
  std::int64_t first_token = 0;

  std::int64_t row(std::int64_t head, std::int64_t token) const {
    return (head - first_head) * head_stride + (token - first_token);
  }
  StateRows<T> rows() const { return {output, maximum, sum}; }
};

/// Query rows of one batch item: every token of the list for every head.
struct QuerySet {
  std::int64_t item = 0;
  const std::int64_t* heads = nullptr;
  std::int64_t head_count = 0;
  Progression tokens;

  std::int64_t entries() const { return head_count * tokens.count; }
  std::int64_t head(std::int64_t entry) const { return heads[entry / tokens.count]; }
  std::int64_t token(std::int64_t entry) const { return tokens[entry % tokens.count]; }
};

/// How many rows and keys a workspace serves at once.
struct TileSizes {
  std::int64_t entries = 0;   // query rows
  std::int64_t run_keys = 0;  // keys packed together
  std::int64_t head_dim = 0;
};

/// Memory for keys packed for a kernel, and its scratch. Several query sets of a thread may share one.
template <class Scalar>
struct KeyBuffers {
  using T = accumulator_t<Scalar>;

  KeyBuffers(detail::Carver& carver, const ForwardKernel<Scalar>& tile_kernel, const TileSizes& sizes)
      : kernel(&tile_kernel), head_dim(sizes.head_dim), run_keys(sizes.run_keys) {
    keys = carver.take<std::byte>(kernel->key_bytes(run_keys, head_dim));
    values = carver.take<std::byte>(kernel->value_bytes(run_keys, head_dim));
    scratch = carver.take<T>(kernel->scratch);
    queries = carver.take<const Scalar*>(kernel->tile.max_queries());
    rows = carver.take<std::int64_t>(kernel->tile.max_queries());
  }

  /// Packs a run of at most run_keys keys straight from where they lie.
  PackedKeys pack(const KeyPiece<Scalar>& run) const {
    kernel->pack_keys(run.keys, run.tokens.count, head_dim, keys);
    kernel->pack_values(run.values, run.tokens.count, head_dim, run_keys, values);
    return {keys, values, run_keys};
  }

  const ForwardKernel<Scalar>* kernel;
  std::int64_t head_dim, run_keys;
  std::byte *keys, *values;
  T* scratch;
  const Scalar** queries;  // of one tile
  std::int64_t* rows;
};

template <class Scalar>
class QueryTiles {
  using T = accumulator_t<Scalar>;

 public:
  using Buffers = KeyBuffers<Scalar>;

  QueryTiles(detail::Carver& carver, const ForwardKernel<Scalar>& kernel, const TileSizes& sizes)
      : QueryTiles(carver, sizes.entries, Buffers(carver, kernel, sizes)) {}

  QueryTiles(detail::Carver& carver, std::int64_t entries, const Buffers& buffers)
      : kernel_(*buffers.kernel), buffers_(buffers), most_(kernel_.tile.max_queries()) {
    tiles_ = detail::ceil_div(entries, most_);
    const std::int64_t lanes = tiles_ * most_;
    query_bytes_ = kernel_.query_bytes(most_, buffers.head_dim);
    query_ = carver.take<std::byte>(tiles_ * query_bytes_);
    output_ = carver.take<T>(lanes * kernel_.tile.padded(buffers.head_dim));
    maximum_ = carver.take<T>(lanes);
    sum_ = carver.take<T>(lanes);
    token_ = carver.take<std::int64_t>(lanes);
    head_ = carver.take<std::int64_t>(lanes);
  }

  /// Loads queries and their state. `scale` is that of the scores.
  void load(const QuerySet& set, const detail::MemberView<const Scalar>& q, double scale,
            const RowStates<T>& states) {
    scale_ = static_cast<T>(scale * std::numbers::log2e);
    count_ = detail::ceil_div(set.entries(), most_);
    entries_ = set.entries();
    for (std::int64_t t = 0; t < count_; ++t) {
      const QueryTile<T> to = tile(t);
      const std::int64_t width = to.vectors * kernel_.tile.lanes;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        const std::int64_t entry = t * most_ + lane;
        const bool filled = entry < entries_;
        const std::int64_t token = token_[entry] = set.token(filled ? entry : entries_ - 1);
        const std::int64_t head = head_[entry] = set.head(filled ? entry : entries_ - 1);
        buffers_.queries[lane] = filled ? q.row(set.item, token, head) : nullptr;
        buffers_.rows[lane] = filled ? states.row(head, token) : -1;
      }
      kernel_.load_queries(buffers_.queries, buffers_.head_dim, to, scale_);
      kernel_.load_states(states.rows(), buffers_.rows, buffers_.head_dim, to);
    }
  }

  /// Attends every tile to the piece's keys. Causal: a query sees keys at its own token and before.
  void attend(const KeyPiece<Scalar>& piece, bool causal) const {
    for (std::int64_t begin = 0; begin < piece.tokens.count; begin += buffers_.run_keys) {
      const auto run = piece.sub(begin, (std::min)(begin + buffers_.run_keys, piece.tokens.count));
      attend(buffers_.pack(run), run.tokens, causal);
    }
  }

  /// The same for keys that are packed already.
  void attend(const PackedKeys& packed, const Progression& tokens, bool causal) const {
    for (std::int64_t t = 0; t < count_; ++t) {
      kernel_.attend(packed, tile(t), {token_ + t * most_, head_ + t * most_, tokens, causal},
                     buffers_.head_dim, scale_, buffers_.scratch);
    }
  }

  /// Writes the state of the queries that are loaded.
  void store(const RowStates<T>& states) const {
    for (std::int64_t t = 0; t < count_; ++t) {
      const QueryTile<T> from = tile(t);
      for (std::int64_t lane = 0; lane < from.vectors * kernel_.tile.lanes; ++lane) {
        const std::int64_t entry = t * most_ + lane;
        buffers_.rows[lane] = entry < entries_ ? states.row(head_[entry], token_[entry]) : -1;
      }
      kernel_.store_states(from, buffers_.rows, buffers_.head_dim, states.rows());
    }
  }

 private:
  QueryTile<T> tile(std::int64_t t) const {
    return {query_ + t * query_bytes_, output_ + t * most_ * kernel_.tile.padded(buffers_.head_dim),
            maximum_ + t * most_, sum_ + t * most_, kernel_.tile.vectors_for(entries_ - t * most_)};
  }

  const ForwardKernel<Scalar>& kernel_;
  Buffers buffers_;
  std::int64_t most_;  // entries of a tile
  std::int64_t tiles_, query_bytes_;
  std::int64_t count_ = 0;
  std::int64_t entries_ = 0;
  T scale_{};
  std::byte* query_;
  T *output_, *maximum_, *sum_;
  std::int64_t *token_, *head_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
