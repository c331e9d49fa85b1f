// Warm lookups from several threads at once.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <latch>
#include <thread>
#include <type_traits>
#include <vector>

#include "policies.hpp"

namespace benchmarks {

/// Wall seconds divided by the lookups of all threads. The global cache is shared by them; local caches are
/// each thread's own and so do not contend. The wall time runs from the first lookup to the last, which
/// Google Benchmark's own mean over threads understates where there are more threads than cores.
template <class Policy>
double seconds_per_contended_lookup(const std::vector<ra::PatternKey>& keys, int threads) {
  using Clock = std::chrono::steady_clock;
  // About 20 ms of work per thread: several time slices, so that threads really meet.
  const std::int64_t lookups = std::is_same_v<Policy, ra::use_no_cache> ? 15'000 : 400'000;
  struct Span {
    Clock::time_point begin, end;
  };
  std::vector<Span> spans(static_cast<std::size_t>(threads));
  std::latch start(threads);
  std::vector<std::jthread> workers;
  for (Span& span : spans) {
    workers.emplace_back([&] {
      const Policy policy;
      look_up(policy, keys);
      start.arrive_and_wait();
      span.begin = Clock::now();
      std::size_t next = 0;
      for (std::int64_t i = 0; i < lookups; ++i) {
        const auto pattern = policy.dilated_indices(keys[next]);
        benchmark::DoNotOptimize(pattern.get());
        next = next + 1 == keys.size() ? 0 : next + 1;
      }
      span.end = Clock::now();
    });
  }
  workers.clear();  // joins
  Span whole = spans.front();
  for (const Span& span : spans) {
    whole.begin = std::min(whole.begin, span.begin);
    whole.end = std::max(whole.end, span.end);
  }
  return std::chrono::duration<double>(whole.end - whole.begin).count() /
         static_cast<double>(lookups * threads);
}

}  // namespace benchmarks
