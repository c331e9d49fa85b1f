// The kernels for GPUs as the planning of calls sees them.
#pragma once

#include <atomic>
#include <cstdint>
#include <ring_attention/cuda/branch_groups.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// sm80_float: sm80 for float, each of whose products is three of TF32 numbers.
enum class DeviceKernel { generic, sm80, sm80_float };

/// What cuda::set_kernel chose: a DeviceKernel, or -1 for the best one.
RING_ATTENTION_EXPORT inline constinit std::atomic<int> chosen_device_kernel{-1};

/// Rows that a block of `sm80` computes, of numbers of so many bytes: more do not fit the registers of its 4
/// warps.
constexpr int sm80_query_rows(std::int64_t head_dim, int bytes) { return head_dim * bytes <= 256 ? 128 : 64; }
/// Keys that it loads at a time: more do not fit registers, or the shared memory that every GPU of 8.0 and
/// newer has.
constexpr int sm80_key_rows(std::int64_t head_dim, int bytes) {
  if (bytes == 4) return 32;
  return head_dim <= 64 ? 128 : head_dim <= 128 ? 64 : 32;
}
constexpr std::int64_t sm80_largest_head_dim(int bytes) { return bytes == 2 ? 256 : 128; }

/// The sizes of items that a kernel is given.
inline WorkSizes work_sizes(DeviceKernel kernel, std::int64_t head_dim) {
  WorkSizes sizes;
  if (kernel != DeviceKernel::generic) {
    const int bytes = kernel == DeviceKernel::sm80_float ? 4 : 2;
    sizes.query_rows = sm80_query_rows(head_dim, bytes);
    sizes.key_rows = sm80_key_rows(head_dim, bytes);
  }
  return sizes;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
