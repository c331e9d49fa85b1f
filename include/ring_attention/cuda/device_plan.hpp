// DevicePlan: the plan of a call in device memory, for every call of the same kind that follows.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <ring_attention/config.hpp>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/make_work_list.hpp>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/device_copies.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
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
  DeviceKernel kernel;
};

/// The lists of a block pattern on a device: the numbers of DilatedIndices::branch_begins, then its rows.
/// Waits for the copy, on a stream of its own.
inline DeviceCopy copy_to_device(const DilatedIndices& pattern, int device) {
  const std::span<const std::int64_t> begins = pattern.branch_begins(), rows = pattern.all_rows();
  const std::size_t bytes = begins.size_bytes() + rows.size_bytes();
  const RelaxedCapture relaxed;
  const DeviceScope current(device);
  const auto memory = std::make_shared<const SharedDeviceMemory>(bytes);
  const auto place = [&](std::size_t at, std::span<const std::int64_t> numbers) {
    if (numbers.empty()) return;
    throw_if_failed(cudaMemcpyAsync(memory->data() + at, numbers.data(), numbers.size_bytes(),
                                    cudaMemcpyHostToDevice, memory->stream().get()),
                    "cudaMemcpyAsync");
  };
  place(0, begins);
  place(begins.size_bytes(), rows);
  // Streams of any context may read it from now on.
  memory->stream().synchronize();
  return {std::shared_ptr<const void>(memory, memory->data()), bytes};
}

/// A work list, valid lengths and what refers to block lists on a device.
class DevicePlan {
 public:
  /// Copies what a plan says into memory of the stream's, by `uploads`; request and plan need not live on.
  /// Block lists have one copy on the device, which belongs to their pattern and which the plan holds. Throws
  /// cuda::Error, and std::invalid_argument for extents that do not fit a work list.
  DevicePlan(const PlanRequest& request, const PlannedCall& call, int device, const OwnStream& uploads,
             cudaStream_t stream)
      : config_(request.config),
        shape_(request.shape),
        lengths_(request.lengths),
        row_bytes_(request.carried_row_bytes),
        limit_(request.workspace_limit),
        kernel_(request.kernel),
        scale_(call.plan.scale),
        causal_(call.plan.causal),
        block_size_(static_cast<std::int32_t>(call.plan.block_size)) {
    if (request.sparse != nullptr) sparse_ = *request.sparse;
    const AttentionPlan& plan = call.plan;
    const WorkList list = fitting_list(plan);
    carried_rows_ = list.carried_rows();
    lists_at_ = list.bytes() + padding_after(list.bytes());
    const std::vector<ListPointers> lists = place_lists(call, device);
    lengths_at_ = lists_at_ + lists.size() * sizeof(ListPointers);
    std::vector<std::byte> image(lengths_at_ + plan.sequence_of_item.size() * sizeof(std::int64_t));
    if (list.bytes() > 0) std::memcpy(image.data(), list.data(), list.bytes());
    if (!lists.empty()) {
      std::memcpy(image.data() + lists_at_, lists.data(), lists.size() * sizeof(ListPointers));
    }
    for (std::size_t i = 0; i < plan.sequence_of_item.size(); ++i) {
      const std::int64_t length = plan.sequences[plan.sequence_of_item[i]].length;
      std::memcpy(image.data() + lengths_at_ + i * sizeof length, &length, sizeof length);
    }
    memory_ = upload(image.data(), image.size(), uploads, stream);
    work_ = list.at(memory_.data());
  }

  bool serves(const PlanRequest& request) const {
    return config_ == request.config && sparse_.has_value() == (request.sparse != nullptr) &&
           (!sparse_ || *sparse_ == *request.sparse) && shape_ == request.shape &&
           lengths_ == request.lengths && row_bytes_ == request.carried_row_bytes &&
           limit_ == request.workspace_limit && kernel_ == request.kernel;
  }
  const WorkView& work() const { return work_; }
  /// The one that its items have the sizes for; any kernel computes the same result from them.
  DeviceKernel kernel() const { return kernel_; }
  const ListPointers* lists() const {
    return reinterpret_cast<const ListPointers*>(memory_.data() + lists_at_);
  }
  /// Valid tokens by batch item.
  const std::int64_t* lengths() const {
    return reinterpret_cast<const std::int64_t*>(memory_.data() + lengths_at_);
  }
  /// Bytes of workspace: states that items leave for others.
  std::size_t workspace_bytes() const { return static_cast<std::size_t>(carried_rows_) * row_bytes_; }
  std::int64_t carried_rows() const { return carried_rows_; }
  /// Frees its memory in the order of another stream; nothing uses it any more.
  void pass_to(cudaStream_t stream) { memory_.pass_to(stream); }
  /// Block lists that it reads, which must be held until its last call is complete.
  std::vector<DeviceCopy>& copies() { return copies_; }
  double scale() const { return scale_; }
  bool causal() const { return causal_; }
  std::int32_t block_size() const { return block_size_; }

 private:
  static std::size_t padding_after(std::size_t bytes) {
    constexpr std::size_t alignment = alignof(ListPointers);
    return (alignment - bytes % alignment) % alignment;
  }

  /// Finds or makes the device's copy of every block list; by sequence where they lie. Sequences of dilated
  /// plans have none.
  std::vector<ListPointers> place_lists(const PlannedCall& call, int device) {
    std::vector<ListPointers> lists;
    for (const SequencePlan& sequence : call.plan.sequences) {
      const auto pattern = std::find_if(call.patterns.begin(), call.patterns.end(), [&](const auto& known) {
        return known->branch_begins().data() == sequence.blocks.begin.data();
      });
      if (pattern == call.patterns.end()) continue;
      const DilatedIndices& listed = **pattern;
      copies_.push_back(
          listed.device_copies().find_or_make(device, [&] { return copy_to_device(listed, device); }));
      const auto* const numbers = static_cast<const std::int64_t*>(copies_.back().memory.get());
      lists.push_back({numbers, numbers + listed.branch_begins().size()});
    }
    return lists;
  }

  /// Within the limit: without groups of branches, no state is carried.
  WorkList fitting_list(const AttentionPlan& plan) const {
    WorkSizes sizes = work_sizes(kernel_, shape_.head_dim);
    WorkList list = make_work_list(plan, sizes);
    if (static_cast<std::size_t>(list.carried_rows()) <= limit_ / row_bytes_) return list;
    sizes.launch_cost = std::numeric_limits<double>::infinity();
    return make_work_list(plan, sizes);
  }

  AttentionConfig config_;
  std::optional<BlockSparseConfig> sparse_;
  CallShape shape_;
  std::vector<std::int64_t> lengths_;
  std::size_t row_bytes_, limit_;
  DeviceKernel kernel_;
  DeviceMemory memory_;
  WorkView work_{};
  std::vector<DeviceCopy> copies_;
  std::size_t lists_at_ = 0, lengths_at_ = 0;
  std::int64_t carried_rows_ = 0;
  double scale_;
  bool causal_;
  std::int32_t block_size_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
