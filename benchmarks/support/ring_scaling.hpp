// Strong and weak scaling of the ring over MPI: what one point of a series is checked for and timed as.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "measuring.hpp"
#include "mpi_group.hpp"
#include "peaks.hpp"
#include "problems.hpp"
#include "ring_model.hpp"
#include "ring_problem.hpp"

namespace benchmarks {

/// One point of a series.
struct RingCase {
  std::string name;    ///< "strong/longnet-49152x4/ranks2"
  std::string series;  ///< "strong" or "weak"
  int ranks = 1;
  Configuration problem;
};

/// Collective. Throws on every rank if the worst of the ranks' errors is not at most 1.
inline double require_right(const MpiGroup& group, const std::string& what, double own_error) {
  double worst = 0.0;
  for (const double error : group.gather(own_error)) {
    if (!(error <= 1.0)) {
      throw std::runtime_error(what + ": outputs differ by " + std::to_string(error) + " tolerances");
    }
    worst = std::max(worst, error);
  }
  return worst;
}

/// The same branches at 1/32 of the size.
inline Configuration shrunk(Configuration problem) {
  problem.tokens /= 32;
  for (std::int64_t& w : problem.config.segment_lengths) w = std::max<std::int64_t>(1, w / 32);
  return problem;
}

/// Seconds of each rank for the call, its computing alone and its messages alone.
using RingRound = std::array<std::vector<double>, 3>;

/// Each round lies between two measurements of the peak, by all ranks at once.
inline Bracketed<RingRound> take_rounds(const MpiGroup& group, RingProblem& problem, int wanted) {
  PeakMeter meter(0.02);
  const PeakProbe probe = matching_probe<float>(ra::available_kernels().front());
  int round = 0;
  const auto take = [&] {
    RingRound seconds;
    for (std::size_t i = 0; i < seconds.size(); ++i) {
      // Every other round goes backwards, so that what drifts favours none.
      const std::size_t what = round % 2 == 0 ? i : seconds.size() - 1 - i;
      quiet_barrier(group.communicator());
      seconds[what] = group.gather(seconds_of([&] {
        if (what == 0) problem.call();
        if (what == 1) problem.compute();
        if (what == 2) problem.communicate();
      }));
    }
    ++round;
    return seconds;
  };
  (void)take();  // warms up
  return take_bracketed(wanted, 0.0, 0.0, take, [&] {
    quiet_barrier(group.communicator());
    const std::vector<double> rates = group.gather(meter.measure(probe, ra::num_threads()));
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  });
}

/// Collective over the group. Throws std::runtime_error, on every rank alike, that says what is wrong.
inline nlohmann::json measure_ring_case(const RingCase& what, const MpiGroup& group, int rounds,
                                        bool shared_memory) {
  const Configuration small = shrunk(what.problem);
  RingProblem small_problem(small, group.communicator(), shared_memory);
  double worst = require_right(group, "1/32 of the size", small_problem.worst_error(small.tokens));
  RingProblem problem(what.problem, group.communicator(), shared_memory);
  worst = std::max(worst, require_right(group, "sampled rows", problem.worst_error(3)));

  // What the plan says that each rank sends, and the most that the library promises: kept rows times the
  // other ranks whose shards hold queries of their segment, kept or not.
  const std::int64_t tokens = what.problem.tokens, heads = what.problem.heads;
  const std::int64_t head_dim = what.problem.head_dims.front();
  ra::AttentionConfig every_query = what.problem.config;
  every_query.query_rule = ra::QueryRule::all;
  const auto plan = report_members(what.problem.config, tokens, heads, group.size());
  const auto rule = report_members(every_query, tokens, heads, group.size());
  const std::vector<double> sent = group.gather(static_cast<double>(problem.bytes_sent()));
  const std::vector<double> dense = group.gather(static_cast<double>(problem.dense_ring_bytes()));
  const double row_bytes = 2.0 * sizeof(float) * static_cast<double>(head_dim);
  double pairs = 0.0;
  for (std::size_t rank = 0; rank < sent.size(); ++rank) {
    if (sent[rank] != row_bytes * static_cast<double>(plan[rank].rows_sent)) {
      throw std::runtime_error("rank " + std::to_string(rank) + " does not send what the plan says");
    }
    if (sent[rank] > row_bytes * static_cast<double>(rule[rank].rows_sent)) {
      throw std::runtime_error("rank " + std::to_string(rank) + " sends more than the rule allows");
    }
    pairs += plan[rank].pairs;
  }

  const Bracketed<RingRound> taken = take_rounds(group, problem, rounds);
  worst = std::max(worst, require_right(group, "sampled rows after timing", problem.worst_error(3)));
  std::array<std::vector<double>, 3> slowest;  // rank, by round
  std::vector<double> over_compute, parts;
  const double flops = count_flops(pairs, head_dim, Direction::forward);
  for (std::size_t i = 0; i < taken.samples.size(); ++i) {
    for (std::size_t j = 0; j < 3; ++j) slowest[j].push_back(std::ranges::max(taken.samples[i][j]));
    over_compute.push_back(slowest[0].back() / slowest[1].back());
    parts.push_back(flops / slowest[0].back() / taken.peaks[i]);
  }
  return {{"name", what.name},
          {"series", what.series},
          {"problem", what.problem.name},
          {"ranks", group.size()},
          {"cores", group.cores()},
          {"threads_per_rank", ra::num_threads()},
          {"heads", heads},
          {"head_dim", head_dim},
          {"worst_error_in_tolerances", worst},
          {"seconds", summarize(slowest[0])},
          {"compute_alone_seconds", summarize(slowest[1])},
          {"communicate_alone_seconds", summarize(slowest[2])},
          {"time_over_compute_alone", summarize(over_compute)},
          {"gflops", flops / summarize(slowest[0]).median * 1e-9},
          {"peak_gflops", summarize(taken.peaks).median * 1e-9},
          {"part_of_peak", summarize(parts)},
          {"noisy", taken.noisy},
          {"bytes_sent_by_rank", sent},
          {"dense_ring_bytes_by_rank", dense}};
}

/// Adds what compares a point with that of one rank of its series: how its part of the peak compares, which
/// is 1 if ranks gain as much as cores do, and its time over that of the model of SCALING.md. In the model a
/// rank computes with that point's part of the peak, of the peak that these ranks have at once; bandwidth is
/// that of the messages alone. Not for ranks that share cores: their probes do not run at quite the same
/// time, so that there is no peak.
inline void compare_with_one_rank(nlohmann::json& line, const nlohmann::json& measured,
                                  const RingCase& what) {
  if (what.ranks * line["threads_per_rank"].get<int>() > line["cores"].get<int>()) return;
  for (const nlohmann::json& one : measured) {
    if (one.contains("error") || one["ranks"] != 1 || one["series"] != what.series) continue;
    if (what.series != "weak" && one["problem"] != what.problem.name) continue;
    const double part = one["part_of_peak"]["median"];
    line["gain_over_peak_gain"] = line["part_of_peak"]["median"].get<double>() / part;
    const double most_bytes = std::ranges::max(line["bytes_sent_by_rank"].get<std::vector<double>>());
    const RankSpeed speed{
        part * line["peak_gflops"].get<double>() * 1e9 / what.ranks,
        std::max(most_bytes, 1.0) / line["communicate_alone_seconds"]["median"].get<double>(), 0.0};
    const RingModel model(what.problem.config, what.problem.tokens, what.problem.heads, what.ranks);
    double longest = 0.0;
    for (std::int64_t rank = 0; rank < what.ranks; ++rank) {
      const auto steps = model.steps(rank);
      longest = std::max(longest,
                         model_forward(steps, what.problem.head_dims.front(), sizeof(float), speed).seconds);
    }
    line["seconds_over_modelled"] = line["seconds"]["median"].get<double>() / longest;
  }
}

inline void print_ring_case(const nlohmann::json& line) {
  const auto median = [&line](const char* key) { return line[key]["median"].get<double>(); };
  std::printf(
      "%-34s %9.4f s, computing alone %.4f, messages alone %.6f, time / computing %.3f, sent %.3g MB%s\n",
      line["name"].get<std::string>().c_str(), median("seconds"), median("compute_alone_seconds"),
      median("communicate_alone_seconds"), median("time_over_compute_alone"),
      std::ranges::max(line["bytes_sent_by_rank"].get<std::vector<double>>()) * 1e-6,
      line["noisy"] ? ", noisy" : "");
  std::fflush(stdout);
}

}  // namespace benchmarks
