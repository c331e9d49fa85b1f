// The kernels for GPUs as the planning of calls sees them.
#pragma once

#include <atomic>
#include <cstdint>
#include <ring_attention/cuda/branch_groups.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

enum class DeviceKernel { generic, sm80 };

/// What cuda::set_kernel chose: a DeviceKernel, or -1 for the best one.
inline std::atomic<int> chosen_device_kernel{-1};

/// Rows that a block of `sm80` computes: more do not fit the registers of its 4 warps.
constexpr int sm80_query_rows(std::int64_t head_dim) { return head_dim <= 128 ? 128 : 64; }
/// Keys that it loads at a time: more do not fit the shared memory that every GPU of 8.0 and newer has.
constexpr int sm80_key_rows(std::int64_t head_dim) { return head_dim <= 128 ? 64 : 32; }

/// The sizes of items that a kernel is given.
inline WorkSizes work_sizes(DeviceKernel kernel, std::int64_t head_dim) {
  WorkSizes sizes;
  if (kernel == DeviceKernel::sm80) {
    sizes.query_rows = sm80_query_rows(head_dim);
    sizes.key_rows = sm80_key_rows(head_dim);
  }
  return sizes;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
