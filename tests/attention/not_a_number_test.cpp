// unit: values
// NaN in an input reaches the rows that see it and no other row, but for values behind a causal mask.
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/oracle.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

constexpr ra::Shape shape{2, 61, 4, 6};
constexpr std::int64_t kv_heads = 2;
constexpr std::int64_t item = 1;
constexpr std::int64_t token = 29;
constexpr std::int64_t column = 4;
const float not_a_number = std::numeric_limits<float>::quiet_NaN();

bool same_bits(float a, float b) { return a == b && std::signbit(a) == std::signbit(b); }

bool meets_any_key(const oracle::Problem& p, std::int64_t head, std::int64_t t) {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(p.branches.size()); ++i) {
    if (!oracle::visible_keys(p, item, head, i, t).tokens.empty()) return true;
  }
  return false;
}

bool sees_token(const oracle::Problem& p, std::int64_t head, std::int64_t t) {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(p.branches.size()); ++i) {
    for (const std::int64_t key : oracle::visible_keys(p, item, head, i, t).tokens) {
      if (key == token) return true;
    }
  }
  return false;
}

/// What must become of an element.
enum class Fate { kept, poisoned, either };

/// Compares a run with a clean one: `fate_of(b, t, head, c)` tells what becomes of each output and, with c =
/// -1, of each log-sum-exp; what is kept keeps its bits. Empty, or what is wrong.
template <class FateOf>
std::string check_spread(const ra::AttentionResult<float>& clean, const ra::AttentionResult<float>& result,
                         const FateOf& fate_of) {
  const auto right = [](float before, float after, Fate fate) {
    if (std::isnan(after)) return fate != Fate::kept;
    return fate != Fate::poisoned && same_bits(before, after);
  };
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t t = 0; t < shape[1]; ++t) {
      for (std::int64_t head = 0; head < shape[2]; ++head) {
        for (std::int64_t c = -1; c < shape[3]; ++c) {
          const float before = c < 0 ? clean.lse(b, head, t, 0) : clean.out(b, t, head, c);
          const float after = c < 0 ? result.lse(b, head, t, 0) : result.out(b, t, head, c);
          if (right(before, after, fate_of(b, t, head, c))) continue;
          return "row " + std::to_string(t) + " of item " + std::to_string(b) + ", head " +
                 std::to_string(head) + ", column " + std::to_string(c) + ": " + std::to_string(before) +
                 " became " + std::to_string(after);
        }
      }
    }
  }
  return {};
}

Fate nan_if(bool reached) { return reached ? Fate::poisoned : Fate::kept; }

/// Runs every combination of rules with `poison(inputs)` applied and compares with the clean run.
template <class Poison, class FateOf>
void check_all_rules(const Poison& poison, const FateOf& fate_of) {
  const auto clean_inputs = test::random_inputs<float>(shape, kv_heads);
  auto inputs = clean_inputs;
  poison(inputs);
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config;
    test::set_rules(config, rules);
    config.segment_lengths = {16, 40, 100};
    config.dilation_rates = {1, 2, 3};
    for (const std::int64_t ring_size : {1, 4}) {
      config.ring_size = ring_size;
      const ra::RingDilatedAttentionV2<float> attention(config);
      const oracle::Problem p = test::to_problem(config, inputs.q.shape(), inputs.k.shape());
      const auto clean = attention.forward_with_lse(clean_inputs.q, clean_inputs.k, clean_inputs.v);
      const auto result = attention.forward_with_lse(inputs.q, inputs.k, inputs.v);
      const std::string failure =
          check_spread(clean, result, [&](std::int64_t b, std::int64_t t, std::int64_t head, std::int64_t c) {
            return b == item ? fate_of(p, t, head, c) : Fate::kept;
          });
      INFO("rules " << rules << ", ring size " << ring_size << ": " << failure);
      CHECK(failure.empty());
    }
  }
}

}  // namespace

TEST_CASE("V2 NaN in a query reaches its row only", "[attention][nan]") {
  check_all_rules([](auto& in) { in.q(item, token, 2, column) = not_a_number; },
                  [](const oracle::Problem& p, std::int64_t t, std::int64_t head, std::int64_t) {
                    return nan_if(t == token && head == 2 && meets_any_key(p, head, t));
                  });
}

TEST_CASE("V2 NaN in a key reaches the rows that see it", "[attention][nan]") {
  check_all_rules([](auto& in) { in.k(item, token, 1, column) = not_a_number; },
                  [](const oracle::Problem& p, std::int64_t t, std::int64_t head, std::int64_t) {
                    return nan_if(p.kv_head(head) == 1 && sees_token(p, head, t));
                  });
}

TEST_CASE("V2 NaN in a value reaches its column of the rows that see it", "[attention][nan]") {
  check_all_rules([](auto& in) { in.v(item, token, 1, column) = not_a_number; },
                  [](const oracle::Problem& p, std::int64_t t, std::int64_t head, std::int64_t c) {
                    if (c != column || p.kv_head(head) != 1) return Fate::kept;
                    if (sees_token(p, head, t)) return Fate::poisoned;
                    // A masked key has probability 0, and 0 * NaN is NaN: as in PyTorch, earlier queries of
                    // the segment may get it.
                    oracle::Problem unmasked = p;
                    unmasked.causal = false;
                    return sees_token(unmasked, head, t) ? Fate::either : Fate::kept;
                  });
}

TEST_CASE("V2 NaN in every input reaches every row that has keys", "[attention][nan]") {
  const auto poison = [](auto& in) {
    for (auto* tensor : {&in.q, &in.k, &in.v}) {
      for (std::int64_t b = 0; b < tensor->shape()[0]; ++b) {
        if (b != item) continue;
        const std::int64_t size = tensor->size() / tensor->shape()[0];
        for (std::int64_t i = 0; i < size; ++i) tensor->data()[b * size + i] = not_a_number;
      }
    }
  };
  check_all_rules(poison, [](const oracle::Problem& p, std::int64_t t, std::int64_t head, std::int64_t) {
    return nan_if(meets_any_key(p, head, t));
  });
}

TEMPLATE_TEST_CASE("V2 keys hidden from a query have no part in its gradient", "[attention][nan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  constexpr std::int64_t seen = 70, heads = 2, dim = 20;
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {150};
  config.dilation_rates = {1};
  config.causal = true;
  const ra::RingDilatedAttentionV2<TestType> attention(config);
  const auto inputs = test::random_inputs<TestType>({1, 150, heads, dim}, 1);
  auto grad_out = test::random_tensor<TestType>({1, 150, heads, dim}, 5);
  ra::Tensor<TestType> keys = inputs.k;
  for (std::int64_t t = seen; t < 150; ++t) {
    for (std::int64_t c = 0; c < dim; ++c) {
      keys(0, t, 0, c) = TestType(std::is_same_v<TestType, Eigen::half> ? 6e4F : 1e30F);
      for (std::int64_t head = 0; head < heads; ++head) grad_out(0, t, head, c) = TestType(0);
    }
  }
  for (const std::string& kernel : ra::available_kernels()) {
    const ra::Context context{.kernel = kernel};
    const auto result = attention.forward_with_lse(context, inputs.q, inputs.k, inputs.v);
    const auto clean = attention.backward(context, inputs.q, inputs.k, inputs.v, result, grad_out);
    const auto hidden = attention.backward(context, inputs.q, keys, inputs.v, result, grad_out);
    INFO(kernel);
    for (std::int64_t i = 0; i < seen * heads * dim; ++i) {
      REQUIRE(static_cast<double>(hidden.q.data()[i]) == static_cast<double>(clean.q.data()[i]));
    }
  }
}
