#include <filesystem>
#include <limits>
#include <ring_attention/threads/cpu_quota.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/scratch_folder.hpp"

namespace {

namespace detail = ring_attention::detail;

/// A made-up system: its /proc/self, and groups.
class Groups {
 public:
  Groups(const std::string& memberships, const std::string& mounts) {
    write("/proc/self/cgroup", memberships);
    write("/proc/self/mountinfo", mounts);
  }
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = folder_.path().string() + path;
    std::filesystem::create_directories(file.parent_path());
    test::write_file(file, text);
  }
  int quota() const { return detail::cpu_quota(folder_.path().string()); }

 private:
  test::ScratchFolder folder_;
};

const std::string root_mount = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";
const std::string v2_mount =
    "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 master:3 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string v1_mounts =
    "30 22 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 / /sys/fs/cgroup/cpuset rw,relatime shared:11 - cgroup cgroup rw,cpuset\n"
    "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:12 - cgroup cgroup rw,cpu,cpuacct\n";

}  // namespace

TEST_CASE("a quota is rounded up to whole processors", "[quota]") {
  CHECK(detail::cores_of_quota("100000", "100000") == 1);
  CHECK(detail::cores_of_quota("100001", "100000") == 2);
  CHECK(detail::cores_of_quota("50000", "100000") == 1);
  CHECK(detail::cores_of_quota("1", "1000000") == 1);
  CHECK(detail::cores_of_quota("150000\n", "100000\n") == 2);
  CHECK(detail::cores_of_quota("6400000", "100000") == 64);
  CHECK(detail::cores_of_quota("9223372036854775807", "1") == detail::no_cpu_quota);
}

TEST_CASE("what is not two positive numbers is no quota", "[quota]") {
  for (const char* const text :
       {"max", "-1", "0", "", "\n", "1.5", "100000 100000", "12x", "x", "99999999999999999999999"}) {
    INFO("\"" << text << "\"");
    CHECK(detail::cores_of_quota(text, "100000") == detail::no_cpu_quota);
    CHECK(detail::cores_of_quota("100000", text) == detail::no_cpu_quota);
  }
}

TEST_CASE("version 2: the group's own quota, and the tightest of those above it", "[quota]") {
  const Groups groups("0::/jobs/7/step\n", root_mount + v2_mount);
  CHECK(groups.quota() == detail::no_cpu_quota);  // no file
  groups.write("/sys/fs/cgroup/jobs/7/step/cpu.max", "max 100000\n");
  CHECK(groups.quota() == detail::no_cpu_quota);
  groups.write("/sys/fs/cgroup/jobs/7/step/cpu.max", "350000 100000\n");
  CHECK(groups.quota() == 4);
  groups.write("/sys/fs/cgroup/jobs/cpu.max", "50000 20000\n");
  CHECK(groups.quota() == 3);
  groups.write("/sys/fs/cgroup/jobs/7/cpu.max", "nonsense\n");
  CHECK(groups.quota() == 3);
  groups.write("/sys/fs/cgroup/cpu.max", "10000 100000\n");
  CHECK(groups.quota() == 1);
}

