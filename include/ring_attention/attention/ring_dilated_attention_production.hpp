// RingDilatedAttentionProduction: RingDilatedAttentionV2 with what a service needs.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <ring_attention/attention/interface.hpp>
#include <ring_attention/attention/production_options.hpp>
#include <ring_attention/cpu/whole.hpp>
#include <ring_attention/device_clock.hpp>
#include <ring_attention/threads/fork.hpp>
#include <ring_attention/workspace.hpp>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// RingDilatedAttentionV2 for long-running services.
///
/// - Calls work in memory that is kept: the second and later forward or backward of a shape into the caller's
///   tensors allocates nothing at all (with a cache policy that keeps patterns). Other `lengths` make a new
///   plan, as another shape does. Eight idle workspaces are kept at most, those used last; a shape has
///   several where its calls overlap. In a Context with a workspace, calls work in that one.
/// - `workspace_limit_bytes` bounds all that a call allocates beside inputs, outputs and its plan: the
///   workspaces of its threads and, in backward, a list of work, one number per row and head and the sums of
///   16-bit gradients, which are kept in float for a shard or fewer rows at a time. Where mixing weights are
///   detached, two numbers or, beside sums of fewer rows than all, one per branch and one more. The limit is
///   honoured by smaller chunks; one below what the shape needs is refused with std::invalid_argument that
///   names the minimum. Where memory runs out, chunks shrink, for that call; OutOfWorkspace at the end,
///   before anything is computed.
/// - `check_finite` refuses inputs with infinities or NaN and names the first.
/// - Backward recomputes probabilities: nothing but out and lse is kept.
/// - counters() can be read at any time.
///
/// On a GPU the workspace limit bounds the states that branches leave for one another, the finite check
/// reaches the caller at cuda::Context::check(), and a call whose plan its context holds looks no pattern up.
/// Replays of graphs are not counted, nor is the time of a captured call.
///
/// Safe to call from several threads at once: each call takes a workspace of its own. Movable, not copyable.
/// Calls: see WholeTensorAttention.
template <typename Scalar, typename CachePolicy = use_pattern_cache>
class RingDilatedAttentionProduction
    : public WholeTensorAttention<RingDilatedAttentionProduction<Scalar, CachePolicy>, Scalar, CachePolicy> {
  using Base = WholeTensorAttention<RingDilatedAttentionProduction, Scalar, CachePolicy>;
  friend Base;

 public:
  /// Throws std::invalid_argument for a configuration that breaks a rule.
  explicit RingDilatedAttentionProduction(AttentionConfig config, CachePolicy cache_policy = CachePolicy())
      : RingDilatedAttentionProduction(std::move(config), ProductionOptions{}, std::move(cache_policy)) {}
  /// The same with options.
  RingDilatedAttentionProduction(AttentionConfig config, ProductionOptions options,
                                 CachePolicy cache_policy = CachePolicy())
      : Base(std::move(config), std::move(cache_policy)),
        options_(options),
        shared_(std::make_unique<Shared>()) {}

  const ProductionOptions& options() const { return options_; }  ///< as given to the constructor

  /// Sums over all calls so far; calls that run are counted when they end.
  ProductionCounters counters() const {
    ProductionCounters counters;
    counters.forward_calls = shared_->forward_calls;
    counters.backward_calls = shared_->backward_calls;
    counters.tokens = shared_->tokens;
    counters.seconds =
        1e-9 * static_cast<double>(shared_->nanoseconds.load()) + shared_->device_clock.seconds();
    counters.workspace_bytes = shared_->workspace_bytes;
    counters.cache_hits = shared_->cache_hits;
    counters.cache_misses = shared_->cache_misses;
    return counters;
  }

 private:
  /// Plans and workspaces that are kept for calls to come; calls at the same time may need more.
  static constexpr std::size_t most_idle = 8;

  /// What a call works in: its plan, for calls of the same shape that follow, and its memory.
  struct Slot {
    detail::PlannedCall call;
    std::vector<std::int64_t> lengths;
    bool planned = false;
    detail::Block memory;
  };

  struct Shared {
    Shared() { idle.reserve(most_idle + 1); }  // so that giving a slot back never allocates

    std::mutex mutex;
    std::vector<std::unique_ptr<Slot>> idle;
    std::size_t slot_count = 0;
    std::atomic<std::uint64_t> forward_calls{0}, backward_calls{0}, tokens{0}, workspace_bytes{0},
        cache_hits{0}, cache_misses{0};
    std::atomic<std::int64_t> nanoseconds{0};
    detail::DeviceClockSlot device_clock;
    // In the child of a fork, slots that other threads had taken are theirs no longer, and nobody's.
    detail::ForkGuard fork_guard{mutex, this, [](void* shared) {
                                   auto& mine = *static_cast<Shared*>(shared);
                                   mine.slot_count = mine.idle.size();
                                 }};
  };

  /// Takes a slot for one call and gives it back, also when the call throws.
  class Lease {
   public:
    Lease(Shared& shared, const CallShape& shape, const std::vector<std::int64_t>& lengths)
        : shared_(shared) {
      const std::lock_guard lock(shared.mutex);
      const auto matching = std::find_if(shared.idle.begin(), shared.idle.end(), [&](const auto& slot) {
        return slot->call.plan.shape == shape && slot->lengths == lengths;
      });
      // The slot at the front has been idle for longest.
      const bool create =
          matching == shared.idle.end() && (shared.idle.empty() || shared.slot_count < most_idle);
      const auto taken = matching != shared.idle.end() || create ? matching : shared.idle.begin();
      if (taken != shared.idle.end()) {
        slot_ = std::move(*taken);
        shared.idle.erase(taken);
      } else {
        slot_ = std::make_unique<Slot>();
        ++shared.slot_count;
      }
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      std::unique_ptr<Slot> dropped;  // goes after the lock: other calls need not wait for memory to be freed
      const std::lock_guard lock(shared_.mutex);
      shared_.idle.push_back(std::move(slot_));
      if (shared_.idle.size() > most_idle) {
        dropped = std::move(shared_.idle.front());
        shared_.idle.erase(shared_.idle.begin());
        --shared_.slot_count;
      }
    }
    Slot* operator->() const { return slot_.get(); }
    Slot& operator*() const { return *slot_; }

   private:
    Shared& shared_;
    std::unique_ptr<Slot> slot_;
  };

  class Clock {
   public:
    explicit Clock(Shared& shared) : shared_(shared) {}
    Clock(const Clock&) = delete;
    Clock& operator=(const Clock&) = delete;
    ~Clock() {
      shared_.nanoseconds +=
          std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_)
              .count();
    }

   private:
    Shared& shared_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  };

  void run_forward(const CallShape& shape, const detail::ForwardTensors<Scalar>& tensors,
                   const ForwardOptions& options, const engine::ForwardExecution<Scalar>& execution) const {
    const auto compute = [&](const AttentionPlan& plan, detail::Block& memory) {
      if (options_.check_finite) check_finite(plan, tensors, execution.threads);
      return engine::forward_whole(plan, tensors, execution, options_.workspace_limit_bytes, memory);
    };
    run(shape, options.lengths, execution.workspace, shared_->forward_calls, compute);
  }

  void run_backward(const CallShape& shape, const detail::BackwardTensors<Scalar>& tensors,
                    const GradientViews<Scalar>& grads, const BackwardOptions& options,
                    const engine::BackwardExecution<Scalar>& execution) const {
    const auto compute = [&](const AttentionPlan& plan, detail::Block& memory) {
      if (options_.check_finite) {
        check_finite(plan, tensors, execution.threads);
        engine::require_finite<Scalar>("grad_out", tensors.grad_out, plan, execution.threads);
      }
      return engine::backward_whole(plan, tensors, grads, execution, options_.workspace_limit_bytes, memory);
    };
    run(shape, options.lengths, execution.workspace, shared_->backward_calls, compute);
  }

  /// One call: compute(plan, memory) returns how much of the memory it used.
  template <class Compute>
  void run(const CallShape& shape, const std::vector<std::int64_t>& lengths, Workspace* workspace,
           std::atomic<std::uint64_t>& calls, const Compute& compute) const {
    const Clock clock(*shared_);
    const Lease slot(*shared_, shape, lengths);
    const detail::CallMemory memory(workspace, slot->memory);
    refresh_plan(*slot, shape, lengths);
    count(shape, compute(slot->call.plan, *memory), calls);
  }

  /// A call that returned, and what it worked in.
  void count(const CallShape& shape, std::size_t bytes, std::atomic<std::uint64_t>& calls) const {
    std::uint64_t seen = shared_->workspace_bytes;
    while (bytes > seen && !shared_->workspace_bytes.compare_exchange_weak(seen, bytes)) {
    }
    ++calls;
    shared_->tokens += static_cast<std::uint64_t>(shape.batch * shape.tokens);
  }

  /// A lookup that counters() shows.
  PatternCache::Pattern counted_lookup(const PatternKey& key) const {
    bool computed = false;
    PatternCache::Pattern pattern = this->apply_dilation(key, computed);
    ++(computed ? shared_->cache_misses : shared_->cache_hits);
    return pattern;
  }

  /// Looks every pattern up, in a plan that is kept where the shape is that of the slot's last call.
  void refresh_plan(Slot& slot, const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    const auto counted = [this](const PatternKey& key) { return counted_lookup(key); };
    detail::PlannedCall& call = slot.call;
    if (call.plan.shape == shape && slot.lengths == lengths && slot.planned) {
      for (std::size_t i = 0; i < call.keys.size(); ++i) call.patterns[i] = counted(call.keys[i]);
      return;
    }
    slot.planned = false;  // where anything below throws, the slot is empty
    slot.lengths = lengths;
    call = detail::plan_call(this->config(), shape, lengths, counted);
    slot.planned = true;
  }

  template <class Tensors>
  static void check_finite(const AttentionPlan& plan, const Tensors& tensors, int threads) {
    engine::require_finite<Scalar>("q", tensors.q, plan, threads);
    engine::require_finite<Scalar>("k", tensors.k, plan, threads);
    engine::require_finite<Scalar>("v", tensors.v, plan, threads);
  }

  ProductionOptions options_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
