// What the figures were measured on: machine, compiler and flags, commit. No path of the machine is told.
#pragma once

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ring_attention/parallel.hpp>
#include <string>

#ifndef RING_ATTENTION_SOURCE_DIR
#define RING_ATTENTION_SOURCE_DIR \
  (std::filesystem::path(__FILE__).parent_path().parent_path().parent_path().string().c_str())
#endif
#ifndef RING_ATTENTION_BUILD_FLAGS
#define RING_ATTENTION_BUILD_FLAGS "not told by the build"
#endif
#ifndef RING_ATTENTION_BUILD_TYPE
#define RING_ATTENTION_BUILD_TYPE "not told by the build"
#endif

namespace benchmarks {

/// The text after "key<separator>" in the first line of a file that begins with key, without blanks and
/// quotes.
inline std::string field_of_file(const char* path, const std::string& key, char separator) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    std::string value = line.substr(line.find(separator) + 1);
    const std::size_t begin = value.find_first_not_of(" \t\"");
    const std::size_t end = value.find_last_not_of(" \t\"");
    return begin == std::string::npos ? "" : value.substr(begin, end - begin + 1);
  }
  return "unknown";
}

/// 6.1.0, of 6.1.0-13-amd64: what follows the number is a distributor's or a host's own.
inline std::string version_number(const std::string& release) {
  return release.substr(0, std::min(release.find_first_not_of("0123456789."), release.size()));
}

inline nlohmann::json describe_machine() {
  utsname system{};
  ::uname(&system);
  const auto pages = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES));
  return {{"cpu_model", field_of_file("/proc/cpuinfo", "model name", ':')},
          {"cpus_online", static_cast<std::int64_t>(::sysconf(_SC_NPROCESSORS_ONLN))},
          {"cpus_usable", ring_attention::detail::available_cores()},
          {"memory_bytes", pages * static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE))},
          {"os", field_of_file("/etc/os-release", "PRETTY_NAME", '=')},
          {"kernel", std::string(system.sysname) + " " + version_number(system.release)},
          {"architecture", std::string(system.machine)}};
}

inline nlohmann::json describe_build() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
#if defined(NDEBUG)
  const bool assertions = false;
#else
  const bool assertions = true;
#endif
  std::string flags = RING_ATTENTION_BUILD_FLAGS;
  const std::string source = RING_ATTENTION_SOURCE_DIR;
  for (std::size_t at = 0; !source.empty() && (at = flags.find(source, at)) != std::string::npos;) {
    flags.replace(at, source.size(), ".");
  }
  return {{"compiler", compiler},
          {"flags", flags},
          {"type", RING_ATTENTION_BUILD_TYPE},
          {"assertions", assertions}};
}

/// First line that a command prints; empty where it fails.
inline std::string first_line_of(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "";
  std::array<char, 256> buffer{};
  std::string line;
  if (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) line = buffer.data();
  while (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) {
  }
  if (::pclose(pipe) != 0) return "";
  return line.substr(0, line.find('\n'));
}

/// The commit of the source tree at the time of the run; null where there is no repository.
inline nlohmann::json describe_commit() {
  std::string source;
  for (const char c : std::string(RING_ATTENTION_SOURCE_DIR)) {
    source += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  const std::string git = "git -C '" + source + "' ";
  const std::string commit = first_line_of(git + "rev-parse --verify HEAD");
  if (commit.empty()) return nullptr;
  return {{"id", commit},
          {"modified", !first_line_of(git + "status --porcelain --untracked-files=no").empty()}};
}

}  // namespace benchmarks
