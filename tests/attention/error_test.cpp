// Invalid use of V2: every error names the argument, its value and the rule that it breaks.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;
using Attention = ra::RingDilatedAttentionV2<float>;

/// The text of the std::invalid_argument that a call throws, or what happened instead.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "accepted";
}

ra::AttentionConfig valid_config() {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {4, 8};
  config.dilation_rates = {1, 2};
  return config;
}

template <class Change>
std::string config_error(const Change& change) {
  ra::AttentionConfig config = valid_config();
  change(config);
  return error_of([&] { Attention{config}; });
}

struct Shapes {
  ra::Shape q{2, 6, 4, 8};
  ra::Shape k{2, 6, 2, 8};
  ra::Shape v{2, 6, 2, 8};
  ra::Shape out{2, 6, 4, 8};
  ra::Shape lse{2, 4, 6, 1};
  std::vector<std::int64_t> lengths = {};
};

/// The error of a call with other shapes; every overload that takes those arguments must say the same.
template <class Change>
std::string call_error(const Change& change) {
  Shapes s;
  change(s);
  const Attention attention(valid_config());
  const ra::Tensor<float> q(s.q), k(s.k), v(s.v);
  ra::Tensor<float> out(s.out), lse(s.lse);
  const ra::ForwardOptions options{.lengths = s.lengths};
  const std::string text =
      error_of([&] { attention.forward(q.view(), k.view(), v.view(), out.view(), lse.view(), options); });
  const Shapes valid;
  if (s.lse == valid.lse) {
    CHECK(error_of([&] { attention.forward(q.view(), k.view(), v.view(), out.view(), options); }) == text);
    if (s.out == valid.out) {
      CHECK(error_of([&] { (void)attention.forward(q, k, v, options); }) == text);
      CHECK(error_of([&] { (void)attention.forward_with_lse(q, k, v, options); }) == text);
    }
  }
  return text;
}

}  // namespace

TEST_CASE("V2 errors: configuration", "[attention][error]") {
  CHECK(config_error([](auto&) {}) == "accepted");
  CHECK(config_error([](auto& c) { c.segment_lengths = c.dilation_rates = {}; }) ==
        "segment_lengths.size() = 0: at least one branch is needed");
  CHECK(config_error([](auto& c) { c.segment_lengths = {}; }) ==
        "segment_lengths.size() = 0: at least one branch is needed");
  CHECK(config_error([](auto& c) { c.dilation_rates = {}; }) ==
        "dilation_rates.size() = 0: must equal segment_lengths.size() = 2");
  CHECK(config_error([](auto& c) {
          c.dilation_rates = {1, 2, 4};
        }) == "dilation_rates.size() = 3: must equal segment_lengths.size() = 2");
  CHECK(config_error([](auto& c) { c.segment_lengths[1] = 0; }) ==
        "segment_lengths[1] = 0: must be positive");
  CHECK(config_error([](auto& c) { c.segment_lengths[0] = -4; }) ==
        "segment_lengths[0] = -4: must be positive");
  CHECK(config_error([](auto& c) { c.dilation_rates[1] = 0; }) == "dilation_rates[1] = 0: must be positive");
  CHECK(config_error([](auto& c) { c.dilation_rates[0] = -1; }) ==
        "dilation_rates[0] = -1: must be positive");
  CHECK(config_error([](auto& c) { c.ring_size = 0; }) == "ring_size = 0: must be positive");
  CHECK(config_error([](auto& c) { c.ring_size = -3; }) == "ring_size = -3: must be positive");
  CHECK(config_error([](auto& c) { c.scale = std::numeric_limits<double>::infinity(); }) ==
        "scale = inf: must be finite");
  const std::string nan = config_error([](auto& c) { c.scale = std::nan(""); });
  CHECK(nan.find("scale = ") == 0);
  CHECK(nan.find("nan: must be finite") != std::string::npos);
}

TEST_CASE("V2 errors: shapes of q, k and v", "[attention][error]") {
  CHECK(call_error([](auto&) {}) == "accepted");
  CHECK(call_error([](auto& s) {
          s.q[2] = 0;
          s.out[2] = 0;
          s.lse[1] = 0;
        }) == "q heads = 0: must be positive");
  CHECK(call_error([](auto& s) { s.q[3] = s.k[3] = s.v[3] = s.out[3] = 0; }) ==
        "q head dimension = 0: must be positive");
  CHECK(call_error([](auto& s) { s.k[2] = s.v[2] = 0; }) == "k heads = 0: must be positive");
  CHECK(call_error([](auto& s) { s.k[2] = s.v[2] = 3; }) ==
        "q heads = 4: must be a multiple of the key/value heads, of which k has 3");
  CHECK(call_error([](auto& s) { s.k[2] = s.v[2] = 8; }) ==
        "q heads = 4: must be a multiple of the key/value heads, of which k has 8");
  const std::string rule = ": must agree with q in b, n and d; q has shape [2, 6, 4, 8]";
  CHECK(call_error([](auto& s) { s.k[0] = 1; }) == "k shape = [1, 6, 2, 8]" + rule);
  CHECK(call_error([](auto& s) { s.k[1] = 7; }) == "k shape = [2, 7, 2, 8]" + rule);
  CHECK(call_error([](auto& s) { s.k[3] = 9; }) == "k shape = [2, 6, 2, 9]" + rule);
  for (const std::size_t axis : {0U, 1U, 2U, 3U}) {
    ra::Shape v = Shapes{}.v;
    v[axis] += 4;
    CHECK(call_error([&](auto& s) { s.v = v; }) ==
          "v shape = " + ra::to_string(v) + ": must equal the shape of k, [2, 6, 2, 8]");
  }
}

