// TokenList: tokens of a sequence, picked by a list of rows or consecutive.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/version.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// First position in an ascending list whose row is not below `row`.
inline std::int64_t position(std::span<const std::int64_t> rows, std::int64_t row) {
  return std::lower_bound(rows.begin(), rows.end(), row) - rows.begin();
}

/// Tokens picked by a list: token i is `base + index[i]`, or `base + i` without a list. Ascending.
struct TokenList {
  std::int64_t base = 0;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;

  std::int64_t operator[](std::int64_t i) const { return base + (index != nullptr ? index[i] : i); }

  TokenList sub(std::int64_t begin, std::int64_t end) const {
    return index != nullptr ? TokenList{base, index + begin, end - begin}
                            : TokenList{base + begin, index, end - begin};
  }

  /// Number of tokens that are not after `token`.
  std::int64_t count_until(std::int64_t token) const {
    if (index == nullptr) return std::clamp<std::int64_t>(token - base, -1, count - 1) + 1;
    return std::upper_bound(index, index + count, token - base) - index;
  }
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
