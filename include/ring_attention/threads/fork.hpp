// Locks that outlive fork(): a child has only the thread that forked, whatever the parent's other threads
// held.
#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <ring_attention/version.hpp>

#if defined(__unix__) || defined(__APPLE__)
#define RING_ATTENTION_HAS_FORK 1
#else
#define RING_ATTENTION_HAS_FORK 0
#endif

#if RING_ATTENTION_DEFINES_ENGINE && RING_ATTENTION_HAS_FORK
#include <pthread.h>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

#if RING_ATTENTION_HAS_FORK

/// Member of an object with a mutex that a call may hold. fork() waits for the mutex, so that what it guards
/// is whole in the child, where `repair(owner)` then forgets what belongs to threads that exist in the parent
/// only.
///
/// fork() locks the registry first and then every mutex. A thread that holds one of these mutexes therefore
/// may take no other one and neither create nor destroy a ForkGuard. An owner declares its guard last, and
/// does not lie on a stack: the child gives stacks of threads that it does not have to its own.
class ForkGuard {
 public:
  /// Runs in the child, with the mutex held, before fork() returns. Must not allocate or free memory.
  using Repair = void (*)(void* owner);

  ForkGuard(std::mutex& mutex, void* owner, Repair repair);
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

 private:
  friend struct ForkRegistry;

  std::mutex& mutex_;
  void* const owner_;
  const Repair repair_;
  ForkGuard* previous_ = nullptr;
  ForkGuard* following_ = nullptr;
};

#if RING_ATTENTION_DEFINES_ENGINE

/// The guards of a process, or of a shared library that shares no symbols with the others.
struct ForkRegistry {
  // POSIX's own type: it needs neither a constructor nor a destructor, so that guards may live as long as
  // they like.
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  ForkGuard* first = nullptr;

  void add(ForkGuard& guard) {
    pthread_mutex_lock(&mutex);
    guard.following_ = first;
    if (first != nullptr) first->previous_ = &guard;
    first = &guard;
    pthread_mutex_unlock(&mutex);
  }

  void remove(ForkGuard& guard) {
    pthread_mutex_lock(&mutex);
    (guard.previous_ != nullptr ? guard.previous_->following_ : first) = guard.following_;
    if (guard.following_ != nullptr) guard.following_->previous_ = guard.previous_;
    pthread_mutex_unlock(&mutex);
  }

  void lock_all() {
    pthread_mutex_lock(&mutex);
    for (ForkGuard* guard = first; guard != nullptr; guard = guard->following_) guard->mutex_.lock();
  }

  void unlock_all() {
    for (ForkGuard* guard = first; guard != nullptr; guard = guard->following_) guard->mutex_.unlock();
    pthread_mutex_unlock(&mutex);
  }

  void repair_all() {
    for (ForkGuard* guard = first; guard != nullptr; guard = guard->following_) guard->repair_(guard->owner_);
  }
};

RING_ATTENTION_EXPORT inline constinit ForkRegistry fork_registry;

// Before main: a process that forks while another thread makes the first guard would find no handler. And
// early: handlers that others register later run before these, when they may still wait for their own locks.
RING_ATTENTION_EXPORT inline const bool fork_is_handled =
    pthread_atfork([] { fork_registry.lock_all(); }, [] { fork_registry.unlock_all(); },
                   [] {
                     fork_registry.repair_all();
                     fork_registry.unlock_all();
                   }) == 0;

RING_ATTENTION_INLINE ForkGuard::ForkGuard(std::mutex& mutex, void* owner, Repair repair)
    : mutex_(mutex), owner_(owner), repair_(repair) {
  fork_registry.add(*this);
}
RING_ATTENTION_INLINE ForkGuard::~ForkGuard() { fork_registry.remove(*this); }

#endif
#else

class ForkGuard {
 public:
  using Repair = void (*)(void* owner);
  ForkGuard(std::mutex&, void*, Repair) {}
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;
};

#endif

/// For a repair: the parent's threads may wait for the old condition variable, which therefore is neither
/// usable nor destructible in the child.
template <class Condition>
void renew(Condition& condition) {
  ::new (static_cast<void*>(std::addressof(condition))) Condition;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
