// Random block-sparse calls, and their check against the oracle.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/options.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/block_oracle.hpp"
#include "support/check_backward.hpp"
#include "support/check_forward.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random.hpp"
#include "support/random_case.hpp"

namespace test {

struct BlockCase {
  RandomCase call;
  ra::BlockSparseConfig sparse;

  std::string describe() const {
    std::ostringstream text;
    text << call.describe() << "pattern = " << static_cast<int>(sparse.pattern)
         << ", block_size = " << sparse.block_size << ", window = " << sparse.window
         << ", global_tokens = " << sparse.global_tokens << "\nrates =";
    for (const std::int64_t rate : sparse.dilation_rates) text << ' ' << rate;
    text << "\nblocks =";
    for (const ra::BlockPair& pair : sparse.blocks) text << " {" << pair.query << ", " << pair.key << '}';
    return text.str();
  }
};

/// Consecutive seeds go through the patterns, causal and not.
inline BlockCase make_block_case(std::uint64_t seed) {
  BlockCase c;
  c.call = make_random_case(seed);
  Random random(seed + 0x9e3779b9);
  const std::int64_t n = c.call.q[1];
  const auto pairs = [&] { return static_cast<double>(c.call.q[0] * n * n * c.call.q[2] * c.call.q[3]); };
  while (pairs() > 6e6 && c.call.q[3] > 24) c.call.k[3] = c.call.q[3] /= 2;
  while (pairs() > 6e6 && c.call.q[2] > c.call.k[2]) c.call.q[2] = c.call.k[2];
  c.call.config.causal = seed / 4 % 2 == 1;
  c.sparse.pattern = static_cast<ra::BlockPattern>(seed % 4);
  c.sparse.block_size = random.chance(0.1) ? random.integer(65, 400) : random.integer(1, 64);
  c.sparse.window = random.chance(0.3) ? random.integer(0, c.sparse.block_size) : random.integer(0, n);
  c.sparse.global_tokens = random.integer(0, random.chance(0.5) ? n : 2 * c.sparse.block_size);
  c.sparse.dilation_rates.clear();
  for (std::int64_t i = random.integer(1, 3); i > 0; --i) {
    c.sparse.dilation_rates.push_back(random.integer(1, 7));
  }
  if (c.sparse.pattern == ra::BlockPattern::custom) {
    const std::int64_t blocks = (n + c.sparse.block_size - 1) / c.sparse.block_size;
    for (std::int64_t i = random.integer(0, 4 * blocks); i > 0; --i) {
      c.sparse.blocks.push_back({random.integer(0, blocks - 1), random.integer(0, blocks - 1)});
    }
  }
  return c;
}

inline oracle::BlockProblem to_block_problem(const RandomCase& call, const ra::BlockSparseConfig& sparse) {
  oracle::BlockProblem p;
  p.rows = to_problem(call.config, call.q, call.k, call.lengths);
  switch (sparse.pattern) {
    case ra::BlockPattern::local_window:
      p.blocks = oracle::Blocks::local_window;
      break;
    case ra::BlockPattern::dilated_sparse:
      p.blocks = oracle::Blocks::dilated_sparse;
      break;
    case ra::BlockPattern::global_local:
      p.blocks = oracle::Blocks::global_local;
      break;
    case ra::BlockPattern::custom:
      p.blocks = oracle::Blocks::custom;
      break;
  }
  p.block_size = sparse.block_size;
  p.window = sparse.window;
  p.global_tokens = sparse.global_tokens;
  p.rates = sparse.dilation_rates;
  for (const ra::BlockPair& pair : sparse.blocks) p.pairs.emplace_back(pair.query, pair.key);
  return p;
}

/// Forward into strided memory; empty where everything is right, else what is wrong.
template <class Scalar, class Attention>
std::string check_block_forward(const BlockCase& c, const Attention& attention) {
  const ThreadScope threads(c.call.threads);
  const CallTensors<Scalar> tensors(c.call);
  attention.forward(tensors.q.const_view(), tensors.k.const_view(), tensors.v.const_view(),
                    tensors.out.view(), tensors.lse.view(), ra::ForwardOptions{.lengths = c.call.lengths});
  const oracle::BlockProblem problem = to_block_problem(c.call, c.sparse);
  const oracle::Result expected = oracle::forward(
      problem, to_inputs(tensors.q.const_view(), tensors.k.const_view(), tensors.v.const_view()));
  std::string text =
      compare_rows<Scalar>(problem.rows, expected, tensors.out.const_view(), tensors.lse.const_view(),
                           tolerance_of<Scalar>(expected.tolerance_factor()));
  if (!tensors.out.gaps_untouched()) text += "out: memory between its rows was written\n";
  if (!tensors.lse.gaps_untouched()) text += "lse: memory between its elements was written\n";
  return text;
}

/// Every other case has a gradient of the log-sum-exp, too.
template <class Scalar, class Attention>
std::string check_block_backward(const BlockCase& c, const Attention& attention) {
  using Accumulator = ra::accumulator_t<Scalar>;
  const ThreadScope threads(c.call.threads);
  Random random(c.call.seed ^ 0x5bd1e995);
  const auto q = random_tensor<Scalar>(c.call.q, c.call.lengths, random);
  const auto k = random_tensor<Scalar>(c.call.k, c.call.lengths, random);
  const auto v = random_tensor<Scalar>(c.call.k, c.call.lengths, random);
  const auto grad_out = random_tensor<Scalar>(c.call.q, c.call.lengths, random);
  const ra::AttentionResult<Scalar> result =
      attention.forward_with_lse(q, k, v, ra::ForwardOptions{.lengths = c.call.lengths});
  ra::BackwardOptions options{.lengths = c.call.lengths};
  ra::Tensor<Accumulator> grad_lse;
  std::vector<double> expected_grad_lse;
  if (c.call.seed / 8 % 2 == 1) {
    grad_lse = ra::Tensor<Accumulator>(result.lse.shape());
    for (std::int64_t i = 0; i < grad_lse.size(); ++i) {
      grad_lse.data()[i] = static_cast<Accumulator>(random.normal());
    }
    options.grad_lse = ra::TensorView<const Accumulator>(grad_lse);
    expected_grad_lse.assign(grad_lse.data(), grad_lse.data() + grad_lse.size());
  }
  const ra::Gradients<Scalar> grads = attention.backward(q, k, v, result, grad_out, options);
  const oracle::BlockProblem problem = to_block_problem(c.call, c.sparse);
  const oracle::Inputs inputs{without_nan(to_float64(q.view())), without_nan(to_float64(k.view())),
                              without_nan(to_float64(v.view()))};
  const double factor = oracle::forward(problem, inputs).tolerance_factor();
  return compare_gradients(
      grads,
      oracle::backward(problem, inputs, without_nan(to_float64(grad_out.view())), expected_grad_lse,
                       sizeof(Scalar) == 2 ? to_float64(result.out.view()) : std::vector<double>()),
      tolerance_of<Scalar>(factor).gradient);
}

}  // namespace test
