// Every attention class at one size: a forward call with a cold and a warm cache under each policy.
#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention_classes.hpp"
#include "policies.hpp"
#include "progress.hpp"
#include "settings.hpp"
#include "workload.hpp"

namespace benchmarks {

/// Digest of the output of each class. Throws where its policies disagree in a bit, or where a class that
/// computes what V2 computes is further from it than two results of float may be.
inline std::map<std::string, std::uint64_t> verify_classes(const Settings& settings, Buffers& buffers) {
  const std::int64_t n = settings.lengths.front();
  const std::int64_t ring_size = settings.ring_sizes.front();
  std::map<std::string, std::uint64_t> digests;
  std::vector<float> reference;
  for_each_class([&]<class Class>() {
    const std::string name(Class::name);
    for_each_policy([&]<class Policy>() {
      show_life();
      Class::forward(*Class::template make<Policy>(ring_size), buffers, n);
      const std::uint64_t found = digest(buffers.out(n));
      if (!digests.try_emplace(name, found).second && digests.at(name) != found) {
        throw std::runtime_error(name + ": the policies give different outputs");
      }
    });
    const ra::TensorView<float> out = buffers.out(n);
    if (reference.empty()) reference.assign(out.data(), out.data() + out.size());
    for (std::int64_t i = 0; Class::dilated && i < out.size(); ++i) {
      const float expected = reference[static_cast<std::size_t>(i)];
      if (!(std::abs(out.data()[i] - expected) <= 2e-5F * std::max(1.0F, std::abs(expected)))) {
        throw std::runtime_error(name + ": the output differs from that of V2");
      }
    }
  });
  return digests;
}

/// Each iteration has an object of its own. Warm means that the object has been called before.
template <class Class, class Policy>
void time_class(benchmark::State& state, const Settings& settings, Buffers& buffers, std::uint64_t expected,
                bool warm) {
  const std::int64_t n = settings.lengths.front();
  for (auto unused : state) {
    show_life();
    const auto attention = Class::template make<Policy>(settings.ring_sizes.front());
    if (warm) Class::forward(*attention, buffers, n);
    if (!warm) ra::clear_pattern_cache();
    state.SetIterationTime(seconds_of([&] { Class::forward(*attention, buffers, n); }));
    if (digest(buffers.out(n)) != expected) {
      state.SkipWithError("the output differs from the verified one");
      return;
    }
  }
}

/// add(group, rest, body) as CaseList::add with `Policy` registers a case.
template <class Cases, class Configure>
void register_class_cases(Cases& cases, const Settings& settings, Buffers& buffers,
                          const std::map<std::string, std::uint64_t>& digests, const Configure& configure) {
  for_each_class([&]<class Class>() {
    const std::string group = "class:" + std::string(Class::name) + "/";
    for (const bool warm : {false, true}) {
      for_each_policy([&]<class Policy>() {
        const std::uint64_t expected = digests.at(std::string(Class::name));
        cases.template add<Policy>(
            group, warm ? "cache:warm" : "cache:cold",
            [&settings, &buffers, expected, warm](benchmark::State& state) {
              time_class<Class, Policy>(state, settings, buffers, expected, warm);
            },
            configure);
      });
    }
  });
}

}  // namespace benchmarks
