// Copies of tensors on a GPU, gaps included. For nvcc.
#pragma once

#include <cuda_runtime.h>

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

/// A copy on the device of all memory between the first and the last element of a view.
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
    must(cudaMalloc(&memory_, bytes_));
    must(cudaMemcpy(memory_, first_, bytes_, cudaMemcpyHostToDevice));
    data_ = static_cast<T*>(memory_) - low;
  }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  ~DeviceCopy() { static_cast<void>(cudaFree(memory_)); }

  ra::cuda::View<T> view() const { return {data_, host_.shape(), host_.strides()}; }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> copy(bytes_);
    if (bytes_ > 0) must(cudaMemcpy(copy.data(), memory_, bytes_, cudaMemcpyDeviceToHost));
    return copy;
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
  ra::TensorView<T> host_;
  T* first_ = nullptr;
  T* data_ = nullptr;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace test
