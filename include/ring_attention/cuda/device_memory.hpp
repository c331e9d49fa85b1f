// Device memory that a stream owns, and the device that it lies on.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/version.hpp>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Makes a device the current one for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    throw_if_failed(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;
    throw_if_failed(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

/// Memory of the pool of a stream's device. It is freed in the stream's order: what was queued before the
/// destructor ran may still use it.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// Throws cuda::OutOfMemory. The stream must not be capturing.
  DeviceMemory(std::size_t bytes, cudaStream_t stream) : bytes_(bytes), stream_(stream) {
    if (bytes > 0) throw_if_failed(cudaMallocAsync(&data_, bytes, stream), "cudaMallocAsync");
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        stream_(other.stream_) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) static_cast<void>(cudaFreeAsync(data_, stream_));
  }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
