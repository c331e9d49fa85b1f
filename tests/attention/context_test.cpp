// Context: how one call runs, whatever the process's own choices are.
#include <ring_attention/ring_attention.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/error_text.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

ra::AttentionConfig make_config() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {64, 200};
  config.dilation_rates = {1, 2};
  config.ring_size = 2;
  return config;
}

/// Forward, backward and the call of its own of a class, in a context and by the process's choices.
template <class Attention>
void check_choice(const Attention& attention, const std::string& kernel, int threads) {
  const auto in = test::random_inputs<float>({1, 200, 4, 24}, 2);
  const ra::Context context{.threads = threads, .kernel = kernel};
  const auto chosen = attention.forward_with_lse(context, in.q, in.k, in.v);
  const auto chosen_grads = attention.backward(context, in.q, in.k, in.v, chosen, in.q);
  const int threads_before = ra::num_threads();
  ra::set_kernel(kernel);
  ra::set_num_threads(threads);
  const auto expected = attention.forward_with_lse(in.q, in.k, in.v);
  const auto expected_grads = attention.backward(in.q, in.k, in.v, expected, in.q);
  ra::set_kernel("");
  ra::set_num_threads(threads_before);
  INFO(kernel << ", " << threads << " threads");
  CHECK(test::bitwise_equal(chosen.out, expected.out));
  CHECK(test::bitwise_equal(chosen.lse, expected.lse));
  CHECK(test::bitwise_equal(attention.forward(context, in.q, in.k, in.v), expected.out));
  CHECK(test::bitwise_equal(chosen_grads.q, expected_grads.q));
  CHECK(test::bitwise_equal(chosen_grads.k, expected_grads.k));
  CHECK(test::bitwise_equal(chosen_grads.v, expected_grads.v));
}

}  // namespace

TEST_CASE("a context chooses kernel and threads as the process's own choices do", "[attention][context]") {
  for (const std::string& kernel : ra::available_kernels()) {
    for (const int threads : {1, 2}) {
      check_choice(ra::RingDilatedAttentionV2<float>(make_config()), kernel, threads);
      check_choice(ra::RingDilatedAttentionProduction<float>(make_config()), kernel, threads);
      check_choice(ra::TrueRingDilatedAttention<float>(make_config()), kernel, threads);
      check_choice(ra::BlockSparseRingDilatedAttention<float>(make_config()), kernel, threads);
    }
  }
}

TEST_CASE("an empty context leaves the process's choices", "[attention][context]") {
  const auto in = test::random_inputs<float>({1, 200, 4, 24}, 2);
  const ra::RingDilatedAttentionV2<float> attention(make_config());
  for (const std::string& kernel : ra::available_kernels()) {
    ra::set_kernel(kernel);
    const auto expected = attention.forward(in.q, in.k, in.v);
    CHECK(test::bitwise_equal(attention.forward(ra::Context(), in.q, in.k, in.v), expected));
    ra::set_kernel("");
  }
}

TEST_CASE("a context of one thread runs on the caller's", "[attention][context]") {
  const auto in = test::random_inputs<float>({1, 200, 4, 24}, 2);
  ra::BlockSparseConfig sparse;
  sparse.block_size = 16;
  const ra::BlockSparseRingDilatedAttention<float> attention(make_config(), sparse);
  const auto one = attention.forward_with_probabilities({.threads = 1}, in.q, in.k, in.v);
  const auto two = attention.forward_with_probabilities({.threads = 2}, in.q, in.k, in.v);
  CHECK(test::bitwise_equal(one.probabilities.values, two.probabilities.values));
}

TEST_CASE("a context with a kernel or a number that cannot be is refused", "[attention][context][error]") {
  const auto in = test::random_inputs<float>({1, 8, 4, 8}, 4);
  const ra::RingDilatedAttentionV2<float> attention(make_config());
  const auto error_in = [&](const ra::Context& context) {
    return test::error_text([&] { (void)attention.forward(context, in.q, in.k, in.v); });
  };
  CHECK(error_in({.threads = -1}) == "context.threads = -1: must not be negative");
  CHECK(error_in({.kernel = "mmx"}).starts_with("context.kernel = \"mmx\": must be empty, or a kernel"));
  CHECK(error_in(
            {.kernel = ra::KernelChoice(ra::engine::generic::kernel<ra::engine::ForwardKernel<double>>)}) ==
        "context.kernel = kernel of another scalar: must be one of the call's scalar");
}

TEST_CASE("gradients in the caller's tensors are checked", "[attention][error]") {
  const auto in = test::random_inputs<float>({1, 8, 4, 8}, 2);
  const ra::RingDilatedAttentionV2<float> attention(make_config());
  auto result = attention.forward_with_lse(in.q, in.k, in.v);
  ra::Tensor<float> grad_q(in.q.shape()), grad_k(in.k.shape()), grad_v(in.v.shape());
  const auto error_with = [&](const ra::GradientViews<float>& grads) {
    return test::error_text([&] {
      attention.backward(in.q.view(), in.k.view(), in.v.view(), result.out.view(), result.lse.view(),
                         in.q.view(), grads);
    });
  };
  CHECK(error_with({grad_q, grad_q, grad_v}) == "grads.k shape = [1, 8, 4, 8]: must be [1, 8, 2, 8]");
  const std::string rule = ": what a call writes must not share memory with what it reads or writes besides";
  CHECK(error_with({grad_q, grad_k, grad_k}) == "grads.v = memory of grads.k" + rule);
  CHECK(error_with({result.out, grad_k, grad_v}) == "grads.q = memory of out" + rule);
  const ra::TensorView<float> in_lse(result.lse.data() + 8, {1, 8, 2, 8}, {0, 2, 0});
  CHECK(error_with({grad_q, in_lse, grad_v}).starts_with("grads.k strides[2] = 0: rows that are written"));
  CHECK(error_with({grad_q, grad_k, grad_v}) == "no error");
}
