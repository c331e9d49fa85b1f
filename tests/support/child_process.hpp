// A child process that runs a function, and pipes to talk to it.
#pragma once

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <type_traits>

namespace test {

/// A pipe that carries plain values.
class Pipe {
 public:
  Pipe() {
    if (::pipe(ends_) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }

  template <class T>
  void send(const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (::write(ends_[1], &value, sizeof value) != static_cast<ssize_t>(sizeof value)) {
      throw std::system_error(errno, std::generic_category(), "write to a pipe");
    }
  }
  template <class T>
  T receive() const {
    T value;
    if (::read(ends_[0], &value, sizeof value) != static_cast<ssize_t>(sizeof value)) {
      throw std::system_error(errno, std::generic_category(), "read from a pipe");
    }
    return value;
  }

 private:
  int ends_[2];
};

/// Runs body() in a child; true from it is success. The child must not use the test framework. A child whose
/// time is up is ended by a signal, so that no test waits for ever.
class ChildProcess {
 public:
  template <class Body>
  explicit ChildProcess(const Body& body) : id_(::fork()) {
    if (id_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (id_ != 0) return;
    ::alarm(120);
    int code = 1;
    try {
      code = body() ? 0 : 1;
    } catch (...) {
      code = 2;
    }
    ::_exit(code);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess() {
    if (id_ > 0) wait();
  }

  /// Ends it at once, wherever it is.
  void kill() const { ::kill(id_, SIGKILL); }

  /// Waits for its end: 0 where body() returned true, 1 for false, 2 for an exception, -1 for a signal.
  int wait() {
    int status = 0;
    while (::waitpid(id_, &status, 0) < 0 && errno == EINTR) {
    }
    id_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t id_;
};

}  // namespace test
