// LongNet of a million tokens: tokens per second and peak memory, each length in a process of its own so that
// none counts the memory of another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "attention_patterns.hpp"
#include "child_process.hpp"
#include "clock.hpp"
#include "statistics.hpp"

namespace benchmarks {

/// Command-line word that makes this program measure one length, print it as JSON and end.
inline constexpr std::string_view long_sequence_argument = "--internal-long-sequence";
inline constexpr std::int64_t long_lengths[] = {65536, 1048576};

/// One bfloat16 tensor [1, tokens, heads, dim], first touched by all threads.
class BfloatRows {
 public:
  using Scalar = Eigen::bfloat16;

  explicit BfloatRows(const ra::Shape& shape)
      : shape_(shape), data_(new std::uint16_t[static_cast<std::size_t>(ra::detail::element_count(shape))]) {}

  /// Numbers of sign, fraction and four exponents by a generator that starts anew in each chunk: -2 to 2.
  void fill(std::uint64_t seed) {
    constexpr std::int64_t chunk = std::int64_t{1} << 16;
    const std::int64_t count = ra::detail::element_count(shape_);
    ra::detail::parallel_for(ra::detail::ceil_div(count, chunk), [&](std::int64_t index, int) {
      std::uint64_t state = (seed << 32) + static_cast<std::uint64_t>(index);
      for (std::int64_t i = index * chunk; i < std::min(count, (index + 1) * chunk); ++i) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        const auto bits = static_cast<std::uint16_t>(state >> 48);
        data_[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>((bits & 0x81FFU) | 0x3E00U);
      }
    });
  }

  ra::TensorView<Scalar> view() const { return {reinterpret_cast<Scalar*>(data_.get()), shape_}; }

