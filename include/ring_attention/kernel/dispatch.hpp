// How the kernel of a call is found: definitions of choice.hpp.
#pragma once

#include <atomic>
#include <cstdlib>
#include <ring_attention/error.hpp>
#include <ring_attention/kernel/choice.hpp>
#include <ring_attention/kernel/instruction_sets.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/num_threads.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

namespace detail {

/// The process's choice by name; null: there is none. Names live forever.
RING_ATTENTION_EXPORT inline std::atomic<const char*>& chosen_kernel() {
  static constinit std::atomic<const char*> name{nullptr};
  return name;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE

inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Calls visit(isa) for the instruction sets of this processor, the best first, until it returns true; only
/// for the one of that name, if there is one. Others are then not even asked for, which for AMX has
/// consequences.
template <class Visit, class... Isa>
void for_each_supported(InstructionSets<Isa...>, const Visit& visit, std::string_view name = {}) {
  (void)(((name.empty() || name == Isa::name) && Isa::supported() && visit(Isa{})) || ...);
}

/// The supported instruction set of a name as a string that lives forever; null: there is none.
inline const char* find_kernel(std::string_view name) {
  const char* found = nullptr;
  const auto take = [&found](auto isa) {
    found = isa.name;
    return true;
  };
  for_each_supported(KnownInstructionSets{}, take, name);
  return found;
}

}  // namespace engine

RING_ATTENTION_INLINE std::vector<std::string> available_kernels() {
  std::vector<std::string> names;
  engine::for_each_supported(engine::KnownInstructionSets{}, [&names](auto isa) {
    names.emplace_back(isa.name);
    return false;
  });
  return names;
}

namespace engine {

[[noreturn]] inline void throw_unknown_kernel(std::string_view argument, std::string_view name) {
  std::string known;
  for (const std::string& available : available_kernels()) known += (known.empty() ? "" : ", ") + available;
  detail::throw_invalid(argument, "\"" + std::string(name) + "\"",
                        "must be empty, or a kernel that this processor runs: " + known);
}

}  // namespace engine

RING_ATTENTION_INLINE void set_kernel(std::string_view name) {
  const char* chosen = name.empty() ? nullptr : engine::find_kernel(name);
  if (chosen == nullptr && !name.empty()) engine::throw_unknown_kernel("kernel", name);
  detail::chosen_kernel() = chosen;
}

namespace engine {

/// What RING_ATTENTION_KERNEL asks for, read once; null where it is not set or empty.
inline const char* kernel_of_environment() {
  // Constants to begin with, so that no thread can be initialising them when the process forks. Threads that
  // ask at once all find the same.
  static constinit std::atomic<bool> known{false};
  static constinit std::atomic<const char*> chosen{nullptr};
  if (!known.load(std::memory_order_acquire)) {
    const char* const name = std::getenv("RING_ATTENTION_KERNEL");
    if (name != nullptr && *name != '\0') {
      const char* const found = find_kernel(name);
      if (found == nullptr) engine::throw_unknown_kernel("RING_ATTENTION_KERNEL", name);
      chosen.store(found, std::memory_order_relaxed);
    }
    known.store(true, std::memory_order_release);
  }
  return chosen.load(std::memory_order_relaxed);
}

/// The kernel of a name for a pass and scalar: that of the instruction set, or of the next one that has its
/// own; of no name, the best. The name is one that this processor runs.
template <class Kernel>
const Kernel& kernel_of_name(std::string_view name) {
  const Kernel* kernel = &generic_isa::kernel<Kernel>();
  const auto take = [&kernel](auto isa) {
    kernel = &isa.template kernel<Kernel>();
    return true;
  };
  for_each_supported(KnownInstructionSets{}, take, name);
  return *kernel;
}

/// The kernel that serves a pass and scalar: what set_kernel chose, else what the environment variable
/// RING_ATTENTION_KERNEL names, else the best.
template <class Kernel>
const Kernel& active_kernel() {
  const char* name = detail::chosen_kernel();
  if (name == nullptr) name = kernel_of_environment();
  return kernel_of_name<Kernel>(name == nullptr ? std::string_view() : name);
}

}  // namespace engine

template <class Scalar>
std::string kernel_for(Direction direction) {
  return direction == Direction::forward ? engine::active_kernel<engine::ForwardKernel<Scalar>>().name
                                         : engine::active_kernel<engine::BackwardKernel<Scalar>>().name;
}

namespace engine {

template <class Kernel>
Execution<Kernel> execution_of(const Context& context) {
  detail::check_context(context);
  const int threads = context.threads > 0 ? context.threads : num_threads();
  if (context.kernel.is_own()) {
    if (!context.kernel.is_of<typename Kernel::Scalar>()) {
      detail::throw_invalid("context.kernel", "kernel of another scalar", "must be one of the call's scalar");
    }
    const Kernel* const own = context.kernel.own<Kernel>();
    return {own == nullptr ? &active_kernel<Kernel>() : own, threads, context.workspace};
  }
  const std::string& name = context.kernel.name();
  if (name.empty()) return {&active_kernel<Kernel>(), threads, context.workspace};
  if (find_kernel(name) == nullptr) throw_unknown_kernel("context.kernel", name);
  return {&kernel_of_name<Kernel>(name), threads, context.workspace};
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
