// The one pattern cache of a process.
#pragma once

#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/version.hpp>

#if RING_ATTENTION_DEFINES_ENGINE
#include <atomic>
#include <ring_attention/threads/made_once.hpp>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
/// The cache that `use_pattern_cache` reads: one per process, also when it is used from shared libraries that
/// hide their symbols.
PatternCache& get_global_pattern_cache();

/// Drops every entry of the global cache.
inline void clear_pattern_cache() { get_global_pattern_cache().clear(); }

#if RING_ATTENTION_DEFINES_ENGINE
namespace detail {

// An inline variable would be one per shared library when libraries are loaded with RTLD_LOCAL, unless its
// symbol carries STB_GNU_UNIQUE: g++ sets that mark (not with -flto), clang++ never does. On ELF the slot is
// therefore defined by assembly, the same for both, so that libraries built by either share it. An executable
// that also loads such libraries must export the symbol; the CMake target sees to that.
#define RING_ATTENTION_CACHE_SLOT "ring_attention_v0_2_global_pattern_cache"
#if defined(__ELF__) && defined(__GNUC__)
__asm__(".ifndef " RING_ATTENTION_CACHE_SLOT
        "\n"
        ".pushsection .bss." RING_ATTENTION_CACHE_SLOT ",\"awG\",%nobits," RING_ATTENTION_CACHE_SLOT
        ",comdat\n"
        ".weak " RING_ATTENTION_CACHE_SLOT
        "\n"
        ".type " RING_ATTENTION_CACHE_SLOT
        ",%gnu_unique_object\n"
        ".size " RING_ATTENTION_CACHE_SLOT
        ",8\n"
        ".p2align 3\n" RING_ATTENTION_CACHE_SLOT
        ":\n"
        ".zero 8\n"
        ".popsection\n"
        ".endif\n");
RING_ATTENTION_EXPORT extern std::atomic<PatternCache*> global_pattern_cache_slot __asm__(
    RING_ATTENTION_CACHE_SLOT);
#else
RING_ATTENTION_EXPORT inline constinit std::atomic<PatternCache*> global_pattern_cache_slot{nullptr};
#endif
#undef RING_ATTENTION_CACHE_SLOT
static_assert(RING_ATTENTION_VERSION_MAJOR == 0 && RING_ATTENTION_VERSION_MINOR == 2,
              "the name of the slot, here and in version.hpp's namespaces, follows the version");
static_assert(sizeof(std::atomic<PatternCache*>) <= 8, "the slot above holds one pointer");

}  // namespace detail

RING_ATTENTION_INLINE PatternCache& get_global_pattern_cache() {
  return detail::made_once(detail::global_pattern_cache_slot);
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
