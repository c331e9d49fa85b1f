// A progress line on the terminal: finished items, and seconds that go on counting while an item is at work.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace examples {

/// Draws nothing unless standard error is a terminal. The line is erased when the object goes.
class Progress {
 public:
  /// `what` names an item: "batch item".
  Progress(std::string what, std::int64_t items) : what_(std::move(what)), items_(items) {
    if (::isatty(STDERR_FILENO) == 1) {
      painter_ = std::thread([this] { paint_until_done(); });
    }
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (!painter_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    painter_.join();
    std::fputs("\r\033[K", stderr);
  }

  void finish_item() {
    {
      const std::lock_guard lock(mutex_);
      ++finished_;
    }
    changed_.notify_all();
  }

 private:
  void paint_until_done() {
    using namespace std::chrono_literals;
    std::unique_lock lock(mutex_);
    while (!done_) {
      paint();
      changed_.wait_for(lock, 200ms);
    }
  }

  void paint() const {
    constexpr std::int64_t width = 24;
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    const std::int64_t filled = items_ > 0 ? width * finished_ / items_ : width;
    std::string bar(static_cast<std::size_t>(filled), '#');
    bar.resize(static_cast<std::size_t>(width), '.');
    std::fprintf(stderr, "\r\033[K[%s] %s %lld of %lld, %.1f s", bar.c_str(), what_.c_str(),
                 static_cast<long long>(std::min(finished_ + 1, items_)), static_cast<long long>(items_),
                 elapsed.count());
    std::fflush(stderr);
  }

  const std::string what_;
  const std::int64_t items_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t finished_ = 0;
  bool done_ = false;
  std::thread painter_;
};

}  // namespace examples
