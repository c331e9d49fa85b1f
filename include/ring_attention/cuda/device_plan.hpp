// DevicePlan: the plan of a call in device memory, for every call of the same kind that follows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <ring_attention/config.hpp>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/make_work_list.hpp>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// What decides the plan of a call. Refers to the caller's, so that asking for a plan allocates nothing.
struct PlanRequest {
  const AttentionConfig& config;
  const BlockSparseConfig* sparse;  ///< null: dilated
  const CallShape& shape;
  const std::vector<std::int64_t>& lengths;
  std::size_t carried_row_bytes;  ///< of a row's state that items leave for others
  std::size_t workspace_limit;    ///< for all such rows
};

/// A work list and block lists on a device.
class DevicePlan {
 public:
  /// Copies what a plan says into memory of the stream's pool; request and plan need not live on. Throws
  /// cuda::Error, and std::invalid_argument for extents that do not fit a work list.
  DevicePlan(const PlanRequest& request, const AttentionPlan& plan, cudaStream_t stream)
      : config_(request.config),
        shape_(request.shape),
        lengths_(request.lengths),
        row_bytes_(request.carried_row_bytes),
        limit_(request.workspace_limit),
        scale_(plan.scale),
        causal_(plan.causal),
        block_size_(static_cast<std::int32_t>(plan.block_size)) {
    if (request.sparse != nullptr) sparse_ = *request.sparse;
    const WorkList list = fitting_list(plan);
    carried_rows_ = list.carried_rows();
    lists_at_ = list.bytes() + padding_after(list.bytes());
    std::size_t bytes = lists_at_ + plan.sequences.size() * sizeof(ListPointers);
    for (const SequencePlan& sequence : plan.sequences) {
      bytes += sequence.blocks.begin.size_bytes() + sequence.blocks.blocks.size_bytes();
    }
    memory_ = DeviceMemory(bytes, stream);
    work_ = list.at(memory_.data());
    if (bytes == 0) return;

    std::vector<std::byte> image(bytes);
    std::memcpy(image.data(), list.data(), list.bytes());
    std::size_t numbers_at = lists_at_ + plan.sequences.size() * sizeof(ListPointers);
    const auto place = [&](std::span<const std::int64_t> numbers) {
      if (!numbers.empty()) std::memcpy(image.data() + numbers_at, numbers.data(), numbers.size_bytes());
      const auto* const on_device = reinterpret_cast<const std::int64_t*>(memory_.data() + numbers_at);
      numbers_at += numbers.size_bytes();
      return on_device;
    };
    for (std::size_t i = 0; i < plan.sequences.size(); ++i) {
      const BlockLists& blocks = plan.sequences[i].blocks;
      const ListPointers pointers{place(blocks.begin), place(blocks.blocks)};
      std::memcpy(image.data() + lists_at_ + i * sizeof pointers, &pointers, sizeof pointers);
    }
    // Of pageable memory: the runtime has read it when the call returns.
    throw_if_failed(cudaMemcpyAsync(memory_.data(), image.data(), bytes, cudaMemcpyHostToDevice, stream),
                    "cudaMemcpyAsync");
  }

  bool serves(const PlanRequest& request) const {
    return config_ == request.config && sparse_.has_value() == (request.sparse != nullptr) &&
           (!sparse_ || *sparse_ == *request.sparse) && shape_ == request.shape &&
           lengths_ == request.lengths && row_bytes_ == request.carried_row_bytes &&
           limit_ == request.workspace_limit;
  }
  const WorkView& work() const { return work_; }
  const ListPointers* lists() const {
    return reinterpret_cast<const ListPointers*>(memory_.data() + lists_at_);
  }
  std::int64_t carried_rows() const { return carried_rows_; }
  double scale() const { return scale_; }
  bool causal() const { return causal_; }
  std::int32_t block_size() const { return block_size_; }

 private:
  static std::size_t padding_after(std::size_t bytes) {
    constexpr std::size_t alignment = alignof(ListPointers);
    return (alignment - bytes % alignment) % alignment;
  }

  /// Within the limit: without groups of branches, no state is carried.
  WorkList fitting_list(const AttentionPlan& plan) const {
    WorkList list = make_work_list(plan);
    if (static_cast<std::size_t>(list.carried_rows()) <= limit_ / row_bytes_) return list;
    WorkSizes one_group;
    one_group.launch_cost = std::numeric_limits<double>::infinity();
    return make_work_list(plan, one_group);
  }

  AttentionConfig config_;
  std::optional<BlockSparseConfig> sparse_;
  CallShape shape_;
  std::vector<std::int64_t> lengths_;
  std::size_t row_bytes_, limit_;
  DeviceMemory memory_;
  WorkView work_{};
  std::size_t lists_at_ = 0;
  std::int64_t carried_rows_ = 0;
  double scale_;
  bool causal_;
  std::int32_t block_size_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
