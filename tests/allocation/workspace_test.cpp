// Heap allocations of calls in a caller's workspace: what plans need, and nothing else.
#include <cstddef>
#include <cstdint>
#include <ring_attention/ring_attention.hpp>
#include <vector>

#include "allocation/counting.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

ra::AttentionConfig branches_of_workspace(ra::MixGradient mix) {
  ra::AttentionConfig config = ra::torchscale_preset();
  config.segment_lengths = {30, 150, 400};
  config.dilation_rates = {1, 3, 4};
  config.ring_size = 3;
  config.mix_gradient = mix;
  return config;
}

template <class Call>
std::uint64_t allocations_of(const Call& call) {
  const std::uint64_t before = test::allocations();
  call();
  return test::allocations() - before;
}

/// Tensors of one shape, and calls in a workspace that write into them.
template <class Scalar>
struct Calls {
  Calls(const ra::Shape& shape, ra::Workspace& workspace, int threads)
      : in(test::random_inputs<Scalar>(shape, shape[2] / 2)),
        context{.threads = threads, .workspace = &workspace},
        out(in.q.shape()),
        lse(shape[0], shape[2], shape[1], 1),
        grad_q(in.q.shape()),
        grad_k(in.k.shape()),
        grad_v(in.v.shape()) {}

  template <class Attention>
  void forward(const Attention& attention, const std::vector<std::int64_t>& lengths) {
    forward_options.lengths = lengths;
    backward_options.lengths = lengths;
    attention.forward(context, in.q, in.k, in.v, out, lse, forward_options);
  }
  template <class Attention>
  std::uint64_t of_forward(const Attention& attention) {
    return allocations_of([&] { attention.forward(context, in.q, in.k, in.v, out, lse, forward_options); });
  }
  template <class Attention>
  std::uint64_t of_backward(const Attention& attention) {
    return allocations_of([&] {
      attention.backward(context, in.q, in.k, in.v, out, lse, in.q, {grad_q, grad_k, grad_v},
                         backward_options);
    });
  }
  ra::CallShape shape() const { return ra::detail::check_inputs(in.q.view(), in.k.view(), in.v.view()); }

  test::CallInputs<Scalar> in;
  ra::Context context;
  ra::Tensor<Scalar> out;
  ra::Tensor<ra::accumulator_t<Scalar>> lse;
  ra::Tensor<Scalar> grad_q, grad_k, grad_v;
  ra::ForwardOptions forward_options;
  ra::BackwardOptions backward_options;
};

const auto look_up = [](const ra::PatternKey& key) { return ra::use_pattern_cache().dilated_indices(key); };

}  // namespace

TEMPLATE_TEST_CASE("in a workspace, later calls allocate their plan and nothing else", "[allocation]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  for (const int threads : {1, 4}) {
    for (const auto mix : {ra::MixGradient::exact, ra::MixGradient::detached}) {
      for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{}, {300, 133}}) {
        const ra::AttentionConfig config = branches_of_workspace(mix);
        ra::Workspace workspace;
        Calls<TestType> calls({2, 300, 4, 24}, workspace, threads);
        const ra::RingDilatedAttentionV2<TestType> attention(config);
        const ra::RingDilatedAttentionProduction<TestType> service(config);
        calls.forward(attention, lengths);
        (void)calls.of_backward(attention);
        const std::size_t bytes = workspace.bytes();
        const std::uint64_t plan =
            allocations_of([&] { (void)ra::detail::plan_call(config, calls.shape(), lengths, look_up); });
        INFO(threads << " threads, detached " << (mix == ra::MixGradient::detached) << ", ragged "
                     << !lengths.empty());
        for (int repetition = 0; repetition < 3; ++repetition) {
          CHECK(calls.of_forward(attention) <= plan);
          CHECK(calls.of_backward(attention) <= plan);
        }
        (void)calls.of_forward(service);
        CHECK(calls.of_forward(service) == 0);
        CHECK(calls.of_backward(service) == 0);
        CHECK(workspace.bytes() == bytes);
      }
    }
  }
}

TEMPLATE_TEST_CASE("in a workspace, later block-sparse calls allocate their plan and nothing else",
                   "[allocation]", float, Eigen::bfloat16) {
  ra::BlockSparseConfig sparse;
  sparse.block_size = 16;
  sparse.window = 60;
  for (const int threads : {1, 4}) {
    for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{}, {300, 133}}) {
      const ra::AttentionConfig config = branches_of_workspace({});
      ra::Workspace workspace;
      Calls<TestType> calls({2, 300, 4, 24}, workspace, threads);
      const ra::BlockSparseRingDilatedAttention<TestType> attention(config, sparse);
      calls.forward(attention, lengths);
      (void)calls.of_backward(attention);
      const std::uint64_t plan = allocations_of(
          [&] { (void)ra::detail::plan_block_call(config, sparse, calls.shape(), lengths, look_up); });
      INFO(threads << " threads, ragged " << !lengths.empty());
      for (int repetition = 0; repetition < 3; ++repetition) {
        CHECK(calls.of_forward(attention) <= plan);
        CHECK(calls.of_backward(attention) <= plan);
      }
    }
  }
}

TEST_CASE("a workspace holds what the largest call needs, until it is released", "[allocation]") {
  ra::Workspace workspace;
  const auto slack = std::int64_t{1} << 12;  // the pattern cache, and what the allocator adds
  const ra::RingDilatedAttentionV2<float> attention(branches_of_workspace({}));
  Calls<float> small({1, 60, 2, 8}, workspace, 2), large({1, 900, 8, 64}, workspace, 2);
  small.forward(attention, {});
  large.forward(attention, {});  // fills the cache
  workspace.release();
  const std::int64_t before = test::held_by_program();
  const auto held = [&] { return test::held_by_program() - before; };
  small.forward(attention, {});
  const std::size_t of_small = workspace.bytes();
  CHECK(held() >= static_cast<std::int64_t>(of_small));
  large.forward(attention, {});
  const std::size_t of_large = workspace.bytes();
  CHECK(of_large > 2 * of_small);
  CHECK(held() >= static_cast<std::int64_t>(of_large));
  CHECK(held() < static_cast<std::int64_t>(of_large) + slack);
  small.forward(attention, {});
  CHECK(workspace.bytes() == of_large);
  workspace.release();
  CHECK(workspace.bytes() == 0);
  CHECK(held() < slack);
}
