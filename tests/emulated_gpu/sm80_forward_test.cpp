// The source of the kernel for mma.sync, its blocks and instructions emulated, against the float64 oracle.
#include "emulated_gpu/emulated_call.hpp"
// After what stands in for CUDA.
#include <cstdint>
#include <cstring>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/ptx.inl>
#include <ring_attention/cuda/sm80_forward.inl>
#include <type_traits>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"

// The sanitizers do not follow contexts.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

namespace ra = ring_attention;

template <class Scalar, int Dim>
void run_with_dim(ra::engine::ForwardArguments<Scalar> call) {
  static_assert(ra::engine::sm80::ItemKernel<Scalar, Dim>::memory_bytes <= test::launch_bytes);
  const float sign = ra::engine::sm80::take_sign(call);
  test::EmulatedThreads block(ra::engine::sm80::threads);
  for (std::int64_t i = 0; i < call.work.item_count; ++i) {
    // What is read before it arrives is not a number.
    std::memset(test::launch_memory, 0xff, test::launch_bytes);
    block.run(static_cast<unsigned>(i), 0,
              [&] { ra::engine::sm80::forward<Scalar, Dim>(call, 0, i < call.work.partial_count, sign); });
  }
}

constexpr auto run_items = [](const auto& call) {
  using Scalar = std::remove_cvref_t<decltype(*call.out.data)>;
  ra::engine::sm80::with_code_for<Scalar>(call.head_dim,
                                          [&](auto dim) { run_with_dim<Scalar, dim()>(call); });
};

template <class Scalar>
auto emulated_call(const ra::AttentionPlan& plan, bool in_groups) {
  using ra::detail::DeviceKernel;
  const ra::detail::WorkSizes sizes = ra::detail::work_sizes(
      sizeof(Scalar) == 2 ? DeviceKernel::sm80 : DeviceKernel::sm80_float, plan.shape.head_dim);
  return test::EmulatedCall<Scalar, decltype(run_items)>(plan, sizes, in_groups, run_items);
}

/// What an emulated multiplication takes its time for.
template <class Scalar>
bool is_too_large(std::int64_t items, std::int64_t head_dim) {
  return items * head_dim > (sizeof(Scalar) == 2 ? 600 : 150) ||
         head_dim > ra::detail::sm80_largest_head_dim(sizeof(Scalar));
}

}  // namespace

TEMPLATE_TEST_CASE("the sm80 kernel's source agrees with the oracle", "[cuda][property]", Eigen::half,
                   Eigen::bfloat16, float) {
  constexpr std::uint64_t first = std::is_same_v<TestType, Eigen::half> ? 7000
                                  : std::is_same_v<TestType, float>     ? 9000
                                                                        : 8000;
  constexpr std::int64_t alignment = 16 / static_cast<std::int64_t>(sizeof(TestType));
  int checked = 0, in_groups = 0;
  for (std::uint64_t i = 0; i < test::rule_combinations; ++i) {
    const test::RandomCase c = test::with_aligned_rows(test::make_random_case(first + i, 2e5), alignment);
    const auto call = ra::detail::plan_call(c.config, test::shape_of(c), c.lengths, test::find_pattern);
    const auto emulated = emulated_call<TestType>(call.plan, i % 2 == 1);
    if (is_too_large<TestType>(emulated.items(), c.q[3])) continue;
    ++checked;
    test::copies_arrive_at_once = i % 4 >= 2;
    in_groups += emulated.in_groups() ? 1 : 0;
    INFO(c.describe());
    CHECK(test::check_forward<TestType>(
              c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
                     const auto& options) { emulated.forward(q, k, v, out, lse, options); }) == "");
  }
  CHECK(checked > 8);
  CHECK(in_groups > 0);
  for (std::uint64_t i = 0; i < 12; ++i) {
    test::BlockCase c = test::make_block_case(first + 500 + i);
    c.call = test::with_aligned_rows(c.call, alignment);
    const auto call = ra::detail::plan_block_call(c.call.config, c.sparse, test::shape_of(c.call),
                                                  c.call.lengths, test::find_pattern);
    const auto emulated = emulated_call<TestType>(call.plan, false);
    if (is_too_large<TestType>(emulated.items(), c.call.q[3])) continue;
    test::copies_arrive_at_once = i % 2 == 1;
    INFO(c.describe());
    CHECK(test::check_block_forward<TestType>(c, emulated) == "");
  }
}

TEST_CASE("the sm80 kernel keeps float's precision where scores are large", "[cuda]") {
  // 128 dimensions and a scale of 2: sums that are truncated over a whole row miss the tolerance.
  for (const std::uint64_t seed : {118, 172}) {
    const test::RandomCase c = test::with_aligned_rows(test::make_random_case(seed), 4);
    REQUIRE((c.q[3] == 128 && c.config.scale == 2.0));
    const auto call = ra::detail::plan_call(c.config, test::shape_of(c), c.lengths, test::find_pattern);
    const auto emulated = emulated_call<float>(call.plan, false);
    INFO(c.describe());
    CHECK(test::check_forward<float>(
              c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
                     const auto& options) { emulated.forward(q, k, v, out, lse, options); }) == "");
  }
}

#endif
