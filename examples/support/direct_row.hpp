// One output row of dilated attention in float64, by definition: a loop over the tokens that the row attends
// to. Shares nothing with the library but the configuration, so that it can check it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/config.hpp>
#include <vector>

#include "counter_rows.hpp"

namespace examples {

/// Rows of fill_counter_row under dilated attention with PaddingRule::masked, as many key/value heads as
/// query heads, and the default scale.
class DirectRow {
 public:
  DirectRow(const ring_attention::AttentionConfig& config, std::int64_t tokens, std::int64_t heads,
            std::int64_t head_dim)
      : config_(&config), tokens_(tokens), heads_(heads), head_dim_(head_dim) {}

  /// out[0 .. head_dim) of a token and head: softmax over the keys of all branches of the head together
  /// (LongNet, arXiv 2307.02486, eq. 9-10); zeros for a row that no branch keeps.
  std::vector<double> operator()(std::int64_t token, std::int64_t head) const {
    const auto dim = static_cast<std::size_t>(head_dim_);
    std::vector<float> query(dim), key(dim), value(dim);
    fill_counter_row(Operand::query, token, head, head_dim_, query.data());
    double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
    std::vector<double> out(dim);
    for (std::size_t branch = 0; branch < config_->segment_lengths.size(); ++branch) {
      if (!runs(head, branch)) continue;
      const std::int64_t w = std::min(config_->segment_lengths[branch], tokens_);
      const std::int64_t r = config_->dilation_rates[branch];
      const std::int64_t offset = offset_of(head, branch);
      const std::int64_t begin = token / w * w;
      if (config_->query_rule == ring_attention::QueryRule::dilated && (token - begin) % r != offset)
        continue;
      const std::int64_t end = config_->causal ? token + 1 : std::min(begin + w, tokens_);
      for (std::int64_t t = begin + offset; t < end; t += r) {
        fill_counter_row(Operand::key, t, head, head_dim_, key.data());
        fill_counter_row(Operand::value, t, head, head_dim_, value.data());
        double score = 0.0;
        for (std::size_t c = 0; c < dim; ++c)
          score += static_cast<double>(query[c]) * static_cast<double>(key[c]);
        score /= std::sqrt(static_cast<double>(head_dim_));
        if (score > largest) {
          const double factor = std::exp(largest - score);
          largest = score;
          sum *= factor;
          for (double& x : out) x *= factor;
        }
        const double weight = std::exp(score - largest);
        sum += weight;
        for (std::size_t c = 0; c < dim; ++c) out[c] += weight * static_cast<double>(value[c]);
      }
    }
    for (double& x : out) x = sum > 0.0 ? x / sum : 0.0;
    return out;
  }

 private:
  /// Grouped: heads / branches each in order, the remainder one each to the last branches.
  bool runs(std::int64_t head, std::size_t branch) const {
    if (config_->head_partition == ring_attention::HeadPartition::shared) return true;
    const auto branches = static_cast<std::int64_t>(config_->segment_lengths.size());
    std::int64_t first = 0;
    for (std::int64_t i = 0; i < branches; ++i) {
      const std::int64_t count = heads_ / branches + (i >= branches - heads_ % branches ? 1 : 0);
      if (head < first + count) return i == static_cast<std::int64_t>(branch);
      first += count;
    }
    return false;
  }

  std::int64_t offset_of(std::int64_t head, std::size_t branch) const {
    const std::int64_t r = config_->dilation_rates[branch];
    switch (config_->offset_rule) {
      case ring_attention::OffsetRule::by_branch:
        return static_cast<std::int64_t>(branch) % r;
      case ring_attention::OffsetRule::by_head:
        return head % r;
      case ring_attention::OffsetRule::by_head_block:
        break;
    }
    return head / (heads_ / r + (heads_ % r != 0 ? 1 : 0));
  }

  const ring_attention::AttentionConfig* config_;
  std::int64_t tokens_, heads_, head_dim_;
};

}  // namespace examples
