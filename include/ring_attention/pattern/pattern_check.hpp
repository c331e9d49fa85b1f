// Whether lists of unknown origin are the pattern of a key, without making that pattern.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/error.hpp>
#include <ring_attention/pattern/block_indices.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

inline bool is_dilated_pattern(const PatternKey& key, std::span<const std::int64_t> begins,
                               std::span<const std::int64_t> rows) {
  const std::size_t branches = key.segment_lengths.size();
  if (begins.size() != branches + 1 || begins[0] != 0) return false;
  std::size_t next = 0;
  for (std::size_t i = 0; i < branches; ++i) {
    const std::int64_t count = count_branch_rows(key, i);
    if (static_cast<std::uint64_t>(count) > rows.size() - next) return false;
    for (std::int64_t k = 0; k < count; ++k) {
      if (rows[next++] != key.offset + k * key.dilation_rates[i]) return false;
    }
    if (begins[i + 1] != static_cast<std::int64_t>(next)) return false;
  }
  return next == rows.size();
}

inline bool is_block_pattern(PatternKey key, std::span<const std::int64_t> begins,
                             std::span<const std::int64_t> rows) {
  if (begins.size() - 1 != static_cast<std::uint64_t>(key.sequence_length) || begins[0] != 0) return false;
  // A rate that is repeated changes no list; without it a list takes O(n log n) to make, whatever the key.
  std::sort(key.dilation_rates.begin(), key.dilation_rates.end());
  key.dilation_rates.erase(std::unique(key.dilation_rates.begin(), key.dilation_rates.end()),
                           key.dilation_rates.end());
  std::size_t next = 0;
  std::size_t next_pair = block_parameters::pairs;
  std::vector<std::int64_t> list;
  for (std::int64_t block = 0; block < key.sequence_length; ++block) {
    list.clear();
    append_key_blocks(list, key, block, next_pair);
    if (list.size() > rows.size() - next ||
        !std::equal(list.begin(), list.end(), rows.subspan(next).begin())) {
      return false;
    }
    next += list.size();
    if (begins[static_cast<std::size_t>(block) + 1] != static_cast<std::int64_t>(next)) return false;
  }
  return next == rows.size();
}

/// Whether `rows[begins[i] .. begins[i + 1])` are what make_indices would compute. Trusts no number of
/// either; begins must not be empty. Throws std::invalid_argument for a key that make_indices refuses.
inline bool is_pattern_of(const PatternKey& key, std::span<const std::int64_t> begins,
                          std::span<const std::int64_t> rows) {
  if (key.kind == PatternKind::dilated) {
    check_dilated_key(key);
    return is_dilated_pattern(key, begins, rows);
  }
  if (key.kind < PatternKind::dilated || key.kind > PatternKind::custom) {
    throw_invalid("kind", static_cast<std::int64_t>(key.kind), "is not a value of PatternKind");
  }
  check_block_key(key);
  return is_block_pattern(key, begins, rows);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
