// Device memory that a stream owns, and the device that it lies on.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <new>
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
  /// For destructors: where that fails, nothing can be done.
  DeviceScope(int device, std::nothrow_t) noexcept {
    changed_ =
        cudaGetDevice(&before_) == cudaSuccess && before_ != device && cudaSetDevice(device) == cudaSuccess;
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
    if (bytes == 0) return;
    throw_if_failed(cudaGetDevice(&device_), "cudaGetDevice");
    throw_if_failed(cudaMallocAsync(&data_, bytes, stream), "cudaMallocAsync");
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        stream_(other.stream_),
        device_(other.device_) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(stream_, other.stream_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ == nullptr) return;
    const RelaxedCapture relaxed;
    // Each device has default streams of its own.
    const DeviceScope scope(device_, std::nothrow);
    static_cast<void>(cudaFreeAsync(data_, stream_));
  }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const { return bytes_; }
  /// Frees it in the order of another stream of the device, which has seen that it was allocated.
  void pass_to(cudaStream_t stream) { stream_ = stream; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  cudaStream_t stream_ = nullptr;
  int device_ = 0;
};

/// A stream of the library's own on the current device.
class OwnStream {
 public:
  OwnStream() {
    throw_if_failed(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() {
    const RelaxedCapture relaxed;
    static_cast<void>(cudaStreamDestroy(stream_));
  }

  cudaStream_t get() const { return stream_; }
  void synchronize() const { throw_if_failed(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Memory that belongs to `reader`, a stream of the current device, with a copy of `bytes` of the host's. The
/// copy is made on `uploads` and complete when the call returns: the runtime waits for the stream before it
/// copies memory that is not pinned, and what `reader` was given may take long.
inline DeviceMemory upload(const void* source, std::size_t bytes, const OwnStream& uploads,
                           cudaStream_t reader) {
  const RelaxedCapture relaxed;
  DeviceMemory memory(bytes, uploads.get());
  if (bytes > 0) {
    throw_if_failed(cudaMemcpyAsync(memory.data(), source, bytes, cudaMemcpyHostToDevice, uploads.get()),
                    "cudaMemcpyAsync");
    uploads.synchronize();
  }
  memory.pass_to(reader);
  return memory;
}

/// Memory that belongs to no stream of the caller's. Whoever drops it has seen that all work on it is done;
/// freeing it waits for nothing else.
class SharedDeviceMemory {
 public:
  /// On the current device.
  explicit SharedDeviceMemory(std::size_t bytes) : memory_(bytes, stream_.get()) {}

  const OwnStream& stream() const { return stream_; }
  std::byte* data() const { return memory_.data(); }

 private:
  OwnStream stream_;
  DeviceMemory memory_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
