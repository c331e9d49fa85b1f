// From the library's types to the oracle's, which knows none of them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

#include "support/compare.hpp"
#include "support/oracle.hpp"

namespace test {

namespace ra = ring_attention;

inline oracle::Problem to_problem(const ra::AttentionConfig& config, const ra::Shape& q, const ra::Shape& k,
                                  const std::vector<std::int64_t>& lengths = {}) {
  oracle::Problem p;
  p.batches = q[0];
  p.tokens = q[1];
  p.heads = q[2];
  p.kv_heads = k[2];
  p.dim = q[3];
  for (std::size_t i = 0; i < config.segment_lengths.size(); ++i) {
    p.branches.push_back({config.segment_lengths[i], config.dilation_rates[i]});
  }
  p.scale = config.scale.value_or(1 / std::sqrt(static_cast<double>(q[3])));
  p.causal = config.causal;
  p.head_partition = config.head_partition == ra::HeadPartition::shared ? oracle::HeadPartition::shared
                                                                        : oracle::HeadPartition::grouped;
  switch (config.offset_rule) {
    case ra::OffsetRule::by_branch:
      p.offset_rule = oracle::OffsetRule::by_branch;
      break;
    case ra::OffsetRule::by_head:
      p.offset_rule = oracle::OffsetRule::by_head;
      break;
    case ra::OffsetRule::by_head_block:
      p.offset_rule = oracle::OffsetRule::by_head_block;
      break;
  }
  p.query_rule =
      config.query_rule == ra::QueryRule::dilated ? oracle::QueryRule::dilated : oracle::QueryRule::all;
  p.padding_rule = config.padding_rule == ra::PaddingRule::zero_attended ? oracle::PaddingRule::zero_attended
                                                                         : oracle::PaddingRule::masked;
  p.mix_gradient = config.mix_gradient == ra::MixGradient::detached ? oracle::MixGradient::detached
                                                                    : oracle::MixGradient::exact;
  p.lengths = lengths;
  return p;
}

/// The elements as float64, row-major [b, n, h, d].
template <class T>
std::vector<double> to_float64(const ra::TensorView<const T>& view) {
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(view.size()));
  const auto [batches, tokens, heads, dim] = view.shape();
  for (std::int64_t b = 0; b < batches; ++b) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t head = 0; head < heads; ++head) {
        const T* row = view.row(b, t, head);
        for (std::int64_t c = 0; c < dim; ++c) values.push_back(to_double(row[c]));
      }
    }
  }
  return values;
}

template <class T>
oracle::Inputs to_inputs(const ra::TensorView<const T>& q, const ra::TensorView<const T>& k,
                         const ra::TensorView<const T>& v) {
  return {to_float64(q), to_float64(k), to_float64(v)};
}

}  // namespace test
