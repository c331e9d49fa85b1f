// unit: cuda
// Work lists for GPUs, executed on the CPU, against the float64 oracle.
#include <cstddef>
#include <cstdint>
#include <ring_attention/cuda/make_work_list.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/error_text.hpp"
#include "support/random_case.hpp"
#include "support/work_executor.hpp"

namespace {

namespace ra = ring_attention;
using ra::detail::WorkItem;
using ra::detail::WorkList;
using ra::detail::WorkSizes;

constexpr std::uint64_t cases_per_type = 6 * test::rule_combinations;
constexpr std::uint64_t block_cases_per_type = 96;

constexpr auto find_pattern = [](const ra::PatternKey& key) { return ra::make_indices(key); };

ra::CallShape shape_of(const test::RandomCase& c) { return {c.q[0], c.q[1], c.q[2], c.k[2], c.q[3]}; }

/// Sizes as kernels have them, small ones that cut everything up, and costs that put every branch or none
/// into a group of its own.
WorkSizes random_sizes(test::Random& random) {
  WorkSizes sizes;
  if (random.chance(0.6)) {
    sizes.query_rows = random.integer(1, 70);
    sizes.key_rows = random.integer(1, 130);
  }
  if (random.chance(0.6)) {
    sizes.carry_cost = sizes.launch_cost = 0;
    sizes.item_cost = random.pick({-1e3, 0.0, 1.0});
  }
  return sizes;
}

/// Empty if final items hold every row once, and no item more rows than it may.
std::string check_items(const ra::AttentionPlan& plan, const WorkList& list, const WorkSizes& sizes) {
  const ra::detail::WorkView work = list.view();
  std::vector<int> times(static_cast<std::size_t>(plan.shape.batch * plan.shape.heads * plan.shape.tokens),
                         0);
  std::vector<int> carried(static_cast<std::size_t>(list.carried_rows()), 0);
  for (std::int64_t i = 0; i < work.item_count; ++i) {
    const WorkItem& item = work.items[i];
    if (item.rows.count < 1 || item.rows.count > sizes.query_rows)
      return "an item has too many rows, or none";
    for (std::int32_t row = 0; row < item.rows.count; ++row) {
      const std::int64_t number =
          (item.batch_item * plan.shape.heads + item.head) * plan.shape.tokens + item.rows[row];
      ++(i < work.partial_count ? carried.at(static_cast<std::size_t>(item.carry + row))
                                : times.at(static_cast<std::size_t>(number)));
    }
  }
  for (const int count : times) {
    if (count != 1) return "a row is written " + std::to_string(count) + " times";
  }
  for (const int count : carried) {
    if (count != 1) return "a slot is filled " + std::to_string(count) + " times";
  }
  return "";
}

/// Every type has its own seeds, so that a seed names one case of one type.
template <class Scalar>
constexpr std::uint64_t type_number = std::is_same_v<Scalar, float> ? 0 : 1;

}  // namespace

TEMPLATE_TEST_CASE("work lists: random configurations agree with the oracle", "[cuda][property]", float,
                   double) {
  int partial_lists = 0;
  for (std::uint64_t i = 0; i < cases_per_type; ++i) {
    const std::uint64_t seed = type_number<TestType> * cases_per_type + i;
    const test::RandomCase c = test::make_random_case(seed, 4e6);
    INFO(c.describe());
    test::Random random(seed + 77);
    const WorkSizes sizes = random_sizes(random);
    const ra::detail::PlannedCall call =
        ra::detail::plan_call(c.config, shape_of(c), c.lengths, find_pattern);
    const WorkList list = ra::detail::make_work_list(call.plan, sizes);
    if (list.carried_rows() > 0) ++partial_lists;
    CHECK(check_items(call.plan, list, sizes) == "");
    const std::string failure = test::check_forward<TestType>(
        c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse, const auto&) {
          test::WorkExecutor<TestType>(call.plan, list, q, k, v, out, lse).run();
        });
    CHECK(failure == "");
  }
  CHECK(partial_lists > 30);
}

namespace {

/// In the place of an attention object.
template <class Scalar>
struct BlockWork {
  const test::BlockCase& c;
  const WorkSizes& sizes;

  template <class Input, class Output, class Lse>
  void forward(const Input& q, const Input& k, const Input& v, const Output& out, const Lse& lse,
               const ra::ForwardOptions& options) const {
    const ra::detail::PlannedCall call =
        ra::detail::plan_block_call(c.call.config, c.sparse, shape_of(c.call), options.lengths, find_pattern);
    const WorkList list = ra::detail::make_work_list(call.plan, sizes);
    CHECK(check_items(call.plan, list, sizes) == "");
    test::WorkExecutor<Scalar>(call.plan, list, q, k, v, out, lse).run();
  }
};

}  // namespace

TEMPLATE_TEST_CASE("work lists: random block lists agree with the oracle", "[cuda][block_sparse][property]",
                   float, double) {
  for (std::uint64_t i = 0; i < block_cases_per_type; ++i) {
    const std::uint64_t seed = type_number<TestType> * block_cases_per_type + i;
    const test::BlockCase c = test::make_block_case(seed);
    INFO(c.describe());
    test::Random random(seed + 78);
    const WorkSizes sizes = random_sizes(random);
    CHECK(test::check_block_forward<TestType>(c, BlockWork<TestType>{c, sizes}) == "");
  }
}
