// What kernels use of CUDA, for a C++ compiler: in place of the toolkit's header of this name. Lanes of a
// warp are run by tests/emulated_gpu/warps.hpp, one at a time from one exchange of data to the next.
#pragma once

#include <bit>
#include <cmath>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // warps run one after the other, and share nothing else
#define __launch_bounds__(threads)

using cudaError_t = int;
using cudaStream_t = void*;
inline constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2;
inline const char* cudaGetErrorName(cudaError_t) { return ""; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct dim3 {
  explicit dim3(unsigned size) : x(size) {}
  unsigned x;
};
/// Kernels are called directly; nothing is queued.
inline cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, unsigned, cudaStream_t) { return 1; }

struct EmulatedIndex {
  unsigned x = 0;
};
inline EmulatedIndex threadIdx, blockIdx;

namespace test {

/// Lets the other lanes of the warp come to the same place.
void wait_for_lanes();
inline double exchanged[32];  // holds every float exactly

}  // namespace test

template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  test::exchanged[threadIdx.x % 32] = static_cast<double>(x);
  test::wait_for_lanes();
  const T other = static_cast<T>(test::exchanged[lane]);
  test::wait_for_lanes();
  return other;
}
template <class T>
T __shfl_xor_sync(unsigned lanes, T x, int mask) {
  return __shfl_sync(lanes, x, static_cast<int>(threadIdx.x % 32) ^ mask);
}
inline void __syncwarp() { test::wait_for_lanes(); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
