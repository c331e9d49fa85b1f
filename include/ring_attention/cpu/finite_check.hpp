// Finds the first element of an input that is infinite or not a number.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/cpu/whole.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/tensor.hpp>
#include <string>
#include <string_view>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
void require_finite(std::string_view name, const TensorView<const Scalar>& view, const AttentionPlan& plan,
                    int threads) {
  const auto [batch, tokens, heads, head_dim] = view.shape();
  const std::int64_t width = heads * head_dim;
  std::atomic<std::int64_t> first{(std::numeric_limits<std::int64_t>::max)()};
  const auto finite = [](Scalar value) { return std::isfinite(static_cast<double>(value)); };
  const auto check_row = [&, tokens_ = tokens, heads_ = heads, head_dim_ = head_dim](std::int64_t index,
                                                                                     int) {
    const std::int64_t item = index / tokens_;
    const std::int64_t token = index % tokens_;
    if (token >= plan.sequence_of(item).length || index * width > first) return;
    for (std::int64_t head = 0; head < heads_; ++head) {
      const Scalar* row = view.row(item, token, head);
      for (std::int64_t d = 0; d < head_dim_; ++d) {
        if (finite(row[d])) continue;
        const std::int64_t at = index * width + head * head_dim_ + d;
        std::int64_t seen = first;
        while (at < seen && !first.compare_exchange_weak(seen, at)) {
        }
        return;
      }
    }
  };
  detail::parallel_for(batch * tokens, threads, check_row);
  if (first == (std::numeric_limits<std::int64_t>::max)()) return;
  const std::int64_t at = first;
  const std::int64_t row = at / width;
  const std::int64_t head = at % width / head_dim;
  const std::int64_t d = at % head_dim;
  std::string place(name);
  place.append("(").append(std::to_string(row / tokens)).append(", ").append(std::to_string(row % tokens));
  place.append(", ").append(std::to_string(head)).append(", ").append(std::to_string(d)).append(")");
  detail::throw_invalid(place, std::to_string(static_cast<double>(view(row / tokens, row % tokens, head, d))),
                        "must be finite");
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
