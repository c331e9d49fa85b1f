// What the ranks of a ring compare before data moves, as names and values.
#pragma once

#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/ring/agreement.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <algorithm>
#include <ring_attention/pattern/xxh64.hpp>
#include <span>
#include <sstream>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

AgreementFields agreement_fields(const AttentionConfig& config);

AgreementFields agreement_fields(const BlockSparseConfig& sparse);

/// Tells objects of different fields apart in every call, without sending all fields again.
std::string summary_of(const std::string& kind, const AgreementFields& fields);

AgreementFields agreement_fields(const CallShape& shape, std::int64_t total_sequence_length,
                                 const std::vector<std::int64_t>& lengths);

#if RING_ATTENTION_DEFINES_ENGINE

inline std::string text_of(const std::vector<std::int64_t>& values) {
  std::string text = "{";
  for (const std::int64_t value : values) text += (text.size() > 1 ? ", " : "") + std::to_string(value);
  return text + "}";
}

RING_ATTENTION_INLINE AgreementFields agreement_fields(const AttentionConfig& config) {
  const auto number = [](auto value) { return std::to_string(static_cast<std::int64_t>(value)); };
  std::ostringstream scale;
  scale.precision(17);
  if (config.scale) scale << *config.scale;
  return {{"segment_lengths", text_of(config.segment_lengths)},
          {"dilation_rates", text_of(config.dilation_rates)},
          {"ring_size", number(config.ring_size)},
          {"causal", number(config.causal)},
          {"scale", config.scale ? scale.str() : "default"},
          {"head_partition", number(config.head_partition)},
          {"offset_rule", number(config.offset_rule)},
          {"query_rule", number(config.query_rule)},
          {"padding_rule", number(config.padding_rule)},
          {"mix_gradient", number(config.mix_gradient)},
          {"shard_layout", number(config.shard_layout)}};
}

RING_ATTENTION_INLINE AgreementFields agreement_fields(const BlockSparseConfig& sparse) {
  std::vector<BlockPair> blocks = sparse.blocks;  // in any order, and duplicates count once
  std::sort(blocks.begin(), blocks.end());
  blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
  const std::uint64_t checksum = xxh64(std::as_bytes(std::span(blocks)));
  return {{"pattern", std::to_string(static_cast<std::int64_t>(sparse.pattern))},
          {"block_size", std::to_string(sparse.block_size)},
          {"window", std::to_string(sparse.window)},
          {"global_tokens", std::to_string(sparse.global_tokens)},
          {"block-sparse dilation_rates", text_of(sparse.dilation_rates)},
          {"blocks", std::to_string(blocks.size()) + " pairs with checksum " + std::to_string(checksum)}};
}

RING_ATTENTION_INLINE std::string summary_of(const std::string& kind, const AgreementFields& fields) {
  const std::string bytes = packed(fields);
  return kind + " with checksum " + std::to_string(xxh64(std::as_bytes(std::span(bytes))));
}

RING_ATTENTION_INLINE AgreementFields agreement_fields(const CallShape& shape,
                                                       std::int64_t total_sequence_length,
                                                       const std::vector<std::int64_t>& lengths) {
  return {{"total_sequence_length", std::to_string(total_sequence_length)},
          {"batch size", std::to_string(shape.batch)},
          {"query heads", std::to_string(shape.heads)},
          {"key/value heads", std::to_string(shape.kv_heads)},
          {"head dimension", std::to_string(shape.head_dim)},
          {"lengths", text_of(lengths)}};
}

#endif

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