TEST_CASE("version 2: a container sees its own group at the mount point", "[quota]") {
  SECTION("with a namespace of its own") {
    const Groups groups("0::/\n", root_mount + v2_mount);
    groups.write("/sys/fs/cgroup/cpu.max", "200000 100000");
    CHECK(groups.quota() == 2);
  }
  SECTION("whose root the process has left") {
    const Groups groups("0::/../other\n", root_mount + v2_mount);
    groups.write("/sys/fs/cgroup/cpu.max", "200000 100000");
    groups.write("/other/cpu.max", "100000 100000");
    CHECK(groups.quota() == 2);
  }
  SECTION("mounted from a group that the process's path names") {
    const Groups groups("0::/docker/a1/inner\n",
                        "40 22 0:26 /docker/a1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    groups.write("/sys/fs/cgroup/cpu.max", "300000 100000");
    CHECK(groups.quota() == 3);
    groups.write("/sys/fs/cgroup/inner/cpu.max", "200000 100000");
    CHECK(groups.quota() == 2);
    groups.write("/sys/fs/cgroup/docker/a1/inner/cpu.max", "100000 100000");  // another group
    CHECK(groups.quota() == 2);
  }
  SECTION("mounted from a group whose name merely begins the process's") {
    const Groups groups("0::/docker/a12\n", "40 22 0:26 /docker/a1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    groups.write("/sys/fs/cgroup/cpu.max", "300000 100000");
    groups.write("/sys/fs/cgroup2/cpu.max", "100000 100000");
    CHECK(groups.quota() == 3);
  }
}

TEST_CASE("version 1: quota and period are two files of the cpu controller", "[quota]") {
  const Groups groups("11:cpuset:/elsewhere\n4:cpu,cpuacct:/jobs/7\n1:name=systemd:/init\n",
                      root_mount + v1_mounts);
  const std::string mount = "/sys/fs/cgroup/cpu,cpuacct";
  CHECK(groups.quota() == detail::no_cpu_quota);
  groups.write(mount + "/jobs/7/cpu.cfs_quota_us", "-1\n");
  groups.write(mount + "/jobs/7/cpu.cfs_period_us", "100000\n");
  CHECK(groups.quota() == detail::no_cpu_quota);
  groups.write(mount + "/jobs/7/cpu.cfs_quota_us", "250000\n");
  CHECK(groups.quota() == 3);
  groups.write(mount + "/jobs/cpu.cfs_quota_us", "100000\n");  // its period is missing
  CHECK(groups.quota() == 3);
  groups.write(mount + "/jobs/cpu.cfs_period_us", "50000\n");
  CHECK(groups.quota() == 2);
  groups.write("/sys/fs/cgroup/cpuset/elsewhere/cpu.cfs_quota_us", "100000\n");  // another hierarchy
  groups.write("/sys/fs/cgroup/cpuset/elsewhere/cpu.cfs_period_us", "100000\n");
  CHECK(groups.quota() == 2);
}

TEST_CASE("both versions side by side: the hierarchy that has the controller counts", "[quota]") {
  const Groups groups(
      "4:cpu,cpuacct:/slice\n0::/user.slice\n",
      root_mount + v1_mounts + "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  groups.write("/sys/fs/cgroup/unified/user.slice/cgroup.procs", "1\n");
  CHECK(groups.quota() == detail::no_cpu_quota);
  groups.write("/sys/fs/cgroup/cpu,cpuacct/slice/cpu.cfs_quota_us", "200000\n");
  groups.write("/sys/fs/cgroup/cpu,cpuacct/slice/cpu.cfs_period_us", "100000\n");
  CHECK(groups.quota() == 2);
}

TEST_CASE("mount points are decoded", "[quota]") {
  CHECK(detail::decode_mount_path("/a\\040b\\134c") == "/a b\\c");
  CHECK(detail::decode_mount_path("/a\\04") == "/a\\04");
  CHECK(detail::decode_mount_path("\\999\\") == "\\999\\");
  const Groups groups("0::/\n", "30 22 0:26 / /sys\\040fs rw - cgroup2 cgroup2 rw\n");
  groups.write("/sys fs/cpu.max", "100000 100000\n");
  CHECK(groups.quota() == 1);
}

TEST_CASE("damaged or missing lists of groups and mounts are no quota", "[quota]") {
  const test::ScratchFolder nothing;
  CHECK(detail::cpu_quota(nothing.path().string()) == detail::no_cpu_quota);
  for (const char* const memberships : {"", "\n\n", "0", "0::", "cpu", "::::", "4:cpu,cpuacct:"}) {
    for (const std::string& mounts :
         {std::string(), std::string("\n"), std::string("30 22 0:26 / /sys/fs/cgroup rw - cgroup2"),
          std::string("30 22 0:26 / /sys/fs/cgroup rw"), std::string("- - - - - - -\n"), root_mount}) {
      INFO("\"" << memberships << "\", \"" << mounts << "\"");
      CHECK(Groups(memberships, mounts).quota() == detail::no_cpu_quota);
    }
  }
}

TEST_CASE("this system's own quota can be read", "[quota]") { CHECK(detail::cpu_quota() >= 1); }
