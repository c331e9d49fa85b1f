// Workspace: calls of any kind work in one memory, one after the other, and compute what they would without.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <limits>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

static_assert(!std::is_copy_constructible_v<ra::Workspace> && !std::is_move_constructible_v<ra::Workspace>);

ra::AttentionConfig three_branches(ra::MixGradient mix) {
  ra::AttentionConfig config = ra::torchscale_preset();
  config.segment_lengths = {30, 100, 400};
  config.dilation_rates = {1, 3, 4};
  config.ring_size = 3;
  config.mix_gradient = mix;
  return config;
}

/// One call after the other in a workspace, each compared with the same call without.
class InWorkspace {
 public:
  explicit InWorkspace(ra::Workspace& workspace) : workspace_(&workspace) {}

  template <class Scalar, class Attention>
  void compare(const Attention& attention, const ra::Shape& shape, std::vector<std::int64_t> lengths = {}) {
    const auto in = test::random_inputs<Scalar>(shape, shape[2] / 2);
    for (const std::string& kernel : ra::available_kernels()) {
      for (const int threads : {1, 4}) {
        const ra::Context without{.threads = threads, .kernel = kernel};
        const ra::Context with{.threads = threads, .kernel = kernel, .workspace = workspace_};
        const ra::ForwardOptions options{.lengths = lengths};
        ra::BackwardOptions backward_options;
        backward_options.lengths = lengths;
        INFO(kernel << ", " << threads << " threads, " << ra::to_string(shape));
        const auto expected = attention.forward_with_lse(without, in.q, in.k, in.v, options);
        const auto result = attention.forward_with_lse(with, in.q, in.k, in.v, options);
        CHECK(test::bitwise_equal(result.out, expected.out));
        CHECK(test::bitwise_equal(result.lse, expected.lse));
        const auto grads = attention.backward(with, in.q, in.k, in.v, expected, in.q, backward_options);
        const auto expected_grads =
            attention.backward(without, in.q, in.k, in.v, expected, in.q, backward_options);
        CHECK(test::bitwise_equal(grads.q, expected_grads.q));
        CHECK(test::bitwise_equal(grads.k, expected_grads.k));
        CHECK(test::bitwise_equal(grads.v, expected_grads.v));
        CHECK(workspace_->bytes() >= bytes_);
        bytes_ = workspace_->bytes();
      }
    }
  }

 private:
  ra::Workspace* workspace_;
  std::size_t bytes_ = 0;
};

/// Calls back when a pattern is asked for, in the middle of a call.
class CallingBack {
 public:
  explicit CallingBack(std::function<void()> callback) : callback_(std::move(callback)) {}
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    callback_();
    return ra::make_dilated_indices(key);
  }

 private:
  std::function<void()> callback_;
};

}  // namespace

