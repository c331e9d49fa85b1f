// Attention classes that compute with a kernel of the test's own instead of the process's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <ring_attention/attention/interface.hpp>
#include <ring_attention/engine/block_forward.hpp>
#include <ring_attention/engine/block_plan.hpp>
#include <ring_attention/engine/ring_forward.hpp>
#include <ring_attention/engine/whole.hpp>
#include <ring_attention/engine/whole_backward.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/ring/thread_communicator.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace test {

namespace ra = ring_attention;

/// As RingDilatedAttentionV2; `on_threads`: forward as TrueRingDilatedAttention.
template <class Scalar>
class KernelAttention
    : public ra::WholeTensorAttention<KernelAttention<Scalar>, Scalar, ra::use_pattern_cache> {
  using Base = ra::WholeTensorAttention<KernelAttention, Scalar, ra::use_pattern_cache>;
  friend Base;

 public:
  KernelAttention(ra::AttentionConfig config, const ra::engine::TileKernel<Scalar>& kernel,
                  bool on_threads = false)
      : Base(std::move(config), {}), kernel_(&kernel), on_threads_(on_threads) {}

 private:
  void run_forward(const ra::CallShape& shape, const ra::engine::ForwardTensors<Scalar>& tensors,
                   const ra::ForwardOptions& options) const {
    if (shape.batch == 0 || shape.tokens == 0) return;
    const ra::AttentionPlan plan = this->make_plan(shape, options.lengths);
    if (on_threads_) return run_members(plan, tensors);
    const int threads = ra::num_threads();
    const ra::detail::SequenceRuns shards(plan.shape.tokens, plan.ring_size);
    ra::engine::WholeWorkspace workspace;
    ra::engine::forward_whole(
        plan, tensors, *kernel_,
        ra::engine::fast_forward_sizes<ra::accumulator_t<Scalar>>(plan, shards.run_length, threads), threads,
        workspace);
  }

  void run_members(const ra::AttentionPlan& plan, const ra::engine::ForwardTensors<Scalar>& tensors) const {
    const int size = static_cast<int>(this->config().ring_size);
    ra::ThreadRing ring(size, ra::CommunicatorOptions{});
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        ra::ThreadCommunicator communicator(ring, rank);
        const ra::engine::RingPlace place{&plan, this->config().shard_layout, true, 1};
        ra::engine::forward_ring(place, communicator, tensors, *kernel_);
      });
    }
  }

  void run_backward(const ra::CallShape& shape, const ra::engine::BackwardTensors<Scalar>& tensors,
                    const ra::engine::GradientTensors<Scalar>& grads,
                    const ra::BackwardOptions& options) const {
    if (shape.batch == 0 || shape.tokens == 0) return;
    const ra::AttentionPlan plan = this->make_plan(shape, options.lengths);
    ra::engine::WholeBackward<Scalar>(plan, tensors, *kernel_, ra::engine::fast_backward_sizes<Scalar>(plan),
                                      ra::num_threads())
        .run(grads);
  }

  const ra::engine::TileKernel<Scalar>* kernel_;
  bool on_threads_;
};

/// As forward of BlockSparseRingDilatedAttention.
template <class Scalar>
class KernelBlockAttention
    : public ra::WholeTensorAttention<KernelBlockAttention<Scalar>, Scalar, ra::use_pattern_cache> {
  using Base = ra::WholeTensorAttention<KernelBlockAttention, Scalar, ra::use_pattern_cache>;
  friend Base;

 public:
  KernelBlockAttention(ra::AttentionConfig config, ra::BlockSparseConfig sparse,
                       const ra::engine::TileKernel<Scalar>& kernel)
      : Base(std::move(config), {}), sparse_(std::move(sparse)), kernel_(&kernel) {}

 private:
  void run_forward(const ra::CallShape& shape, const ra::engine::ForwardTensors<Scalar>& tensors,
                   const ra::ForwardOptions& options) const {
    if (shape.batch == 0 || shape.tokens == 0) return;
    const ra::AttentionPlan plan =
        ra::detail::make_block_plan(this->config(), sparse_, shape, options.lengths,
                                    [this](const ra::PatternKey& key) { return this->apply_dilation(key); });
    ra::engine::BlockForward<Scalar>(plan, tensors, *kernel_, ra::num_threads()).run();
  }

  ra::BlockSparseConfig sparse_;
  const ra::engine::TileKernel<Scalar>* kernel_;
};

}  // namespace test
