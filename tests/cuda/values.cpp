// Calls on a GPU against the float64 oracle, in strided memory whose gaps and surroundings are NaN, and
// against the golden files.
#include <cstdint>
#include <cstdio>
#include <limits>
#include <ring_attention/cuda.hpp>
#include <string>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "support/block_case.hpp"
#include "support/check_forward.hpp"
#include "support/device_copy.hpp"
#include "support/golden.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace test {
namespace {

/// Calls an attention object as if it ran on the CPU.
template <class Attention>
class OnGpu {
 public:
  OnGpu(ra::cuda::Context& context, const Attention& attention) : context_(context), attention_(attention) {}

  template <class Input, class Output, class Lse>
  void forward(const Input& q, const Input& k, const Input& v, const Output& out, const Lse& lse,
               const ra::ForwardOptions& options) const {
    const DeviceCopy device_q(q), device_k(k), device_v(v);
    const DeviceCopy device_out(out);
    const DeviceCopy device_lse(lse);
    const auto call = [&] {
      attention_.forward(context_, device_q.view(), device_k.view(), device_v.view(), device_out.view(),
                         device_lse.view(), options);
      must(cudaStreamSynchronize(context_.stream()));
    };
    call();
    device_out.copy_back();
    device_lse.copy_back();
    const auto first_out = device_out.bytes(), first_lse = device_lse.bytes();
    call();
    expect(device_out.bytes() == first_out && device_lse.bytes() == first_lse,
           "the same call gave other bits");
    expect(device_out.zones_untouched() && device_lse.zones_untouched(),
           "memory around the outputs was written");
  }

 private:
  ra::cuda::Context& context_;
  const Attention& attention_;
};

/// `aligned`: as kernels of wide loads want rows.
template <class Scalar>
void check_random_cases(ra::cuda::Context& context, std::uint64_t first, std::uint64_t cases, bool aligned) {
  constexpr std::int64_t alignment = 16 / static_cast<std::int64_t>(sizeof(Scalar));
  for (std::uint64_t seed = first; seed < first + cases; ++seed) {
    const RandomCase random = make_random_case(seed);
    const RandomCase c = aligned ? with_aligned_rows(random, alignment) : random;
    const auto check = [&](const auto& attention) {
      const OnGpu gpu(context, attention);
      const std::string failure = check_forward<Scalar>(
          c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
                 const auto& options) { gpu.forward(q, k, v, out, lse, options); });
      expect(failure.empty(), c.describe() + failure);
    };
    if (seed % 5 == 0) {
      // No state may be carried between groups of branches.
      check(ra::RingDilatedAttentionProduction<Scalar>(
          c.config, ra::ProductionOptions{.workspace_limit_bytes = 0, .check_finite = true}));
      context.check();
    } else {
      check(ra::RingDilatedAttentionV2<Scalar>(c.config));
    }
    if (seed % 4 == 0) {
      BlockCase blocks = make_block_case(seed);
      if (aligned) blocks.call = with_aligned_rows(blocks.call, alignment);
      const ra::BlockSparseRingDilatedAttention<Scalar> sparse(blocks.call.config, blocks.sparse);
      const std::string text = check_block_forward<Scalar>(blocks, OnGpu(context, sparse));
      expect(text.empty(), blocks.describe() + text);
    }
  }
}

void check_golden_files(ra::cuda::Context& context) {
  for (const std::string& name : golden_names()) {
    const Golden golden = load_golden(name);
    const ra::RingDilatedAttentionV2<float> attention(golden.config);
    const ra::Tensor<float>&q = golden["q"], &expected = golden["out"];
    ra::Tensor<float> out(q.shape());
    const DeviceCopy device_q(q.view()), device_k(golden["k"].view()), device_v(golden["v"].view());
    const DeviceCopy device_out(out.view());
    attention.forward(context, device_q.view(), device_k.view(), device_v.view(), device_out.view());
    must(cudaStreamSynchronize(context.stream()));
    device_out.copy_back();
    const Comparison comparison = compare_all(name, to_float64(ra::TensorView<const float>(out.view())),
                                              to_float64(expected.view()), tolerance_of<float>().out);
    expect(comparison.passed() && comparison.count() == out.size(), comparison.message());
  }
}

