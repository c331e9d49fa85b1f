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
    sizes.empty_rows = random.integer(1, 300);
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
    const bool is_empty = item.span_begin == item.span_end && item.list < 0 &&
                          item.state_begin == item.state_end && i >= work.partial_count;
    if (item.rows.count < 1 || item.rows.count > (is_empty ? sizes.empty_rows : sizes.query_rows))
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
  std::set<std::uint64_t> rules;
  int partial_lists = 0;
  for (std::uint64_t i = 0; i < cases_per_type; ++i) {
    const std::uint64_t seed = type_number<TestType> * cases_per_type + i;
    const test::RandomCase c = test::make_random_case(seed, 4e6);
    rules.insert(test::rules_of(c.config));
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
          test::WorkExecutor<TestType> executor(call.plan, list, q, k, v, out, lse);
          if (i % 2 == 0) {
            executor.run();
          } else {
            executor.run_with_redo([](std::int64_t item) { return item % 3 == 0; });
          }
        });
    CHECK(failure == "");
  }
  CHECK(rules.size() == test::rule_combinations);
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

namespace {

/// Pairs of query and key that tiles hold, padding included, for each that counts, of one head.
double processed_per_useful(const ra::AttentionConfig& config, std::int64_t tokens, std::int64_t copies,
                            const WorkSizes& sizes, double* carried = nullptr) {
  // The batch items share launches, and one head's work is that of all.
  const ra::detail::PlannedCall call =
      ra::detail::plan_call(config, {copies, tokens, 1, 1, 64}, {}, find_pattern);
  const WorkList list = ra::detail::make_work_list(call.plan, sizes);
  const ra::detail::WorkView work = list.view();
  double useful = 0, tiles = 0;
  for (std::int64_t i = 0; i < work.item_count; ++i) {
    const WorkItem& item = work.items[i];
    for (ra::detail::ItemKeys keys(item, work.spans, nullptr, 0, config.causal); keys.next();) {
      tiles += static_cast<double>(ra::detail::ceil_div((*keys).count, sizes.key_rows));
      for (std::int32_t row = 0; row < item.rows.count; ++row) {
        useful += config.causal ? (*keys).count_below(item.rows[row] + 1) : (*keys).count;
      }
    }
  }
  if (carried != nullptr) {
    *carried = static_cast<double>(list.carried_rows()) / static_cast<double>(copies * tokens);
  }
  return tiles * static_cast<double>(sizes.query_rows * sizes.key_rows) / useful;
}

ra::AttentionConfig with_branches(ra::AttentionConfig config, std::vector<std::int64_t> lengths,
                                  std::vector<std::int64_t> rates) {
  config.segment_lengths = std::move(lengths);
  config.dilation_rates = std::move(rates);
  return config;
}

}  // namespace

TEST_CASE("work lists: branches are grouped so that little work is wasted", "[cuda]") {
  const ra::AttentionConfig longnet =
      with_branches(ra::longnet_preset(), {2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16});
  ra::AttentionConfig causal = longnet;
  causal.causal = true;
  const ra::AttentionConfig gigapath =
      with_branches(ra::torchscale_preset(), {1024, 5792, 32768, 185363, 1048576}, {1, 2, 4, 8, 16});
  const ra::AttentionConfig uneven = with_branches(ra::longnet_preset(), {1000, 4000, 9000}, {1, 6, 12});

  double carried = 0;
  CHECK(processed_per_useful(longnet, 65536, 12, {}, &carried) == 1.0);
  CHECK(carried == 0.0);
  CHECK(processed_per_useful(causal, 65536, 12, {}) < 1.15);
  CHECK(processed_per_useful(gigapath, 65536, 12, {}, &carried) < 1.05);
  CHECK(carried > 0.0);
  CHECK(processed_per_useful(uneven, 65536, 12, {}) < 1.15);

  // Wider tiles waste more, and are divided more.
  const WorkSizes wide{.query_rows = 128};
  CHECK(processed_per_useful(longnet, 65536, 12, wide) == 1.0);
  CHECK(processed_per_useful(causal, 65536, 12, wide) < 1.2);
  CHECK(processed_per_useful(gigapath, 65536, 12, wide) < 1.05);
}

TEST_CASE("work lists: rows between kept ones that lie far apart stay together", "[cuda]") {
  for (const std::int64_t rate : {61, 97, 128, 1000}) {
    const ra::AttentionConfig config = with_branches(ra::longnet_preset(), {100}, {rate});
    const ra::detail::PlannedCall call =
        ra::detail::plan_call(config, {1, 10'000, 1, 1, 64}, {}, find_pattern);
    // A segment keeps one row or two, and leaves at most three runs.
    CHECK(ra::detail::make_work_list(call.plan).view().item_count <= 4 * 100);
  }
}

TEST_CASE("work lists: extents that do not fit are refused", "[cuda][error]") {
  ra::AttentionPlan plan;
  plan.shape = {1, std::int64_t{1} << 31, 1, 1, 8};
  CHECK(test::error_text([&] { ra::detail::make_work_list(plan); }) ==
        "q tokens = 2147483648: must be at most 2147482624 on a GPU");
}

TEST_CASE("work lists: row spans count and find rows", "[cuda]") {
  const ra::detail::RowSpan rows{3, 4, 3};  // 3, 7, 11
  CHECK(rows.last() == 11);
  CHECK(rows.count_below(3) == 0);
  CHECK(rows.count_below(4) == 1);
  CHECK(rows.count_below(11) == 2);
  CHECK(rows.count_below(1000) == 3);
  CHECK(rows.find(7) == 1);
  CHECK(rows.find(8) == -1);
  CHECK(rows.find(15) == -1);
  CHECK(rows.find(-1) == -1);
}
