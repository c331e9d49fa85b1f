// Version, and the two inline namespaces that keep incompatible code apart at link time.
#pragma once

#include <ring_attention/requirements.hpp>

#define RING_ATTENTION_VERSION_MAJOR 0
#define RING_ATTENTION_VERSION_MINOR 2
#define RING_ATTENTION_VERSION_PATCH 0

/// Data types that cross translation units (tensors, configuration, patterns) live in this namespace.
#define RING_ATTENTION_NAMESPACE v0_2

/// Code whose machine instructions depend on compiler flags lives in this one: a unit built for AVX-512 and a
/// unit built for plain x86-64 then never share a function, whichever copy the linker keeps. Nor does a unit
/// with RING_ATTENTION_PORTABLE, which knows fewer kernels.
#if defined(RING_ATTENTION_COMPILED)
/// Units that use the compiled library share its code, whatever their flags; what they compile themselves,
/// the attention classes, is no kernel, but one copy of it serves all units, too: in a program that chooses
/// units by the processor at run time, compile those that call this library with the same flags.
#define RING_ATTENTION_CODE_FOR(INSTRUCTIONS) v0_2_compiled
#elif defined(RING_ATTENTION_PORTABLE)
#define RING_ATTENTION_CODE_FOR(INSTRUCTIONS) v0_2_portable_##INSTRUCTIONS
#else
#define RING_ATTENTION_CODE_FOR(INSTRUCTIONS) v0_2_##INSTRUCTIONS
#endif
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define RING_ATTENTION_HOST_NAMESPACE RING_ATTENTION_CODE_FOR(avx512)
#elif defined(__AVX2__) && defined(__FMA__)
#define RING_ATTENTION_HOST_NAMESPACE RING_ATTENTION_CODE_FOR(avx2)
#elif defined(__AVX__)
#define RING_ATTENTION_HOST_NAMESPACE RING_ATTENTION_CODE_FOR(avx)
#else
#define RING_ATTENTION_HOST_NAMESPACE RING_ATTENTION_CODE_FOR(generic)
#endif
#if defined(__CUDA_ARCH_LIST__) && !defined(RING_ATTENTION_COMPILED)
/// nvcc's units carry kernels for the GPUs that its options name, in a namespace that names them, too, as in
/// v0_2_avx2_sm800900: otherwise the one host function that the linker keeps would launch those of another
/// unit, which the GPU at hand may not run. The list has at most 16 entries, of which nvcc 13 knows 12.
#define RING_ATTENTION_JOIN_16(HOST, A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, ...) \
  HOST##_sm##A##B##C##D##E##F##G##H##I##J##K##L##M##N##O##P
#define RING_ATTENTION_JOIN(...) RING_ATTENTION_JOIN_16(__VA_ARGS__, , , , , , , , , , , , , , , , , )
#define RING_ATTENTION_CODE_NAMESPACE RING_ATTENTION_JOIN(RING_ATTENTION_HOST_NAMESPACE, __CUDA_ARCH_LIST__)
#else
#define RING_ATTENTION_CODE_NAMESPACE RING_ATTENTION_HOST_NAMESPACE
#endif

/// 1 where units define the engine themselves, as they do unless it is compiled: RING_ATTENTION_COMPILED is
/// defined for units that use ring_attention::compiled, RING_ATTENTION_COMPILING for its own. A header
/// declares first; what only definitions need, includes among them, follows `#if
/// RING_ATTENTION_DEFINES_ENGINE`.
#if !defined(RING_ATTENTION_COMPILED)
#define RING_ATTENTION_DEFINES_ENGINE 1
#define RING_ATTENTION_INLINE inline
#elif defined(RING_ATTENTION_COMPILING)
#define RING_ATTENTION_DEFINES_ENGINE 1
#define RING_ATTENTION_INLINE __attribute__((weak))
#else
#define RING_ATTENTION_DEFINES_ENGINE 0
// For headers of definitions that are included by themselves.
#define RING_ATTENTION_INLINE inline
#endif

/// Symbols that shared libraries do not hide even where they hide the others.
#if defined(__GNUC__) && !defined(_WIN32)
#define RING_ATTENTION_EXPORT __attribute__((visibility("default")))
#else
#define RING_ATTENTION_EXPORT
#endif
