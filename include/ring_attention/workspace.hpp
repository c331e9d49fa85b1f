// Workspace: memory of the caller's that calls work in and keep for those that follow.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/version.hpp>
#include <string>

#if RING_ATTENTION_DEFINES_ENGINE
#include <mutex>
#include <ring_attention/error.hpp>
#include <ring_attention/threads/fork.hpp>
#include <utility>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

namespace detail {
class CallMemory;
}  // namespace detail

/// Working memory that calls share, one after the other: Context::workspace. It grows to what the largest
/// call needs and is kept until release(); calls of any class, scalar, shape, thread count and kernel may
/// follow one another, and what they compute does not depend on it.
///
/// Serves one call at a time: a second one is refused with std::invalid_argument before it computes anything.
/// Safe to use from several threads; must outlive the calls. In the child of a fork() that another thread's
/// call was in the middle of, its memory is lost (a leak) and the workspace is empty.
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Memory that is kept, in bytes, as the last call left it.
  std::size_t bytes() const;

  /// Frees the memory. Throws std::invalid_argument while a call works in it.
  void release();

 private:
  friend class detail::CallMemory;

  struct State;

  detail::Block& take();
  void give_back();

  const std::unique_ptr<State> state_;
};

/// Not even the smallest workspace could be allocated. Inputs and outputs are untouched.
class OutOfWorkspace : public std::bad_alloc {
 public:
  /// `bytes` is the size of the smallest workspace.
  explicit OutOfWorkspace(std::size_t bytes);
  /// Says how many bytes were asked for.
  const char* what() const noexcept override { return text_->c_str(); }

 private:
  std::shared_ptr<const std::string> text_;
};

namespace detail {

/// The memory that one call works in: a workspace of the caller's, taken until the call ends; without one, a
/// block that someone else keeps, or one that goes with the call.
class CallMemory {
 public:
  explicit CallMemory(Workspace* workspace) : CallMemory(workspace, own_) {}
  CallMemory(Workspace* workspace, Block& otherwise)
      : workspace_(workspace), block_(workspace != nullptr ? workspace->take() : otherwise) {}
  CallMemory(const CallMemory&) = delete;
  CallMemory& operator=(const CallMemory&) = delete;
  ~CallMemory() {
    if (workspace_ != nullptr) workspace_->give_back();
  }

  Block& operator*() const { return block_; }

 private:
  Workspace* const workspace_;
  Block own_;
  Block& block_;
};

}  // namespace detail

#if RING_ATTENTION_DEFINES_ENGINE

/// Not part of the object, which may lie on a stack: see ForkGuard.
struct Workspace::State {
  void require_idle() const {
    if (in_use) detail::throw_invalid("workspace", "in use", "serves one call at a time");
  }

  /// In the child of a fork: the call of another thread is nobody's, and may have been growing the block.
  void forget_call() {
    if (!in_use) return;
    in_use = false;
    bytes = 0;
    ::new (static_cast<void*>(std::addressof(block))) detail::Block;
  }

  std::mutex mutex;
  bool in_use = false;
  std::size_t bytes = 0;
  detail::Block block;
  detail::ForkGuard fork_guard{mutex, this, [](void* mine) { static_cast<State*>(mine)->forget_call(); }};
};

RING_ATTENTION_INLINE Workspace::Workspace() : state_(std::make_unique<State>()) {}
RING_ATTENTION_INLINE Workspace::~Workspace() = default;

RING_ATTENTION_INLINE std::size_t Workspace::bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->bytes;
}

RING_ATTENTION_INLINE void Workspace::release() {
  detail::Block freed;
  const std::lock_guard lock(state_->mutex);
  state_->require_idle();
  std::swap(freed, state_->block);  // goes after the lock
  state_->bytes = 0;
}

RING_ATTENTION_INLINE detail::Block& Workspace::take() {
  const std::lock_guard lock(state_->mutex);
  state_->require_idle();
  state_->in_use = true;
  return state_->block;
}

RING_ATTENTION_INLINE void Workspace::give_back() {
  const std::lock_guard lock(state_->mutex);
  state_->in_use = false;
  state_->bytes = state_->block.size();
}

RING_ATTENTION_INLINE OutOfWorkspace::OutOfWorkspace(std::size_t bytes)
    : text_(std::make_shared<const std::string>("no memory for the smallest workspace of this call, " +
                                                std::to_string(bytes) + " bytes")) {}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
