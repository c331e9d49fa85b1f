// Block-sparse attention and its gradients in float64 by definition: a mask over query/key pairs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "support/oracle.hpp"
#include "support/oracle_backward.hpp"

namespace oracle {

enum class Blocks { local_window, dilated_sparse, global_local, custom };

/// `rows` gives extents, scale, causality and lengths.
struct BlockProblem {
  Problem rows;
  Blocks blocks = Blocks::local_window;
  std::int64_t block_size = 1;
  std::int64_t window = 0;
  std::int64_t global_tokens = 0;
  std::vector<std::int64_t> rates;
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
};

/// Whether two blocks hold tokens at a distance of at most `distance`; all blocks but the last are full.
inline bool within(std::int64_t i, std::int64_t j, std::int64_t block_size, std::int64_t distance) {
  return i == j || (std::abs(i - j) - 1) * block_size + 1 <= distance;
}

inline bool active(const BlockProblem& p, std::int64_t i, std::int64_t j) {
  const auto is_global = [&p](std::int64_t block) { return block * p.block_size < p.global_tokens; };
  switch (p.blocks) {
    case Blocks::local_window:
      return within(i, j, p.block_size, p.window);
    case Blocks::dilated_sparse:
      return std::any_of(p.rates.begin(), p.rates.end(), [&](std::int64_t r) {
        return (i - j) % r == 0 && within((j - i) / r, 0, p.block_size, p.window);
      });
    case Blocks::global_local:
      return is_global(i) || is_global(j) || within(i, j, p.block_size, p.window);
    case Blocks::custom:
      return std::find(p.pairs.begin(), p.pairs.end(), std::pair(i, j)) != p.pairs.end();
  }
  return false;
}

struct BlockRow {
  std::vector<std::int64_t> tokens;  // keys
  std::vector<double> probabilities;
  std::vector<double> out;
  double lse = -std::numeric_limits<double>::infinity();
  double largest_score = 0;
};

inline BlockRow attend_block_row(const BlockProblem& p, const Inputs& in, std::int64_t b, std::int64_t head,
                                 std::int64_t t) {
  BlockRow row;
  const auto dim = static_cast<std::size_t>(p.rows.dim);
  row.out.assign(dim, 0.0);
  if (t >= p.rows.length(b)) return row;
  std::vector<double> scores;
  std::int64_t known_block = -1;
  bool seen = false;
  for (std::int64_t key = 0; key < p.rows.length(b); ++key) {
    if (key / p.block_size != known_block) {
      known_block = key / p.block_size;
      seen = active(p, t / p.block_size, known_block);
    }
    if (!seen || (p.rows.causal && key > t)) continue;
    const double* q = in.q.data() + p.rows.query_row(b, t, head);
    const double score = p.rows.scale * dot(q, in.k.data() + p.rows.key_row(b, key, head), dim);
    row.tokens.push_back(key);
    scores.push_back(score);
    row.largest_score = std::max(row.largest_score, std::abs(score));
  }
  if (scores.empty()) return row;
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - largest);
  row.lse = largest + std::log(sum);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    row.probabilities.push_back(std::exp(scores[i] - largest) / sum);
    add_scaled(row.out.data(), row.probabilities.back(), in.v.data() + p.rows.key_row(b, row.tokens[i], head),
               dim);
  }
  return row;
}

inline Result forward(const BlockProblem& p, const Inputs& in) {
  Result result;
  result.rows.resize(static_cast<std::size_t>(p.rows.tokens));
  std::iota(result.rows.begin(), result.rows.end(), std::int64_t{0});
  result.out.resize(p.rows.query_size());
  result.lse.resize(static_cast<std::size_t>(p.rows.batches * p.rows.heads * p.rows.tokens));
  const auto dim = static_cast<std::size_t>(p.rows.dim);
  const std::vector<double> largest_values = largest_of_rows(in.v, dim);
  for (std::int64_t b = 0; b < p.rows.batches; ++b) {
    for (std::int64_t t = 0; t < p.rows.tokens; ++t) {
      for (std::int64_t head = 0; head < p.rows.heads; ++head) {
        const BlockRow row = attend_block_row(p, in, b, head, t);
        std::copy(row.out.begin(), row.out.end(),
                  result.out.begin() + static_cast<std::ptrdiff_t>(p.rows.query_row(b, t, head)));
        result.lse[static_cast<std::size_t>((b * p.rows.heads + head) * p.rows.tokens + t)] = row.lse;
        result.largest_score = std::max(result.largest_score, row.largest_score);
        double& largest = result.values.emplace_back(0.0);
        for (const std::int64_t token : row.tokens) {
          largest = std::max(largest, largest_values[p.rows.key_row(b, token, head) / dim]);
        }
      }
    }
  }
  return result;
}

/// Gradients of sum(grad_out * out) + sum(grad_lse * lse), where with p_k the probability of key k
///   d score_k = p_k (grad_out . (v_k - out) + grad_lse)
///   dQ += scale d score_k K_k,   dK_k += scale d score_k Q,   dV_k += p_k grad_out
/// `out` takes the place of the oracle's own output where it is given, as in oracle::backward.
inline Gradients backward(const BlockProblem& p, const Inputs& in, const std::vector<double>& grad_out,
                          const std::vector<double>& grad_lse, const std::vector<double>& out) {
  Gradients grad{std::vector<double>(p.rows.query_size()), std::vector<double>(p.rows.key_size()),
                 std::vector<double>(p.rows.key_size())};
  const auto dim = static_cast<std::size_t>(p.rows.dim);
  for (std::int64_t b = 0; b < p.rows.batches; ++b) {
    for (std::int64_t head = 0; head < p.rows.heads; ++head) {
      for (std::int64_t t = 0; t < p.rows.length(b); ++t) {
        const BlockRow row = attend_block_row(p, in, b, head, t);
        const std::size_t query = p.rows.query_row(b, t, head);
        const double* row_grad = grad_out.data() + query;
        const double* row_out = out.empty() ? row.out.data() : out.data() + query;
        const auto number = static_cast<std::size_t>((b * p.rows.heads + head) * p.rows.tokens + t);
        const double shift = dot(row_grad, row_out, dim) - (grad_lse.empty() ? 0.0 : grad_lse[number]);
        for (std::size_t i = 0; i < row.tokens.size(); ++i) {
          const std::size_t key = p.rows.key_row(b, row.tokens[i], head);
          const double probability = row.probabilities[i];
          const double score = p.rows.scale * probability * (dot(row_grad, in.v.data() + key, dim) - shift);
          add_scaled(grad.q.data() + query, score, in.k.data() + key, dim);
          add_scaled(grad.k.data() + key, score, in.q.data() + query, dim);
          add_scaled(grad.v.data() + key, probability, row_grad, dim);
        }
      }
    }
  }
  return grad;
}

}  // namespace oracle