TEST_CASE("V2 errors: shapes and strides of out and lse", "[attention][error]") {
  for (const std::size_t axis : {0U, 1U, 2U, 3U}) {
    ra::Shape out = Shapes{}.out;
    ++out[axis];
    CHECK(call_error([&](auto& s) { s.out = out; }) ==
          "out shape = " + ra::to_string(out) + ": must be [2, 6, 4, 8]");
    ra::Shape lse = Shapes{}.lse;
    ++lse[axis];
    CHECK(call_error([&](auto& s) { s.lse = lse; }) ==
          "lse shape = " + ra::to_string(lse) + ": must be [2, 4, 6, 1]");
  }
  const Attention attention(valid_config());
  const auto in = test::random_inputs<float>({2, 6, 4, 8}, 4);
  ra::Tensor<float> out(2, 6, 4, 8), lse(2, 4, 6, 1);
  const std::string rule = " = 0: rows that are written must not share memory";
  for (const std::size_t axis : {0U, 1U, 2U}) {
    ra::Strides strides = out.view().strides();
    strides[axis] = 0;
    const ra::TensorView<float> flat_out(out.data(), out.shape(), strides);
    CHECK(error_of([&] { attention.forward(in.q.view(), in.k.view(), in.v.view(), flat_out); }) ==
          "out strides[" + std::to_string(axis) + "]" + rule);
    strides = lse.view().strides();
    strides[axis] = 0;
    const ra::TensorView<float> flat_lse(lse.data(), lse.shape(), strides);
    CHECK(error_of([&] { attention.forward(in.q.view(), in.k.view(), in.v.view(), out.view(), flat_lse); }) ==
          "lse strides[" + std::to_string(axis) + "]" + rule);
  }
  for (std::int64_t i = 0; i < out.size(); ++i)
    CHECK(out.data()[i] == 0);  // refused before anything is written
}

TEST_CASE("V2 errors: rows of an output that overlap without a stride of 0", "[attention][error]") {
  const Attention attention(valid_config());
  const auto in = test::random_inputs<float>({2, 6, 4, 8}, 4);
  std::vector<float> memory(1000, 7.0F);
  const auto error_with = [&](const ra::Strides& strides) {
    const ra::TensorView<float> out(memory.data() + 500, {2, 6, 4, 8}, strides);
    return error_of([&] { attention.forward(in.q.view(), in.k.view(), in.v.view(), out); });
  };
  const std::string rule =
      "]: rows that are written must not share memory, and rows of shape [2, 6, 4, 8] do";
  CHECK(error_with({192, 4, 48}) == "out strides = [192, 4, 48" + rule);
  CHECK(error_with({192, 32, 7}) == "out strides = [192, 32, 7" + rule);
  CHECK(error_with({40, 32, 8}) == "out strides = [40, 32, 8" + rule);
  CHECK(error_with({192, -31, 8}) == "out strides = [192, -31, 8" + rule);
  for (const float number : memory) CHECK(number == 7.0F);  // refused before anything is written
  CHECK(error_with({192, 32, 8}) == "accepted");
  CHECK(error_with({192, -32, 8}) == "accepted");
  CHECK(error_with({192, 8, 48}) == "accepted");
  CHECK(error_with({8, 16, 96}) == "accepted");
}

TEST_CASE("V2 errors: outputs that share memory with another tensor of the call", "[attention][error]") {
  const Attention attention(valid_config());
  std::vector<float> memory(4000);  // with gaps: nothing overlaps by chance
  float* const begin = memory.data();
  using View = ra::TensorView<float>;
  const View q(begin, {2, 6, 4, 8}), k(begin + 1000, {2, 6, 2, 8}), v(begin + 2000, {2, 6, 2, 8});
  const View out(begin + 3000, {2, 6, 4, 8}), lse(begin + 3500, {2, 4, 6, 1});
  const std::string rule = ": what a call writes must not share memory with what it reads or writes besides";
  const auto error_with = [&](const View& output, const View& log_sum_exp) {
    const std::string text = error_of([&] { attention.forward(q, k, v, output, log_sum_exp); });
    if (text.starts_with("out")) CHECK(error_of([&] { attention.forward(q, k, v, output); }) == text);
    return text;
  };
  CHECK(error_with(q, lse) == "out = memory of q" + rule);
  CHECK(error_with(View(begin + 3000, {2, 6, 4, 8}, {96, 16, -4}), lse)
            .starts_with("out strides = [96, 16, -4]"));
  CHECK(error_with(View(begin + 1000 + 191, {2, 6, 4, 8}), lse) == "out = memory of k" + rule);
  CHECK(error_with(View(begin + 2000 - 383, {2, 6, 4, 8}), lse) == "out = memory of v" + rule);
  CHECK(error_with(View(begin + 2000 - 384, {2, 6, 4, 8}), lse) == "accepted");
  CHECK(error_with(out, View(begin + 100, {2, 4, 6, 1})) == "lse = memory of q" + rule);
  CHECK(error_with(out, View(begin + 3000 + 383, {2, 4, 6, 1})) == "lse = memory of out" + rule);
  CHECK(error_with(out, lse) == "accepted");
}

