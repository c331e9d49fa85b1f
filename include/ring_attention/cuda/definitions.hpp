// Whether a unit defines what runs on GPUs itself, or finds it in ring_attention::cuda_compiled.
#pragma once

/// 1 where units compile kernels themselves, as they do with nvcc unless they are compiled:
/// RING_ATTENTION_CUDA_COMPILED is defined for units that use ring_attention::cuda_compiled,
/// RING_ATTENTION_CUDA_COMPILING for its own.
#if defined(__CUDACC__) && (!defined(RING_ATTENTION_CUDA_COMPILED) || defined(RING_ATTENTION_CUDA_COMPILING))
#define RING_ATTENTION_DEFINES_CUDA 1
#if defined(RING_ATTENTION_CUDA_COMPILING)
#define RING_ATTENTION_CUDA_INLINE
#else
#define RING_ATTENTION_CUDA_INLINE inline
#endif
#else
#define RING_ATTENTION_DEFINES_CUDA 0
#endif
