// CPU time that Linux's control groups (cgroups) grant a process, as containers and job schedulers set it.
#pragma once

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdio>
#include <memory>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>
#include <system_error>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

constexpr int no_cpu_quota = INT_MAX;

// Functions that read files run once in a process: marked cold, they are made for size.

/// The text before `separator`; the rest, after it, remains. All of it if there is none.
inline std::string_view take_until(std::string_view& rest, char separator) {
  const auto end = std::find(rest.begin(), rest.end(), separator);
  const std::string_view taken(rest.begin(), end);
  rest = end == rest.end() ? std::string_view() : std::string_view(end + 1, rest.end());
  return taken;
}

inline bool lists(std::string_view words, std::string_view word) {
  while (!words.empty()) {
    if (take_until(words, ',') == word) return true;
  }
  return false;
}

/// Processors' worth of `quota` microseconds in every `period`, rounded up. Anything but two positive numbers
/// is no limit.
inline int cores_of_quota(std::string_view quota, std::string_view period) {
  const auto number = [](std::string_view text) -> long long {
    text = text.substr(0, text.find('\n'));
    long long value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? value : 0;
  };
  const long long time = number(quota), whole = number(period);
  if (time <= 0 || whole <= 0) return no_cpu_quota;
  return static_cast<int>(std::min<long long>(no_cpu_quota, (time - 1) / whole + 1));
}

/// Empty if the file cannot be read.
[[gnu::cold]] inline std::string read_text(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
  std::string text;
  if (!file) return text;
  char part[1024];
  while (const std::size_t count = std::fread(part, 1, sizeof part, file.get())) text.append(part, count);
  return text;
}

/// The quota of one group, in cgroup v2's file or v1's.
[[gnu::cold]] inline int quota_of_group(const std::string& folder, bool unified) {
  if (!unified) {
    return cores_of_quota(read_text(folder + "/cpu.cfs_quota_us"), read_text(folder + "/cpu.cfs_period_us"));
  }
  const std::string text = read_text(folder + "/cpu.max");
  std::string_view period = text;
  const std::string_view quota = take_until(period, ' ');
  return cores_of_quota(quota, period);
}

/// A path as /proc/self/mountinfo writes it: blanks and backslashes are octal numbers.
[[gnu::cold]] inline std::string decode_mount_path(std::string_view text) {
  std::string path;
  while (!text.empty()) {
    if (text[0] == '\\' && text.size() > 3) {
      int code = 0;
      const auto [end, error] = std::from_chars(text.data() + 1, text.data() + 4, code, 8);
      if (error == std::errc() && end == text.data() + 4) {
        path.push_back(static_cast<char>(code));
        text.remove_prefix(4);
        continue;
      }
    }
    path.push_back(text[0]);
    text.remove_prefix(1);
  }
  return path;
}

/// A hierarchy of groups that may limit processors, as a line of /proc/self/mountinfo tells.
struct CgroupMount {
  std::string root;   ///< the group that is mounted
  std::string point;  ///< and where; empty: the line tells of something else
  bool unified = false;
};

[[gnu::cold]] inline CgroupMount parse_mount(std::string_view line) {
  CgroupMount mount;
  for (int skipped = 0; skipped < 3; ++skipped) take_until(line, ' ');
  const std::string_view root = take_until(line, ' '), point = take_until(line, ' ');
  while (!line.empty() && take_until(line, ' ') != "-") {
  }
  const std::string_view type = take_until(line, ' ');
  take_until(line, ' ');
  mount.unified = type == "cgroup2";
  if (!mount.unified && !(type == "cgroup" && lists(line, "cpu"))) return mount;
  mount.root = decode_mount_path(root);
  mount.point = decode_mount_path(point);
  return mount;
}

/// The group of a process in the hierarchy with the processors' limits: v2's, or v1's; empty if there is
/// none. `memberships` is the text of /proc/self/cgroup.
inline std::string_view find_group(std::string_view memberships, bool unified) {
  while (!memberships.empty()) {
    std::string_view line = take_until(memberships, '\n');
    const std::string_view number = take_until(line, ':'), controllers = take_until(line, ':');
    if (unified ? number == "0" && controllers.empty() : lists(controllers, "cpu")) return line;
  }
  return {};
}

/// Processors' worth of time that the process may use, rounded up; no_cpu_quota if nothing limits it. Of
/// nested groups the tightest counts. Paths begin at `root`, which is another folder for tests only.
[[gnu::cold]] inline int cpu_quota(const std::string& root = {}) {
  const std::string memberships = read_text(root + "/proc/self/cgroup");
  const std::string mounts = read_text(root + "/proc/self/mountinfo");
  int tightest = no_cpu_quota;
  for (std::string_view lines = mounts; !lines.empty();) {
    const CgroupMount mount = parse_mount(take_until(lines, '\n'));
    std::string_view group = find_group(memberships, mount.unified);
    if (mount.point.empty() || group.empty()) continue;
    // What lies above the mounted group cannot be seen. A group elsewhere, as containers may show it, is then
    // known to be at or below the mounted one.
    const std::string_view above = mount.root == "/" ? std::string_view() : mount.root;
    const bool below = group.starts_with(above) &&
                       (group.size() == above.size() || group[above.size()] == '/') &&
                       !group.starts_with("/..");
    group = below ? group.substr(above.size()) : std::string_view();
    for (;;) {
      while (!group.empty() && group.back() == '/') group.remove_suffix(1);
      tightest = (std::min)(tightest, quota_of_group(root + mount.point + std::string(group), mount.unified));
      if (group.empty()) break;
      group = group.substr(0, group.rfind('/'));
    }
  }
  return tightest;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
