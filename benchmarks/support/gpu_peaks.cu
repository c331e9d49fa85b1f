#include <cuda_runtime.h>

#include <cstdint>
#include <ring_attention/cuda/error.hpp>

#include "gpu_peaks.hpp"

namespace benchmarks::gpu {

namespace {

using ring_attention::detail::throw_if_failed;

constexpr int threads = 512, warps = threads / 32, blocks_of_multiprocessor = 2;
// Independent chains of dependent operations of each warp: with 8 warps for each scheduler enough to hide the
// latency.
constexpr int chains = 8;
// Steps of every chain in a round: the loop's own instructions take turns with the others.
constexpr int steps = 8;

int count_blocks() {
  int device = 0, multiprocessors = 0;
  throw_if_failed(cudaGetDevice(&device), "cudaGetDevice");
  throw_if_failed(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
                  "cudaDeviceGetAttribute");
  return blocks_of_multiprocessor * multiprocessors;
}

/// Waits for the kernel that was launched last.
void finish() {
  throw_if_failed(cudaGetLastError(), "kernel launch");
  throw_if_failed(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

/// Sums that nobody reads would not be computed. They are never NaN.
template <class T>
__device__ void keep(T sum, T* never) {
  if (sum != sum) *never = sum;
}

enum class Format { bfloat16, half, tf32 };

/// Two numbers (of TF32 one) between 0.5 and 1 of either sign, which differ from lane to lane: products of
/// equal numbers take less power, and the clock would be higher than it is in attention.
template <Format format>
__device__ std::uint32_t make_pair(std::uint32_t seed) {
  std::uint32_t bits = (seed + 1) * 0x9e3779b9u;
  bits ^= bits >> 15;
  bits *= 0x85ebca6bu;
  bits ^= bits >> 13;
  if (format == Format::tf32) return 0x3f000000u | (bits & 0x807fffffu);
  return format == Format::bfloat16 ? 0x3f003f00u | (bits & 0x807f807fu) : 0x38003800u | (bits & 0x83ff83ffu);
}

/// d += a b. PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", and "... mma.m16n8k8".
template <Format format>
__device__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  if constexpr (format == Format::bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (format == Format::tf32) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

template <Format format>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor)
    multiply_matrices(std::int64_t rounds, float* never) {
  std::uint32_t a[4], b[2];
  for (std::uint32_t i = 0; i < 4; ++i) a[i] = make_pair<format>(8 * threadIdx.x + i);
  for (std::uint32_t i = 0; i < 2; ++i) b[i] = make_pair<format>(8 * threadIdx.x + 4 + i);
  float sums[chains][4] = {};
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < steps * chains; ++i) multiply<format>(sums[i % chains], a, b);
  }
  float sum = 0;
  for (int chain = 0; chain < chains; ++chain) {
    for (int i = 0; i < 4; ++i) sum += sums[chain][i];
  }
  keep(sum, never);
}

/// x -> x * factor + term stays near 1; arguments, because the compiler would merge chains of known numbers.
template <class T>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor)
    multiply_add(std::int64_t rounds, T factor, T term, T* never) {
  T sums[chains];
  for (int chain = 0; chain < chains; ++chain) sums[chain] = T(threadIdx.x + chain) * term;
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < steps * chains; ++i) sums[i % chains] = sums[i % chains] * factor + term;
  }
  T sum = 0;
  for (int chain = 0; chain < chains; ++chain) sum += sums[chain];
  keep(sum, never);
}

}  // namespace

void bfloat16_products(std::int64_t rounds) {
  multiply_matrices<Format::bfloat16><<<count_blocks(), threads>>>(rounds, nullptr);
  finish();
}

void half_products(std::int64_t rounds) {
  multiply_matrices<Format::half><<<count_blocks(), threads>>>(rounds, nullptr);
  finish();
}

void tf32_products(std::int64_t rounds) {
  multiply_matrices<Format::tf32><<<count_blocks(), threads>>>(rounds, nullptr);
  finish();
}

double operations_of_products() { return 2.0 * 16 * 8 * 16 * steps * chains * warps * count_blocks(); }

void float_fma(std::int64_t rounds) {
  multiply_add<float><<<count_blocks(), threads>>>(rounds, 0.99f, 0.01f, nullptr);
  finish();
}

void double_fma(std::int64_t rounds) {
  multiply_add<double><<<count_blocks(), threads>>>(rounds, 0.99, 0.01, nullptr);
  finish();
}

double operations_of_fma() { return 2.0 * steps * chains * threads * count_blocks(); }

}  // namespace benchmarks::gpu
