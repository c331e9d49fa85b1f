// Questions with one answer for the whole process.
#pragma once

#include <atomic>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Remembers the answer to a question whose answer never changes. Threads that ask at once all ask, and find
/// the same. A constant to begin with, so that no thread can be initialising it when the process forks.
class AnsweredOnce {
 public:
  template <class Ask>
  bool operator()(const Ask& ask) {
    if (answer_ == Answer::unknown) answer_ = ask() ? Answer::yes : Answer::no;
    return answer_ == Answer::yes;
  }

 private:
  enum class Answer { unknown, no, yes };
  std::atomic<Answer> answer_{Answer::unknown};
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
