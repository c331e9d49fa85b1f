#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <ring_attention/pattern/pattern_store.hpp>
#include <span>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/scratch_folder.hpp"
#include "support/stored_patterns.hpp"

namespace ra = ring_attention;

namespace {

using Header = ra::detail::PatternFileHeader;
using Status = ra::LoadStatus;

std::string small_file() {
  const test::ScratchFolder folder;
  ra::PatternStore(folder / "patterns").save(test::small_patterns());
  return test::read_file(folder / "patterns");
}

Header header_of(const std::string& file) {
  Header header;
  std::memcpy(&header, file.data(), sizeof header);
  return header;
}

void put_header(std::string& file, Header header) {
  header.header_checksum = header.compute_checksum();
  std::memcpy(file.data(), &header, sizeof header);
}

/// Makes size and checksums fit what the file holds.
void seal(std::string& file) {
  Header header = header_of(file);
  header.file_bytes = file.size();
  header.payload_checksum = ra::detail::xxh64(std::as_bytes(std::span(file)).subspan(sizeof(Header)));
  put_header(file, header);
}

/// Loads the bytes in every way, which must agree, and checks that a file that is refused adds nothing.
class Loader {
 public:
  ra::LoadReport operator()(const std::string& bytes) {
    test::write_file(path_, bytes);
    ra::LoadReport first;
    for (const auto& way : test::ways_to_load()) {
      ra::PatternCache cache;
      const ra::LoadReport report = way.load(path_, cache);
      if (!report) {
        REQUIRE(report.patterns == 0);
        REQUIRE(report.bytes_mapped == 0);
        REQUIRE(cache.stats().insertions == 0);
        REQUIRE(report.text.size() > path_.string().size() + 2);
        REQUIRE(report.text.compare(0, path_.string().size() + 2, path_.string() + ": ") == 0);
      }
      for (const auto& [key, pattern] : cache.entries()) REQUIRE(*pattern == *ra::make_indices(key));
      if (first.text.empty()) first = report;
      REQUIRE(report.status == first.status);
      REQUIRE((!report || report.patterns == cache.stats().entries + report.already_cached));
    }
    return first;
  }

 private:
  test::ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "patterns";
};

}  // namespace

TEST_CASE("the file that the damage tests start from is sound", "[store][damage]") {
  Loader load;
  std::string file = small_file();
  CHECK(load(file).status == Status::loaded);
  const std::string before = file;
  seal(file);
  CHECK(file == before);
}

TEST_CASE("a file cut at any byte is refused", "[store][damage]") {
  Loader load;
  const std::string file = small_file();
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    INFO(bytes << " of " << file.size() << " bytes");
    REQUIRE(load(file.substr(0, bytes)).status == (bytes == 0 ? Status::empty : Status::truncated));
  }
}

TEST_CASE("a file with any bit flipped is refused", "[store][damage]") {
  Loader load;
  const std::string file = small_file();
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string damaged = file;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    const Status status = load(damaged).status;
    INFO("byte " << bit / 8 << ", bit " << bit % 8);
    if (bit / 8 < offsetof(Header, byte_order)) {
      REQUIRE(status == Status::foreign);
    } else if (bit / 8 >= offsetof(Header, version) && bit / 8 < offsetof(Header, file_bytes)) {
      REQUIRE(status == Status::other_version);
    } else {
      REQUIRE(status == Status::corrupted);
    }
  }
}

TEST_CASE("a file with any byte added is refused", "[store][damage]") {
  Loader load;
  for (std::size_t added = 1; added <= 64; ++added) {
    std::string file = small_file() + std::string(added, '\0');
    REQUIRE(load(file).status == Status::malformed);
    seal(file);
    INFO(added << " bytes in a file that counts them");
    REQUIRE(load(file).status == Status::malformed);
  }
}

TEST_CASE("files of another version, byte order or kind are told apart", "[store][damage]") {
  Loader load;
  const std::string file = small_file();
  const auto with = [&file](auto change) {
    Header header = header_of(file);
    change(header);
    std::string changed = file;
    put_header(changed, header);
    return changed;
  };
  const ra::LoadReport newer = load(with([](Header& header) { header.version = 2; }));
  CHECK(newer.status == Status::other_version);
  CHECK(newer.text.find("format version 2, this library reads version 1") != std::string::npos);
  CHECK(load(with([](Header& header) { header.version = 0; })).status == Status::other_version);
  CHECK(load(with([](Header& header) { header.byte_order = 0x04030201; })).status ==
        Status::other_byte_order);
  CHECK(load(with([](Header& header) { header.byte_order = 0x01020305; })).status == Status::corrupted);
  CHECK(load(with([](Header& header) { header.magic[7] = '\r'; })).status == Status::foreign);
  CHECK(load(with([](Header& header) { ++header.patterns; })).status == Status::malformed);
  CHECK(load(with([](Header& header) { header.patterns = 0; })).status == Status::malformed);
  CHECK(load(with([](Header& header) { ++header.file_bytes; })).status == Status::truncated);
  CHECK(load(with([](Header& header) {
          header.file_bytes = std::numeric_limits<std::uint64_t>::max();
        })).status == Status::truncated);
  CHECK(load(with([](Header& header) { header.file_bytes = 0; })).status == Status::malformed);
  CHECK(load("PK\x03\x04 an archive").status == Status::foreign);
  CHECK(load("x").status == Status::foreign);
  CHECK(load(std::string(1 << 20, '\0')).status == Status::foreign);
}

