// Context: how one call runs on the CPU.
#pragma once

#include <cstdint>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
template <class Scalar>
struct ForwardKernel;
template <class Scalar>
struct BackwardKernel;
template <class Scalar>
struct ProbabilityKernel;
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE

inline namespace RING_ATTENTION_NAMESPACE {

class Workspace;

namespace detail {

/// Its address tells the scalar of kernels whose type was left behind.
template <class Scalar>
inline constexpr char type_tag = 0;

}  // namespace detail

/// Which kernel computes: by the name of one of available_kernels(), or one of the caller's own.
class KernelChoice {
 public:
  /// What set_kernel chose, else what the environment variable RING_ATTENTION_KERNEL names, else the best.
  KernelChoice() = default;
  /// One of available_kernels(); an empty name is no choice.
  KernelChoice(std::string_view name) : name_(name) {}  // NOLINT(google-explicit-constructor)
  /// The same.
  KernelChoice(const char* name) : name_(name) {}  // NOLINT(google-explicit-constructor)
  /// The same.
  KernelChoice(const std::string& name) : name_(name) {}  // NOLINT(google-explicit-constructor)
  /// Kernels for one scalar, which must outlive the calls; null: no choice. Calls of other scalars refuse it.
  template <class Scalar>
  explicit KernelChoice(const engine::ForwardKernel<Scalar>& forward,
                        const engine::BackwardKernel<Scalar>* backward = nullptr)
      : own_forward_(&forward), own_backward_(backward), own_type_(&detail::type_tag<Scalar>) {}

  const std::string& name() const { return name_; }     ///< empty: no choice, or a kernel of the caller's own
  bool is_own() const { return own_type_ != nullptr; }  ///< whether it is kernels of the caller's own
  /// Whether the caller's own kernels are for this scalar.
  template <class Scalar>
  bool is_of() const {
    return own_type_ == &detail::type_tag<Scalar>;
  }
  /// The caller's own kernel of a pass and of the scalar that they are for, or null.
  template <class Kernel>
  const Kernel* own() const {
    using Scalar = typename Kernel::Scalar;
    if constexpr (std::is_same_v<Kernel, engine::ForwardKernel<Scalar>>) {
      return static_cast<const Kernel*>(own_forward_);
    } else if constexpr (std::is_same_v<Kernel, engine::BackwardKernel<Scalar>>) {
      return static_cast<const Kernel*>(own_backward_);
    } else {
      return nullptr;
    }
  }

 private:
  std::string name_;
  const void* own_forward_ = nullptr;
  const void* own_backward_ = nullptr;
  const char* own_type_ = nullptr;
};

/// How one call runs on the CPU: an optional first argument of every call of the attention classes.
struct Context {
  int threads = 0;           ///< the caller's included; 0: num_threads(). TrueRing's members are not counted
  KernelChoice kernel = {};  ///< by default what set_kernel chose, else the best
  /// What the call works in and leaves for the next one; null: memory of its own, which goes when it ends, or
  /// that which a Production object keeps. Rings (TrueRing, classes over a communicator) do not use it: what
  /// their members need lasts as long as the call.
  Workspace* workspace = nullptr;
};

namespace detail {

/// Throws std::invalid_argument for a negative number of threads.
inline void check_context(const Context& context) {
  if (context.threads < 0) throw_invalid("context.threads", context.threads, "must not be negative");
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
