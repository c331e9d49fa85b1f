// cuda::Context: the stream of calls on a GPU, and what they leave for those that follow.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <memory>
#include <new>
#include <optional>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/device_plan.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/finite_report.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// A function of the driver, found through the runtime, so that nothing links libcuda.
inline void* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  throw_if_failed(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found), name);
#else
  throw_if_failed(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found), name);
#endif
  if (found != cudaDriverEntryPointSuccess) throw cuda::Error(cudaErrorSymbolNotFound, name);
  return function;
}

/// The device of a stream; of the default streams, the current one.
inline int device_of(cudaStream_t stream) {
  int device = 0;
  throw_if_failed(cudaGetDevice(&device), "cudaGetDevice");
  if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread) return device;
  const auto failed = [](CUresult result) { return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorUnknown; };
  const auto context_of =
      reinterpret_cast<CUresult (*)(CUstream, CUcontext*)>(driver_function("cuStreamGetCtx"));
  const auto push = reinterpret_cast<CUresult (*)(CUcontext)>(driver_function("cuCtxPushCurrent"));
  const auto pop = reinterpret_cast<CUresult (*)(CUcontext*)>(driver_function("cuCtxPopCurrent"));
  const auto current = reinterpret_cast<CUresult (*)(CUdevice*)>(driver_function("cuCtxGetDevice"));
  CUcontext context = nullptr;
  throw_if_failed(failed(context_of(stream, &context)), "cuStreamGetCtx");
  throw_if_failed(failed(push(context)), "cuCtxPushCurrent");
  const CUresult result = current(&device);
  throw_if_failed(failed(pop(&context)), "cuCtxPopCurrent");
  throw_if_failed(failed(result), "cuCtxGetDevice");
  return device;
}

/// Plans and memory of a context's calls.
class ContextState {
 public:
  explicit ContextState(cudaStream_t stream) : stream_(stream), device_(device_of(stream)) {
    const DeviceScope scope(device_);
    uploads_.emplace();
    throw_if_failed(cudaEventCreateWithFlags(&last_call_, cudaEventDisableTiming),
                    "cudaEventCreateWithFlags");
    const cudaError_t made = cudaEventCreateWithFlags(&batch_forgotten_, cudaEventDisableTiming);
    if (made != cudaSuccess) static_cast<void>(cudaEventDestroy(last_call_));  // the destructor will not run
    throw_if_failed(made, "cudaEventCreateWithFlags");
  }
  ContextState(const ContextState&) = delete;
  ContextState& operator=(const ContextState&) = delete;
  /// Waits for the last call, and, unless the stream is capturing, for the stream, which may have been given
  /// replays of graphs, too.
  ~ContextState() {
    const RelaxedCapture relaxed;
    const DeviceScope scope(device_, std::nothrow);
    // The handle of a thread's own stream means another stream here if another thread made the calls.
    forgive(cudaEventSynchronize(last_call_));
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    forgive(cudaStreamIsCapturing(stream_, &status));
    if (status == cudaStreamCaptureStatusNone) forgive(cudaStreamSynchronize(stream_));
    // Nothing uses the memory any more, and a capture must not find that it is freed.
    for (KeptPlan& kept : plans_) kept.plan.pass_to(uploads_->get());
    for (DeviceMemory& memory : kept_for_graphs_) memory.pass_to(uploads_->get());
    workspace_.pass_to(uploads_->get());
    finite_check_.pass_to(uploads_->get());
    forgive(cudaEventDestroy(last_call_));
    forgive(cudaEventDestroy(batch_forgotten_));
  }

  cudaStream_t stream() const { return stream_; }
  int device() const { return device_; }

