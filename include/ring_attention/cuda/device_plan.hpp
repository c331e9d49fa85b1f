// DevicePlan: the plan of a call in device memory, for every call of the same kind that follows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
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
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// What decides a plan.
struct PlanKey {
  AttentionConfig config;
  std::optional<BlockSparseConfig> sparse;
  CallShape shape;
  std::vector<std::int64_t> lengths;

  friend bool operator==(const PlanKey&, const PlanKey&) = default;
};

/// A work list and block lists on a device.
class DevicePlan {
 public:
  /// Copies what a plan says into memory of the stream's pool; the plan need not live on. Throws cuda::Error.
  DevicePlan(PlanKey key, const AttentionPlan& plan, cudaStream_t stream)
      : key_(std::move(key)),
        scale_(plan.scale),
        causal_(plan.causal),
        block_size_(static_cast<std::int32_t>(plan.block_size)) {
    const WorkList list = make_work_list(plan);
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

  const PlanKey& key() const { return key_; }
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

  PlanKey key_;
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
