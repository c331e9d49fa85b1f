// The timed cases of the pattern cache benchmark and what their outputs must be. Those of a group run
// interleaved and are compared with each other.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <latch>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cache_layers.hpp"
#include "measuring.hpp"

namespace benchmarks {

struct CacheSettings {
  bool quick = false;
  int threads = 0;
  std::string filter;  ///< regular expression that names of timed cases must contain
  std::vector<std::int64_t> lengths{16384, 32768, 65536};
  std::vector<std::int64_t> ring_sizes{4, 8};
  std::vector<int> contending_threads{1, 2, 4, 8, 16};
  std::int64_t heads = 8, head_dim = 64;
  int model_layers = 24;
  int forward_repetitions = 0, model_repetitions = 0;  ///< 0: as many as the seconds below allow
  double forward_seconds = 600.0, model_seconds = 300.0;
  int small_repetitions = 9;
  double small_seconds = 0.2;  ///< of one repetition of a small case
};

/// A forward call that is timed.
struct CacheProblem {
  std::string group, attention_class;
  std::int64_t n, ring_size;
  std::uint64_t digest = 0;  ///< of the right output

  bool is_v2() const { return attention_class == "V2"; }
};

/// Every problem with its verified output, and the seconds of a call of each, all together. All policies must
/// give the same bits, cold and warm, and every class that computes dilated attention what V2 computes, up to
/// rounding. Throws std::runtime_error that names what differs.
inline std::pair<std::vector<CacheProblem>, double> verify_problems(const CacheSettings& settings,
                                                                    Buffers& buffers) {
  std::vector<CacheProblem> problems;
  for (const std::int64_t n : settings.lengths) {
    for (const std::int64_t ring : settings.ring_sizes) {
      problems.push_back(
          {"forward/n:" + std::to_string(n) + "/ring:" + std::to_string(ring) + "/", "V2", n, ring});
    }
  }
  for (const std::string& name : all_classes) {
    problems.push_back({"class:" + name + "/", name, settings.lengths.front(), settings.ring_sizes.front()});
  }
  std::map<std::int64_t, std::vector<float>> references;  // V2's output, by length
  double seconds = 0.0;
  for (CacheProblem& problem : problems) {
    std::fprintf(stderr, "  %s\n", problem.group.c_str());
    for (const PolicyUse& policy : policies) {
      ra::clear_pattern_cache();
      const Layer layer = policy.make_layer(problem.attention_class, problem.ring_size, buffers);
      for (const bool warm : {false, true}) {
        if (warm && problem.n != settings.lengths.front()) continue;
        buffers.forget_out(problem.n);
        const double taken = seconds_of([&] { layer.forward(problem.n); });
        const std::uint64_t digest = buffers.digest(problem.n);
        if (!warm && policy.name == policies.front().name) {
          problem.digest = digest;
          seconds += taken;
        }
        if (digest != problem.digest) {
          throw std::runtime_error(problem.group + ": the policies give different outputs: " + policy.name +
                                   (warm ? ", warm" : ", cold"));
        }
      }
    }
    const float* const out = buffers.out(problem.n).data();
    const std::vector<float>& reference =
        references.try_emplace(problem.n, out, out + buffers.out(problem.n).size()).first->second;
    if (std::ranges::find(dilated_classes, problem.attention_class) == dilated_classes.end()) continue;
    for (std::size_t i = 0; i < reference.size(); ++i) {
      if (!(std::abs(out[i] - reference[i]) <= 2e-5F * std::max(1.0F, std::abs(reference[i])))) {
        throw std::runtime_error(problem.group + ": the output differs from that of V2");
      }
    }
  }
  return {problems, seconds};
}

/// Wall seconds divided by the lookups of all threads. The global cache is shared by them; local caches are
/// each thread's own and so do not contend. The wall time runs from the first lookup to the last, which
/// Google Benchmark's own mean over threads understates if there are more threads than cores.
inline double seconds_per_contended_lookup(const PolicyUse& policy, const std::vector<ra::PatternKey>& keys,
                                           int threads) {
  using Clock = std::chrono::steady_clock;
  // About 20 ms of work per thread: several time slices, so that threads really meet.
  const int rounds = policy.name == "none" ? 5'000 : 130'000;
  std::vector<std::pair<Clock::time_point, Clock::time_point>> spans(static_cast<std::size_t>(threads));
  std::latch start(threads);
  std::vector<std::jthread> workers;
  for (auto& [begin, end] : spans) {
    workers.emplace_back([&, &begin = begin, &end = end] {
      const LookUp look_up = policy.make_look_up();
      look_up(keys);
      start.arrive_and_wait();
      begin = Clock::now();
      for (int i = 0; i < rounds; ++i) look_up(keys);
      end = Clock::now();
    });
  }
  workers.clear();  // joins
  auto [first, last] = spans.front();
  for (const auto& [begin, end] : spans) {
    first = std::min(first, begin);
    last = std::max(last, end);
  }
  return std::chrono::duration<double>(last - first).count() /
         (static_cast<double>(keys.size()) * rounds * threads);
}

/// Registers every case, cheap ones first, and returns the names of their groups.
class CacheCases {
 public:
  CacheCases(const CacheSettings& settings, Buffers& buffers, const std::vector<CacheProblem>& problems)
      : settings_(settings), buffers_(buffers), filter_(settings.filter) {
    const std::string layers = "layers:" + std::to_string(settings.model_layers);
    for (const std::int64_t n : settings.lengths) {
      for (const bool warm : {false, true}) {
        add(
            "patterns/n:" + std::to_string(n) + "/", warm ? "cache:warm" : "cache:cold",
            [keys = keys_of_call(cache_config(1), n, settings.heads), warm](
                State& state, const PolicyUse& policy) { time_patterns(state, policy, keys, warm); },
            [&](auto* made) { warm ? small(made)->UseRealTime() : small(made)->UseManualTime(); });
      }
    }
    keys_ = keys_of_call(cache_config(1), settings.lengths.front(), settings.heads);
    add(
        "model_patterns/", layers,
        [this](State& state, const PolicyUse& policy) { time_model_patterns(state, policy); },
        [&](auto* made) { small(made)->UseManualTime(); });
    for (const int threads : settings.contending_threads) {
      add(
          "lookup/contenders:" + std::to_string(threads) + "/", "cache:warm",
          [this, threads](State& state, const PolicyUse& policy) {
            for (auto unused : state) {
              state.SetIterationTime(seconds_per_contended_lookup(policy, keys_, threads));
            }
          },
          [&](auto* made) { made->Iterations(1)->Repetitions(settings.small_repetitions)->UseManualTime(); });
    }
    add(
        "model_first_forward/", layers,
        [this, problem = problems.front()](State& state, const PolicyUse& policy) {
          time_layers(state, policy, problem, settings_.model_layers, false);
        },
        [&](auto* made) { single_calls(made, settings.model_repetitions); });
    for (const CacheProblem& problem : problems) {
      for (const bool warm : {false, true}) {
        add(
            problem.group, warm ? "cache:warm" : "cache:cold",
            [this, problem, warm](State& state, const PolicyUse& policy) {
              time_layers(state, policy, problem, 1, warm);
            },
            [&](auto* made) { single_calls(made, settings.forward_repetitions); });
      }
    }
  }

