// Copies of tensors on a GPU, gaps included, between zones that nobody may write.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/tensor.hpp>
#include <type_traits>
#include <vector>

namespace test {

namespace ra = ring_attention;

inline void must(cudaError_t code) { ra::detail::throw_if_failed(code, "test"); }

/// A copy on the device of all memory between the first and the last element of a view, and before and after
/// it a zone of NaN, which poisons what is computed from it.
template <class T>
class DeviceCopy {
 public:
  explicit DeviceCopy(const ra::TensorView<T>& host) : host_(host) {
    if (host.size() == 0) return;
    std::int64_t low = 0, high = host.shape()[3];
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const std::int64_t reach = (host.shape()[axis] - 1) * host.strides()[axis];
      low += (std::min)(reach, std::int64_t{0});
      high += (std::max)(reach, std::int64_t{0});
    }
    first_ = host.data() + low;
    bytes_ = static_cast<std::size_t>(high - low) * sizeof(T);
    must(cudaMalloc(&allocation_, bytes_ + 2 * zone));
    must(cudaMemset(allocation_, 0xff, bytes_ + 2 * zone));
    memory_ = static_cast<std::byte*>(allocation_) + zone;
    must(cudaMemcpy(memory_, first_, bytes_, cudaMemcpyHostToDevice));
    data_ = reinterpret_cast<T*>(memory_) - low;
  }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  ~DeviceCopy() { static_cast<void>(cudaFree(allocation_)); }

  ra::cuda::View<T> view() const { return {data_, host_.shape(), host_.strides()}; }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> copy(bytes_);
    if (bytes_ > 0) must(cudaMemcpy(copy.data(), memory_, bytes_, cudaMemcpyDeviceToHost));
    return copy;
  }
  /// Whether nothing was written before or after the memory.
  bool zones_untouched() const {
    if (bytes_ == 0) return true;
    std::vector<std::byte> copy(bytes_ + 2 * zone);
    must(cudaMemcpy(copy.data(), allocation_, copy.size(), cudaMemcpyDeviceToHost));
    const auto untouched = [](std::byte value) { return value == std::byte{0xff}; };
    const auto end = static_cast<std::ptrdiff_t>(zone + bytes_);
    return std::all_of(copy.begin(), copy.begin() + static_cast<std::ptrdiff_t>(zone), untouched) &&
           std::all_of(copy.begin() + end, copy.end(), untouched);
  }
  void poison() const {
    if (bytes_ > 0) must(cudaMemset(memory_, 0xff, bytes_));
  }
  void copy_back() const {
    if constexpr (!std::is_const_v<T>) {
      if (bytes_ > 0) must(cudaMemcpy(first_, memory_, bytes_, cudaMemcpyDeviceToHost));
    }
  }

 private:
  static constexpr std::size_t zone = 4096;

  ra::TensorView<T> host_;
  T* first_ = nullptr;
  T* data_ = nullptr;
  void* allocation_ = nullptr;
  std::byte* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace test
