// Strong and weak scaling of the ring over MPI: what one point of a series is checked for, timed as, and told
// as.
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

#include "bracketed_samples.hpp"
#include "clock.hpp"
#include "format.hpp"
#include "mpi_group.hpp"
#include "peaks.hpp"
#include "ring_model.hpp"
#include "ring_problem.hpp"
#include "ring_settings.hpp"
#include "statistics.hpp"

namespace benchmarks {

/// Collective. Throws on every rank where the worst of the ranks' errors is not at most 1.
inline double require_right(const MpiGroup& group, const std::string& what, double own_error) {
  double worst = 0.0;
  for (const double error : group.gather(own_error)) {
    if (!(error <= worst)) worst = error;
    if (!(error <= 1.0))
      throw std::runtime_error(what + ": outputs differ by " + std::to_string(error) + " tolerances");
  }
  return worst;
}

/// The same branches at 1/32 of the size.
inline Configuration shrunk(Configuration problem) {
  problem.tokens /= 32;
  for (std::int64_t& w : problem.config.segment_lengths) w = std::max<std::int64_t>(1, w / 32);
  return problem;
}

/// What was measured, by round. Seconds are of each rank.
struct RingSamples {
  std::array<std::vector<std::vector<double>>, 3> seconds;
  static constexpr std::size_t call = 0, compute = 1, communicate = 2;
  std::vector<double> peak;  ///< floating-point operations per second of all ranks together, beside it
  int dropped = 0;           ///< rounds that a neighbour or the clock disturbed
  bool noisy = false;        ///< fewer rounds than asked for count; where there is none, all do

  /// Of the slowest rank, by round.
  std::vector<double> slowest(std::size_t what) const {
    std::vector<double> values;
    for (const std::vector<double>& ranks : seconds[what]) values.push_back(*std::ranges::max_element(ranks));
    return values;
  }
};

/// Each round lies between two measurements of the peak, by all ranks at once; it counts where they agree
/// within bracket_tolerance. At most three times as many rounds as asked for are run.
class RingSampler {
 public:
  RingSampler(const MpiGroup& group, RingProblem& problem)
      : group_(&group), problem_(&problem), probe_(matching_probe<float>(ra::available_kernels().front())) {}

  RingSamples take(int wanted) {
    RingSamples counted, disturbed;
    (void)take_round(0);  // warms up
    double before = measure_peak();
    for (int round = 0; round < 3 * wanted && std::ssize(counted.peak) < wanted; ++round) {
      const auto seconds = take_round(round);
      const double after = measure_peak();
      const auto [low, high] = std::minmax(before, after);
      RingSamples& samples = low >= (1.0 - bracket_tolerance) * high ? counted : disturbed;
      for (std::size_t what = 0; what < seconds.size(); ++what)
        samples.seconds[what].push_back(seconds[what]);
      samples.peak.push_back((before + after) / 2);
      before = after;
    }
    RingSamples& result = counted.peak.empty() ? disturbed : counted;
    result.dropped = static_cast<int>(disturbed.peak.size());
    result.noisy = std::ssize(counted.peak) < wanted;
    return result;
  }

 private:
  /// Every other round goes backwards, so that what drifts favours none.
  std::array<std::vector<double>, 3> take_round(int round) {
    std::array<std::vector<double>, 3> seconds;
    for (std::size_t i = 0; i < seconds.size(); ++i) {
      const std::size_t what = round % 2 == 0 ? i : seconds.size() - 1 - i;
      quiet_barrier(group_->communicator());
      const double own = seconds_of([&] {
        if (what == RingSamples::call) problem_->call();
        if (what == RingSamples::compute) problem_->compute();
        if (what == RingSamples::communicate) problem_->communicate();
      });
      seconds[what] = group_->gather(own);
    }
    return seconds;
  }

  double measure_peak() {
    quiet_barrier(group_->communicator());
    const std::vector<double> rates = group_->gather(meter_.measure(probe_, ra::num_threads()));
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  }

  const MpiGroup* group_;
  RingProblem* problem_;
  PeakProbe probe_;
  PeakMeter meter_{0.02};
};

inline std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> values;
  for (std::size_t i = 0; i < a.size(); ++i) values.push_back(a[i] / b[i]);
  return values;
}

/// The times of each rank's call over those of its computing alone: medians, by rank.
inline std::vector<double> time_over_compute_by_rank(const RingSamples& samples) {
  std::vector<double> medians;
  const auto& calls = samples.seconds[RingSamples::call];
  const auto& computes = samples.seconds[RingSamples::compute];
  for (std::size_t rank = 0; rank < calls.front().size(); ++rank) {
    std::vector<double> own;
    for (std::size_t round = 0; round < calls.size(); ++round)
      own.push_back(calls[round][rank] / computes[round][rank]);
    medians.push_back(summarize(own).median);
  }
  return medians;
}

