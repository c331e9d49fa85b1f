// The published configurations that are timed, and how many query-key pairs one call of each computes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <span>
#include <string>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

struct Configuration {
  std::string name;  ///< also tells tokens and heads: "dense-2048x8"
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::vector<std::int64_t> head_dims;
  ra::AttentionConfig config;
  bool best_kernel_only = false;  ///< and of the scalars float and bfloat16
};

inline std::string name_of(const std::string& kind, std::int64_t tokens, std::int64_t heads) {
  return kind + "-" + std::to_string(tokens) + "x" + std::to_string(heads);
}

inline Configuration dense(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  Configuration made{name_of("dense", tokens, heads), tokens, heads, std::move(head_dims), ra::ring_preset()};
  made.config.segment_lengths = {tokens};
  made.config.dilation_rates = {1};
  return made;
}

/// LongNet's branches.
inline Configuration longnet(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  Configuration made{name_of("longnet", tokens, heads), tokens, heads, std::move(head_dims),
                     ra::longnet_preset()};
  made.config.segment_lengths = {2048, 4096, 8192, 16384, 32768};
  made.config.dilation_rates = {1, 2, 4, 8, 16};
  return made;
}

/// The slide encoder of Prov-GigaPath.
inline Configuration gigapath(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  Configuration made{name_of("gigapath", tokens, heads), tokens, heads, std::move(head_dims),
                     ra::torchscale_preset()};
  made.config.segment_lengths = {1024, 5792, 32768, 185363, 1048576};
  made.config.dilation_rates = {1, 2, 4, 8, 16};
  return made;
}

/// Query-key pairs of one sequence, summed over heads and branches; zero keys, which cost nothing, do not
/// count.
inline double count_pairs(const ra::AttentionConfig& config, std::int64_t tokens, std::int64_t heads) {
  const ra::CallShape shape{1, tokens, heads, heads, 1};
  const ra::AttentionPlan plan = ra::detail::plan_call(config, shape, {}, &ra::make_indices).plan;
  double pairs = 0.0;
  for (const ra::BranchPlan& branch : plan.sequence_of(0).branches) {
    for (const std::size_t offset : branch.offset_of_head) {
      for (std::int64_t begin = 0; begin < tokens; begin += branch.segment_length) {
        const std::int64_t length = std::min(branch.segment_length, tokens - begin);
        const std::int64_t kept = branch.offsets[offset].kept.count_below(length);
        const std::int64_t queries = config.query_rule == ra::QueryRule::all ? length : kept;
        pairs += static_cast<double>(queries) * static_cast<double>(kept);
      }
    }
  }
  return pairs;
}

enum class Direction { forward, backward };

inline std::string to_string(Direction direction) {
  return direction == Direction::forward ? "forward" : "backward";
}

/// Floating-point operations of one call: 4 * d * pairs forward, 2.5 times that backward.
inline double count_flops(double pairs, std::int64_t head_dim, Direction direction) {
  const double forward = 4.0 * static_cast<double>(head_dim) * pairs;
  return direction == Direction::forward ? forward : 2.5 * forward;
}

}  // namespace benchmarks