  bool capturing() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    throw_if_failed(cudaStreamIsCapturing(stream_, &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }

  /// Marks the end of a scope that queues a call, however it ends.
  class CallEnd {
   public:
    CallEnd(ContextState& context, bool capturing) : context_(context), capturing_(capturing) {}
    CallEnd(const CallEnd&) = delete;
    CallEnd& operator=(const CallEnd&) = delete;
    ~CallEnd() {
      if (!capturing_) forgive(cudaEventRecord(context_.last_call_, context_.stream_));
    }

   private:
    ContextState& context_;
    bool capturing_;
  };

  /// The plan that was asked for, which `make()` computes as a PlannedCall if it is not there yet. Throws
  /// std::invalid_argument in that case while the stream is capturing. Valid until the next is asked for.
  template <class Make>
  const DevicePlan& plan(const PlanRequest& request, bool capturing, const Make& make) {
    const auto known = std::find_if(plans_.begin(), plans_.end(),
                                    [&](const KeptPlan& kept) { return kept.plan.serves(request); });
    if (known != plans_.end()) {
      plans_.splice(plans_.begin(), plans_, known);
    } else {
      if (capturing) refuse_capture();
      drop_copies();
      plans_.emplace_front(request, make(), device_, *uploads_, stream_);
      forget_plans();
    }
    return plans_.front().plan;
  }

  /// For a graph that captures a call of the plan that was asked for last, with that much workspace: both
  /// live as long as the context.
  void keep_for_graph(std::size_t workspace_bytes) {
    plans_.front().captured = true;
    if (callers_ == nullptr && workspace_bytes > 0) workspace_captured_ = true;
  }

  /// Memory of a call, at least so large. Throws cuda::OutOfMemory, std::invalid_argument if there is less
  /// and the stream is capturing, and if the caller's memory is too small.
  std::byte* workspace(std::size_t bytes, bool capturing) {
    if (callers_ != nullptr) {
      if (bytes > callers_bytes_) {
        throw_invalid("workspace_bytes", std::to_string(callers_bytes_),
                      "this call needs " + std::to_string(bytes));
      }
      return callers_;
    }
    if (bytes > workspace_.bytes()) {
      if (capturing) refuse_capture();
      kept_for_graphs_.reserve(kept_for_graphs_.size() + 1);
      DeviceMemory larger(bytes, stream_);
      std::swap(workspace_, larger);
      // Graphs hold its address; queued calls are done with it before the stream frees it.
      if (workspace_captured_) kept_for_graphs_.push_back(std::move(larger));
      workspace_captured_ = false;
    }
    return workspace_.data();
  }

  /// The caller's memory for calls from now on; null: memory of the context's.
  void set_workspace(void* data, std::size_t bytes) {
    constexpr std::uintptr_t alignment = 16;
    if (reinterpret_cast<std::uintptr_t>(data) % alignment != 0) {
      throw_invalid("workspace", "address that is no multiple of 16", "must be aligned to 16 bytes");
    }
    if (data == nullptr && bytes > 0) throw_invalid("workspace", "null", "must point to device memory");
    callers_ = static_cast<std::byte*>(data);
    callers_bytes_ = bytes;
  }

  /// Where calls leave what check() reports. Throws as workspace() does.
  FiniteCheck* finite_check(bool capturing) {
    if (finite_check_.bytes() == 0) {
      if (capturing) refuse_capture();
      FiniteCheck empty{};
      for (unsigned long long& first : empty.first) first = ~0ULL;
      finite_check_ = upload(&empty, sizeof empty, *uploads_, stream_);
    }
    return reinterpret_cast<FiniteCheck*>(finite_check_.data());
  }

  /// Waits for the stream, and throws std::invalid_argument for an input that was not finite, and if the
  /// stream is capturing.
  void check() {
    if (capturing()) {
      throw_invalid("context", "stream that is capturing",
                    "check() waits for the stream: call it outside the capture");
    }
    const RelaxedCapture relaxed;
    const DeviceScope scope(device_);
    FiniteReport report{};
    if (finite_check_.bytes() > 0) {
      auto* const on_device = &reinterpret_cast<FiniteCheck*>(finite_check_.data())->report;
      throw_if_failed(cudaMemcpyAsync(&report, on_device, sizeof report, cudaMemcpyDeviceToHost, stream_),
                      "cudaMemcpyAsync");
      throw_if_failed(cudaMemsetAsync(on_device, 0, sizeof report, stream_), "cudaMemsetAsync");
    }
    throw_if_failed(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    if (report.tensor != 0) throw_not_finite(report);
  }

 private:
  struct KeptPlan {
    KeptPlan(const PlanRequest& request, const PlannedCall& call, int device, const OwnStream& uploads,
             cudaStream_t stream)
        : plan(request, call, device, uploads, stream) {}

    DevicePlan plan;
    bool captured = false;  // by a graph, which holds its addresses
  };

  [[noreturn]] static void refuse_capture() {
    throw_invalid("context", "stream that is capturing",
                  "the first call of its kind allocates memory: make the call once before the capture");
  }

  /// Of plans that no graph uses, those used last are kept.
  void forget_plans() {
    constexpr std::size_t most = 64;
    std::size_t count = 0;
    for (auto kept = plans_.begin(); kept != plans_.end();) {
      if (kept->captured || ++count <= most) {
        ++kept;
        continue;
      }
      std::vector<DeviceCopy>& copies = kept->plan.copies();
      forgotten_.reserve(forgotten_.size() + copies.size());
      std::move(copies.begin(), copies.end(), std::back_inserter(forgotten_));
      kept = plans_.erase(kept);
    }
    begin_batch();
  }

  /// Block lists of forgotten plans wait in batches for what the stream was given before: to begin anew with
  /// each plan would let a stream that is always busy hold all of them.
  void begin_batch() {
    if (!batch_.empty() || forgotten_.empty()) return;
    throw_if_failed(cudaEventRecord(batch_forgotten_, stream_), "cudaEventRecord");
    batch_.swap(forgotten_);
  }

  /// Drops block lists that the stream is known to be done with.
  void drop_copies() {
    if (batch_.empty()) return;
    const RelaxedCapture relaxed;
    const cudaError_t state = cudaEventQuery(batch_forgotten_);
    if (state == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      return;
    }
    throw_if_failed(state, "cudaEventQuery");
    batch_.clear();
    begin_batch();
  }

  /// What fails in a destructor is no later call's fault.
  static void forgive(cudaError_t code) {
    if (code != cudaSuccess) static_cast<void>(cudaGetLastError());
  }

  cudaStream_t stream_;
  int device_;
  std::optional<OwnStream> uploads_;
  cudaEvent_t last_call_ = nullptr, batch_forgotten_ = nullptr;
  std::list<KeptPlan> plans_;  // the one used last comes first
  std::vector<DeviceCopy> batch_, forgotten_;
  DeviceMemory workspace_;
  bool workspace_captured_ = false;
  std::vector<DeviceMemory> kept_for_graphs_;
  std::byte* callers_ = nullptr;
  std::size_t callers_bytes_ = 0;
  DeviceMemory finite_check_;
};

}  // namespace detail

namespace cuda {

/// A CUDA stream and what calls on it work in: plans and workspace, in device memory of the stream's pool.
/// Belongs to the device of the stream, which it does not own and which must outlive it. Serves one call at a
/// time, and waits for the stream when it is destroyed. Graphs that captured calls must not run after that.
/// Calls do not wait for the stream. The first of a kind waits for its plan to be copied to the device, the
/// first in a program for a small kernel, both on streams of the library's own; and CUDA may wait when it
/// loads a kernel that it launches for the first time.
class Context {
 public:
  /// Throws cuda::Error. Of the default streams the device is the current one.
  explicit Context(cudaStream_t stream = nullptr)
      : state_(std::make_unique<ring_attention::detail::ContextState>(stream)) {}

