// What becomes of the work done per second when cores are shared: several callers at once, each with all
// threads, and more threads than cores.
#pragma once

#include <barrier>
#include <cstdio>
#include <deque>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <thread>
#include <vector>

#include "attention_patterns.hpp"
#include "clock.hpp"
#include "kernel_problem.hpp"
#include "statistics.hpp"

namespace benchmarks {

struct Sharing {
  std::string name;
  int callers;
  int threads;  // of each call
};

/// Calls of one problem by `callers` threads at once, in calls per second.
inline double calls_per_second(std::deque<KernelProblem<float>>& problems, const Sharing& sharing,
                               Direction direction, int calls_each) {
  ra::set_num_threads(sharing.threads);
  std::barrier start(sharing.callers + 1);
  std::vector<std::thread> callers;
  for (int i = 0; i < sharing.callers; ++i) {
    callers.emplace_back([&, i] {
      start.arrive_and_wait();
      for (int call = 0; call < calls_each; ++call) problems[static_cast<std::size_t>(i)].call(direction);
    });
  }
  start.arrive_and_wait();
  const double seconds = seconds_of([&] {
    for (std::thread& caller : callers) caller.join();
  });
  return sharing.callers * calls_each / seconds;
}

/// Measures in turn, so that what disturbs one disturbs all, and prints medians relative to one caller.
inline nlohmann::json measure_shared_cores(int rounds) {
  const int cores = ra::detail::available_cores();
  const std::vector<Sharing> ways{{"one caller, a thread per core", 1, cores},
                                  {"4 callers, each a thread per core", 4, cores},
                                  {"one caller, 4 threads per core", 1, 4 * cores},
                                  {"4 callers, each 4 threads per core", 4, 4 * cores}};
  nlohmann::json results = nlohmann::json::array();
  std::printf("\n1,024 tokens, 2 heads of 64, float: calls per second relative to one caller\n");
  std::deque<KernelProblem<float>> problems;
  for (int i = 0; i < 4; ++i) problems.emplace_back(dense(1024, 2, {64}), 64);
  for (KernelProblem<float>& problem : problems) problem.validate(Direction::backward);
  for (const Direction direction : {Direction::forward, Direction::backward}) {
    std::vector<std::vector<double>> ratios(ways.size());
    for (int round = 0; round < rounds; ++round) {
      double alone = 0.0;
      for (std::size_t i = 0; i < ways.size(); ++i) {
        const double rate = calls_per_second(problems, ways[i], direction, 40 / ways[i].callers);
        if (i == 0) alone = rate;
        ratios[i].push_back(rate / alone);
      }
    }
    for (std::size_t i = 1; i < ways.size(); ++i) {
      const Summary summary = summarize(ratios[i]);
      std::printf("%-36s %-9s %.2f (%.2f to %.2f)\n", ways[i].name.c_str(), to_string(direction).c_str(),
                  summary.median, summary.minimum, summary.maximum);
      results.push_back({{"name", ways[i].name},
                         {"direction", to_string(direction)},
                         {"callers", ways[i].callers},
                         {"threads_per_call", ways[i].threads},
                         {"calls_per_second_over_one_caller", to_json(summary)}});
    }
  }
  ra::set_num_threads(cores);
  return results;
}

}  // namespace benchmarks
