// BlockProbabilities: the probabilities of active blocks in coordinate form.
#pragma once

#include <cstdint>
#include <ring_attention/options.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// One active block.
struct BlockCoordinate {
  std::int64_t item = 0;         ///< batch item
  std::int64_t head = 0;         ///< query head
  std::int64_t query_block = 0;  ///< block of the queries, counted from the sequence's start
  std::int64_t key_block = 0;    ///< block of the keys, counted from the sequence's start
  /// Whether every field is equal.
  friend bool operator==(const BlockCoordinate&, const BlockCoordinate&) = default;
};

/// Probabilities of the active blocks, ordered by item, head, query block and key block. A query row's
/// probabilities over its blocks sum to 1.
template <class Scalar>
struct BlockProbabilities {
  std::int64_t block_size = 0;               ///< tokens, clipped to the sequence
  std::vector<BlockCoordinate> coordinates;  ///< of block i of `values`, for each i
  /// {blocks, block_size, 1, block_size}: `values(i, query, 0, key)` of block i, both counted from the
  /// block's start; 0 past the sequence's end and where causality hides the key.
  Tensor<accumulator_t<Scalar>> values;
};

/// What forward_with_probabilities returns.
template <class Scalar>
struct BlockSparseResult {
  AttentionResult<Scalar> result;            ///< output and log-sum-exp
  BlockProbabilities<Scalar> probabilities;  ///< of the active blocks
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