 private:
  ra::Shape shape_;
  std::unique_ptr<std::uint16_t[]> data_;
};

/// The largest difference of sampled rows between `out` and float64 softmax over all branches that the rows
/// take part in; in tolerances of bfloat16.
inline double worst_of_sampled_rows(const Configuration& configuration, const BfloatRows& q,
                                    const BfloatRows& k, const BfloatRows& v, const BfloatRows& out) {
  const auto [batch, n, heads, dim] = q.view().shape();
  const ra::CallShape shape{batch, n, heads, heads, dim};
  const ra::AttentionPlan plan =
      ra::detail::plan_call(configuration.config, shape, {}, &ra::make_indices).plan;
  double worst = 0.0;
  for (const std::int64_t token : {std::int64_t{0}, n / 3, n - 1}) {
    for (const std::int64_t head : {std::int64_t{0}, heads - 1}) {
      std::vector<double> sums(static_cast<std::size_t>(dim));
      double total = 0.0;
      for (const ra::BranchPlan& branch : plan.sequence_of(0).branches) {
        const auto& offset = branch.offsets[branch.offset_of_head[static_cast<std::size_t>(head)]];
        ra::detail::for_each_segment(plan, n, branch, offset, token, token + 1,
                                     [&](const ra::detail::Segment& segment) {
                                       for (std::int64_t i = 0; i < segment.kept.count; ++i) {
                                         const std::int64_t key = segment.kept[i];
                                         double score = 0.0;
                                         for (std::int64_t d = 0; d < dim; ++d) {
                                           score += static_cast<double>(q.view()(0, token, head, d)) *
                                                    static_cast<double>(k.view()(0, key, head, d));
                                         }
                                         const double weight = std::exp(score * plan.scale);
                                         total += weight;
                                         for (std::int64_t d = 0; d < dim; ++d) {
                                           sums[static_cast<std::size_t>(d)] +=
                                               weight * static_cast<double>(v.view()(0, key, head, d));
                                         }
                                       }
                                     });
      }
      double largest = 0.0, difference = 0.0;
      for (std::int64_t d = 0; d < dim; ++d) {
        const double expected = total > 0.0 ? sums[static_cast<std::size_t>(d)] / total : 0.0;
        largest = std::max(largest, std::abs(expected));
        const double error = std::abs(static_cast<double>(out.view()(0, token, head, d)) - expected);
        if (!(error <= difference)) difference = error;
        if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
      }
      if (difference > 0.0) worst = std::max(worst, difference / (2.5e-2 * std::min(1.0, largest)));
    }
  }
  return worst;
}

/// The child's side: `argv[2]` is the number of tokens. Returns the exit status.
inline int run_long_sequence(int argc, char** argv) {
  if (argc != 3) return 2;
  const Configuration configuration = longnet(std::stoll(argv[2]), 12, {64});
  const ra::Shape shape{1, configuration.tokens, configuration.heads, configuration.head_dims.front()};
  BfloatRows q(shape), k(shape), v(shape), out(shape);
  std::uint64_t seed = 1;
  for (BfloatRows* rows : {&q, &k, &v, &out}) rows->fill(seed++);
  const ra::RingDilatedAttentionV2<Eigen::bfloat16> attention(configuration.config);
  const auto call = [&] { attention.forward(q.view(), k.view(), v.view(), out.view()); };
  // A long call needs no repetition to be measured, a short one does.
  std::vector<double> seconds{seconds_of(call)};
  while (seconds.size() < 7 && seconds.front() < 5.0) seconds.push_back(seconds_of(call));
  const auto peak = peak_resident_bytes();  // before the check, which allocates
  const double tensor_bytes = 4.0 * 2.0 * static_cast<double>(ra::detail::element_count(shape));
  const double pairs = count_pairs(configuration.config, configuration.tokens, configuration.heads);
  const Summary summary = summarize(seconds);
  nlohmann::json result{{"tokens", configuration.tokens},
                        {"heads", configuration.heads},
                        {"head_dim", shape[3]},
                        {"segment_lengths", configuration.config.segment_lengths},
                        {"dilation_rates", configuration.config.dilation_rates},
                        {"scalar", "bfloat16"},
                        {"kernel", ra::available_kernels().front()},
                        {"threads", ra::num_threads()},
                        {"seconds", to_json(summary)},
                        {"gflops", count_flops(pairs, shape[3], Direction::forward) / summary.median * 1e-9},
                        {"tokens_per_second", static_cast<double>(configuration.tokens) / summary.median},
                        {"tensor_bytes", tensor_bytes},
                        {"peak_bytes", nullptr},
                        {"peak_over_tensors", nullptr},
                        {"worst_error_in_tolerances", worst_of_sampled_rows(configuration, q, k, v, out)}};
  if (peak) {
    result["peak_bytes"] = *peak;
    result["peak_over_tensors"] = static_cast<double>(*peak) / tensor_bytes;
  }
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

/// Measures and prints every length; `failures` counts those with wrong outputs.
inline nlohmann::json measure_long_sequences(int& failures) {
  nlohmann::json results = nlohmann::json::array();
  std::printf("\nLongNet, 12 heads of 64, bfloat16, all threads\n");
  for (const std::int64_t tokens : long_lengths) {
    nlohmann::json line =
        nlohmann::json::parse(run_self({std::string(long_sequence_argument), std::to_string(tokens)}));
    const double peak = line["peak_over_tensors"].is_null() ? 0.0 : line["peak_over_tensors"].get<double>();
    std::printf(
        "%8lld tokens %10.0f tokens/s %8.1f GFLOP/s, peak memory %.3f of the bytes of q, k, v and out",
        static_cast<long long>(tokens), line["tokens_per_second"].get<double>(), line["gflops"].get<double>(),
        peak);
    if (!results.empty()) {
      const double shorter = results.front()["tokens_per_second"];
      line["tokens_per_second_of_shortest"] = line["tokens_per_second"].get<double>() / shorter;
      std::printf(", %.2f of the tokens/s of %lld tokens",
                  line["tokens_per_second_of_shortest"].get<double>(),
                  results.front()["tokens"].get<long long>());
    }
    std::printf("\n");
    if (!(line["worst_error_in_tolerances"].get<double>() <= 1.0)) {
      std::fprintf(stderr, "FAILED %lld tokens: outputs differ by %g tolerances\n",
                   static_cast<long long>(tokens), line["worst_error_in_tolerances"].get<double>());
      ++failures;
    }
    std::fflush(stdout);
    results.push_back(std::move(line));
  }
  return results;
}

}  // namespace benchmarks