TEST_CASE("a file written on a machine of the other byte order is told", "[store][damage]") {
  Loader load;
  std::string file = small_file();
  const auto reverse = [&file](std::size_t begin, std::size_t bytes) {
    std::reverse(file.data() + begin, file.data() + begin + bytes);
  };
  reverse(offsetof(Header, byte_order), 4);
  reverse(offsetof(Header, version), 4);
  for (std::size_t word = offsetof(Header, file_bytes); word < file.size(); word += 8) reverse(word, 8);
  CHECK(load(file).status == Status::other_byte_order);
}

TEST_CASE("numbers that contradict each other are refused although every checksum fits", "[store][damage]") {
  Loader load;
  const std::string file = small_file();
  constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  int refused = 0;
  int accepted = 0;
  for (std::size_t word = sizeof(Header); word < file.size(); word += 8) {
    std::int64_t original = 0;
    std::memcpy(&original, file.data() + word, sizeof original);
    for (const std::int64_t value :
         {original + 1, original - 1, std::int64_t{0}, std::int64_t{-1}, largest, -largest - 1, largest - 1,
          largest / 8, largest / 8 + 1, std::int64_t{1} << 32}) {
      if (value == original) continue;
      std::string changed = file;
      std::memcpy(changed.data() + word, &value, sizeof value);
      seal(changed);
      INFO("word " << word / 8 << ": " << value << " in place of " << original);
      const ra::LoadReport report = load(changed);  // checks whatever is accepted
      REQUIRE((report.status == Status::malformed || report.status == Status::loaded));
      ++(report ? accepted : refused);
    }
  }
  // A longer sequence, or a longer segment that is clipped, is the key of an equal pattern.
  CHECK(accepted > 0);
  CHECK(refused > accepted);
}

TEST_CASE("rows that do not ascend or lie past the segment are refused", "[store][damage]") {
  Loader load;
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  store.save(test::make_patterns({{64, {16}, {2}, 1}}));
  const std::string file = test::read_file(store.path());
  const std::size_t rows = file.size() - 8 * sizeof(std::int64_t);  // 1, 3, ... 15
  for (const auto& [row, value] :
       std::vector<std::array<std::int64_t, 2>>{{7, 17}, {7, 64}, {0, 0}, {3, 5}}) {
    std::string changed = file;
    std::memcpy(changed.data() + rows + static_cast<std::size_t>(row) * 8, &value, sizeof value);
    seal(changed);
    INFO("row " << row << " = " << value);
    CHECK(load(changed).status == Status::malformed);
  }
}

TEST_CASE("patterns of an unknown kind are refused", "[store][damage]") {
  Loader load;
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  store.save(test::make_patterns({{5, {}, {}, 0, ra::PatternKind::local_window, {0, 1}}}));
  const std::string file = test::read_file(store.path());
  for (const std::int64_t kind : {-1, 5, 99}) {
    std::string changed = file;
    std::memcpy(changed.data() + sizeof(Header) + 2 * sizeof kind, &kind, sizeof kind);
    seal(changed);
    const ra::LoadReport report = load(changed);
    CHECK(report.status == Status::malformed);
    CHECK(report.text.find("kind = " + std::to_string(kind)) != std::string::npos);
  }
}

TEST_CASE("a file that repeats a key brings it once", "[store][damage]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto pattern = test::make_patterns({{64, {16}, {2}, 1}}).front();
  store.save({pattern, pattern});
  ra::PatternCache cache;
  const ra::LoadReport report = store.load(cache);
  CHECK(report.patterns == 2);
  CHECK(report.already_cached == 1);
  CHECK(cache.stats().entries == 1);
}

TEST_CASE("what is not a file is told", "[store][damage]") {
  const test::ScratchFolder folder;
  std::filesystem::create_directory(folder / "folder");
  test::write_file(folder / "file", "");
  for (const auto& way : test::ways_to_load()) {
    INFO(way.name);
    ra::PatternCache cache;
    CHECK(way.load(folder / "nothing", cache).status == Status::missing);
    CHECK(way.load(folder / "nothing" / "patterns", cache).status == Status::missing);
    CHECK(way.load(folder / "file" / "patterns", cache).status == Status::missing);
    CHECK(way.load("", cache).status == Status::missing);
    CHECK(way.load(folder / "folder", cache).status == Status::unreadable);
#if defined(__linux__)
    CHECK(way.load("/dev/zero", cache).status == Status::unreadable);
#endif
    CHECK(cache.stats().insertions == 0);
  }
}

TEST_CASE("a large foreign file is refused without being read", "[store][damage]") {
  const test::ScratchFolder folder;
  const std::filesystem::path path = folder / "patterns";
  test::write_file(path, small_file());
  std::filesystem::resize_file(path, std::uintmax_t{1} << 36);  // sparse: takes no space
  for (const auto& way : test::ways_to_load()) {
    ra::PatternCache cache;
    CHECK(way.load(path, cache).status == Status::malformed);
  }
}