/// Every bucket of head dimensions that a fast kernel may have, with tails of tiles of any size, and
/// sequences of many tiles and runs of keys, of which some rows are compared.
template <class Scalar>
void check_sizes(ra::cuda::Context& context) {
  const auto check = [&](const RandomCase& c, std::vector<std::int64_t> rows) {
    const ra::RingDilatedAttentionV2<Scalar> attention(c.config);
    const OnGpu gpu(context, attention);
    const std::string failure = check_forward<Scalar>(
        c,
        [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
            const auto& options) { gpu.forward(q, k, v, out, lse, options); },
        std::move(rows));
    expect(failure.empty(), c.describe() + failure);
  };
  std::uint64_t seed = 100'000;
  for (const std::int64_t dim :
       {8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 120, 128, 160, 192, 256, 1, 4, 36, 63, 100, 127}) {
    for (const bool causal : {false, true}) {
      RandomCase c;
      c.seed = ++seed;
      c.config = ra::ring_preset();
      c.config.segment_lengths = {300, 173};
      c.config.dilation_rates = {1, 3};
      c.config.causal = causal;
      c.q = {1, 300, 4, dim};
      c.k = {1, 300, 2, dim};
      check(c, {});
    }
  }
  for (const std::int64_t dim : {48, 64, 128, 256}) {
    for (const bool causal : {false, true}) {
      RandomCase c;
      c.seed = ++seed;
      c.config = ra::longnet_preset();
      c.config.segment_lengths = {512, 1000, 2048, 7000};
      c.config.dilation_rates = {1, 3, 4, 16};
      c.config.causal = causal;
      c.q = {2, 7000, 3, dim};
      c.k = {2, 7000, 1, dim};
      c.lengths = {7000, 4321};
      check(c, {0, 1, 511, 512, 513, 1000, 2047, 3999, 4320, 4321, 6975, 6976, 6999});
    }
  }
}

/// Inputs that are not standard normal: `fill(q, k, v)` sets them. `attended(token)`: whether a row is a key;
/// those that are none hold NaN.
template <class Scalar, class Fill, class Attended>
void check_inputs(ra::cuda::Context& context, const std::string& name, const ra::AttentionConfig& config,
                  const Fill& fill, const Attended& attended) {
  const ra::Shape shape{1, 700, 2, 64};
  CallInputs<Scalar> in{random_tensor<Scalar>(shape, 1), random_tensor<Scalar>(shape, 2),
                        random_tensor<Scalar>(shape, 3)};
  fill(in.q, in.k, in.v);
  const oracle::Problem problem = to_problem(config, shape, shape);
  const oracle::Inputs inputs =
      to_inputs(ra::TensorView<const Scalar>(in.q.view()), ra::TensorView<const Scalar>(in.k.view()),
                ra::TensorView<const Scalar>(in.v.view()));
  const oracle::Result expected = oracle::forward(problem, inputs);
  for (std::int64_t token = 0; token < shape[1]; ++token) {
    if (attended(token)) continue;
    for (std::int64_t i = 0; i < shape[2] * shape[3]; ++i) {
      (&in.k(0, token, 0, 0))[i] = (&in.v(0, token, 0, 0))[i] = std::numeric_limits<Scalar>::quiet_NaN();
    }
  }
  ra::Tensor<Scalar> out(shape);
  ra::Tensor<ra::accumulator_t<Scalar>> lse(ra::Shape{shape[0], shape[2], shape[1], 1});
  const ra::RingDilatedAttentionV2<Scalar> attention(config);
  OnGpu(context, attention).forward(in.q.view(), in.k.view(), in.v.view(), out.view(), lse.view(), {});
  const std::string failure =
      compare_rows<Scalar>(problem, expected, ra::TensorView<const Scalar>(out.view()),
                           ra::TensorView<const ra::accumulator_t<Scalar>>(lse.view()),
                           tolerance_of<Scalar>(expected.tolerance_factor()));
  expect(failure.empty(), name + ": " + failure);
}

