// QueryTiles: a set of query rows loaded into kernel tiles together with their softmax state.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/engine/walk.hpp>
#include <ring_attention/engine/workspace.hpp>
#include <ring_attention/kernel/portable_kernel.hpp>
#include <ring_attention/kernel/rows.hpp>
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
};

/// Query rows of one batch item: every token of the list for every head.
struct QuerySet {
  std::int64_t item = 0;
  const std::int64_t* heads = nullptr;
  std::int64_t head_count = 0;
  detail::TokenList tokens;
  std::int64_t row_shift = 0;     // row of the caller's tensors = token + row_shift
  std::int64_t number_shift = 0;  // row of arrays of numbers = token + number_shift

  std::int64_t entries() const { return head_count * tokens.count; }
  std::int64_t head(std::int64_t entry) const { return heads[entry / tokens.count]; }
  std::int64_t token(std::int64_t entry) const { return tokens[entry % tokens.count]; }
};

/// Keys and values that a query set meets, and where they lie.
template <class Scalar>
struct KeyPiece {
  detail::TokenList tokens;
  Rows<const Scalar> keys, values;
};

/// How many rows and keys a workspace serves at once.
struct TileSizes {
  std::int64_t entries = 0;   // query rows
  std::int64_t run_keys = 0;  // keys packed together
  std::int64_t head_dim = 0;
};

/// Memory for keys packed for a kernel, and its scratch. Several query sets of a thread may share one.
template <class Scalar, class Kernel>
struct KeyBuffers {
  using T = accumulator_t<Scalar>;

  KeyBuffers(detail::Carver& carver, const TileSizes& sizes)
      : head_dim(sizes.head_dim), run_keys(sizes.run_keys) {
    keys = carver.take<T>(Kernel::padded(run_keys) * head_dim);
    values = carver.take<T>(run_keys * Kernel::padded(head_dim));
    scores = carver.take<T>(Kernel::score_elements);
    limits = carver.take<LaneIndex<T>>(Kernel::max_queries);
  }

  /// Packs a piece's keys, a run at a time straight from where they lie; calls visit(packed, tokens) for each
  /// run.
  template <class Visit>
  void for_each_run(const KeyPiece<Scalar>& piece, const Visit& visit) const {
    for (std::int64_t begin = 0; begin < piece.tokens.count; begin += run_keys) {
      const std::int64_t end = std::min(begin + run_keys, piece.tokens.count);
      const detail::TokenList tokens = piece.tokens.sub(begin, end);
      Kernel::pack_keys(piece.keys.skip(begin), tokens.count, head_dim, keys);
      Kernel::pack_values(piece.values.skip(begin), tokens.count, head_dim, run_keys, values);
      visit(PackedKeys<T>{keys, values, tokens.count, run_keys}, tokens);
    }
  }

  std::int64_t head_dim, run_keys;
  T *keys, *values, *scores;
  LaneIndex<T>* limits;
};

template <class Scalar, class Kernel>
class QueryTiles {
  using T = accumulator_t<Scalar>;
  static constexpr std::int64_t most = Kernel::max_queries;

 public:
  using Buffers = KeyBuffers<Scalar, Kernel>;

  QueryTiles(detail::Carver& carver, const TileSizes& sizes)
      : QueryTiles(carver, sizes.entries, Buffers(carver, sizes)) {}

  QueryTiles(detail::Carver& carver, std::int64_t entries, const Buffers& buffers)
      : head_dim_(buffers.head_dim), padded_dim_(Kernel::padded(buffers.head_dim)), buffers_(buffers) {
    const std::int64_t lanes = detail::ceil_div(entries, most) * most;
    query_ = carver.take<T>(lanes * head_dim_);
    output_ = carver.take<T>(lanes * padded_dim_);
    maximum_ = carver.take<T>(lanes);
    sum_ = carver.take<T>(lanes);
    token_ = carver.take<std::int64_t>(lanes);
  }

