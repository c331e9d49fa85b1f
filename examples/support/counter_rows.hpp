// Rows of q, k and v as pure functions of their place, so that any process can make any row and none needs
// the whole sequence.
#pragma once

#include <cstdint>

namespace examples {

enum class Operand : std::uint64_t { query = 1, key = 2, value = 3 };

/// splitmix64's finalizer, a bijection that changes about half of the bits for each bit that changes.
inline std::uint64_t mix_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// Fills row[0 .. head_dim) of a token and head: uniform numbers of mean 0 and variance 1, so that scaled
/// scores have variance 1, too.
inline void fill_counter_row(Operand operand, std::int64_t token, std::int64_t head, std::int64_t head_dim,
                             float* row) {
  const std::uint64_t token_bits = mix_bits(static_cast<std::uint64_t>(token) +
                                            0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(operand));
  std::uint64_t counter = mix_bits(token_bits + static_cast<std::uint64_t>(head));
  for (std::int64_t c = 0; c < head_dim; ++c) {
    counter += 0x9e3779b97f4a7c15ULL;
    const auto bits = static_cast<std::int32_t>(mix_bits(counter) >> 40);
    row[c] = (static_cast<float>(bits) * 0x1p-23F - 1.0F) * 1.7320508F;
  }
}

}  // namespace examples
