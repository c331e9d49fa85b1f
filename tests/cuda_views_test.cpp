// unit: cuda
// Views of device memory: what they check, and what they convert to.
#include <concepts>
#include <cstdint>
#include <limits>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/plan/call_checks.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"

namespace {

namespace ra = ring_attention;

template <class T>
using View = ra::cuda::View<T>;

static_assert(std::convertible_to<View<float>, View<const float>>);
static_assert(!std::convertible_to<View<const float>, View<float>>);
static_assert(!std::convertible_to<View<float>, View<const double>>);
static_assert(!std::constructible_from<ra::TensorView<const float>, View<float>>);
static_assert(!std::constructible_from<View<const float>, ra::TensorView<float>>);

/// Whether the calls take writable views for inputs, with and without what is optional.
template <class Attention>
constexpr bool runs_on_gpus() {
  return requires(const Attention& attention, ra::cuda::Context& context, View<float> view,
                  View<const float> input) {
    attention.forward(context, view, view, view, view);
    attention.forward(context, input, view, input, view, view);
    attention.forward(context, view, view, view, view, ra::ForwardOptions{.lengths = {3}});
    attention.forward(context, view, view, view, view, view, ra::ForwardOptions{.lengths = {3}});
  };
}
static_assert(runs_on_gpus<ra::RingDilatedAttentionV2<float>>());
static_assert(runs_on_gpus<ra::RingDilatedAttentionProduction<float, ra::use_local_cache>>());
static_assert(runs_on_gpus<ra::BlockSparseRingDilatedAttention<float>>());

/// Whether there are gradients on GPUs. The compiler says that there are none, not the linker.
template <class Attention>
constexpr bool has_device_gradients() {
  return requires(const Attention& attention, ra::cuda::Context& context, View<float> view,
                  ra::cuda::GradientViews<float> grads) {
    attention.backward(context, view, view, view, view, view, view, grads);
  };
}
static_assert(!has_device_gradients<ra::RingDilatedAttentionV2<float>>());

}  // namespace

TEST_CASE("device views know their memory", "[cuda]") {
  float memory[64] = {};
  const View<float> dense(memory, {2, 4, 2, 4});
  CHECK(dense.data() == memory);
  CHECK(dense.strides() == ra::Strides{32, 8, 4});
  CHECK(dense.size() == 64);
  const View<const float> read_only = View<float>(memory, {1, 4, 2, 4}, {0, -8, 4});
  CHECK(read_only.data() == memory);
  CHECK(read_only.shape() == ra::Shape{1, 4, 2, 4});
  CHECK(read_only.strides() == ra::Strides{0, -8, 4});
  CHECK(View<float>().size() == 0);
  CHECK(View<float>(nullptr, {0, 4, 2, 4}).size() == 0);
}

TEST_CASE("device views refuse what tensor views refuse", "[cuda][error]") {
  constexpr std::int64_t huge = (std::numeric_limits<std::int64_t>::max)();
  float memory[4] = {};
  for (const ra::Shape& shape : {ra::Shape{1, -1, 1, 1}, ra::Shape{huge, 2, 1, 1}, ra::Shape{1, 1, 1, 1}}) {
    float* const data = shape == ra::Shape{1, 1, 1, 1} ? nullptr : memory;
    const std::string expected = test::error_text([&] { ra::TensorView<float>(data, shape); });
    CHECK(expected != "no error");
    CHECK(test::error_text([&] { View<float>(data, shape); }) == expected);
    CHECK(test::error_text([&] { View<float>(data, shape, {}); }) == expected);
  }
}

TEST_CASE("extents that stand for tensors are checked like them", "[cuda][error]") {
  const auto text = [](const ra::CallShape& shape) {
    return test::error_text([&] { ra::detail::check_call_shape(shape); });
  };
  CHECK(text({1, 4, 4, 2, 8}) == "no error");
  CHECK(text({0, 0, 4, 4, 8}) == "no error");
  CHECK(text({-1, 4, 4, 4, 8}) == "q batch size = -1: must not be negative");
  CHECK(text({1, -4, 4, 4, 8}) == "q tokens = -4: must not be negative");
  CHECK(text({1, 4, 0, 4, 8}) == "q heads = 0: must be positive");
  CHECK(text({1, 4, 4, 0, 8}) == "k heads = 0: must be positive");
  CHECK(text({1, 4, 4, 4, 0}) == "q head dimension = 0: must be positive");
  CHECK(text({1, 4, 4, 3, 8}) == "q heads = 4: must be a multiple of the key/value heads, of which k has 3");
}

TEST_CASE("the checks of calls take device views", "[cuda][error]") {
  float memory[256] = {};
  const View<const float> q(memory, {1, 4, 4, 4}), k(memory + 64, {1, 4, 2, 4});
  CHECK(ra::detail::check_inputs(q, k, k) == ra::CallShape{1, 4, 4, 2, 4});
  CHECK(test::error_text([&] { ra::detail::check_inputs(k, q, k); }).find("v shape") == 0);
  const View<float> over(memory + 60, {1, 4, 4, 4}), after(memory + 128, {1, 4, 4, 4});
  CHECK(test::error_text([&] { ra::detail::check_apart("out", over, "q", q); }).find("out = memory of q") ==
        0);
  ra::detail::check_apart("out", after, "q", q);
  const View<float> folded(memory, {1, 4, 4, 4}, {64, 0, 4});
  CHECK(test::error_text([&] {
          ra::detail::check_output("out", folded, q.shape());
        }).find("out strides[1]") == 0);
}
