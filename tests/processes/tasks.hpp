// The threads of this process, as Linux lists them.
#pragma once

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <system_error>

namespace test {

inline pid_t this_task() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

inline std::set<pid_t> tasks() {
  std::set<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    found.insert(static_cast<pid_t>(std::stol(entry.path().filename().string())));
  }
  return found;
}

/// The signals that a thread blocks, signal 1 in the lowest bit; nothing if the thread is gone.
inline std::optional<std::uint64_t> blocked_signals(pid_t task) {
  std::ifstream status("/proc/self/task/" + std::to_string(task) + "/status");
  const auto value_of = [](const std::string& line, const std::string& name) -> const char* {
    return line.compare(0, name.size(), name) == 0 ? line.c_str() + name.size() : nullptr;
  };
  for (std::string line; std::getline(status, line);) {
    // Of a thread that is being taken down Linux reports no threads and no signals.
    const char* const threads = value_of(line, "Threads:");
    if (threads != nullptr && std::strtol(threads, nullptr, 10) == 0) return std::nullopt;
    if (const char* const blocked = value_of(line, "SigBlk:")) return std::strtoull(blocked, nullptr, 16);
  }
  return std::nullopt;
}

}  // namespace test
