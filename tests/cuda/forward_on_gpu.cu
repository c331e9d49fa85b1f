// Forward calls on a GPU against the float64 oracle: random configurations and block lists in strided memory
// whose gaps are NaN, graphs, repetitions, and what a warm call costs the host. Needs a GPU; a failure is a
// non-zero exit. usage: forward_on_gpu [CASES]
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <ring_attention/cuda.hpp>
#include <string>
#include <vector>

#include "support/block_case.hpp"
#include "support/check_forward.hpp"
#include "support/device_copy.hpp"
#include "support/error_text.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

using test::DeviceCopy;
using test::must;

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
    attention_.forward(context_, device_q.view(), device_k.view(), device_v.view(), device_out.view(),
                       device_lse.view(), options);
    must(cudaStreamSynchronize(context_.stream()));
    device_out.copy_back();
    device_lse.copy_back();
    const auto first_out = device_out.bytes(), first_lse = device_lse.bytes();
    attention_.forward(context_, device_q.view(), device_k.view(), device_v.view(), device_out.view(),
                       device_lse.view(), options);
    must(cudaStreamSynchronize(context_.stream()));
    expect(device_out.bytes() == first_out && device_lse.bytes() == first_lse,
           "the same call gave other bits");
  }

 private:
  ra::cuda::Context& context_;
  const Attention& attention_;
};

template <class Scalar>
void check_random_cases(ra::cuda::Context& context, std::uint64_t first, std::uint64_t cases) {
  for (std::uint64_t seed = first; seed < first + cases; ++seed) {
    const test::RandomCase c = test::make_random_case(seed);
    const ra::RingDilatedAttentionV2<Scalar> attention(c.config);
    const OnGpu gpu(context, attention);
    const std::string failure = test::check_forward<Scalar>(
        c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
               const auto& options) { gpu.forward(q, k, v, out, lse, options); });
    expect(failure.empty(), c.describe() + failure);
    if (seed % 4 == 0) {
      const test::BlockCase blocks = test::make_block_case(seed);
      const ra::BlockSparseRingDilatedAttention<Scalar> sparse(blocks.call.config, blocks.sparse);
      const std::string text = test::check_block_forward<Scalar>(blocks, OnGpu(context, sparse));
      expect(text.empty(), blocks.describe() + text);
    }
  }
}

ra::AttentionConfig longnet() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {256, 512, 1024};
  config.dilation_rates = {1, 2, 4};
  config.causal = true;
  return config;
}

/// A capture before the first call is refused; afterwards a graph gives the same bits.
void check_graphs(cudaStream_t stream) {
  ra::cuda::Context context(stream);
  const ra::RingDilatedAttentionV2<float> attention(longnet());
  const ra::Tensor<float> q = test::random_tensor<float>({1, 1024, 8, 64}, 1);
  const DeviceCopy device_q(q.view()), device_out(ra::TensorView<const float>(q.view()));
  const ra::cuda::View<float> out(const_cast<float*>(device_out.view().data()), q.shape());
  const auto call = [&] {
    attention.forward(context, device_q.view(), device_q.view(), device_q.view(), out);
  };

  cudaGraph_t graph = nullptr;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const std::string refused = test::error_text(call);
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphDestroy(graph));
  expect(refused.find("make the call once before the capture") != std::string::npos,
         "cold capture: " + refused);

  call();
  must(cudaStreamSynchronize(stream));
  const auto expected = device_out.bytes();
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  call();
  must(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable = nullptr;
  must(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 3; ++i) {
    device_out.poison();
    must(cudaGraphLaunch(executable, stream));
    must(cudaStreamSynchronize(stream));
    expect(device_out.bytes() == expected, "a graph gave other bits");
  }
  must(cudaGraphExecDestroy(executable));
  must(cudaGraphDestroy(graph));
}

void print_host_cost(ra::cuda::Context& context) {
  const ra::RingDilatedAttentionV2<Eigen::bfloat16> attention(longnet());
  const auto q = test::random_tensor<Eigen::bfloat16>({1, 1024, 8, 64}, 1);
  const DeviceCopy device_q(q.view());
  const DeviceCopy device_out(ra::TensorView<const Eigen::bfloat16>(q.view()));
  const ra::cuda::View<Eigen::bfloat16> out(const_cast<Eigen::bfloat16*>(device_out.view().data()),
                                            q.shape());
  std::vector<double> microseconds;
  for (int i = 0; i < 200; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    attention.forward(context, device_q.view(), device_q.view(), device_q.view(), out);
    const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - begin;
    microseconds.push_back(spent.count());
    must(cudaStreamSynchronize(context.stream()));
  }
  std::nth_element(microseconds.begin(), microseconds.begin() + 100, microseconds.end());
  std::printf("host cost of a warm call, n = 1024: median %.1f us\n", microseconds[100]);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::uint64_t cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 192;
    cudaStream_t stream = nullptr;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    {
      ra::cuda::Context context(stream);
      check_random_cases<float>(context, 0, cases);
      check_random_cases<double>(context, cases, cases);
      check_random_cases<Eigen::half>(context, 2 * cases, cases);
      check_random_cases<Eigen::bfloat16>(context, 3 * cases, cases);
      check_graphs(stream);
      print_host_cost(context);
    }
    must(cudaStreamDestroy(stream));
  } catch (const std::exception& error) {
    expect(false, error.what());
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
