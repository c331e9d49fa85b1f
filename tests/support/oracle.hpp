// Dilated attention in float64 by definition: loops over query/key pairs, nothing shared with the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "support/rows.hpp"

namespace oracle {

enum class HeadPartition { grouped, shared };
enum class OffsetRule { by_branch, by_head, by_head_block };
enum class QueryRule { all, dilated };
enum class PaddingRule { masked, zero_attended };
enum class MixGradient { exact, detached };

struct Branch {
  std::int64_t segment_length = 1;
  std::int64_t dilation_rate = 1;
};

struct Problem {
  std::int64_t batches = 1;
  std::int64_t tokens = 0;
  std::int64_t heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t dim = 1;
  std::vector<Branch> branches;
  double scale = 1.0;
  bool causal = false;
  HeadPartition head_partition = HeadPartition::grouped;
  OffsetRule offset_rule = OffsetRule::by_branch;
  QueryRule query_rule = QueryRule::all;
  PaddingRule padding_rule = PaddingRule::masked;
  MixGradient mix_gradient = MixGradient::exact;
  std::vector<std::int64_t> lengths;  // one per batch item; empty: `tokens` each

  std::int64_t length(std::int64_t b) const {
    return lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)];
  }
  std::int64_t kv_head(std::int64_t head) const { return head / (heads / kv_heads); }
  /// First element of a row in q or out, and in k or v: all are [b, n, h, d], row-major.
  std::size_t query_row(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return static_cast<std::size_t>(((b * tokens + t) * heads + head) * dim);
  }
  std::size_t key_row(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return static_cast<std::size_t>(((b * tokens + t) * kv_heads + kv_head(head)) * dim);
  }
  std::size_t query_size() const { return static_cast<std::size_t>(batches * tokens * heads * dim); }
  std::size_t key_size() const { return static_cast<std::size_t>(batches * tokens * kv_heads * dim); }
};

struct Inputs {
  std::vector<double> q, k, v;
};

/// Whether a head runs a branch. Grouped: heads / branches each in order, the remainder one each to the last.
inline bool head_runs_branch(const Problem& p, std::int64_t head, std::int64_t branch) {
  if (p.head_partition == HeadPartition::shared) return true;
  const auto branches = static_cast<std::int64_t>(p.branches.size());
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < branches; ++i) {
    const std::int64_t count = p.heads / branches + (branches - i <= p.heads % branches ? 1 : 0);
    if (i == branch) return head >= first && head < first + count;
    first += count;
  }
  return false;
}

/// The residue class that a head keeps in a branch.
inline std::int64_t offset_of(const Problem& p, std::int64_t head, std::int64_t branch) {
  const std::int64_t r = p.branches[static_cast<std::size_t>(branch)].dilation_rate;
  switch (p.offset_rule) {
    case OffsetRule::by_branch:
      return branch % r;
    case OffsetRule::by_head:
      return head % r;
    case OffsetRule::by_head_block:
      return head / (p.heads / r + (p.heads % r != 0 ? 1 : 0));
  }
  return 0;
}

/// What one query meets in one branch: tokens whose keys it attends to, and zero keys.
struct KeySet {
  std::vector<std::int64_t> tokens;
  std::int64_t zeros = 0;

  bool empty() const { return tokens.empty() && zeros == 0; }
};

/// The keys that the query at position t of batch item b attends to in one branch.
inline KeySet visible_keys(const Problem& p, std::int64_t b, std::int64_t head, std::int64_t branch,
                           std::int64_t t) {
  KeySet keys;
  const std::int64_t n = p.length(b);
  if (t >= n || !head_runs_branch(p, head, branch)) return keys;
  const std::int64_t r = p.branches[static_cast<std::size_t>(branch)].dilation_rate;
  const std::int64_t w = std::min(p.branches[static_cast<std::size_t>(branch)].segment_length, n);
  const std::int64_t offset = offset_of(p, head, branch);
  const std::int64_t begin = t / w * w;
  const std::int64_t end = std::min(begin + w, n);
  const auto kept = [&](std::int64_t token) { return (token - begin) % r == offset; };
  if (p.query_rule == QueryRule::dilated && !kept(t)) return keys;
  std::int64_t kept_in_segment = 0;
  for (std::int64_t token = begin; token < end; ++token) {
    if (!kept(token)) continue;
    ++kept_in_segment;
    if (!p.causal || token <= t) keys.tokens.push_back(token);
  }
  if (p.padding_rule == PaddingRule::zero_attended && !p.causal) {
    keys.zeros = w / r + (w % r != 0 ? 1 : 0) - kept_in_segment;
  }
  return keys;
}

constexpr double negative_infinity = -std::numeric_limits<double>::infinity();

/// One query in one branch that it meets keys in.
struct BranchRow {
  std::int64_t branch = 0;
  KeySet keys;
  std::vector<double> probabilities;  // of keys.tokens; the zero keys hold the rest
  std::vector<double> out;
  double lse = negative_infinity;
  double largest_score = 0;  // by magnitude
};

