// The context and plans on devices, compiled.
#include <ring_attention/cuda/context.hpp>
#include <ring_attention/plan/make_plan.hpp>

namespace ra = ring_attention;

const ra::detail::DevicePlan& plan_twice(ra::cuda::Context& context, const ra::detail::PlanKey& key,
                                         const ra::detail::PatternLookup& lookup) {
  ra::detail::ContextState& state = context.state();
  const ra::detail::DeviceScope scope(state.device());
  const bool capturing = state.capturing();
  state.workspace(1 << 20, capturing);
  const auto& plan = state.plan(key, capturing, [&](const ra::detail::PlanKey& of) {
    return ra::detail::plan_call(of.config, of.shape, of.lengths, lookup);
  });
  state.end_call(capturing);
  return plan;
}
