// The kernels of every instruction set that this compiler can make for this kind of processor. Each is
// compiled from the same text in a namespace and, by the compiler's target pragma, with the instructions of
// its own: a program that was built for any processor has the code for the best ones, too.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/scalar.hpp>
#include <type_traits>
#include <utility>

// 1 where there are kernels for several instruction sets. RING_ATTENTION_PORTABLE leaves them out: then this
// library is what a compiler for another processor makes of it, without any intrinsic. nvcc reads a unit once
// more for each GPU, and has no use for them there.
#if defined(__x86_64__) && !defined(RING_ATTENTION_PORTABLE) && !defined(__CUDA_ARCH__)
#define RING_ATTENTION_X86_TARGETS 1
#include <immintrin.h>

#include <ring_attention/kernel/tile_registers.hpp>
#else
#define RING_ATTENTION_X86_TARGETS 0
#endif

// Register tiles need their short loops unrolled, which g++ leaves undone at -O2.
#if defined(__clang__)
#define RING_ATTENTION_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RING_ATTENTION_UNROLL _Pragma("GCC unroll 16")
#endif

// nvcc passes pragmas on to the host's compiler, and warns of those that it does not know itself.
#if defined(__NVCC__)
#pragma nv_diagnostic push
#pragma nv_diag_suppress 1675
#endif

// A lambda of a kernel is no function of its region: it must become part of one.
#define RING_ATTENTION_TARGET_LAMBDA __attribute__((always_inline))

#if defined(__clang__)
#define RING_ATTENTION_END_OF_TARGET _Pragma("clang attribute pop")
#else
#define RING_ATTENTION_END_OF_TARGET _Pragma("GCC pop_options")
#endif

#define RING_ATTENTION_TARGET generic
#define RING_ATTENTION_TARGET_NAME "generic"
#define RING_ATTENTION_TARGET_BYTES 16
#if defined(__aarch64__)
#define RING_ATTENTION_TARGET_REGISTERS 32
#else
#define RING_ATTENTION_TARGET_REGISTERS 16
#endif
#define RING_ATTENTION_TARGET_F16C 0
#define RING_ATTENTION_TARGET_AVX512 0
#define RING_ATTENTION_TARGET_BF16 0
#include <ring_attention/kernel/code/target.inl>

#if RING_ATTENTION_X86_TARGETS

#define RING_ATTENTION_TARGET avx2
#define RING_ATTENTION_TARGET_NAME "avx2"
#define RING_ATTENTION_TARGET_BYTES 32
#define RING_ATTENTION_TARGET_REGISTERS 16
#define RING_ATTENTION_TARGET_F16C 1
#define RING_ATTENTION_TARGET_AVX512 0
#define RING_ATTENTION_TARGET_BF16 0
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#include <ring_attention/kernel/code/target.inl>
RING_ATTENTION_END_OF_TARGET

#define RING_ATTENTION_TARGET avx512
#define RING_ATTENTION_TARGET_NAME "avx512"
#define RING_ATTENTION_TARGET_BYTES 64
#define RING_ATTENTION_TARGET_REGISTERS 32
#define RING_ATTENTION_TARGET_F16C 1
#define RING_ATTENTION_TARGET_AVX512 1
#define RING_ATTENTION_TARGET_BF16 0
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#include <ring_attention/kernel/code/target.inl>
RING_ATTENTION_END_OF_TARGET

#define RING_ATTENTION_TARGET avx512_bf16
#define RING_ATTENTION_TARGET_NAME "avx512_bf16"
#define RING_ATTENTION_TARGET_BYTES 64
#define RING_ATTENTION_TARGET_REGISTERS 32
#define RING_ATTENTION_TARGET_F16C 1
#define RING_ATTENTION_TARGET_AVX512 1
#define RING_ATTENTION_TARGET_BF16 1
#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#include <ring_attention/kernel/code/target.inl>
RING_ATTENTION_END_OF_TARGET

#endif
#undef RING_ATTENTION_END_OF_TARGET
#undef RING_ATTENTION_TARGET_LAMBDA
#if defined(__NVCC__)
#pragma nv_diagnostic pop
#endif