/// Scores that leave any fixed reference behind, values up to the largest, and keys that are not to be read.
template <class Scalar>
void check_extremes(ra::cuda::Context& context) {
  const auto every = [](std::int64_t) { return true; };
  const auto times = [](ra::Tensor<Scalar>& tensor, const auto& factor) {
    const std::int64_t row = tensor.shape()[2] * tensor.shape()[3];
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      tensor.data()[i] = Scalar(static_cast<float>(tensor.data()[i]) * static_cast<float>(factor(i / row)));
    }
  };
  for (const bool causal : {false, true}) {
    ra::AttentionConfig config = ra::ring_preset();
    config.segment_lengths = {700};
    config.dilation_rates = {1};
    config.causal = causal;
    const std::string suffix = causal ? ", causal" : "";
    check_inputs<Scalar>(
        context, "large scores" + suffix, config,
        [&](auto& q, auto& k, auto&) {
          times(q, [](std::int64_t) { return 50; });
          times(k, [](std::int64_t) { return 50; });
        },
        every);
    check_inputs<Scalar>(
        context, "growing scores" + suffix, config,
        [&](auto&, auto& k, auto&) { times(k, [](std::int64_t token) { return 1 + token * token / 500; }); },
        every);
    check_inputs<Scalar>(
        context, "falling scores" + suffix, config,
        [&](auto&, auto& k, auto&) {
          times(k, [](std::int64_t token) { return 1 + (700 - token) * (700 - token) / 500; });
        },
        every);
    // Float is given no tolerance for what cancels out.
    if constexpr (sizeof(Scalar) == 2) {
      check_inputs<Scalar>(
          context, "large values" + suffix, config,
          [&](auto&, auto&, auto& v) {
            // bfloat16 ends where sums in float end, too.
            const double largest = static_cast<double>(std::numeric_limits<Scalar>::max());
            times(v, [&](std::int64_t) { return largest < 1e6 ? largest / 8 : 1e30; });
          },
          every);
    }
    // Weights of 2^14 beside a first tile's of 1: sums that were measured from the latter would be infinite.
    if constexpr (!std::is_same_v<Scalar, Eigen::half>) {
      config.scale = 1;
      check_inputs<Scalar>(
          context, "a rise beside large values" + suffix, config,
          [&](auto& q, auto& k, auto& v) {
            times(q, [](std::int64_t) { return 0; });
            times(k, [](std::int64_t) { return 0; });
            const double rise = 14 / std::numbers::log2e;
            for (std::int64_t token = 0; token < k.shape()[1]; ++token) {
              for (std::int64_t head = 0; head < k.shape()[2]; ++head) {
                q(0, token, head, 0) = Scalar(1);
                k(0, token, head, 0) = static_cast<Scalar>(token < 128 ? 0.0 : rise);
                for (std::int64_t c = 0; c < v.shape()[3]; ++c)
                  v(0, token, head, c) = static_cast<Scalar>(1e33);
              }
            }
          },
          every);
    }
    for (const double scale : {0.0, -0.3}) {
      config.scale = scale;
      check_inputs<Scalar>(
          context, "scale " + std::to_string(scale) + suffix, config, [](auto&, auto&, auto&) {}, every);
    }
    config.scale.reset();
    config.segment_lengths = {333};
    config.dilation_rates = {4};
    check_inputs<Scalar>(
        context, "rows that are no keys" + suffix, config, [](auto&, auto&, auto&) {},
        [](std::int64_t token) { return token % 333 % 4 == 0; });
  }
}

}  // namespace

void check_values(std::uint64_t first, std::uint64_t cases) {
  const Stream stream;
  ra::cuda::Context context(stream);
  check_golden_files(context);
  check_random_cases<double>(context, first + cases, cases, false);
  for (const std::string& kernel : ra::cuda::available_kernels(context.device())) {
    ra::cuda::set_kernel(kernel);
    // Calls that a kernel does not serve take the next one.
    const bool serves_any_rows = kernel == "generic";
    check_random_cases<float>(context, first, cases, !serves_any_rows);
    check_random_cases<Eigen::half>(context, first + 2 * cases, cases, !serves_any_rows);
    check_random_cases<Eigen::bfloat16>(context, first + 3 * cases, cases, !serves_any_rows);
    check_random_cases<Eigen::bfloat16>(context, first + 4 * cases, cases / 8, serves_any_rows);
    check_sizes<float>(context);
    check_sizes<Eigen::half>(context);
    check_sizes<Eigen::bfloat16>(context);
    check_extremes<float>(context);
    check_extremes<Eigen::half>(context);
    check_extremes<Eigen::bfloat16>(context);
    std::printf("kernel %s: done\n", kernel.c_str());
  }
  ra::cuda::set_kernel("");
}

}  // namespace test
