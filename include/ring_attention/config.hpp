// AttentionConfig: the branches, the ring and the four rules that select a published variant of dilated
// attention (LongNet, arXiv 2307.02486).
#pragma once

#include <cstdint>
#include <optional>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <cmath>
#include <string>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Which heads run which branches.
enum class HeadPartition {
  grouped,  ///< each head runs one branch: `heads / branches` heads each in order, the remainder one each to
            ///< the last branches
  shared    ///< every head runs every branch; results are mixed by softmax over the branches' log-sum-exp
            ///< (LongNet eq. 9-10)
};

/// Which residue class o a head keeps: token t of segment s is kept if and only if `(t - s * w) % r == o`.
enum class OffsetRule {
  by_branch,     ///< o = branch % r
  by_head,       ///< o = head % r (LongNet eq. 11)
  by_head_block  ///< o = head / ceil(heads / r) (torchscale, GigaPath)
};

/// Which queries of a segment attend to its kept keys.
enum class QueryRule {
  all,     ///< every query
  dilated  ///< kept queries only; a row that no branch keeps has output 0 and log-sum-exp -infinity
};

/// What happens where a segment is shorter than a multiple of the dilation rate.
enum class PaddingRule {
  masked,        ///< the last segment is simply short
  zero_attended  ///< zero keys and values pad every segment and are attended, as in torchscale. Not causal:
                 ///< they add `z * exp(0)` to a denominator and nothing to a numerator; causal: they follow
                 ///< every query
};

/// Whether backward differentiates the weights that mix the branches of `shared` heads.
enum class MixGradient {
  exact,    ///< yes: gradients of the output as it is computed
  detached  ///< no, as in torchscale: the weights count as constants
};

/// Which tokens a ring member owns.
enum class ShardLayout {
  contiguous,  ///< member p owns one run of ceil(n / P) tokens
  zigzag       ///< member p owns runs p and 2P-1-p of ceil(n / 2P) tokens, which balances causal work
};

/// What to compute. Passed to the constructor of an attention class, which checks it.
struct AttentionConfig {
  std::vector<std::int64_t>
      segment_lengths;  ///< w_i in tokens, one per branch; clipped to the sequence length
  std::vector<std::int64_t> dilation_rates;  ///< r_i, one per branch
  std::int64_t ring_size = 1;                ///< P, number of shards of the sequence
  /// A query sees keys at its own and earlier sequence positions. Hidden keys get probability 0, as in
  /// PyTorch, which does not undo a NaN or an infinity in their values (0 * NaN is NaN): it may reach earlier
  /// rows of the segment.
  bool causal = false;
  std::optional<double> scale = {};  ///< factor of the scores; 1 / sqrt(head dimension) when empty
  HeadPartition head_partition = HeadPartition::grouped;  ///< which heads run which branches
  OffsetRule offset_rule = OffsetRule::by_branch;         ///< which rows of a segment a head keeps
  QueryRule query_rule = QueryRule::all;                  ///< which queries attend to the kept keys
  PaddingRule padding_rule = PaddingRule::masked;         ///< whether zero rows pad segments
  MixGradient mix_gradient = MixGradient::exact;          ///< whether backward differentiates mixing weights
  ShardLayout shard_layout = ShardLayout::contiguous;     ///< which tokens a ring member owns

  /// Throws std::invalid_argument that names the first field that breaks a rule.
  void validate() const;

  /// Whether every field is equal.
  friend bool operator==(const AttentionConfig&, const AttentionConfig&) = default;
};

/// Ring dilated attention: heads divided over the branches, every query served. Lengths and rates are left
/// for the caller to fill in.
inline AttentionConfig ring_preset() { return {}; }

/// The LongNet paper (arXiv 2307.02486, eq. 2-11): every head runs every branch, offsets differ by head, kept
/// rows only. Lengths and rates are left for the caller to fill in.
inline AttentionConfig longnet_preset() {
  AttentionConfig config;
  config.head_partition = HeadPartition::shared;
  config.offset_rule = OffsetRule::by_head;
  config.query_rule = QueryRule::dilated;
  return config;
}

/// What microsoft/torchscale computes and what trained GigaPath and LongViT checkpoints expect. Lengths and
/// rates are left for the caller to fill in.
inline AttentionConfig torchscale_preset() {
  AttentionConfig config = longnet_preset();
  config.offset_rule = OffsetRule::by_head_block;
  config.padding_rule = PaddingRule::zero_attended;
  return config;
}

#if RING_ATTENTION_DEFINES_ENGINE
namespace detail {

template <class Enumeration>
void check_enumerator(const char* field, Enumeration value, Enumeration last) {
  const auto number = static_cast<std::int64_t>(value);
  if (number < 0 || number > static_cast<std::int64_t>(last)) {
    throw_invalid(field, number, "is not a value of its enumeration");
  }
}

}  // namespace detail

RING_ATTENTION_INLINE void AttentionConfig::validate() const {
  if (segment_lengths.empty()) {
    detail::throw_invalid("segment_lengths.size()", std::int64_t{0}, "at least one branch is needed");
  }
  if (dilation_rates.size() != segment_lengths.size()) {
    detail::throw_invalid("dilation_rates.size()", static_cast<std::int64_t>(dilation_rates.size()),
                          "must equal segment_lengths.size() = " + std::to_string(segment_lengths.size()));
  }
  for (std::size_t i = 0; i < segment_lengths.size(); ++i) {
    detail::require_positive(detail::element_name("segment_lengths", i), segment_lengths[i]);
    detail::require_positive(detail::element_name("dilation_rates", i), dilation_rates[i]);
  }
  detail::require_positive("ring_size", ring_size);
  detail::check_enumerator("head_partition", head_partition, HeadPartition::shared);
  detail::check_enumerator("offset_rule", offset_rule, OffsetRule::by_head_block);
  detail::check_enumerator("query_rule", query_rule, QueryRule::dilated);
  detail::check_enumerator("padding_rule", padding_rule, PaddingRule::zero_attended);
  detail::check_enumerator("mix_gradient", mix_gradient, MixGradient::detached);
  detail::check_enumerator("shard_layout", shard_layout, ShardLayout::zigzag);
  if (scale && !std::isfinite(*scale)) {
    detail::throw_invalid("scale", std::to_string(*scale), "must be finite");
  }
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
