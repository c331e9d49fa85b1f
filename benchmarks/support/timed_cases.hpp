// The cases that Google Benchmark times. Those of a group run interleaved and are compared with each other.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "class_cases.hpp"
#include "contended_lookups.hpp"
#include "policies.hpp"
#include "progress.hpp"
#include "settings.hpp"
#include "verification.hpp"
#include "workload.hpp"

namespace benchmarks {

enum class CacheState { cold, warm };

/// What every case of a run shares. Outlives the run.
struct Fixture {
  const Settings& settings;
  Buffers& buffers;
  Verification verified;
  std::map<std::string, std::uint64_t> class_digests;
  std::vector<ra::PatternKey> keys;  ///< of one forward call at the shortest sequence length

  std::vector<ra::PatternKey> keys_at(std::int64_t n) const {
    std::vector<ra::PatternKey> result = keys;
    for (ra::PatternKey& key : result) key.sequence_length = n;
    return result;
  }
};

/// Patterns of one forward call, nothing else. Caches are made cold outside the timed part.
template <class Policy>
void time_patterns(benchmark::State& state, const std::vector<ra::PatternKey>& keys, CacheState cache) {
  std::optional<Policy> policy(std::in_place);
  if (cache == CacheState::warm) {
    look_up(*policy, keys);
    for (auto unused : state) look_up(*policy, keys);
  } else {
    for (auto unused : state) {
      ra::clear_pattern_cache();
      policy.emplace();
      state.SetIterationTime(seconds_of([&] { look_up(*policy, keys); }));
    }
  }
}

/// Patterns of a whole model's first forward: one policy object per layer, every cache cold.
template <class Policy>
void time_model_patterns(benchmark::State& state, const Fixture& fixture) {
  for (auto unused : state) {
    ra::clear_pattern_cache();
    const std::vector<Policy> layers(static_cast<std::size_t>(fixture.settings.model_layers));
    state.SetIterationTime(seconds_of([&] {
      for (const Policy& policy : layers) look_up(policy, fixture.keys);
    }));
  }
}

/// An error where the output of the last call is not the verified one.
inline bool output_is_right(benchmark::State& state, Fixture& fixture, std::int64_t n,
                            std::int64_t ring_size) {
  if (digest(fixture.buffers.out(n)) == fixture.verified.at({n, ring_size}).digest) return true;
  state.SkipWithError("the output differs from the verified one");
  return false;
}

/// Whole forward calls. Each output is compared with the verified one, and the number of patterns that had to
/// be made with what the cache's state promises.
template <class Policy>
void time_forward(benchmark::State& state, Fixture& fixture, std::int64_t n, std::int64_t ring_size,
                  CacheState cache) {
  const std::vector<ra::PatternKey> keys = fixture.keys_at(n);
  for (auto unused : state) {
    show_life();
    const Attention<Policy> attention(Workload::config(ring_size));
    ra::clear_pattern_cache();
    if (cache == CacheState::warm) look_up(attention.cache_policy(), keys);
    const std::uint64_t before = misses(attention.cache_policy());
    state.SetIterationTime(seconds_of([&] { forward(attention, fixture.buffers, n); }));

    const std::uint64_t made = misses(attention.cache_policy()) - before;
    const bool cold = cache == CacheState::cold && !std::is_same_v<Policy, ra::use_no_cache>;
    if (made != (cold ? keys.size() : 0)) {
      state.SkipWithError(("the cache missed " + std::to_string(made) + " times").c_str());
      return;
    }
    if (!output_is_right(state, fixture, n, ring_size)) return;
  }
  state.counters["FLOP/s"] =
      benchmark::Counter(fixture.settings.workload.flops(n), benchmark::Counter::kIsIterationInvariantRate);
}

/// The first forward of a model: one object per layer, all of one configuration, every cache cold.
template <class Policy>
void time_model(benchmark::State& state, Fixture& fixture) {
  const std::int64_t n = fixture.settings.lengths.front();
  const std::int64_t ring_size = fixture.settings.ring_sizes.front();
  for (auto unused : state) {
    show_life();
    ra::clear_pattern_cache();
    const std::vector<Attention<Policy>> model(static_cast<std::size_t>(fixture.settings.model_layers),
                                               Attention<Policy>(Workload::config(ring_size)));
    state.SetIterationTime(seconds_of([&] {
      for (const Attention<Policy>& layer : model) forward(layer, fixture.buffers, n);
    }));
    if (!output_is_right(state, fixture, n, ring_size)) return;
  }
}

/// Registers cases and remembers their groups in order.
class CaseList {
 public:
  explicit CaseList(const Settings& settings) : filter_(settings.filter) {}

