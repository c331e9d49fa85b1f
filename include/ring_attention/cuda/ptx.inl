// Instructions of compute capability 8.0 that CUDA C++ has no functions for, each with its chapter of the
// manual "Parallel Thread Execution ISA". For nvcc; tests/emulated_gpu has the same functions for the CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <ring_attention/version.hpp>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace ptx {

/// Shared memory whose size the launch sets, aligned to 128 bytes.
__device__ inline std::byte* launch_memory() {
  extern __shared__ __align__(128) std::byte ring_attention_launch_memory[];
  return ring_attention_launch_memory;
}

/// threadIdx.x, read anew at each call, so that what follows from it takes no registers in between ("Special
/// Registers: %tid").
__device__ inline int thread_number() {
  std::uint32_t number;
  asm volatile("mov.u32 %0, %tid.x;\n" : "=r"(number));
  return static_cast<int>(number);
}

/// The address that the functions below take ("State Spaces, Types, and Variables", shared state space).
__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Begins to copy 16 bytes from global to shared memory, both aligned so, of which those from `bytes` on
/// become 0 and are not read ("Data Movement and Conversion Instructions: cp.async").
__device__ inline void copy_16_bytes(std::uint32_t to, const void* from, std::uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}

/// Makes one group of the copies that this thread began since the last ("... cp.async.commit_group").
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

/// Waits until all but the last `Pending` of this thread's groups have arrived ("... cp.async.wait_group");
/// what other threads copied is there after a barrier that follows.
template <int Pending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

/// Four matrices of 8 x 8 16-bit numbers: lane i names row i % 8 of matrix i / 8, of 16 bytes, and receives
/// of each row l / 4 of its matrix the numbers 2 (l % 4) and the next, l being the lane ("Warp-level matrix
/// load instruction: ldmatrix").
__device__ inline void load_matrices(std::uint32_t (&matrices)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(row)
               : "memory");
}

/// The same, but each matrix transposed.
__device__ inline void load_transposed_matrices(std::uint32_t (&matrices)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(row)
               : "memory");
}

/// c += a * b, of 16 x 16 and 16 x 8 numbers, with sums in float ("Multiply-and-Accumulate Instruction: mma",
/// "Matrix Fragments for mma.m16n8k16 with floating point type"). A lane l has of c the rows l / 4 and
/// l / 4 + 8, in each the columns 2 (l % 4) and the next.
template <class Stored>
__device__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<Stored, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// The same of 16 x 8 and 8 x 8 TF32 numbers: floats of which the last 13 bits do not count ("Matrix
/// Fragments for mma.m16n8k8"). In b a lane l has the rows l % 4 and l % 4 + 4 of column l / 4.
__device__ inline void multiply_add_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two numbers rounded to 16 bits, the first in the low half ("Data Movement and Conversion Instructions:
/// cvt").
template <class Stored>
__device__ std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
  if constexpr (std::is_same_v<Stored, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

/// 2^x with a relative error of 2^-22; 0 where that is subnormal ("Floating Point Instructions: ex2").
__device__ inline float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
  return power;
}

/// ("Data Movement and Conversion Instructions: st", "... ld".)
__device__ inline void store_shared(std::uint32_t to, std::uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(to), "r"(value) : "memory");
}
__device__ inline std::uint32_t load_shared_word(std::uint32_t from) {
  std::uint32_t value;
  asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(value) : "r"(from) : "memory");
  return value;
}
__device__ inline uint4 load_shared(std::uint32_t from) {
  uint4 value;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(from)
               : "memory");
  return value;
}

}  // namespace ptx
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
