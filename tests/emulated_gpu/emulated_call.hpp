// A forward call whose items emulated threads compute. Comes after what stands in for CUDA.
#pragma once

#include "emulated_gpu/threads.hpp"
// After that.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/make_work_list.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <ring_attention/scalar.hpp>
#include <vector>

#include "support/random_case.hpp"
#include "support/work_executor.hpp"

namespace test {

inline constexpr auto find_pattern = [](const ra::PatternKey& key) { return ra::make_indices(key); };

inline ra::CallShape shape_of(const RandomCase& c) { return {c.q[0], c.q[1], c.q[2], c.k[2], c.q[3]}; }

template <class Stored, class View>
ra::engine::DeviceRows<Stored> device_rows(const View& view) {
  return {view.data(), view.strides()[0], view.strides()[1], view.strides()[2]};
}

/// In the place of an attention object. `run_items(call)` executes the items of a call.
template <class Scalar, class RunItems>
class EmulatedCall {
 public:
  /// Cuts the work into items of such sizes, branches in groups if wanted.
  EmulatedCall(const ra::AttentionPlan& plan, ra::detail::WorkSizes sizes, bool in_groups, RunItems run_items)
      : plan_(plan), run_items_(run_items) {
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
    const std::vector<ra::detail::ListPointers> lists = list_pointers(plan_);
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
    run_items_(call);
  }

  bool in_groups() const { return list_.carried_rows() > 0; }
  std::int64_t items() const { return list_.view().item_count; }

 private:
  const ra::AttentionPlan& plan_;
  RunItems run_items_;
  ra::detail::WorkList list_;
};

}  // namespace test