/// Collective over the group. Throws std::runtime_error, on every rank alike, that says what is wrong.
inline nlohmann::json measure_ring_case(const RingCase& what, const MpiGroup& group,
                                        const RingSettings& settings) {
  double worst = 0.0;
  {
    const Configuration small = shrunk(what.problem);
    RingProblem problem(small, group.communicator(), settings.shared_memory);
    worst = require_right(group, "1/32 of the size", problem.worst_difference_from_one_process());
  }
  RingProblem problem(what.problem, group.communicator(), settings.shared_memory);
  problem.call();
  worst = std::max(worst, require_right(group, "sampled rows", problem.worst_error()));
  const RingPlan plan = plan_ring(what.problem, group.size());
  const double row_bytes = 2.0 * sizeof(float) * static_cast<double>(what.problem.head_dims.front());
  const std::vector<double> sent = group.gather(static_cast<double>(problem.bytes_sent()));
  const std::vector<double> messages = group.gather(static_cast<double>(problem.messages_sent()));
  const std::vector<double> dense_ring = group.gather(static_cast<double>(problem.dense_ring_bytes()));
  double sent_sum = 0.0, rule_sum = 0.0, dense_sum = 0.0, pairs = 0.0;
  for (std::size_t rank = 0; rank < sent.size(); ++rank) {
    if (sent[rank] != row_bytes * static_cast<double>(plan.rows[rank])) {
      throw std::runtime_error("rank " + std::to_string(rank) + " does not send what the plan says");
    }
    if (sent[rank] > row_bytes * static_cast<double>(plan.rule_rows[rank])) {
      throw std::runtime_error("rank " + std::to_string(rank) + " sends more than the rule allows");
    }
    sent_sum += sent[rank];
    rule_sum += row_bytes * static_cast<double>(plan.rule_rows[rank]);
    dense_sum += dense_ring[rank];
    pairs += plan.pairs[rank];
  }

  const RingSamples samples = RingSampler(group, problem).take(settings.rounds);
  worst = std::max(worst, require_right(group, "sampled rows after timing", problem.worst_error()));
  const std::vector<double> call = samples.slowest(RingSamples::call);
  const std::vector<double> compute = samples.slowest(RingSamples::compute);
  const std::vector<double> communicate = samples.slowest(RingSamples::communicate);
  std::vector<double> longer;
  for (std::size_t i = 0; i < call.size(); ++i) longer.push_back(std::max(compute[i], communicate[i]));
  const std::vector<double> by_rank = time_over_compute_by_rank(samples);
  const double flops = count_flops(pairs, what.problem.head_dims.front(), Direction::forward);
  const double median = summarize(call).median;
  std::vector<double> parts;
  for (std::size_t i = 0; i < call.size(); ++i) parts.push_back(flops / call[i] / samples.peak[i]);
  nlohmann::json line{{"name", what.name},
                      {"series", what.series},
                      {"problem", what.problem.name},
                      {"ranks", group.size()},
                      {"nodes", group.nodes()},
                      {"cores", group.cores()},
                      {"cores_used", std::min(group.cores(), group.size() * ra::num_threads())},
                      {"threads_per_rank", ra::num_threads()},
                      {"tokens", what.problem.tokens},
                      {"heads", what.problem.heads},
                      {"head_dim", what.problem.head_dims.front()},
                      {"segment_lengths", what.problem.config.segment_lengths},
                      {"dilation_rates", what.problem.config.dilation_rates},
                      {"worst_error_in_tolerances", worst},
                      {"pairs", pairs},
                      {"pairs_by_rank", plan.pairs},
                      {"seconds", to_json(summarize(call))},
                      {"compute_alone_seconds", to_json(summarize(compute))},
                      {"communicate_alone_seconds", to_json(summarize(communicate))},
                      {"time_over_compute_alone", to_json(summarize(ratios(call, compute)))},
                      {"time_over_compute_alone_by_rank", by_rank},
                      {"time_over_longer_of_both", to_json(summarize(ratios(call, longer)))},
                      {"tokens_per_second", static_cast<double>(what.problem.tokens) / median},
                      {"gflops", flops / median * 1e-9},
                      {"peak_gflops", summarize(samples.peak).median * 1e-9},
                      {"part_of_peak", to_json(summarize(parts))},
                      {"rounds_dropped", samples.dropped},
                      {"noisy", samples.noisy},
                      {"messages_sent_by_rank", messages},
                      {"bytes_sent_by_rank", sent},
                      {"dense_ring_bytes_by_rank", dense_ring}};
  line["bytes_sent_over_dense_ring"] = dense_sum > 0.0 ? nlohmann::json(sent_sum / dense_sum) : nullptr;
  line["bytes_sent_over_rule"] = rule_sum > 0.0 ? nlohmann::json(sent_sum / rule_sum) : nullptr;
  return line;
}

