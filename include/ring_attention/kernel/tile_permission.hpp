// Whether this process may use AMX, which Linux grants on request.
#pragma once

#include <ring_attention/threads/answered_once.hpp>
#include <ring_attention/version.hpp>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Whether processor and operating system have AMX with bfloat16 and let this process use it. The first call
/// asks for permission, where there is AMX to be had; all threads and child processes have it from then on.
RING_ATTENTION_EXPORT inline bool tiles_permitted() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  const auto ask = [] {
    constexpr unsigned system_saves_registers = 1U << 27;               // leaf 1, ecx: OSXSAVE
    constexpr unsigned bfloat16_products = 1U << 22, tiles = 1U << 24;  // leaf 7, edx
    constexpr unsigned tile_states = 3U << 17;                          // XCR0: TILECFG and TILEDATA
    constexpr long request_permission = 0x1023, tile_data = 18;         // ARCH_REQ_XCOMP_PERM
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & system_saves_registers) == 0) return false;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & bfloat16_products) == 0 || (d & tiles) == 0) return false;
    unsigned low = 0;
    asm volatile("xgetbv" : "=a"(low) : "c"(0) : "edx");
    if ((low & tile_states) != tile_states) return false;
    return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  };
  static constinit AnsweredOnce permitted;
  return permitted(ask);
#else
  return false;
#endif
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
