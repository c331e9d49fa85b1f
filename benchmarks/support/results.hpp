// A results file: what it was measured on and the figures, as JSON with a line for each case. Reports are
// made of it by report.py.
#pragma once

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../../examples/support/command_line.hpp"

#ifndef RING_ATTENTION_SOURCE_DIR
#define RING_ATTENTION_SOURCE_DIR "."
#endif
#ifndef RING_ATTENTION_BUILD_FLAGS
#define RING_ATTENTION_BUILD_FLAGS "unknown"
#endif

namespace benchmarks {

namespace ra = ring_attention;

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

/// First line that a command prints; empty if it fails.
inline std::string first_line_of(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "";
  std::string text;
  std::array<char, 256> buffer{};
  while (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) text += buffer.data();
  return ::pclose(pipe) == 0 ? text.substr(0, text.find('\n')) : "";
}

/// Now, as 20261122T184501Z.
inline std::string utc_timestamp() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &parts);
  return text;
}

/// Time, machine, build and commit. No path of the machine, and of the system's version the number alone:
/// what follows it is a distributor's or a host's own.
inline nlohmann::json describe_run() {
  utsname system{};
  ::uname(&system);
  const std::string release = system.release;
  const std::string version =
      release.substr(0, std::min(release.find_first_not_of("0123456789."), release.size()));
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  std::string flags = RING_ATTENTION_BUILD_FLAGS;
  const std::string source = RING_ATTENTION_SOURCE_DIR;
  for (std::size_t at = 0; source != "." && (at = flags.find(source, at)) != std::string::npos;) {
    flags.replace(at, source.size(), ".");
  }
  const std::string git = "git -C \"" + source + "\" ";
  const std::string commit = first_line_of(git + "rev-parse --verify HEAD");
  nlohmann::json run{
      {"timestamp", utc_timestamp()},
      {"machine",
       {{"cpu_model", field_of_file("/proc/cpuinfo", "model name", ':')},
        {"cpus_usable", std::thread::hardware_concurrency()},
        {"memory_bytes", static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE)},
        {"os", field_of_file("/etc/os-release", "PRETTY_NAME", '=')},
        {"kernel", std::string(system.sysname) + " " + version}}},
      {"build", {{"compiler", compiler}, {"flags", flags}}},
      {"commit", nullptr},
      {"kernels", ra::available_kernels()}};
  if (!commit.empty()) {
    const bool modified = !first_line_of(git + "status --porcelain --untracked-files=no").empty();
    run["commit"] = {{"id", commit}, {"modified", modified}};
  }
  return run;
}

/// The command that gives such results again: the program and its arguments, but for where results go.
inline std::string command_of(const std::string& program, int argc, const char* const* argv) {
  std::string command = program;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--json" || word == "--out") {
      ++i;
    } else if (!word.starts_with("--json=") && !word.starts_with("--out=")) {
      command += " " + word;
    }
  }
  return command;
}

/// <program>_results-<time>.json beside the program, unless another path is wanted.
inline std::filesystem::path results_path(const std::string& wanted, const std::string& timestamp) {
  if (!wanted.empty()) return wanted;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe");
  return program.parent_path() / (program.filename().string() + "_results-" + timestamp + ".json");
}

/// Writes to a temporary file beside the target, then renames. Throws std::runtime_error.
inline void write_results(const std::filesystem::path& path, const nlohmann::json& results) {
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
  std::filesystem::path temporary = path;
  temporary += ".partial";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file << results.dump() << "\n";
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, path, error);
  if (!file || error) throw std::runtime_error("cannot write " + path.string());
}

/// --filter TEXT[,TEXT...]: names that contain every text.
class NameFilter {
 public:
  explicit NameFilter(std::string texts) {
    for (; !texts.empty();
         texts.erase(0, texts.find(',') == texts.npos ? texts.size() : texts.find(',') + 1)) {
      texts_.push_back(texts.substr(0, texts.find(',')));
    }
  }
  bool operator()(const std::string& name) const {
    return std::all_of(texts_.begin(), texts_.end(),
                       [&name](const std::string& text) { return name.find(text) != name.npos; });
  }

 private:
  std::vector<std::string> texts_;
};

}  // namespace benchmarks
