// Calls on a GPU against the float64 oracle, in strided memory whose gaps and surroundings are NaN, and
// against the golden files.
#include <cstdint>
#include <ring_attention/cuda.hpp>
#include <string>

#include "checks.hpp"
#include "support/block_case.hpp"
#include "support/check_forward.hpp"
#include "support/device_copy.hpp"
#include "support/golden.hpp"
#include "support/random_case.hpp"

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

template <class Scalar>
void check_random_cases(ra::cuda::Context& context, std::uint64_t first, std::uint64_t cases) {
  for (std::uint64_t seed = first; seed < first + cases; ++seed) {
    const RandomCase c = make_random_case(seed);
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
      const BlockCase blocks = make_block_case(seed);
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

}  // namespace

void check_values(std::uint64_t first, std::uint64_t cases) {
  const Stream stream;
  ra::cuda::Context context(stream);
  check_random_cases<float>(context, first, cases);
  check_random_cases<double>(context, first + cases, cases);
  check_random_cases<Eigen::half>(context, first + 2 * cases, cases);
  check_random_cases<Eigen::bfloat16>(context, first + 3 * cases, cases);
  check_golden_files(context);
}

}  // namespace test