  cudaStream_t stream() const { return state_->stream(); }  ///< as given to the constructor
  int device() const { return state_->device(); }           ///< the stream's, by CUDA's number

  /// Bytes of workspace that a forward call of an attention object needs by the kernel that is chosen now.
  /// Makes the plan of the call, as the first call of its kind does. Throws as that call would.
  template <class Attention>
  std::size_t workspace_bytes(const Attention& attention, const CallShape& shape,
                              const ForwardOptions& options = {});

  /// Lets calls from now on work in the caller's device memory, aligned to 16 bytes; null: in memory that the
  /// context allocates, as by default. Calls that need more throw std::invalid_argument. The memory is used
  /// until those calls, and graphs that captured them, have run. Plans stay in memory of the context's.
  void set_workspace(void* data, std::size_t bytes) { state_->set_workspace(data, bytes); }

  /// Waits for what the stream was given. Throws std::invalid_argument if a call or a replay since the last
  /// check had an input that was not finite and its object checks that (ProductionOptions::check_finite),
  /// naming the first such element, and if the stream is capturing; cuda::Error if the stream failed.
  void check() { state_->check(); }

  /// What calls keep here; the library's own.
  ring_attention::detail::ContextState& state() { return *state_; }

 private:
  std::unique_ptr<ring_attention::detail::ContextState> state_;
};

}  // namespace cuda
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
