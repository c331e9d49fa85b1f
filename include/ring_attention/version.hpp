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
#define RING_ATTENTION_CODE_NAMESPACE RING_ATTENTION_CODE_FOR(avx512)
#elif defined(__AVX2__) && defined(__FMA__)
#define RING_ATTENTION_CODE_NAMESPACE RING_ATTENTION_CODE_FOR(avx2)
#elif defined(__AVX__)
#define RING_ATTENTION_CODE_NAMESPACE RING_ATTENTION_CODE_FOR(avx)
#else
#define RING_ATTENTION_CODE_NAMESPACE RING_ATTENTION_CODE_FOR(generic)
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
