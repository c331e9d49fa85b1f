// The timed cases of the pattern cache benchmark and what their outputs must be. Those of a group run
// interleaved and are compared with each other.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <latch>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cache_layers.hpp"
#include "measuring.hpp"
#include "results.hpp"

namespace benchmarks {

struct CacheSettings {
  int threads = 0;
  NameFilter selects{""};
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

/// Wall seconds, from the first lookup to the last, divided by the lookups of all threads. The global cache
/// is shared by them; local caches are each thread's own and so do not contend.
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

/// Every case, cheap ones first. Those of a group are compared with each other: their repetitions are
/// interleaved at random.
class CacheCases {
 public:
  CacheCases(const CacheSettings& settings, Buffers& buffers, const std::vector<CacheProblem>& problems)
      : settings_(settings),
        buffers_(buffers),
        keys_(keys_of_call(cache_config(1), settings.lengths.front(), settings.heads)) {
    const std::string layers = "layers:" + std::to_string(settings.model_layers);
    for (const std::int64_t n : settings.lengths) {
      for (const bool warm : {false, true}) {
        add("patterns/n:" + std::to_string(n) + "/", temperature(warm), settings.small_repetitions,
            [this, keys = keys_of_call(cache_config(1), n, settings.heads), warm](const PolicyUse& policy) {
              return time_patterns(policy, keys, warm);
            });
      }
    }
    add("model_patterns/", layers, settings.small_repetitions,
        [this](const PolicyUse& policy) { return time_model_patterns(policy); });
    for (const int threads : settings.contending_threads) {
      add("lookup/contenders:" + std::to_string(threads) + "/", temperature(true), settings.small_repetitions,
          [this, threads](const PolicyUse& policy) {
            return seconds_per_contended_lookup(policy, keys_, threads);
          });
    }
    add("model_first_forward/", layers, settings.model_repetitions,
        [this, problem = problems.front()](const PolicyUse& policy) {
          return time_layers(policy, problem, settings_.model_layers, false);
        });
    for (const CacheProblem& problem : problems) {
      for (const bool warm : {false, true}) {
        add(problem.group, temperature(warm), settings.forward_repetitions,
            [this, problem, warm](const PolicyUse& policy) { return time_layers(policy, problem, 1, warm); });
      }
    }
  }

  std::size_t patterns_of_one_call() const { return keys_.size(); }

  /// A line with seconds, or an error, for each case; prints medians.
  nlohmann::json run() {
    std::mt19937 order(1);
    nlohmann::json lines = nlohmann::json::array();
    for (auto group = cases_.begin(); group != cases_.end();) {
      const auto end =
          std::find_if(group, cases_.end(), [&](const Case& c) { return c.group != group->group; });
      std::vector<Case*> turns;
      for (auto it = group; it != end; ++it)
        turns.insert(turns.end(), static_cast<std::size_t>(it->repetitions), &*it);
      std::ranges::shuffle(turns, order);
      for (Case* what : turns) {
        if (!what->error.empty()) continue;
        try {
          what->seconds.push_back(what->sample());
        } catch (const std::runtime_error& error) {
          what->error = error.what();
        }
      }
      for (; group != end; ++group) {
        nlohmann::json line{{"name", group->name}, {"policy", group->policy}};
        if (group->error.empty()) {
          const Summary seconds = summarize(group->seconds);
          line["seconds"] = seconds;
          std::printf("%-44s %-7s %12.3f us\n", group->name.c_str(), group->policy.c_str(),
                      seconds.median * 1e6);
        } else {
          line["error"] = group->error;
        }
        lines.push_back(std::move(line));
      }
    }
    return lines;
  }

 private:
  struct Case {
    std::string group, name, policy;
    int repetitions;
    std::function<double()> sample;
    std::vector<double> seconds = {};
    std::string error = {};
  };

  static std::string temperature(bool warm) { return warm ? "cache:warm" : "cache:cold"; }

  /// `body(policy)` gives the seconds of a repetition.
  template <class Body>
  void add(const std::string& group, const std::string& rest, int repetitions, const Body& body) {
    for (const PolicyUse& policy : policies) {
      if (settings_.selects(group + rest + "/policy:" + policy.name)) {
        cases_.push_back(
            {group, group + rest, policy.name, repetitions, [body, &policy] { return body(policy); }});
      }
    }
  }

  /// The mean of as many calls as the seconds of a small case take.
  template <class Once>
  double mean_of_calls(const Once& once) const {
    double sum = 0.0;
    int calls = 0;
    for (; sum < settings_.small_seconds; ++calls) sum += once();
    return sum / calls;
  }

  /// Patterns of one forward call, nothing else. Caches are made cold outside the timed part.
  double time_patterns(const PolicyUse& policy, const std::vector<ra::PatternKey>& keys, bool warm) const {
    LookUp look_up = policy.make_look_up();
    look_up(keys);
    if (warm) {
      constexpr int lookups = 100;  // that the clock does not count
      return mean_of_calls([&] {
               return seconds_of([&] {
                 for (int i = 0; i < lookups; ++i) look_up(keys);
               });
             }) /
             lookups;
    }
    return mean_of_calls([&] {
      ra::clear_pattern_cache();
      look_up = policy.make_look_up();
      return seconds_of([&] { look_up(keys); });
    });
  }

  /// Patterns of a whole model's first forward: one policy object per layer, every cache cold.
  double time_model_patterns(const PolicyUse& policy) const {
    return mean_of_calls([&] {
      ra::clear_pattern_cache();
      std::vector<LookUp> layers;
      for (int i = 0; i < settings_.model_layers; ++i) layers.push_back(policy.make_look_up());
      return seconds_of([&] {
        for (const LookUp& look_up : layers) look_up(keys_);
      });
    });
  }

  /// A forward call of each of `count` new objects, cold or after a first lookup (V2) or call. Throws
  /// std::runtime_error for an output that is not the verified one, and with V2 where other patterns had to
  /// be made than the cache's state promises.
  double time_layers(const PolicyUse& policy, const CacheProblem& problem, int count, bool warm) const {
    const auto keys = keys_of_call(cache_config(1), problem.n, settings_.heads);
    ra::clear_pattern_cache();
    std::vector<Layer> layers;
    for (int i = 0; i < count; ++i) {
      layers.push_back(policy.make_layer(problem.attention_class, problem.ring_size, buffers_));
      if (warm && problem.is_v2()) layers.back().look_up(keys);
      if (warm && !problem.is_v2()) layers.back().forward(problem.n);
    }
    const std::uint64_t before = layers.front().stats().misses;
    buffers_.forget_out(problem.n);
    const double seconds = seconds_of([&] {
      for (const Layer& layer : layers) layer.forward(problem.n);
    });
    const std::uint64_t made = layers.front().stats().misses - before;
    if (problem.is_v2() && made != (warm || policy.name == "none" ? 0 : keys.size())) {
      throw std::runtime_error("the cache missed " + std::to_string(made) + " times");
    }
    if (buffers_.digest(problem.n) != problem.digest) {
      throw std::runtime_error("the output differs from the verified one");
    }
    return seconds;
  }

  const CacheSettings& settings_;
  Buffers& buffers_;
  std::vector<ra::PatternKey> keys_;  ///< of one forward call at the shortest sequence length
  std::vector<Case> cases_;
};

}  // namespace benchmarks
