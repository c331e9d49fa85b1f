// Instruction sets as tags: each inherits from the one that serves where it has no kernel of its own.
#pragma once

#include <ring_attention/kernel/targets.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/threads/answered_once.hpp>
#include <ring_attention/version.hpp>
#include <type_traits>

#if RING_ATTENTION_X86_TARGETS
#include <cpuid.h>

#include <ring_attention/kernel/tile_permission.hpp>
#include <ring_attention/kernel/tile_registers.hpp>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Whether the processor has what `Isa::detect` looks for. Asked once: CPUID costs microseconds, in a virtual
/// machine tens of them.
template <class Isa>
bool is_detected() {
  static constinit detail::AnsweredOnce detected;
  return detected([] { return Isa::detect(); });
}

struct generic_isa {
  static constexpr const char* name = "generic";
  /// Whether the processor and the operating system have it.
  static bool supported() { return true; }
  template <class Kernel>
  static const Kernel& kernel() {
    return generic::kernel<Kernel>;
  }
};

#if RING_ATTENTION_X86_TARGETS

struct avx2_isa : generic_isa {
  static constexpr const char* name = "avx2";
  static bool supported() { return is_detected<avx2_isa>(); }
  static bool detect() {
    // Not every compiler lets f16c be asked for by name.
    constexpr unsigned f16c = 1U << 29;
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & f16c) != 0;
  }
  template <class Kernel>
  static const Kernel& kernel() {
    return avx2::kernel<Kernel>;
  }
};

struct avx512_isa : avx2_isa {
  static constexpr const char* name = "avx512";
  static bool supported() {
    return avx2_isa::supported() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  template <class Kernel>
  static const Kernel& kernel() {
    return avx512::kernel<Kernel>;
  }
};

struct avx512_bf16_isa : avx512_isa {
  static constexpr const char* name = "avx512_bf16";
  static bool supported() { return avx512_isa::supported() && __builtin_cpu_supports("avx512bf16"); }
  template <class Kernel>
  static const Kernel& kernel() {
    if constexpr (std::is_same_v<Kernel, ForwardKernel<Eigen::bfloat16>> ||
                  std::is_same_v<Kernel, BackwardKernel<Eigen::bfloat16>>) {
      return avx512_bf16::kernel<Kernel>;
    } else {
      return avx512_isa::kernel<Kernel>();
    }
  }
};

/// The tile registers need no instructions of the compiler's, so their kernel is part of the target that
/// serves the rest of it.
struct amx_bf16_isa : avx512_bf16_isa {
  static constexpr const char* name = "amx_bf16";
  static bool supported() { return avx512_bf16_isa::supported() && detail::tiles_permitted(); }
  template <class Kernel>
  static const Kernel& kernel() {
    if constexpr (std::is_same_v<Kernel, ForwardKernel<Eigen::bfloat16>>) {
      return avx512_bf16::tile_kernel<HardwareTiles>;
    } else {
      return avx512_bf16_isa::kernel<Kernel>();
    }
  }
};

#endif

template <class... Isa>
struct InstructionSets {};

/// The best first.
#if RING_ATTENTION_X86_TARGETS
using KnownInstructionSets =
    InstructionSets<amx_bf16_isa, avx512_bf16_isa, avx512_isa, avx2_isa, generic_isa>;
#else
using KnownInstructionSets = InstructionSets<generic_isa>;
#endif

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
