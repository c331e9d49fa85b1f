// The source of the generic kernel, its warps emulated, against the float64 oracle.
#include "emulated_gpu/warps.hpp"
// After what stands in for CUDA.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/make_work_list.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <type_traits>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"
#include "support/work_executor.hpp"

// The sanitizers do not follow contexts.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

namespace ra = ring_attention;

constexpr auto find_pattern = [](const ra::PatternKey& key) { return ra::make_indices(key); };

ra::CallShape shape_of(const test::RandomCase& c) { return {c.q[0], c.q[1], c.q[2], c.k[2], c.q[3]}; }

template <class Stored, class View>
ra::engine::DeviceRows<Stored> device_rows(const View& view) {
  return {view.data(), view.strides()[0], view.strides()[1], view.strides()[2]};
}

template <class Scalar, int Columns>
void run_items(const ra::engine::ForwardArguments<Scalar>& call) {
  test::EmulatedWarp emulated;
  const std::int64_t partial = call.work.partial_count;
  for (std::int64_t i = 0; i < call.work.item_count; ++i) {
    for (unsigned warp = 0; warp < ra::engine::generic::warps; ++warp) {
      if (i < partial) {
        emulated.run(static_cast<unsigned>(i), warp,
                     [&] { ra::engine::generic::forward<Scalar, Columns, true>(call, 0); });
      } else {
        emulated.run(static_cast<unsigned>(i - partial), warp,
                     [&] { ra::engine::generic::forward<Scalar, Columns, false>(call, partial); });
      }
    }
  }
}

/// In the place of an attention object.
template <class Scalar>
class EmulatedCall {
 public:
  EmulatedCall(const ra::AttentionPlan& plan, bool in_groups) : plan_(plan) {
    ra::detail::WorkSizes sizes;
    if (in_groups) {
      sizes.carry_cost = sizes.launch_cost = 0;
      sizes.item_cost = -1e3;
    }
    list_ = ra::detail::make_work_list(plan, sizes);
  }

  template <class Input, class Output, class Lse>
  void forward(const Input& q, const Input& k, const Input& v, const Output& out, const Lse& lse,
               const ra::ForwardOptions&) const {
    using T = ra::accumulator_t<Scalar>;
    const auto rows = static_cast<std::size_t>(list_.carried_rows());
    const std::int64_t head_dim = plan_.shape.head_dim;
    std::vector<T> states(rows * static_cast<std::size_t>(head_dim + 2), std::numeric_limits<T>::quiet_NaN());
    const std::vector<ra::detail::ListPointers> lists = test::list_pointers(plan_);
    ra::engine::ForwardArguments<Scalar> call{};
    call.q = device_rows<const Scalar>(q);
    call.k = device_rows<const Scalar>(k);
    call.v = device_rows<const Scalar>(v);
    call.out = device_rows<Scalar>(out);
    call.lse = device_rows<T>(lse);
    call.work = list_.view();
    call.lists = lists.data();
    call.carried = {states.data(), states.data() + rows, states.data() + 2 * rows};
    call.scale = static_cast<T>(plan_.scale * std::numbers::log2e);
    call.block_size = static_cast<std::int32_t>(plan_.block_size);
    call.group = static_cast<std::int32_t>(plan_.shape.heads / plan_.shape.kv_heads);
    call.head_dim = static_cast<std::int32_t>(head_dim);
    call.causal = plan_.causal;
    if (head_dim <= 32) {
      run_items<Scalar, 1>(call);
    } else if (head_dim <= 64) {
      run_items<Scalar, 2>(call);
    } else if (head_dim <= 128) {
      run_items<Scalar, 4>(call);
    } else {
      run_items<Scalar, 8>(call);
    }
  }

  bool in_groups() const { return list_.carried_rows() > 0; }

 private:
  const ra::AttentionPlan& plan_;
  ra::detail::WorkList list_;
};

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
    const auto call = ra::detail::plan_call(c.config, shape_of(c), c.lengths, find_pattern);
    const EmulatedCall<TestType> emulated(call.plan, i % 2 == 1);
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
    const auto call =
        ra::detail::plan_block_call(c.call.config, c.sparse, shape_of(c.call), c.call.lengths, find_pattern);
    CHECK(test::check_block_forward<TestType>(c, EmulatedCall<TestType>(call.plan, false)) == "");
  }
}

#endif