TEST_CASE("V2 takes q, k, v and out that interleave in one buffer", "[attention][error]") {
  const Attention attention(valid_config());
  const auto in = test::random_inputs<float>({2, 6, 4, 8}, 2);
  const ra::Tensor<float> expected = attention.forward(in.q, in.k, in.v);
  // One token: 4 heads of q, 2 of k, 2 of v, 4 of out.
  constexpr std::int64_t token = 12 * 8;
  std::vector<float> packed(2 * 6 * token);
  const auto part = [&](std::int64_t first_head, std::int64_t heads) {
    return ra::TensorView<float>(packed.data() + first_head * 8, {2, 6, heads, 8}, {6 * token, token, 8});
  };
  const auto copy = [](const ra::Tensor<float>& from, const ra::TensorView<float>& to) {
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t t = 0; t < 6; ++t) {
        for (std::int64_t h = 0; h < to.shape()[2]; ++h) std::copy_n(&from(b, t, h, 0), 8, to.row(b, t, h));
      }
    }
  };
  copy(in.q, part(0, 4));
  copy(in.k, part(4, 2));
  copy(in.v, part(6, 2));
  attention.forward(part(0, 4), part(4, 2), part(6, 2), part(8, 4));
  ra::Tensor<float> out(2, 6, 4, 8);
  copy(expected, out.view());
  for (std::int64_t t = 0; t < 6; ++t) {
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t c = 0; c < 8; ++c) CHECK(part(8, 4)(1, t, h, c) == out(1, t, h, c));
    }
  }
  CHECK(error_of([&] { attention.forward(part(0, 4), part(4, 2), part(6, 2), part(7, 4)); }) ==
        "out = memory of v: what a call writes must not share memory with what it reads or writes besides");
}

TEST_CASE("V2 errors: an output axis of extent 1 may have any stride", "[attention][error]") {
  const Attention attention(valid_config());
  const auto in = test::random_inputs<float>({1, 6, 1, 8}, 1);
  const auto expected = attention.forward_with_lse(in.q, in.k, in.v);
  ra::Tensor<float> out(in.q.shape()), lse(1, 1, 6, 1);
  attention.forward(in.q.view(), in.k.view(), in.v.view(),
                    ra::TensorView<float>(out.data(), out.shape(), {0, 8, 0}),
                    ra::TensorView<float>(lse.data(), lse.shape(), {0, 0, 1}));
  CHECK(test::bitwise_equal(out, expected.out));
  CHECK(test::bitwise_equal(lse, expected.lse));
}

TEST_CASE("V2 errors: lengths", "[attention][error]") {
  CHECK(call_error([](auto& s) { s.lengths = {0, 6}; }) == "accepted");
  CHECK(call_error([](auto& s) { s.lengths = {6}; }) ==
        "lengths.size() = 1: must be empty or equal the batch size 2");
  CHECK(call_error([](auto& s) {
          s.lengths = {6, 6, 6};
        }) == "lengths.size() = 3: must be empty or equal the batch size 2");
  CHECK(call_error([](auto& s) { s.lengths = {6, -1}; }) == "lengths[1] = -1: must lie in [0, n] with n = 6");
  CHECK(call_error([](auto& s) { s.lengths = {7, 6}; }) == "lengths[0] = 7: must lie in [0, n] with n = 6");
}

TEST_CASE("V2 errors: views without memory, negative extents and sizes that overflow", "[attention][error]") {
  using View = ra::TensorView<const float>;
  constexpr std::int64_t huge = std::int64_t{1} << 31;
  CHECK(error_of([] {
          View(nullptr, {1, 2, 3, 4});
        }) == "view data = null: a view of shape [1, 2, 3, 4] needs memory");
  CHECK(error_of([] { View(nullptr, {1, 0, 3, 4}); }) == "accepted");
  CHECK(error_of([] { View(nullptr, {1, -2, 3, 4}); }) == "view extent n = -2: must not be negative");
  const float element = 0;
  CHECK(error_of([&] {
          View(&element, {huge, huge, 1, 1});
        }) == "view shape = [2147483648, 2147483648, 1, 1]: its size in bytes overflows");
  CHECK(error_of([] { ra::Tensor<double>(huge, huge / 2, 1, 1); }) ==
        "tensor shape = [2147483648, 1073741824, 1, 1]: its size in bytes overflows");
  CHECK(error_of([] { ra::Tensor<float>(1, 1, 1, -1); }) == "tensor extent d = -1: must not be negative");
}
