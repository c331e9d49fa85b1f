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

/// Lets a thread do for a scope what would break captures of other threads, or of its own on other streams,
/// that ask to be broken by it: it has nothing to do with what they capture.
class RelaxedCapture {
 public:
  RelaxedCapture() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;
  ~RelaxedCapture() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
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

/// A stream of the library's own on the current device.
class OwnStream {
 public:
  OwnStream() {
    throw_if_failed(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() { static_cast<void>(cudaStreamDestroy(stream_)); }

  cudaStream_t get() const { return stream_; }
  void synchronize() const { throw_if_failed(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Memory that belongs to no stream of the caller's. Whoever drops it has seen that all work on it is done;
/// freeing it waits for nothing else.
class SharedDeviceMemory {
 public:
  SharedDeviceMemory(std::size_t bytes, int device) : device_(device), memory_(bytes, stream_.get()) {}
  SharedDeviceMemory(const SharedDeviceMemory&) = delete;
  SharedDeviceMemory& operator=(const SharedDeviceMemory&) = delete;
  ~SharedDeviceMemory() {
    int before = 0;
    if (cudaGetDevice(&before) == cudaSuccess && before != device_) {
      static_cast<void>(cudaSetDevice(device_));
      memory_ = DeviceMemory();
      static_cast<void>(cudaSetDevice(before));
    }
  }

  const OwnStream& stream() const { return stream_; }
  std::byte* data() const { return memory_.data(); }

 private:
  int device_;
  OwnStream stream_;
  DeviceMemory memory_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
