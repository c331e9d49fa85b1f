#include <ring_attention/pattern/pattern_store.hpp>

#if RING_ATTENTION_HAS_POSIX_FILES
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/child_process.hpp"
#include "support/scratch_folder.hpp"
#include "support/stored_patterns.hpp"
#include "support/threads.hpp"

namespace ra = ring_attention;

namespace {

/// Two contents of one file that no mixture equals.
std::vector<test::KeyedPattern> contents(int which) {
  if (which == 0) return test::make_patterns({{1000, {500}, {2}, 1}, {900, {300}, {3}, 0}});
  return test::make_patterns({{5000, {5000}, {1}, 0}, {77, {7, 9}, {2, 4}, 1}, {8, {8}, {1}, 0}});
}

/// Saves or loads again and again; true where every load gave one save whole.
bool save_or_load(const ra::PatternStore& store, int member, int rounds) {
  const std::array both{contents(0), contents(1)};
  for (int round = 0; round < rounds; ++round) {
    if (member % 2 == 0) {
      store.save(both[static_cast<std::size_t>((member / 2 + round) % 2)]);
      continue;
    }
    ra::PatternCache cache;
    const ra::LoadReport report = store.load(cache, {.map = round % 3 != 0});
    if (!report) return false;
    const auto entries = cache.entries();
    if (!test::same_patterns(entries, both[0]) && !test::same_patterns(entries, both[1])) return false;
  }
  return true;
}

/// Root may read and write everything; the tests of permissions run as somebody else.
bool become_ordinary_user() {
  constexpr unsigned nobody = 65534;
  return ::geteuid() != 0 || (::setegid(nobody) == 0 && ::seteuid(nobody) == 0);
}

template <class Output>
std::error_code error_of_save(const std::filesystem::path& path,
                              const std::vector<test::KeyedPattern>& patterns) {
  try {
    ra::detail::save_patterns<Output>(path, patterns);
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

}  // namespace

TEST_CASE("threads that save to one file and load it see one save whole", "[store][threads]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  store.save(contents(0));
  std::atomic<int> failures = 0;
  test::run_together(8, [&](int thread) { failures += !save_or_load(store, thread, 40); });
  CHECK(failures == 0);
  CHECK(folder.names() == std::set<std::string>{"patterns"});
}

TEST_CASE("processes that save to one file and load it see one save whole", "[store][processes]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  store.save(contents(0));
  std::vector<std::unique_ptr<test::ChildProcess>> children;
  for (int member = 0; member < 6; ++member) {
    children.push_back(
        std::make_unique<test::ChildProcess>([&store, member] { return save_or_load(store, member, 60); }));
  }
  for (const auto& child : children) CHECK(child->wait() == 0);
  CHECK(folder.names() == std::set<std::string>{"patterns"});
}

TEST_CASE("a process killed while it saves leaves a file that loads", "[store][processes]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const std::array both{test::make_patterns({{60000, {60000}, {1}, 0}}),
                        test::make_patterns({{90000, {90000}, {1}, 0}, {8, {8}, {1}, 0}})};
  store.save(both[0]);
  for (int round = 0; round < 30; ++round) {
    test::ChildProcess child([&] {
      for (std::size_t i = 0;; ++i) store.save(both[i % 2]);
      return true;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(500 * round));
    child.kill();
    CHECK(child.wait() == -1);
    ra::PatternCache cache;
    REQUIRE(store.load(cache));
    REQUIRE((test::same_patterns(cache.entries(), both[0]) || test::same_patterns(cache.entries(), both[1])));
  }
}

TEMPLATE_TEST_CASE("a full disk is told, the old file stays as it was and no other is left",
                   "[store][processes]", ra::detail::NativeOutput, ra::detail::StandardOutput) {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  store.save(contents(0));
  const std::string before = test::read_file(store.path());
  const auto larger = test::make_patterns({{300000, {300000}, {1}, 0}});
  const std::uint64_t needed = ra::PatternStore(folder / "larger").save(larger).bytes;
  std::filesystem::remove(folder / "larger");
  for (const std::uint64_t limit : {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{47}, std::uint64_t{48},
                                    std::uint64_t{4096}, std::uint64_t{1} << 20, needed - 1, needed}) {
    INFO("room for " << limit << " of " << needed << " bytes");
    test::ChildProcess child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit room{static_cast<rlim_t>(limit), static_cast<rlim_t>(limit)};
      if (::setrlimit(RLIMIT_FSIZE, &room) != 0) return false;
      const std::error_code error = error_of_save<TestType>(store.path(), larger);
      return limit < needed ? error == std::errc::file_too_large : !error;
    });
    REQUIRE(child.wait() == 0);
    REQUIRE(folder.names() == std::set<std::string>{"patterns"});
    REQUIRE((test::read_file(store.path()) == before) == (limit < needed));
  }
  ra::PatternCache cache;
  CHECK(store.load(cache).patterns == 1);
}