  const std::vector<std::string>& groups() const { return groups_; }
  std::size_t patterns_of_one_call() const { return keys_.size(); }

 private:
  using State = benchmark::State;

  template <class Case>
  Case* small(Case* made) const {
    return made->MinTime(settings_.small_seconds)->Repetitions(settings_.small_repetitions);
  }
  template <class Case>
  static void single_calls(Case* made, int repetitions) {
    made->Iterations(1)->Repetitions(repetitions)->UseManualTime()->Unit(benchmark::kMillisecond);
  }

  /// `group` + `rest` + "/policy:NAME" for each policy, if the filter lets it through.
  template <class Body, class Configure>
  void add(const std::string& group, const std::string& rest, const Body& body, const Configure& configure) {
    for (const PolicyUse& policy : policies) {
      const std::string name = group + rest + "/policy:" + policy.name;
      if (!std::regex_search(name, filter_)) continue;
      if (groups_.empty() || groups_.back() != group) groups_.push_back(group);
      configure(
          benchmark::RegisterBenchmark(name.c_str(), [body, &policy](State& state) { body(state, policy); }));
    }
  }

  /// Patterns of one forward call, nothing else. Caches are made cold outside the timed part.
  static void time_patterns(State& state, const PolicyUse& policy, const std::vector<ra::PatternKey>& keys,
                            bool warm) {
    LookUp look_up = policy.make_look_up();
    if (warm) {
      look_up(keys);
      for (auto unused : state) look_up(keys);
      return;
    }
    for (auto unused : state) {
      ra::clear_pattern_cache();
      look_up = policy.make_look_up();
      state.SetIterationTime(seconds_of([&] { look_up(keys); }));
    }
  }

  /// Patterns of a whole model's first forward: one policy object per layer, every cache cold.
  void time_model_patterns(State& state, const PolicyUse& policy) const {
    for (auto unused : state) {
      ra::clear_pattern_cache();
      std::vector<LookUp> layers;
      for (int i = 0; i < settings_.model_layers; ++i) layers.push_back(policy.make_look_up());
      state.SetIterationTime(seconds_of([&] {
        for (const LookUp& look_up : layers) look_up(keys_);
      }));
    }
  }

  /// A forward call of each of `count` new objects, cold or after a first lookup (V2) or call. Every output
  /// is compared with the verified one, and with V2 the number of patterns that had to be made with what the
  /// cache's state promises.
  void time_layers(State& state, const PolicyUse& policy, const CacheProblem& problem, int count,
                   bool warm) const {
    const auto keys = keys_of_call(cache_config(1), problem.n, settings_.heads);
    for (auto unused : state) {
      ra::clear_pattern_cache();
      std::vector<Layer> layers;
      for (int i = 0; i < count; ++i) {
        layers.push_back(policy.make_layer(problem.attention_class, problem.ring_size, buffers_));
        if (warm && problem.is_v2()) layers.back().look_up(keys);
        if (warm && !problem.is_v2()) layers.back().forward(problem.n);
      }
      const std::uint64_t before = layers.front().stats().misses;
      buffers_.forget_out(problem.n);
      state.SetIterationTime(seconds_of([&] {
        for (const Layer& layer : layers) layer.forward(problem.n);
      }));
      const std::uint64_t made = layers.front().stats().misses - before;
      if (problem.is_v2() && made != (warm || policy.name == "none" ? 0 : keys.size())) {
        state.SkipWithError(("the cache missed " + std::to_string(made) + " times").c_str());
        return;
      }
      if (buffers_.digest(problem.n) != problem.digest) {
        state.SkipWithError("the output differs from the verified one");
        return;
      }
    }
  }

  const CacheSettings& settings_;
  Buffers& buffers_;
  std::regex filter_;
  std::vector<ra::PatternKey> keys_;  ///< of one forward call at the shortest sequence length
  std::vector<std::string> groups_;
};

}  // namespace benchmarks
