// The source of the generic kernel, its warps emulated, against the float64 oracle.
#include "emulated_gpu/emulated_call.hpp"
// After what stands in for CUDA.
#include <cstdint>
#include <type_traits>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"

// The sanitizers do not follow contexts.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

namespace ra = ring_attention;

template <class Scalar, int Columns>
void run_with_columns(const ra::engine::ForwardArguments<Scalar>& call) {
  test::EmulatedThreads warp(32);
  const std::int64_t partial = call.work.partial_count;
  for (std::int64_t i = 0; i < call.work.item_count; ++i) {
    for (unsigned first = 0; first < ra::engine::generic::warps * 32; first += 32) {
      if (i < partial) {
        warp.run(static_cast<unsigned>(i), first,
                 [&] { ra::engine::generic::forward<Scalar, Columns, true>(call, 0); });
      } else {
        warp.run(static_cast<unsigned>(i - partial), first,
                 [&] { ra::engine::generic::forward<Scalar, Columns, false>(call, partial); });
      }
    }
  }
}

constexpr auto run_items = [](const auto& call) {
  if (call.head_dim <= 32) {
    run_with_columns<std::remove_cvref_t<decltype(*call.out.data)>, 1>(call);
  } else if (call.head_dim <= 64) {
    run_with_columns<std::remove_cvref_t<decltype(*call.out.data)>, 2>(call);
  } else if (call.head_dim <= 128) {
    run_with_columns<std::remove_cvref_t<decltype(*call.out.data)>, 4>(call);
  } else {
    run_with_columns<std::remove_cvref_t<decltype(*call.out.data)>, 8>(call);
  }
};

template <class Scalar>
auto emulated_call(const ra::AttentionPlan& plan, bool in_groups) {
  return test::EmulatedCall<Scalar, decltype(run_items)>(plan, {}, in_groups, run_items);
}

/// Every type has its own seeds, so that a seed names one case of one type.
template <class Scalar>
constexpr std::uint64_t type_number = sizeof(Scalar) == 4                   ? 0
                                      : sizeof(Scalar) == 8                 ? 1
                                      : std::is_same_v<Scalar, Eigen::half> ? 2
                                                                            : 3;

}  // namespace

TEMPLATE_TEST_CASE("the generic GPU kernel's source agrees with the oracle", "[cuda][property]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  constexpr std::uint64_t cases = test::rule_combinations;
  int checked = 0, in_groups = 0;
  for (std::uint64_t i = 0; i < cases; ++i) {
    const std::uint64_t seed = 5000 + type_number<TestType> * cases + i;
    const test::RandomCase c = test::make_random_case(seed, 5e4);
    if (c.q[0] * c.q[1] * c.q[2] > 500) continue;  // an emulated lane takes its time
    ++checked;
    INFO(c.describe());
    const auto call = ra::detail::plan_call(c.config, test::shape_of(c), c.lengths, test::find_pattern);
    const auto emulated = emulated_call<TestType>(call.plan, i % 2 == 1);
    in_groups += emulated.in_groups() ? 1 : 0;
    CHECK(test::check_forward<TestType>(
              c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
                     const auto& options) { emulated.forward(q, k, v, out, lse, options); }) == "");
  }
  CHECK(checked > 20);
  CHECK(in_groups > 3);
  for (std::uint64_t i = 0; i < 16; ++i) {
    const test::BlockCase c = test::make_block_case(6000 + type_number<TestType> * 16 + i);
    if (c.call.q[0] * c.call.q[1] * c.call.q[2] > 300) continue;
    INFO(c.describe());
    const auto call = ra::detail::plan_block_call(c.call.config, c.sparse, test::shape_of(c.call),
                                                  c.call.lengths, test::find_pattern);
    CHECK(test::check_block_forward<TestType>(c, emulated_call<TestType>(call.plan, false)) == "");
  }
}

#endif
