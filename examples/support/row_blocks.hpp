// A loop over blocks of rows on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace examples {

/// Runs body(first row, rows) for blocks of at most `block` rows. `make_body` makes one for each thread,
/// which can so have buffers of its own. Rethrows the first exception.
template <class MakeBody>
void for_each_block(std::int64_t rows, std::int64_t block, int threads, const MakeBody& make_body) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    try {
      auto body = make_body();
      for (std::int64_t first = next.fetch_add(block); first < rows; first = next.fetch_add(block)) {
        body(first, std::min(block, rows - first));
      }
    } catch (...) {
      next = rows;
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  };
  const std::int64_t wanted = std::min<std::int64_t>(threads, (rows + block - 1) / block);
  std::vector<std::thread> others;  // std::jthread is missing in libc++
  others.reserve(static_cast<std::size_t>(std::max<std::int64_t>(wanted, 0)));
  try {
    for (std::int64_t t = 1; t < wanted; ++t) others.emplace_back(work);
  } catch (const std::system_error&) {
    // The system grants no more threads: those that there are do the work.
  }
  work();
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace examples
