// BlockSparseConfig: which pairs of (query block, key block) are active.
#pragma once

#include <compare>
#include <cstdint>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/version.hpp>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <algorithm>
#include <cstddef>
#include <ring_attention/error.hpp>
#include <string>
#include <utility>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Which key blocks a query block i attends to; reach = ceil(window / block_size).
enum class BlockPattern {
  local_window,    ///< blocks i - reach to i + reach
  dilated_sparse,  ///< blocks i - r * t and i + r * t with t <= reach, for every dilation rate r
  global_local,  ///< local_window; blocks that hold a global token attend to and are attended by every block
  custom         ///< the pairs listed in `blocks`
};

/// Block `b` holds the tokens [b * block_size, (b + 1) * block_size), cut off at the sequence's end.
struct BlockPair {
  std::int64_t query = 0;  ///< number of the block whose queries attend
  std::int64_t key = 0;    ///< number of the block whose keys they attend to
  /// By query, then by key.
  friend auto operator<=>(const BlockPair&, const BlockPair&) = default;
  // Spelled out because nvcc 13 does not derive it from the one above.
  /// Whether both numbers are equal.
  friend bool operator==(const BlockPair&, const BlockPair&) = default;
};

/// Passed to the constructor of a block-sparse attention class, which checks it. Fields that a pattern does
/// not name are checked and otherwise unused.
struct BlockSparseConfig {
  BlockPattern pattern = BlockPattern::local_window;  ///< how the active blocks are told
  std::int64_t block_size = 64;                       ///< tokens; the last block may be short
  std::int64_t window = 256;  ///< tokens to either side, rounded up to whole blocks: every key within that
                              ///< distance is seen
  std::int64_t global_tokens = 64;  ///< tokens from the start, rounded up to whole blocks
  std::vector<std::int64_t> dilation_rates = {1, 2, 4};  ///< distances between blocks, in blocks
  std::vector<BlockPair> blocks = {};  ///< any order; duplicates count once; above the diagonal they are
                                       ///< dropped when causal. Given for BlockPattern::custom only

  /// Throws std::invalid_argument that names the first field that breaks a rule.
  void validate() const;

  /// Whether every field is equal.
  friend bool operator==(const BlockSparseConfig&, const BlockSparseConfig&) = default;
};

namespace detail {

constexpr std::int64_t blocks_of(std::int64_t tokens, std::int64_t block_size) {
  return tokens / block_size + (tokens % block_size != 0);
}

/// Throws where a listed block lies past the last one of a sequence.
void check_block_range(const BlockSparseConfig& sparse, std::int64_t tokens);

/// The key of a checked configuration's lists for a sequence. Listed pairs past its end are left out, which
/// serves batch items that are shorter than the others.
PatternKey block_pattern_key(const BlockSparseConfig& sparse, bool causal, std::int64_t tokens);

}  // namespace detail
#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE void BlockSparseConfig::validate() const {
  if (pattern < BlockPattern::local_window || pattern > BlockPattern::custom) {
    detail::throw_invalid("pattern", static_cast<std::int64_t>(pattern), "is not a value of BlockPattern");
  }
  detail::require_positive("block_size", block_size);
  if (window < 0) detail::throw_invalid("window", window, "must not be negative");
  if (global_tokens < 0) detail::throw_invalid("global_tokens", global_tokens, "must not be negative");
  if (pattern == BlockPattern::dilated_sparse && dilation_rates.empty()) {
    detail::throw_invalid("dilation_rates.size()", std::int64_t{0}, "at least one rate is needed");
  }
  for (std::size_t i = 0; i < dilation_rates.size(); ++i) {
    detail::require_positive(detail::element_name("dilation_rates", i), dilation_rates[i]);
  }
  if (pattern != BlockPattern::custom && !blocks.empty()) {
    detail::throw_invalid("blocks.size()", static_cast<std::int64_t>(blocks.size()),
                          "must be 0 unless pattern is BlockPattern::custom");
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (const auto& [name, block] : {std::pair(".query", blocks[i].query), {".key", blocks[i].key}}) {
      if (block < 0)
        detail::throw_invalid(detail::element_name("blocks", i) + name, block, "must not be negative");
    }
  }
}

namespace detail {

RING_ATTENTION_INLINE void check_block_range(const BlockSparseConfig& sparse, std::int64_t tokens) {
  const std::int64_t blocks = blocks_of(tokens, sparse.block_size);
  for (std::size_t i = 0; i < sparse.blocks.size(); ++i) {
    const BlockPair& pair = sparse.blocks[i];
    for (const auto& [name, block] : {std::pair(".query", pair.query), {".key", pair.key}}) {
      if (block < blocks) continue;
      throw_invalid(element_name("blocks", i) + name, block,
                    "must be below ceil(n / block_size) = " + std::to_string(blocks) +
                        " with n = " + std::to_string(tokens));
    }
  }
}

RING_ATTENTION_INLINE PatternKey block_pattern_key(const BlockSparseConfig& sparse, bool causal,
                                                   std::int64_t tokens) {
  PatternKey key;
  key.sequence_length = blocks_of(tokens, sparse.block_size);
  key.parameters = {causal ? 1 : 0};
  if (sparse.pattern == BlockPattern::custom) {
    key.kind = PatternKind::custom;
    std::vector<BlockPair> pairs;
    for (const BlockPair& pair : sparse.blocks) {
      const std::int64_t end = causal ? pair.query + 1 : key.sequence_length;
      if (pair.query < key.sequence_length && pair.key < end) pairs.push_back(pair);
    }
    std::sort(pairs.begin(), pairs.end());
    pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
    key.parameters.reserve(1 + 2 * pairs.size());
    for (const BlockPair& pair : pairs) {
      key.parameters.push_back(pair.query);
      key.parameters.push_back(pair.key);
    }
    return key;
  }
  // Clipped, so that windows that reach past both ends share one pattern.
  key.parameters.push_back((std::min)(blocks_of(sparse.window, sparse.block_size), key.sequence_length));
  if (sparse.pattern == BlockPattern::local_window) {
    key.kind = PatternKind::local_window;
  } else if (sparse.pattern == BlockPattern::dilated_sparse) {
    key.kind = PatternKind::dilated_sparse;
    key.dilation_rates = sparse.dilation_rates;
  } else {
    key.kind = PatternKind::global_local;
    key.parameters.push_back(
        (std::min)(blocks_of(sparse.global_tokens, sparse.block_size), key.sequence_length));
  }
  return key;
}

}  // namespace detail

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
