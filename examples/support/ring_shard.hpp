// A ring member's part of a sequence whose rows are functions of their place, and the check of its output.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/plan_report.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

#include "counter_rows.hpp"
#include "direct_row.hpp"
#include "row_blocks.hpp"

namespace examples {

using TokenRanges = std::vector<ring_attention::TokenRange>;

/// [1, tokens of the ranges, h, d], filled by all threads.
inline ring_attention::Tensor<float> make_shard(Operand operand, const TokenRanges& ranges,
                                                std::int64_t heads, std::int64_t head_dim) {
  std::int64_t rows = 0;
  for (const auto& [begin, end] : ranges) rows += end - begin;
  ring_attention::Tensor<float> shard(1, rows, heads, head_dim);
  std::int64_t first_row = 0;
  for (const auto& [begin, end] : ranges) {
    for_each_block(end - begin, 256, ring_attention::num_threads(), [&, row = first_row, token = begin] {
      return [&, row, token](std::int64_t first, std::int64_t count) {
        for (std::int64_t i = first; i < first + count; ++i) {
          for (std::int64_t head = 0; head < heads; ++head) {
            fill_counter_row(operand, token + i, head, head_dim, shard.view().row(0, row + i, head));
          }
        }
      };
    });
    first_row += end - begin;
  }
  return shard;
}

inline std::int64_t token_of_row(const TokenRanges& ranges, std::int64_t row) {
  for (const auto& [begin, end] : ranges) {
    if (row < end - begin) return begin + row;
    row -= end - begin;
  }
  return -1;
}

/// What a member found out about rows of its own.
struct RowCheck {
  std::int64_t rows = 0;
  double worst = 0.0;  ///< largest error in units of the tolerance; infinite where an output is NaN
};

/// Checks `samples` rows of [1, tokens, h, d], spread evenly over the member's, first and last included. The
/// tolerance is the library's for float, 2e-5, of the token's largest output: attention averages, so that
/// outputs may be far below 1.
inline RowCheck check_rows(const ring_attention::Tensor<float>& out, const TokenRanges& ranges,
                           const DirectRow& direct, std::int64_t samples) {
  const auto [batch, own, heads, head_dim] = out.shape();
  RowCheck check;
  check.rows = std::min(samples, own);
  for (std::int64_t sample = 0; sample < check.rows; ++sample) {
    const std::int64_t row = check.rows == 1 ? 0 : sample * (own - 1) / (check.rows - 1);
    double largest = 0.0, error = 0.0;
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::vector<double> expected = direct(token_of_row(ranges, row), head);
      for (std::int64_t c = 0; c < head_dim; ++c) {
        const double reference = expected[static_cast<std::size_t>(c)];
        const double difference = std::abs(static_cast<double>(out.view()(0, row, head, c)) - reference);
        largest = std::max(largest, std::abs(reference));
        error =
            std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(error, difference);
      }
    }
    if (error > 0.0) check.worst = std::max(check.worst, error / (2e-5 * std::min(1.0, largest)));
  }
  return check;
}

}  // namespace examples