TEST_CASE("missing permissions are told", "[store][processes]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  store.save(contents(0));
  const std::string before = test::read_file(store.path());
  using std::filesystem::perms;
  std::filesystem::permissions(
      folder.path(), perms::owner_read | perms::owner_exec | perms::others_read | perms::others_exec);
  test::ChildProcess writer([&store] {
    return become_ordinary_user() &&
           error_of_save<ra::detail::NativeOutput>(store.path(), contents(1)) ==
               std::errc::permission_denied &&
           error_of_save<ra::detail::StandardOutput>(store.path(), contents(1)) ==
               std::errc::permission_denied;
  });
  CHECK(writer.wait() == 0);
  CHECK(folder.names() == std::set<std::string>{"patterns"});
  CHECK((test::read_file(store.path()) == before));

  std::filesystem::permissions(store.path(), perms::none);
  test::ChildProcess reader([&store] {
    if (!become_ordinary_user()) return false;
    for (const auto& way : test::ways_to_load()) {
      ra::PatternCache cache;
      if (way.load(store.path(), cache).status != ra::LoadStatus::unreadable) return false;
      if (cache.stats().insertions != 0) return false;
    }
    return true;
  });
  CHECK(reader.wait() == 0);
  std::filesystem::permissions(folder.path(), perms::owner_all);
}

TEST_CASE("a file may be read by everyone whom the umask allows and written by nobody", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const mode_t before = ::umask(027);
  store.save(contents(0));
  ::umask(before);
  CHECK(static_cast<unsigned>(std::filesystem::status(store.path()).permissions()) == 0440u);
  store.save(contents(1));  // replaced, although nobody may write it
  ra::PatternCache cache;
  CHECK(store.load(cache).patterns == 3);
}

TEST_CASE("a pipe is told and not waited for", "[store][processes]") {
  const test::ScratchFolder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  for (const auto& way : test::ways_to_load()) {
    test::ChildProcess child([&] {
      ra::PatternCache cache;
      return way.load(folder / "pipe", cache).status == ra::LoadStatus::unreadable;
    });
    CHECK(child.wait() == 0);
  }
}

#if defined(__linux__)
namespace {

/// What a process sees of the memory that holds a loaded pattern.
struct Sight {
  bool loaded = false;
  bool names_file = false;                 ///< the memory map says that it is the file
  std::array<std::uint64_t, 32> frames{};  ///< physical pages; 0 where the system does not tell
  std::int64_t shared_kib = -1;
  std::int64_t private_kib = -1;
};

void look_at(std::span<const std::int64_t> rows, const std::filesystem::path& path, Sight& sight) {
  const auto address = reinterpret_cast<std::uintptr_t>(rows.data());
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY);
  for (std::size_t i = 0; i < sight.frames.size(); ++i) {
    const std::uintptr_t at = address + rows.size_bytes() / sight.frames.size() * i;
    std::uint64_t entry = 0;
    const auto offset = static_cast<off_t>(at / page * sizeof entry);
    if (::pread(pagemap, &entry, sizeof entry, offset) == static_cast<ssize_t>(sizeof entry)) {
      sight.frames[i] = entry & ((std::uint64_t{1} << 55) - 1);
    }
  }
  if (pagemap >= 0) ::close(pagemap);

  std::ifstream smaps("/proc/self/smaps");
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name.back() != ':') {
      const std::size_t dash = name.find('-');
      ours = address >= std::stoull(name, nullptr, 16) &&
             address < std::stoull(name.substr(dash + 1), nullptr, 16);
      if (ours) {
        sight.names_file = line.find(path.string()) != std::string::npos;
        sight.shared_kib = sight.private_kib = 0;
      }
    } else if (std::int64_t kib = 0; ours && words >> kib) {
      if (name.starts_with("Shared_") && name.find("Hugetlb") == std::string::npos) sight.shared_kib += kib;
      if (name.starts_with("Private_") && name.find("Hugetlb") == std::string::npos) sight.private_kib += kib;
    }
  }
}

}  // namespace

TEST_CASE("two processes that load one file hold one physical copy", "[store][processes]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto patterns = test::make_patterns({{400000, {400000}, {2}, 1}});
  const auto bytes = static_cast<std::int64_t>(store.save(patterns).bytes);

  test::Pipe loaded, look, seen, leave;
  const auto child = [&] {
    ra::PatternCache cache;
    Sight sight;
    store.load(cache);
    const auto pattern = cache.get_dilated_indices(patterns[0].first);
    sight.loaded = pattern && pattern->mapped() && *pattern == *patterns[0].second;  // touches every page
    loaded.send(sight.loaded);
    look.receive<char>();
    if (sight.loaded) look_at(pattern->rows(), store.path(), sight);
    seen.send(sight);
    leave.receive<char>();
    return sight.loaded;
  };
  test::ChildProcess one(child), two(child);
  CHECK(loaded.receive<bool>());
  CHECK(loaded.receive<bool>());
  look.send('1');
  look.send('2');
  const std::array sights{seen.receive<Sight>(), seen.receive<Sight>()};
  leave.send('1');
  leave.send('2');
  CHECK(one.wait() == 0);
  CHECK(two.wait() == 0);

  for (const Sight& sight : sights) {
    CHECK(sight.names_file);
    CHECK(sight.private_kib == 0);
    CHECK(sight.shared_kib * 1024 >= bytes);
  }
  CHECK(sights[0].frames == sights[1].frames);
  if (::geteuid() != 0) return;  // only root is told physical pages
  for (const std::uint64_t frame : sights[0].frames) CHECK(frame != 0);
  CHECK(std::set(sights[0].frames.begin(), sights[0].frames.end()).size() == sights[0].frames.size());
}
#endif  // __linux__

#endif  // RING_ATTENTION_HAS_POSIX_FILES
