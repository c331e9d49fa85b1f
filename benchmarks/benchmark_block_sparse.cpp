// Time of block-sparse attention against the number of active blocks at a fixed length: it grows in
// proportion, down to lists that hold next to nothing. Every repetition of a case works on the same tensors.
//
// Multiply-adds of a call: forward 2 and backward 5 products (queries x keys x head dimension) per active
// block. The rate counts two operations each, and does not count what backward recomputes where queries and
// keys take a pass each.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <ring_attention/ring_attention.hpp>
#include <string>

#include "support/problems.hpp"

namespace {

namespace ra = ring_attention;

constexpr std::int64_t tokens = 8192;
constexpr std::int64_t heads = 4;
constexpr std::int64_t kv_heads = 2;
constexpr std::int64_t head_dim = 64;
constexpr std::int64_t block_size = 64;
constexpr std::int64_t blocks = tokens / block_size;

ra::AttentionConfig make_config() {
  ra::AttentionConfig config;
  config.segment_lengths = {tokens};
  config.dilation_rates = {1};
  return config;
}

ra::Tensor<float> numbers(std::int64_t count, std::uint64_t operand) {
  return benchmarks::random_numbers<float>(tokens, count, head_dim, examples::Operand{operand});
}

struct Tensors {
  ra::Tensor<float> q = numbers(heads, 1), k = numbers(kv_heads, 2), v = numbers(kv_heads, 3);
  ra::Tensor<float> grad_out = numbers(heads, 4);
};

/// Every query block sees the key blocks that follow it, `count` of them, cyclically: all lists are equally
/// long.
ra::BlockSparseConfig banded(std::int64_t count) {
  ra::BlockSparseConfig sparse{.pattern = ra::BlockPattern::custom, .block_size = block_size};
  for (std::int64_t query = 0; query < blocks; ++query) {
    for (std::int64_t i = 0; i < count; ++i) sparse.blocks.push_back({query, (query + i) % blocks});
  }
  return sparse;
}

/// Largest difference from dilated attention with one segment and rate 1, which sees every key.
double check_against_dense(const Tensors& tensors) {
  const auto expected =
      ra::RingDilatedAttentionV2<float>(make_config()).forward_with_lse(tensors.q, tensors.k, tensors.v);
  const ra::BlockSparseRingDilatedAttention<float> attention(make_config(), banded(blocks));
  const auto actual = attention.forward_with_lse(tensors.q, tensors.k, tensors.v);
  double worst = 0.0;
  const auto compare = [&worst](const ra::Tensor<float>& a, const ra::Tensor<float>& b) {
    for (std::int64_t i = 0; i < a.size(); ++i) {
      const double error = std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i]));
      if (!(error <= worst)) worst = error;  // NaN stays
    }
  };
  compare(actual.out, expected.out);
  compare(actual.lse, expected.lse);
  return worst;
}

void set_counters(benchmark::State& state, std::int64_t active, double products) {
  const double operations = 2.0 * products * static_cast<double>(active * heads) *
                            static_cast<double>(block_size * block_size * head_dim);
  state.counters["active_blocks"] = static_cast<double>(active * heads);
  state.counters["block_time"] =
      benchmark::Counter(static_cast<double>(active * heads),
                         benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  state.counters["FLOPS"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& state, const Tensors& tensors) {
  const ra::BlockSparseRingDilatedAttention<float> attention(make_config(), banded(state.range(0)));
  ra::Tensor<float> out(tensors.q.shape());
  for (auto _ : state) attention.forward(tensors.q, tensors.k, tensors.v, out);
  set_counters(state, blocks * state.range(0), 2.0);
}

void backward(benchmark::State& state, const Tensors& tensors) {
  const ra::BlockSparseRingDilatedAttention<float> attention(make_config(), banded(state.range(0)));
  const auto result = attention.forward_with_lse(tensors.q, tensors.k, tensors.v);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        attention.backward(tensors.q, tensors.k, tensors.v, result, tensors.grad_out).q.data());
  }
  set_counters(state, blocks * state.range(0), 5.0);
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const auto tensors = std::make_unique<Tensors>();
  const double worst = check_against_dense(*tensors);
  if (!(worst <= 2e-5)) {
    std::fprintf(stderr, "FAILED all blocks active: %g from dense attention, more than 2e-5\n", worst);
    return 1;
  }
  for (const auto& [name, body] : {std::pair("forward", &forward), {"backward", &backward}}) {
    auto* cases = benchmark::RegisterBenchmark(name, *body, *tensors);
    cases->ArgName("key_blocks")->UseRealTime()->Unit(benchmark::kMillisecond);
    for (const std::int64_t count : {1, 2, 4, 8, 16, 32, 64}) cases->Arg(count);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_block_sparse: %s\n", error.what());
    return 1;
  }
}
