// The published configurations that are timed, their inputs, and what one call of each computes.
#pragma once

#include <cstdint>
#include <memory>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <utility>
#include <vector>

#include "../../examples/support/counter_rows.hpp"

namespace benchmarks {

namespace ra = ring_attention;

struct Configuration {
  std::string name;  ///< with tokens and heads: "dense-2048x8"
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::vector<std::int64_t> head_dims;
  ra::AttentionConfig config;
  bool best_kernel_only = false;  ///< and of the scalars float and bfloat16
  std::int64_t block_size = 0;    ///< not 0: the same by block-sparse attention
};

inline Configuration make_configuration(const std::string& kind, std::int64_t tokens, std::int64_t heads,
                                        std::vector<std::int64_t> head_dims, ra::AttentionConfig config,
                                        std::vector<std::int64_t> segments, std::vector<std::int64_t> rates) {
  config.segment_lengths = std::move(segments);
  config.dilation_rates = std::move(rates);
  return {kind + "-" + std::to_string(tokens) + "x" + std::to_string(heads), tokens, heads,
          std::move(head_dims), std::move(config)};
}

inline Configuration dense(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  return make_configuration("dense", tokens, heads, std::move(head_dims), ra::ring_preset(), {tokens}, {1});
}

/// The same, but keys after a query are hidden from it.
inline Configuration causal(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  ra::AttentionConfig config = ra::ring_preset();
  config.causal = true;
  return make_configuration("causal", tokens, heads, std::move(head_dims), config, {tokens}, {1});
}

/// LongNet's branches.
inline Configuration longnet(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  return make_configuration("longnet", tokens, heads, std::move(head_dims), ra::longnet_preset(),
                            {2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16});
}

/// The slide encoder of Prov-GigaPath.
inline Configuration gigapath(std::int64_t tokens, std::int64_t heads, std::vector<std::int64_t> head_dims) {
  return make_configuration("gigapath", tokens, heads, std::move(head_dims), ra::torchscale_preset(),
                            {1024, 5792, 32768, 185363, 1048576}, {1, 2, 4, 8, 16});
}

/// Block-sparse attention, in which every block of 64 tokens sees `count` blocks: those of its segment.
inline Configuration blocks(std::int64_t count, std::int64_t tokens, std::int64_t heads,
                            std::vector<std::int64_t> head_dims) {
  Configuration made = make_configuration("blocks" + std::to_string(count), tokens, heads,
                                          std::move(head_dims), ra::ring_preset(), {64 * count}, {1});
  made.block_size = 64;
  return made;
}

/// What each member of a ring computes and sends in forward.
inline std::vector<ra::MemberReport> report_members(ra::AttentionConfig config, std::int64_t tokens,
                                                    std::int64_t heads, std::int64_t ring_size) {
  config.ring_size = ring_size;
  return ra::TrueRingDilatedAttention<float>(std::move(config)).plan_report(tokens, heads, heads).members;
}

/// Query-key pairs of one sequence, summed over heads and branches; zero keys, which cost nothing, do not
/// count.
inline double count_pairs(const ra::AttentionConfig& config, std::int64_t tokens, std::int64_t heads) {
  return report_members(config, tokens, heads, 1).front().pairs;
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

/// [1, n, h, d] of uniform numbers of mean 0 and variance 1, each a function of its place and the operand.
template <class Scalar>
ra::Tensor<Scalar> random_numbers(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
                                  examples::Operand operand) {
  ra::Tensor<Scalar> tensor(1, tokens, heads, head_dim);
  std::vector<float> row(static_cast<std::size_t>(head_dim));
  Scalar* next = tensor.data();
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t head = 0; head < heads; ++head) {
      examples::fill_counter_row(operand, token, head, head_dim, row.data());
      for (const float number : row) *next++ = static_cast<Scalar>(number);
    }
  }
  return tensor;
}

/// Computes patterns and writes down which were asked for.
class record_keys {
 public:
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    keys_->push_back(key);
    return ra::make_dilated_indices(key);
  }
  const std::vector<ra::PatternKey>& keys() const { return *keys_; }

 private:
  std::shared_ptr<std::vector<ra::PatternKey>> keys_ = std::make_shared<std::vector<ra::PatternKey>>();
};

/// Patterns that one call asks for, in order, as the attention class itself looks them up.
inline std::vector<ra::PatternKey> keys_of_call(ra::AttentionConfig config, std::int64_t tokens,
                                                std::int64_t heads) {
  const record_keys recorder;
  (void)ra::TrueRingDilatedAttention<float, record_keys>(std::move(config), recorder)
      .plan_report(tokens, heads, heads);
  return recorder.keys();
}

}  // namespace benchmarks
