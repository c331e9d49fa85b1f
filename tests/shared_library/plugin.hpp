// What each of the two libraries exports: the address of its global cache, and a forward pass that returns
// the number of patterns ever stored in that cache (0 where the output is wrong).
#pragma once

#include <cstdint>
#include <cstdio>

using CacheFunction = const void*();
using ForwardFunction = std::uint64_t();

struct Plugin {
  CacheFunction* cache;
  ForwardFunction* forward;
};

/// Whether both libraries use the cache of `first`, and the second one finds what the first one stored.
inline bool share_one_cache(const Plugin& first, const Plugin& second) {
  if (first.cache() != second.cache()) {
    std::fprintf(stderr, "two caches: %p and %p\n", first.cache(), second.cache());
    return false;
  }
  const std::uint64_t stored = first.forward();
  const std::uint64_t stored_after_second = second.forward();
  std::printf("one cache; patterns stored: %d, after the second library's pass: %d\n",
              static_cast<int>(stored), static_cast<int>(stored_after_second));
  return stored > 0 && stored_after_second == stored;
}
