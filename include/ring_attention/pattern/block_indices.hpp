// Which key blocks a query block attends to: the lists of block-sparse attention, one per query block.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <ring_attention/error.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// PatternKey::parameters of the kinds that list blocks. Everything is counted in blocks, so that sequences
/// and block sizes that give the same lists share one pattern.
namespace block_parameters {
inline constexpr std::size_t causal = 0;
inline constexpr std::size_t reach = 1;          // local_window, dilated_sparse, global_local
inline constexpr std::size_t global_blocks = 2;  // global_local
inline constexpr std::size_t pairs = 1;          // custom: query block, key block, query block, ...
}  // namespace block_parameters

inline std::int64_t block_parameter(const PatternKey& key, std::size_t index) {
  if (index >= key.parameters.size()) {
    throw_invalid("parameters.size()", static_cast<std::int64_t>(key.parameters.size()),
                  "a pattern of this kind needs at least " + std::to_string(index + 1));
  }
  if (key.parameters[index] < 0) {
    throw_invalid(element_name("parameters", index), key.parameters[index], "must not be negative");
  }
  return key.parameters[index];
}

/// Appends the blocks [begin, end).
inline void append_range(std::vector<std::int64_t>& list, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  const std::size_t before = list.size();
  list.resize(before + static_cast<std::size_t>(end - begin));
  std::iota(list.begin() + static_cast<std::ptrdiff_t>(before), list.end(), begin);
}

/// Key blocks around `block` at distances r * t with t <= reach, for every rate r, below `end`.
inline void append_dilated_window(std::vector<std::int64_t>& list, const PatternKey& key, std::int64_t block,
                                  std::int64_t reach, std::int64_t end) {
  const auto first = static_cast<std::ptrdiff_t>(list.size());
  for (const std::int64_t rate : key.dilation_rates) {
    for (std::int64_t t = (std::min)(reach, block / rate); t > 0; --t) list.push_back(block - t * rate);
    const std::int64_t after = (std::min)(reach, (end - 1 - block) / rate);
    for (std::int64_t t = 0; t <= after; ++t) list.push_back(block + t * rate);
  }
  std::sort(list.begin() + first, list.end());
  list.erase(std::unique(list.begin() + first, list.end()), list.end());
}

/// Appends the key blocks of one query block, ascending. `next_pair` goes through a custom key's pairs.
inline void append_key_blocks(std::vector<std::int64_t>& list, const PatternKey& key, std::int64_t block,
                              std::size_t& next_pair) {
  const std::int64_t blocks = key.sequence_length;
  const std::int64_t end = block_parameter(key, block_parameters::causal) != 0 ? block + 1 : blocks;
  if (key.kind == PatternKind::custom) {
    for (; next_pair + 1 < key.parameters.size() && key.parameters[next_pair] == block; next_pair += 2) {
      if (key.parameters[next_pair + 1] < end) list.push_back(key.parameters[next_pair + 1]);
    }
    return;
  }
  const std::int64_t reach = (std::min)(block_parameter(key, block_parameters::reach), blocks);
  if (key.kind == PatternKind::dilated_sparse) {
    append_dilated_window(list, key, block, reach, end);
    return;
  }
  std::int64_t window_begin = std::max<std::int64_t>(0, block - reach);
  if (key.kind == PatternKind::global_local) {
    const std::int64_t global_blocks = block_parameter(key, block_parameters::global_blocks);
    if (block < global_blocks) {
      append_range(list, 0, end);
      return;
    }
    append_range(list, 0, (std::min)(global_blocks, window_begin));
  }
  append_range(list, window_begin, (std::min)(end, block + reach + 1));
}

inline void check_block_key(const PatternKey& key) {
  if (key.sequence_length < 0) {
    throw_invalid("sequence_length", key.sequence_length, "must not be negative");
  }
  for (std::size_t i = 0; i < key.dilation_rates.size(); ++i) {
    require_positive(element_name("dilation_rates", i), key.dilation_rates[i]);
  }
  if (key.kind != PatternKind::custom) return;
  const auto& numbers = key.parameters;
  if (numbers.size() % 2 == 0) {
    throw_invalid("parameters.size()", static_cast<std::int64_t>(numbers.size()),
                  "must be one and a number of pairs");
  }
  for (std::size_t i = block_parameters::pairs; i < numbers.size(); i += 2) {
    for (std::size_t k = i; k < i + 2; ++k) {
      if (numbers[k] < 0 || numbers[k] >= key.sequence_length) {
        throw_invalid(element_name("parameters", k), numbers[k],
                      "must be a block in [0, " + std::to_string(key.sequence_length) + ")");
      }
    }
    if (i > block_parameters::pairs &&
        std::pair(numbers[i], numbers[i + 1]) <= std::pair(numbers[i - 2], numbers[i - 1])) {
      throw_invalid(element_name("parameters", i), numbers[i], "pairs of blocks must ascend");
    }
  }
}

}  // namespace detail

#if RING_ATTENTION_DEFINES_ENGINE
RING_ATTENTION_INLINE std::shared_ptr<const DilatedIndices> make_block_indices(const PatternKey& key) {
  detail::check_block_key(key);
  std::vector<std::int64_t> begin{0};
  std::vector<std::int64_t> key_blocks;
  begin.reserve(static_cast<std::size_t>(key.sequence_length) + 1);
  std::size_t next_pair = detail::block_parameters::pairs;
  for (std::int64_t block = 0; block < key.sequence_length; ++block) {
    detail::append_key_blocks(key_blocks, key, block, next_pair);
    begin.push_back(static_cast<std::int64_t>(key_blocks.size()));
  }
  key_blocks.shrink_to_fit();
  return std::make_shared<const DilatedIndices>(std::move(begin), std::move(key_blocks));
}
#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
