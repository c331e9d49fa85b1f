// A quota that a real control group sets, where this process may make one.
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "processes/calls.hpp"
#include "processes/checks.hpp"

namespace {

bool write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

/// A group of either version below the mount point, removed at the end.
class Group {
 public:
  explicit Group(const std::filesystem::path& mount)
      : path_(mount / ("ring_attention_" + std::to_string(::getpid()))),
        version_2_(mount == "/sys/fs/cgroup") {
    std::error_code refused;
    made_ = std::filesystem::create_directory(path_, refused);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    if (made_) ::rmdir(path_.c_str());
  }

  bool limit(int microseconds) const {
    if (!made_) return false;
    if (version_2_) {
      return std::filesystem::exists(path_ / "cpu.max") &&
             write(path_ / "cpu.max", std::to_string(microseconds) + " 100000");
    }
    return std::filesystem::exists(path_ / "cpu.cfs_quota_us") &&
           write(path_ / "cpu.cfs_period_us", "100000") &&
           write(path_ / "cpu.cfs_quota_us", std::to_string(microseconds));
  }
  bool join() const { return write(path_ / "cgroup.procs", std::to_string(::getpid())); }

 private:
  std::filesystem::path path_;
  bool version_2_, made_ = false;
};

}  // namespace

int test::check_quota() {
  for (const char* const mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
    const Group group(mount);
    if (!group.limit(50'000)) continue;
    const pid_t child = ::fork();
    if (child == 0) {
      if (!group.join()) ::_exit(2);
      ::_exit(ra::num_threads() == 1 ? 0 : 1);
    }
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child) return fail("no child");
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 2) continue;
    std::printf("a group below %s\n", mount);
    return WEXITSTATUS(status) == 0 ? passed : fail("half a processor is not one thread");
  }
  return skip("no control group with a quota can be made here");
}
