// Probabilities of active blocks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/cpu/block_tasks.hpp>
#include <ring_attention/cpu/blocks.hpp>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/block_lists.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
class BlockProbabilityPass {
  using T = accumulator_t<Scalar>;

 public:
  BlockProbabilityPass(const AttentionPlan& plan, const TensorView<const Scalar>& q,
                       const TensorView<const Scalar>& k, const TensorView<const T>& lse,
                       const ProbabilityKernel<Scalar>& kernel)
      : plan_(plan), kernel_(kernel), q_(q), k_(k), lse_(lse), head_dim_(plan.shape.head_dim) {}

  /// How many numbers a thread works in.
  std::int64_t numbers() const {
    const std::int64_t most = kernel_.tile.max_queries();
    return (most + kernel_.key_block) * head_dim_ + most + kernel_.scratch;
  }

  /// Writes the block of probabilities `values[query * block_size + key]`, which holds zeros. `memory` holds
  /// numbers().
  void run(std::int64_t item, std::int64_t head, std::int64_t query_block, std::int64_t key_block, T* values,
           T* memory) const {
    const std::int64_t length = plan_.sequence_of(item).length;
    const auto tokens = [&](std::int64_t block) {
      return detail::block_tokens(block, block + 1, plan_.block_size, length);
    };
    const Progression queries = tokens(query_block);
    const Progression keys = tokens(key_block);
    const std::int64_t kv_head = head / (plan_.shape.heads / plan_.shape.kv_heads);
    const std::int64_t most = kernel_.tile.max_queries();
    T* const query = memory;
    T* const packed = query + most * head_dim_;
    T* const row_lse = packed + kernel_.key_block * head_dim_;
    T* const scores = row_lse + most;
    std::int64_t query_tokens[largest_tile], query_heads[largest_tile];
    std::fill_n(query_heads, largest_tile, head);
    for (std::int64_t k = 0; k < keys.count; k += kernel_.key_block) {
      const std::int64_t count = (std::min)(kernel_.key_block, keys.count - k);
      kernel_.pack_panels(Rows<const Scalar>{k_.row(item, keys[k], kv_head), k_.strides()[1]}, count,
                          head_dim_, packed);
      for (std::int64_t first = 0; first < queries.count; first += most) {
        const std::int64_t rows = (std::min)(most, queries.count - first);
        const int vectors = kernel_.tile.vectors_for(rows);
        const std::int64_t width = vectors * kernel_.tile.lanes;
        for (std::int64_t lane = 0; lane < width; ++lane) {
          query_tokens[lane] = queries[first + (std::min)(lane, rows - 1)];
          load(item, head, query_tokens[lane], lane < rows, lane, width, query, row_lse);
        }
        kernel_.probabilities(packed, {query, row_lse, vectors},
                              {query_tokens, query_heads, keys.sub(k, k + count), plan_.causal}, head_dim_,
                              scores);
        for (std::int64_t lane = 0; lane < rows; ++lane) {
          T* to = values + (first + lane) * plan_.block_size + k;
          for (std::int64_t i = 0; i < count; ++i) to[i] = scores[i * width + lane];
        }
      }
    }
  }

 private:
  void load(std::int64_t item, std::int64_t head, std::int64_t token, bool filled, std::int64_t lane,
            std::int64_t width, T* query, T* row_lse) const {
    if (!filled) {
      row_lse[lane] = std::numeric_limits<T>::infinity();
      for (std::int64_t d = 0; d < head_dim_; ++d) query[d * width + lane] = T{0};
      return;
    }
    const T factor = static_cast<T>(plan_.scale * std::numbers::log2e);
    const Scalar* row = q_.row(item, token, head);
    row_lse[lane] = *lse_.row(item, head, token) * std::numbers::log2e_v<T>;
    for (std::int64_t d = 0; d < head_dim_; ++d) query[d * width + lane] = static_cast<T>(row[d]) * factor;
  }

  const AttentionPlan& plan_;
  const ProbabilityKernel<Scalar>& kernel_;
  TensorView<const Scalar> q_, k_;
  TensorView<const T> lse_;
  std::int64_t head_dim_;
};

/// Active blocks by item, head, query block and key block.
inline std::vector<BlockCoordinate> active_blocks(const AttentionPlan& plan) {
  std::vector<BlockCoordinate> coordinates;
  if (plan.shape.tokens == 0) return coordinates;
  for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
    const BlockLists& lists = plan.sequence_of(item).blocks;
    for (std::int64_t head = 0; head < plan.shape.heads; ++head) {
      for (std::size_t block = 0; block < lists.count(); ++block) {
        for (const std::int64_t key_block : lists.of(block)) {
          coordinates.push_back({item, head, static_cast<std::int64_t>(block), key_block});
        }
      }
    }
  }
  return coordinates;
}

template <class Scalar>
BlockProbabilities<Scalar> block_probabilities(const AttentionPlan& plan,
                                               const detail::ForwardTensors<Scalar>& tensors,
                                               const ProbabilityExecution<Scalar>& execution,
                                               detail::Block& memory) {
  using T = accumulator_t<Scalar>;
  BlockProbabilities<Scalar> probabilities{plan.block_size, active_blocks(plan), {}};
  const auto count = static_cast<std::int64_t>(probabilities.coordinates.size());
  probabilities.values = Tensor<T>(count, plan.block_size, 1, plan.block_size);
  const BlockProbabilityPass<Scalar> pass(plan, tensors.q, tensors.k, tensors.lse, *execution.kernel);
  const std::int64_t numbers = pass.numbers();
  const auto bytes = static_cast<std::size_t>(numbers * execution.threads) * sizeof(T);
  T* const work = reinterpret_cast<T*>(memory.reserve(bytes));
  detail::parallel_for(count, execution.threads, [&](std::int64_t index, int worker) {
    const BlockCoordinate& at = probabilities.coordinates[static_cast<std::size_t>(index)];
    pass.run(at.item, at.head, at.query_block, at.key_block, &probabilities.values(index, 0, 0, 0),
             work + numbers * worker);
  });
  return probabilities;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
