// Fixed two-dimensional sine-cosine positions, computed for the cells that are used.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <map>

namespace slide_encoder {

/// What the table of slide_ngrids^2 entries holds for a cell (u, v) of the grid, u = x / tile_size and
/// v = y / tile_size. Its first half tells v, its second half u; of each half the first half are sines of
/// falling frequencies, the second cosines. The class token's entry, not computed here, is zero.
class PositionTable {
 public:
  explicit PositionTable(std::int64_t embed) : frequencies_(embed / 4) {
    for (Eigen::Index i = 0; i < frequencies_.size(); ++i) {
      frequencies_[i] = std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(embed / 4));
    }
  }

  Eigen::ArrayXf entry(std::int64_t u, std::int64_t v) {
    Eigen::ArrayXf result(4 * frequencies_.size());
    result << along_an_axis(v), along_an_axis(u);
    return result;
  }

 private:
  /// Remembered: the tiles of a slide have few different rows and columns.
  const Eigen::ArrayXf& along_an_axis(std::int64_t cell) {
    const auto [found, is_new] = axis_.try_emplace(cell);
    if (is_new) {
      const Eigen::ArrayXd angles =
          static_cast<double>(cell) * frequencies_;  // in float large angles lose digits
      found->second.resize(2 * angles.size());
      found->second << angles.sin().cast<float>(), angles.cos().cast<float>();
    }
    return found->second;
  }

  Eigen::ArrayXd frequencies_;
  std::map<std::int64_t, Eigen::ArrayXf> axis_;
};

}  // namespace slide_encoder
