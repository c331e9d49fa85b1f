// What kernels use of CUDA, for a C++ compiler: in place of the toolkit's header of this name. Threads are
// run by tests/emulated_gpu/threads.hpp, one at a time from one exchange of data to the next.
#pragma once

#include <bit>
#include <cmath>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)
#define __grid_constant__

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

// Kernels move rows of any type as vectors.
struct [[gnu::may_alias]] alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct [[gnu::may_alias]] alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct EmulatedIndex {
  unsigned x = 0;
};
inline EmulatedIndex threadIdx, blockIdx;

namespace test {

/// Let the other threads of the warp or block come to the same place.
void wait_for_warp();
void wait_for_block();

/// One place for each thread of a block, by turns of two, so that nothing is overwritten that others still
/// read.
template <class T>
class Exchange {
 public:
  /// Gives `mine` to the warp; returns what its lanes gave.
  const T* give(const T& mine) {
    const unsigned thread = threadIdx.x;
    T* const turn = given_[++turns_[thread] % 2];
    turn[thread] = mine;
    wait_for_warp();
    return turn + thread / 32 * 32;
  }

 private:
  static constexpr unsigned most_threads = 1024;

  T given_[2][most_threads];
  unsigned turns_[most_threads] = {};
};
inline Exchange<double> exchanged_numbers;  // which hold every float exactly

}  // namespace test

template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return static_cast<T>(test::exchanged_numbers.give(static_cast<double>(x))[lane]);
}
template <class T>
T __shfl_xor_sync(unsigned lanes, T x, int mask) {
  return __shfl_sync(lanes, x, static_cast<int>(threadIdx.x % 32) ^ mask);
}
inline int __any_sync(unsigned, bool holds) {
  const double* const lanes = test::exchanged_numbers.give(holds ? 1 : 0);
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes[lane] != 0) return 1;
  }
  return 0;
}
inline void __syncwarp() { test::wait_for_warp(); }
inline void __syncthreads() { test::wait_for_block(); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