/// The peak of ranks that share cores cannot be measured: their probes do not run at quite the same time.
inline bool has_core_per_thread(const nlohmann::json& line) {
  return line["ranks"].get<int>() * line["threads_per_rank"].get<int>() <= line["cores"].get<int>();
}

/// Adds what compares a point with the point of one rank of its series, where that was measured: how many
/// times as fast it is, and how its part of the peak compares, which is 1 where ranks gain as much as cores
/// do.
inline void compare_with_one_rank(nlohmann::json& line, const nlohmann::json& measured) {
  for (const nlohmann::json& one : measured) {
    if (one.contains("error") || one["series"] != line["series"] || one["ranks"] != 1) continue;
    const bool weak = line["series"] == "weak";
    if (!weak && one["problem"] != line["problem"]) continue;
    const auto median = [](const nlohmann::json& of, const char* key) {
      return of[key]["median"].get<double>();
    };
    if (!weak) line["speedup_over_one_rank"] = median(one, "seconds") / median(line, "seconds");
    if (has_core_per_thread(line))
      line["gain_over_peak_gain"] = median(line, "part_of_peak") / median(one, "part_of_peak");
  }
}

/// Adds the time that the model of SCALING.md gives, where the point of one rank was measured. A rank is
/// taken to compute with that point's part of the peak, of the peak that these ranks have at once; bandwidth
/// is that of the messages alone.
inline void compare_with_model(nlohmann::json& line, const nlohmann::json& measured,
                               const Configuration& problem) {
  if (problem.config.causal || problem.config.shard_layout != ra::ShardLayout::contiguous) return;
  if (!has_core_per_thread(line)) return;
  const std::int64_t ranks = line["ranks"], head_dim = problem.head_dims.front();
  for (const nlohmann::json& one : measured) {
    if (one.contains("error") || one["ranks"] != 1 || one["series"] != line["series"]) continue;
    if (line["series"] != "weak" && one["problem"] != line["problem"]) continue;
    const auto median = [](const nlohmann::json& of, const char* key) {
      return of[key]["median"].get<double>();
    };
    const double most_bytes = std::ranges::max(line["bytes_sent_by_rank"].get<std::vector<double>>());
    const RankSpeed speed{
        median(one, "part_of_peak") * line["peak_gflops"].get<double>() * 1e9 / static_cast<double>(ranks),
        std::max(most_bytes, 1.0) / median(line, "communicate_alone_seconds"), 0.0};
    const RingModel model(problem.config, problem.tokens, problem.heads, ranks);
    double longest = 0.0;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      longest = std::max(longest, model_forward(model, rank, ranks, head_dim, sizeof(float), speed).seconds);
    }
    line["modelled_seconds"] = longest;
    line["seconds_over_modelled"] = median(line, "seconds") / longest;
  }
}

inline void print_ring_header() {
  std::printf("%-34s %10s %12s %12s %22s %22s %8s %9s %11s %8s %8s\n", "case", "time", "compute", "messages",
              "time / compute", "time / longer of both", "gain", "of model", "sent / rank", "of dense",
              "of rule");
}

inline void print_ring_case(const nlohmann::json& line) {
  const auto seconds = [&line](const char* key) { return format_seconds(line[key]["median"].get<double>()); };
  const auto range = [&line](const char* key) {
    return format_number(line[key]["median"].get<double>(), "%.3f") + " (" +
           format_number(line[key]["minimum"].get<double>(), "%.3f") + " to " +
           format_number(line[key]["maximum"].get<double>(), "%.3f") + ")";
  };
  const auto part = [&line](const char* key, const char* format) {
    return line.contains(key) && !line[key].is_null() ? format_number(line[key].get<double>(), format)
                                                      : std::string("-");
  };
  double most = 0.0;
  for (const double bytes : line["bytes_sent_by_rank"]) most = std::max(most, bytes);
  std::printf("%-34s %10s %12s %12s %22s %22s %8s %9s %11s %8s %8s\n",
              line["name"].get<std::string>().c_str(), seconds("seconds").c_str(),
              seconds("compute_alone_seconds").c_str(), seconds("communicate_alone_seconds").c_str(),
              range("time_over_compute_alone").c_str(), range("time_over_longer_of_both").c_str(),
              part("gain_over_peak_gain", "%.3f").c_str(), part("seconds_over_modelled", "%.3f").c_str(),
              format_bytes(most).c_str(), part("bytes_sent_over_dense_ring", "%.4f").c_str(),
              part("bytes_sent_over_rule", "%.4f").c_str());
  if (line["noisy"]) std::printf("%-34s noisy: %d rounds dropped\n", "", line["rounds_dropped"].get<int>());
  std::fflush(stdout);
}

}  // namespace benchmarks