  /// Loads queries, scaled into base-2 logarithms, and their state.
  void load(const QuerySet& set, const TensorView<const Scalar>& q, double scale,
            const RowStates<T>& states) {
    const T query_scale = static_cast<T>(scale * std::numbers::log2e);
    count_ = detail::ceil_div(set.entries(), most);
    entries_ = set.entries();
    for (std::int64_t t = 0; t < count_; ++t) {
      const QueryTile<T> to = tile(t);
      const std::int64_t width = to.vectors * Kernel::lanes;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        const std::int64_t entry = t * most + lane;
        if (entry >= entries_) {
          clear_lane(to, width, lane);
          token_[entry] = std::numeric_limits<std::int64_t>::max();
          continue;
        }
        const std::int64_t head = set.head(entry);
        const std::int64_t token = set.token(entry);
        const Scalar* query = q.row(set.item, token + set.row_shift, head);
        for (std::int64_t d = 0; d < head_dim_; ++d) {
          to.query[d * width + lane] = static_cast<T>(query[d]) * query_scale;
        }
        const std::int64_t row = states.row(head, token);
        const T* output = states.output + row * padded_dim_;
        for (std::int64_t d = 0; d < padded_dim_; ++d) to.output[d * width + lane] = output[d];
        to.maximum[lane] = states.maximum[row];
        to.sum[lane] = states.sum[row];
        token_[entry] = token;
      }
    }
  }

  /// Attends every tile to the piece's keys. Causal: a query sees keys at its own token and before.
  void attend(const KeyPiece<Scalar>& piece, bool causal) const {
    buffers_.for_each_run(piece, [&](const PackedKeys<T>& packed, const detail::TokenList& tokens) {
      attend(packed, tokens, causal);
    });
  }

  /// The same for keys that are packed already.
  void attend(const PackedKeys<T>& packed, const detail::TokenList& tokens, bool causal) const {
    for (std::int64_t t = 0; t < count_; ++t) {
      const LaneIndex<T>* limits = nullptr;
      if (causal) {
        const Visibility seen = visible(tokens, t);
        if (seen == Visibility::none) continue;
        if (seen == Visibility::some) limits = buffers_.limits;
      }
      Kernel::attend(packed, tile(t), limits, head_dim_, buffers_.scores);
    }
  }

  void store(const QuerySet& set, const RowStates<T>& states) const {
    for (std::int64_t t = 0; t < count_; ++t) {
      const QueryTile<T> from = tile(t);
      const std::int64_t width = from.vectors * Kernel::lanes;
      for (std::int64_t lane = 0; lane < std::min(width, entries_ - t * most); ++lane) {
        const std::int64_t entry = t * most + lane;
        const std::int64_t row = states.row(set.head(entry), token_[entry]);
        T* output = states.output + row * padded_dim_;
        for (std::int64_t d = 0; d < padded_dim_; ++d) output[d] = from.output[d * width + lane];
        states.maximum[row] = from.maximum[lane];
        states.sum[row] = from.sum[lane];
      }
    }
  }

 private:
  enum class Visibility { none, some, all };

  QueryTile<T> tile(std::int64_t t) const {
    return {query_ + t * most * head_dim_, output_ + t * most * padded_dim_, maximum_ + t * most,
            sum_ + t * most, Kernel::vectors_for(entries_ - t * most)};
  }

  /// Lanes without a query hold zeros, so that nothing in them can turn into NaN.
  void clear_lane(const QueryTile<T>& to, std::int64_t width, std::int64_t lane) const {
    for (std::int64_t d = 0; d < head_dim_; ++d) to.query[d * width + lane] = T{0};
    for (std::int64_t d = 0; d < padded_dim_; ++d) to.output[d * width + lane] = T{0};
    to.maximum[lane] = T{0};
    to.sum[lane] = T{0};
  }

  /// Which of the run's keys a tile's queries see; fills the buffers' limits where it is some.
  Visibility visible(const detail::TokenList& tokens, std::int64_t t) const {
    const std::int64_t width = tile(t).vectors * Kernel::lanes;
    const std::int64_t* lane_token = token_ + t * most;
    const auto [least, greatest] =
        std::minmax_element(lane_token, lane_token + std::min(width, entries_ - t * most));
    if (tokens[tokens.count - 1] <= *least) return Visibility::all;
    if (tokens[0] > *greatest) return Visibility::none;
    for (std::int64_t lane = 0; lane < width; ++lane) {
      buffers_.limits[lane] = static_cast<LaneIndex<T>>(tokens.count_until(lane_token[lane]));
    }
    return Visibility::some;
  }

  std::int64_t head_dim_, padded_dim_;
  Buffers buffers_;
  std::int64_t count_ = 0;
  std::int64_t entries_ = 0;
  T *query_, *output_, *maximum_, *sum_;
  std::int64_t* token_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
