// Gradients of the oracle, derived by hand from its formulas, in float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "support/oracle.hpp"

namespace oracle {

struct Gradients {
  std::vector<double> q, k, v;
};

/// Gradients of sum(grad_out * out) + sum(grad_lse * lse). grad_out is [b, n, h, d]; grad_lse is [b, h, n] or
/// empty.
///
/// With a_i = softmax_i(lse_i), out = sum_i a_i out_i and lse = log sum_i exp(lse_i), a branch receives
///   d out_i = a_i grad_out
///   d lse_i = a_i grad_lse + a_i grad_out . (out_i - out)      the last term only for MixGradient::exact
/// and, with p_k the probability of key k in that branch,
///   d score_k = p_k (d out_i . (v_k - out_i) + d lse_i)
///   dQ += scale d score_k K_k,   dK_k += scale d score_k Q,   dV_k += p_k d out_i
/// `out` takes the place of the oracle's own output where it is given: backward in a 16-bit type is fed an
/// output that was rounded to that type. Zero keys hold a share of the probability and take no gradient. If
/// `rows` is not empty, only queries at these positions count.
inline Gradients backward(const Problem& p, const Inputs& in, const std::vector<double>& grad_out,
                          const std::vector<double>& grad_lse = {}, const std::vector<double>& out = {},
                          std::vector<std::int64_t> rows = {}) {
  Gradients grad{std::vector<double>(p.query_size()), std::vector<double>(p.key_size()),
                 std::vector<double>(p.key_size())};
  const auto dim = static_cast<std::size_t>(p.dim);
  const bool every_row = rows.empty();
  for (std::int64_t b = 0; b < p.batches; ++b) {
    if (every_row) {
      rows.resize(static_cast<std::size_t>(p.length(b)));
      std::iota(rows.begin(), rows.end(), 0);
    }
    for (std::int64_t head = 0; head < p.heads; ++head) {
      for (const std::int64_t t : rows) {
        const Row row = attend_row(p, in, b, head, t);
        const std::size_t query = p.query_row(b, t, head);
        const double* row_grad = grad_out.data() + query;
        const double lse_grad =
            grad_lse.empty() ? 0.0 : grad_lse[static_cast<std::size_t>((b * p.heads + head) * p.tokens + t)];
        for (std::size_t i = 0; i < row.branches.size(); ++i) {
          const BranchRow& branch = row.branches[i];
          const double weight = row.weights[i];
          const double grad_dot_branch = dot(row_grad, branch.out.data(), dim);
          double branch_lse_grad = weight * lse_grad;
          if (p.mix_gradient == MixGradient::exact) {
            const double* row_out = out.empty() ? row.out.data() : out.data() + query;
            branch_lse_grad += weight * (grad_dot_branch - dot(row_grad, row_out, dim));
          }
          for (std::size_t j = 0; j < branch.keys.tokens.size(); ++j) {
            const std::size_t key = p.key_row(b, branch.keys.tokens[j], head);
            const double probability = branch.probabilities[j];
            const double value_grad = weight * (dot(row_grad, in.v.data() + key, dim) - grad_dot_branch);
            const double score_grad = p.scale * probability * (value_grad + branch_lse_grad);
            add_scaled(grad.q.data() + query, score_grad, in.k.data() + key, dim);
            add_scaled(grad.k.data() + key, score_grad, in.q.data() + query, dim);
            add_scaled(grad.v.data() + key, probability * weight, row_grad, dim);
          }
        }
      }
    }
  }
  return grad;
}

}  // namespace oracle