  /// `group` + `rest` + "/policy:NAME", where the filter lets it through.
  template <class Policy, class Body, class Configure>
  void add(const std::string& group, const std::string& rest, Body body, Configure configure) {
    const std::string name = group + rest + "/policy:" + std::string(policy_name<Policy>());
    if (!std::regex_search(name, filter_)) return;
    if (groups_.empty() || groups_.back() != group) groups_.push_back(group);
    configure(benchmark::RegisterBenchmark(name.c_str(), std::move(body)));
  }

  const std::vector<std::string>& groups() const { return groups_; }

 private:
  std::regex filter_;
  std::vector<std::string> groups_;
};

/// Registers every case, cheap ones first, and returns the names of their groups.
inline std::vector<std::string> register_cases(Fixture& fixture) {
  using benchmark::State;
  const Settings& settings = fixture.settings;
  const std::string layers = "layers:" + std::to_string(settings.model_layers);
  CaseList cases(settings);

  const auto short_case = [&settings](auto* made) {
    made->MinTime(settings.small_seconds)->Repetitions(settings.small_repetitions);
  };
  const auto single_calls = [](int repetitions) {
    return [repetitions](auto* made) {
      made->Iterations(1)->Repetitions(repetitions)->UseManualTime()->Unit(benchmark::kMillisecond);
    };
  };

  for (const std::int64_t n : settings.lengths) {
    const std::string group = "patterns/n:" + std::to_string(n) + "/";
    for_each_policy([&]<class Policy>() {
      cases.add<Policy>(
          group, "cache:cold",
          [keys = fixture.keys_at(n)](State& state) { time_patterns<Policy>(state, keys, CacheState::cold); },
          [&](auto* made) { short_case(made), made->UseManualTime(); });
      cases.add<Policy>(
          group, "cache:warm",
          [keys = fixture.keys_at(n)](State& state) { time_patterns<Policy>(state, keys, CacheState::warm); },
          [&](auto* made) { short_case(made), made->UseRealTime(); });
    });
  }
  for_each_policy([&]<class Policy>() {
    cases.add<Policy>(
        "model_patterns/", layers, [&fixture](State& state) { time_model_patterns<Policy>(state, fixture); },
        [&](auto* made) { short_case(made), made->UseManualTime(); });
  });
  for (const int threads : settings.contending_threads) {
    for_each_policy([&]<class Policy>() {
      cases.add<Policy>(
          "lookup/contenders:" + std::to_string(threads) + "/", "cache:warm",
          [&fixture, threads](State& state) {
            for (auto unused : state) {
              state.SetIterationTime(seconds_per_contended_lookup<Policy>(fixture.keys, threads));
            }
          },
          [&](auto* made) { made->Iterations(1)->Repetitions(settings.small_repetitions)->UseManualTime(); });
    });
  }
  for_each_policy([&]<class Policy>() {
    cases.add<Policy>(
        "model_first_forward/", layers, [&fixture](State& state) { time_model<Policy>(state, fixture); },
        single_calls(settings.model_repetitions));
  });
  for (const std::int64_t n : settings.lengths) {
    for (const std::int64_t ring_size : settings.ring_sizes) {
      const std::string group = "forward/n:" + std::to_string(n) + "/ring:" + std::to_string(ring_size) + "/";
      for (const CacheState cache : {CacheState::cold, CacheState::warm}) {
        for_each_policy([&]<class Policy>() {
          cases.add<Policy>(
              group, cache == CacheState::cold ? "cache:cold" : "cache:warm",
              [&fixture, n, ring_size, cache](State& state) {
                time_forward<Policy>(state, fixture, n, ring_size, cache);
              },
              single_calls(settings.forward_repetitions));
        });
      }
    }
  }
  register_class_cases(cases, settings, fixture.buffers, fixture.class_digests,
                       single_calls(settings.forward_repetitions));
  return cases.groups();
}

}  // namespace benchmarks
