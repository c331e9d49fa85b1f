// Calls without tokens: what they hold does not grow with the number of batch items.
#include <cstdint>
#include <ring_attention/ring_attention.hpp>

#include "allocation/counting.hpp"
#include "support/catch.hpp"

namespace {

namespace ra = ring_attention;

template <class Attention>
void check_empty_call(const Attention& attention) {
  constexpr std::int64_t items = std::int64_t{1} << 31;
  const ra::Tensor<float> empty(items, 0, 4, 8);
  test::reset_peak();
  const auto result = attention.forward_with_lse(empty, empty, empty);
  CHECK(result.out.shape() == empty.shape());
  CHECK(result.lse.shape() == ra::Shape{items, 4, 0, 1});
  const auto grads = attention.backward(empty, empty, empty, result, empty);
  CHECK(grads.k.shape() == empty.shape());
  CHECK(test::peak_of_program() < 1 << 16);
}

}  // namespace

TEST_CASE("empty tensors of many batch items cost no memory", "[allocation]") {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {4, 8};
  config.dilation_rates = {1, 2};
  config.ring_size = 3;
  check_empty_call(ra::RingDilatedAttentionV2<float>(config));
  check_empty_call(ra::RingDilatedAttentionProduction<float>(config));
  check_empty_call(ra::TrueRingDilatedAttention<float>(config));
  check_empty_call(ra::BlockSparseRingDilatedAttention<float>(config));
}