inline BranchRow attend_branch(const Problem& p, const Inputs& in, std::int64_t b, std::int64_t head,
                               std::int64_t t, std::int64_t branch, KeySet keys) {
  BranchRow row;
  row.branch = branch;
  const auto dim = static_cast<std::size_t>(p.dim);
  const double* q = in.q.data() + p.query_row(b, t, head);
  std::vector<double>& weights = row.probabilities;
  for (const std::int64_t token : keys.tokens) {
    const double* k = in.k.data() + p.key_row(b, token, head);
    weights.push_back(p.scale * dot(q, k, dim));
    row.largest_score = std::max(row.largest_score, std::abs(weights.back()));
  }
  double largest = keys.zeros > 0 ? 0.0 : negative_infinity;
  for (const double score : weights) largest = std::max(largest, score);
  double sum = keys.zeros > 0 ? static_cast<double>(keys.zeros) * std::exp(-largest) : 0.0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  row.out.assign(dim, 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] /= sum;
    add_scaled(row.out.data(), weights[i], in.v.data() + p.key_row(b, keys.tokens[i], head), dim);
  }
  row.lse = largest + std::log(sum);
  row.keys = std::move(keys);
  return row;
}

/// One query over all branches of its head: out = sum_i softmax_i(lse_i) * out_i.
struct Row {
  std::vector<BranchRow> branches;  // those with keys
  std::vector<double> weights;      // softmax of their lse
  std::vector<double> out;
  double lse = negative_infinity;
  double largest_score = 0;
};

inline Row attend_row(const Problem& p, const Inputs& in, std::int64_t b, std::int64_t head, std::int64_t t) {
  Row row;
  row.out.assign(static_cast<std::size_t>(p.dim), 0.0);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(p.branches.size()); ++i) {
    KeySet keys = visible_keys(p, b, head, i, t);
    if (!keys.empty()) row.branches.push_back(attend_branch(p, in, b, head, t, i, std::move(keys)));
  }
  if (row.branches.empty()) return row;
  double largest = negative_infinity;
  for (const BranchRow& branch : row.branches) largest = std::max(largest, branch.lse);
  double sum = 0;
  for (const BranchRow& branch : row.branches) sum += std::exp(branch.lse - largest);
  row.lse = largest + std::log(sum);
  for (const BranchRow& branch : row.branches) {
    row.weights.push_back(std::exp(branch.lse - largest) / sum);
    for (std::size_t c = 0; c < row.out.size(); ++c) row.out[c] += row.weights.back() * branch.out[c];
    row.largest_score = std::max(row.largest_score, branch.largest_score);
  }
  return row;
}

struct Result {
  std::vector<std::int64_t> rows;  // query positions computed
  std::vector<double> out;         // [b, rows, h, d]
  std::vector<double> lse;         // [b, h, rows]
  std::vector<double> values;      // [b, rows, h], the largest |v| among the keys that a row attends to
  double largest_score = 0;        // largest |score| met

  /// Tolerances grow with the scores, whose rounding the exponential turns into relative error.
  double tolerance_factor() const { return std::max(1.0, largest_score / 100); }
};

/// The largest |x| of every row of `dim` numbers.
inline std::vector<double> largest_of_rows(const std::vector<double>& rows, std::size_t dim) {
  std::vector<double> largest(rows.size() / dim);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    largest[i / dim] = std::max(largest[i / dim], std::abs(rows[i]));
  }
  return largest;
}

/// Attention of the queries at the positions `rows`, in every batch item and head.
inline Result forward(const Problem& p, const Inputs& in, std::vector<std::int64_t> rows) {
  Result result;
  result.rows = std::move(rows);
  const std::size_t count = result.rows.size();
  const auto heads = static_cast<std::size_t>(p.heads);
  const auto dim = static_cast<std::size_t>(p.dim);
  result.out.resize(static_cast<std::size_t>(p.batches) * count * heads * dim);
  result.lse.resize(static_cast<std::size_t>(p.batches) * heads * count);
  const std::vector<double> largest_values = largest_of_rows(in.v, dim);
  for (std::size_t b = 0; b < static_cast<std::size_t>(p.batches); ++b) {
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t head = 0; head < heads; ++head) {
        const Row row =
            attend_row(p, in, static_cast<std::int64_t>(b), static_cast<std::int64_t>(head), result.rows[i]);
        std::ranges::copy(row.out, result.out.begin() +
                                       static_cast<std::ptrdiff_t>(((b * count + i) * heads + head) * dim));
        result.lse[(b * heads + head) * count + i] = row.lse;
        result.largest_score = std::max(result.largest_score, row.largest_score);
        double& largest = result.values.emplace_back(0.0);
        for (const BranchRow& branch : row.branches) {
          for (const std::int64_t token : branch.keys.tokens) {
            const std::size_t key =
                p.key_row(static_cast<std::int64_t>(b), token, static_cast<std::int64_t>(head));
            largest = std::max(largest, largest_values[key / dim]);
          }
        }
      }
    }
  }
  return result;
}

inline Result forward(const Problem& p, const Inputs& in) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(p.tokens));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return forward(p, in, std::move(rows));
}

}  // namespace oracle