TEST_CASE("calls of any class, shape, scalar, kernel and thread count may share a workspace",
          "[attention][context]") {
  ra::Workspace workspace;
  CHECK(workspace.bytes() == 0);
  InWorkspace in_workspace(workspace);
  ra::BlockSparseConfig sparse;
  sparse.block_size = 16;
  sparse.window = 40;
  for (const auto mix : {ra::MixGradient::exact, ra::MixGradient::detached}) {
    const ra::AttentionConfig config = three_branches(mix);
    const ra::RingDilatedAttentionV2<float> of_float(config);
    in_workspace.compare<float>(of_float, {2, 130, 4, 24});
    in_workspace.compare<float>(of_float, {1, 300, 8, 40});
    in_workspace.compare<float>(of_float, {2, 130, 4, 24}, {77, 130});
    in_workspace.compare<Eigen::bfloat16>(ra::RingDilatedAttentionV2<Eigen::bfloat16>(config),
                                          {1, 200, 4, 32});
    in_workspace.compare<double>(ra::BlockSparseRingDilatedAttention<double>(config, sparse),
                                 {1, 200, 4, 32});
    in_workspace.compare<Eigen::half>(ra::BlockSparseRingDilatedAttention<Eigen::half>(config, sparse),
                                      {2, 130, 4, 24}, {130, 0});
    const ra::RingDilatedAttentionProduction<float> service(
        config, ra::ProductionOptions{.workspace_limit_bytes = 100'000});
    in_workspace.compare<float>(service, {2, 130, 4, 24});
    CHECK(service.counters().workspace_bytes <= 100'000);
  }
  CHECK(workspace.bytes() > 0);
  workspace.release();
  CHECK(workspace.bytes() == 0);
  InWorkspace(workspace).compare<float>(ra::RingDilatedAttentionV2<float>(three_branches({})), {1, 50, 4, 8});
}

TEST_CASE("probabilities of blocks work in the workspace, too", "[attention][context]") {
  const auto in = test::random_inputs<float>({1, 200, 4, 24}, 2);
  const ra::BlockSparseRingDilatedAttention<float> attention(three_branches({}));
  const auto expected = attention.forward_with_probabilities(in.q, in.k, in.v);
  ra::Workspace workspace;
  const auto result = attention.forward_with_probabilities({.workspace = &workspace}, in.q, in.k, in.v);
  CHECK(test::bitwise_equal(result.probabilities.values, expected.probabilities.values));
  CHECK(workspace.bytes() > 0);
}

TEST_CASE("a workspace serves one call at a time", "[attention][context][error]") {
  const auto in = test::random_inputs<float>({1, 100, 4, 8}, 4);
  const ra::AttentionConfig config = three_branches({});
  const auto expected = ra::RingDilatedAttentionV2<float>(config).forward(in.q, in.k, in.v);
  const std::string refusal = "workspace = in use: serves one call at a time";
  ra::Workspace workspace, other;
  const ra::Context context{.workspace = &workspace};
  ra::Tensor<float> out(in.q.shape());
  std::fill_n(out.data(), out.size(), 3.0F);
  const ra::Tensor<float> before = out;
  int asked = 0;
  // On another thread, and on the call's own.
  const CallingBack policy([&] {
    const auto error_of = [&](const auto& attention, const ra::Context& in_use) {
      return test::error_text([&] { attention.forward(in_use, in.q, in.k, in.v, out); });
    };
    ++asked;
    const ra::RingDilatedAttentionV2<float> v2(config);
    const ra::RingDilatedAttentionProduction<float> production(config);
    const ra::BlockSparseRingDilatedAttention<float> sparse(config);
    CHECK(std::async(std::launch::async, [&] { return error_of(v2, context); }).get() == refusal);
    CHECK(error_of(v2, context) == refusal);
    CHECK(error_of(production, context) == refusal);
    CHECK(production.counters().forward_calls == 0);
    CHECK(error_of(sparse, context) == refusal);
    CHECK(test::error_text([&] { workspace.release(); }) == refusal);
    CHECK(test::bitwise_equal(out, before));
    ra::Tensor<float> own(in.q.shape());
    v2.forward({.workspace = &other}, in.q, in.k, in.v, own);
    CHECK(test::bitwise_equal(own, expected));
  });
  const ra::RingDilatedAttentionV2<float, CallingBack> attention(config, policy);
  CHECK(test::bitwise_equal(attention.forward(context, in.q, in.k, in.v), expected));
  CHECK(asked > 0);
  CHECK(test::bitwise_equal(attention.forward(context, in.q, in.k, in.v), expected));
}

TEST_CASE("a call that fails gives its workspace back", "[attention][context][error]") {
  const auto in = test::random_inputs<float>({1, 100, 4, 8}, 4);
  ra::Workspace workspace;
  const ra::Context context{.workspace = &workspace};
  const ra::RingDilatedAttentionV2<float> attention(three_branches({}));
  const ra::RingDilatedAttentionProduction<float> limited(three_branches({}),
                                                          ra::ProductionOptions{.workspace_limit_bytes = 1});
  for (int repetition = 0; repetition < 2; ++repetition) {
    CHECK(test::error_text([&] {
            (void)attention.forward(context, in.q, in.k, in.v, ra::ForwardOptions{.lengths = {101}});
          }).starts_with("lengths[0] = 101"));
    CHECK(test::error_text([&] {
            (void)limited.forward(context, in.q, in.k, in.v);
          }).starts_with("workspace_limit_bytes = 1: a call of this shape needs at least "));
  }
  CHECK(workspace.bytes() == 0);
  CHECK(
      test::bitwise_equal(attention.forward(context, in.q, in.k, in.v), attention.forward(in.q, in.k, in.v)));
}

TEST_CASE("rings leave a workspace alone", "[attention][context]") {
  const auto in = test::random_inputs<float>({1, 100, 4, 8}, 4);
  const ra::TrueRingDilatedAttention<float> ring(three_branches({}));
  ra::Workspace workspace;
  CHECK(test::bitwise_equal(ring.forward({.workspace = &workspace}, in.q, in.k, in.v),
                            ring.forward(in.q, in.k, in.v)));
  CHECK(workspace.bytes() == 0);
}
