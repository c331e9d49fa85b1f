// Any bytes as a pattern file: it is refused as a whole, or gives exactly the patterns of its keys.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/pattern/pattern_store.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/memory_file.hpp"
#include "fuzz/property.hpp"

namespace ra = ring_attention;

namespace {

using fuzz::require;
using Entries = std::vector<ra::PatternCache::KeyedPattern>;
using Bytes = std::vector<std::uint8_t>;

/// Where the library's writer puts a file.
class MemoryOutput {
 public:
  explicit MemoryOutput(const std::filesystem::path& /*target*/) { written.clear(); }
  void write(std::span<const std::byte> bytes) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    written.insert(written.end(), begin, begin + bytes.size());
  }
  void overwrite_start(std::span<const std::byte> bytes) {
    std::memcpy(written.data(), bytes.data(), bytes.size());
  }
  bool commit() { return true; }

  static inline Bytes written;
};

Bytes save(const Entries& entries) {
  const ra::SaveReport report = ra::detail::save_patterns<MemoryOutput>("memory", entries);
  require(report.patterns == entries.size(), "a save counts its patterns");
  require(report.bytes == MemoryOutput::written.size(), "a save counts its bytes");
  return MemoryOutput::written;
}

/// Words behind a header whose checksums and size fit, as damage alone never makes them.
Bytes seal(std::span<const std::int64_t> payload, std::uint64_t patterns) {
  ra::detail::PatternFileHeader header;
  header.file_bytes = sizeof header + payload.size_bytes();
  header.patterns = patterns;
  header.payload_checksum = ra::detail::xxh64(std::as_bytes(payload));
  header.header_checksum = header.compute_checksum();
  Bytes file(header.file_bytes);
  std::memcpy(file.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(file.data() + sizeof header, payload.data(), payload.size_bytes());
  return file;
}

std::vector<std::int64_t> words_of(std::span<const std::uint8_t> bytes) {
  std::vector<std::int64_t> words(bytes.size() / sizeof(std::int64_t));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * sizeof(std::int64_t));
  return words;
}

ra::PatternKey draw_key(FuzzedDataProvider& draw) {
  ra::PatternKey key;
  key.kind = draw.PickValueInArray({ra::PatternKind::dilated, ra::PatternKind::local_window,
                                    ra::PatternKind::dilated_sparse, ra::PatternKind::global_local,
                                    ra::PatternKind::custom});
  // Numbers that keep rows of a short sequence, and once in a while any.
  const auto number = [&draw](std::int64_t low, std::int64_t high) {
    return draw.ConsumeIntegralInRange<int>(0, 15) < 15 ? draw.ConsumeIntegralInRange(low, high)
                                                        : draw.ConsumeIntegral<std::int64_t>();
  };
  key.sequence_length = draw.ConsumeIntegralInRange<std::int64_t>(0, 40);
  const auto size = draw.ConsumeIntegralInRange<std::size_t>(0, 4);
  for (std::size_t i = 0; i < size; ++i) key.dilation_rates.push_back(number(1, 6));
  if (key.kind == ra::PatternKind::dilated) {
    for (std::size_t i = 0; i < size; ++i) key.segment_lengths.push_back(number(1, 40));
    key.offset = number(0, 5);
  } else {
    key.parameters = {draw.ConsumeIntegralInRange<std::int64_t>(0, 1)};
    const bool pairs = key.kind == ra::PatternKind::custom;
    const auto parameters = pairs ? 2 * draw.ConsumeIntegralInRange<std::size_t>(0, 4) : 2;
    // Pairs of blocks ascend: the first of each by its place.
    for (std::size_t i = 0; i < parameters; ++i) {
      const auto place = static_cast<std::int64_t>(pairs && i % 2 == 0 ? i : 0);
      key.parameters.push_back(number(place, place + (pairs ? 1 : 20)));
    }
  }
  return key;
}

/// A file as the writer makes it, from keys that make_indices accepts.
Bytes draw_saved(FuzzedDataProvider& draw) {
  Entries entries;
  const auto count = draw.ConsumeIntegralInRange<int>(0, 5);
  for (int i = 0; i < count; ++i) {
    const ra::PatternKey key = draw_key(draw);
    try {
      entries.emplace_back(key, ra::make_indices(key));
    } catch (const std::invalid_argument&) {
      // Such a key has no pattern.
    }
  }
  return save(entries);
}

void check_indices(const ra::PatternKey& key, const ra::DilatedIndices& pattern) {
  require(pattern == *ra::make_indices(key), "a pattern is the one of its key");
  for (std::size_t branch = 0; branch < pattern.branches(); ++branch) {
    std::int64_t before = -1;
    const std::int64_t end = key.kind == ra::PatternKind::dilated
                                 ? std::min(key.segment_lengths[branch], key.sequence_length)
                                 : key.sequence_length;
    for (const std::int64_t row : pattern.rows(branch)) {
      require(row > before && row < end, "rows ascend within their segment or sequence");
      before = row;
    }
  }
}

void check_load(const ra::LoadReport& report, const ra::PatternCache& cache, const std::string& path) {
  const Entries entries = cache.entries();
  require(report.text.find(path + ": ") == 0, "a report names the file");
  if (!report) {
    require(entries.empty(), "a file that is refused leaves nothing in the cache");
    require(report.patterns == 0 && report.bytes_mapped == 0, "a refusal reports no patterns");
    return;
  }
  require(report.patterns == entries.size() + report.already_cached, "every pattern enters or was there");
  for (const auto& [key, pattern] : entries) check_indices(key, *pattern);
}

/// Loads a file in every way, which must all tell the same.
ra::LoadStatus check_file(const Bytes& bytes) {
  const fuzz::MemoryFile file(bytes);
  const std::string path = file.path();
  ra::PatternCache mapped;
  ra::PatternCache read;
  ra::PatternCache standard;
  const ra::LoadReport report = ra::PatternStore(path).load(mapped);
  const std::array others{ra::PatternStore(path).load(read, {.map = false}),
                          ra::detail::load_patterns<ra::detail::StandardInput>(path, standard, true)};
  check_load(report, mapped, path);
  check_load(others[0], read, path);
  check_load(others[1], standard, path);
  for (const ra::LoadReport& other : others) {
    require(other.status == report.status && other.text == report.text && other.patterns == report.patterns &&
                other.already_cached == report.already_cached,
            "a file is told alike however it is read");
  }
  if (report && report.already_cached == 0) {
    require(save(mapped.entries()) == bytes, "what is loaded is saved as the same bytes");
  }
  return report.status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider draw(data, size);
  const int way = draw.ConsumeIntegralInRange<int>(0, 3);
  if (way == 0) {
    check_file(draw.ConsumeRemainingBytes<std::uint8_t>());
  } else if (way == 1) {
    const auto patterns = draw.ConsumeIntegral<std::uint8_t>();
    check_file(seal(words_of(draw.ConsumeRemainingBytes<std::uint8_t>()), patterns));
  } else {
    const Bytes saved = draw_saved(draw);
    require(check_file(saved) == ra::LoadStatus::loaded, "what is saved is loaded");
    if (way == 2 || saved.size() == sizeof(ra::detail::PatternFileHeader)) return 0;
    // One number changed under checksums that fit.
    auto words = words_of(std::span(saved).subspan(sizeof(ra::detail::PatternFileHeader)));
    ra::detail::PatternFileHeader header;
    std::memcpy(&header, saved.data(), sizeof header);
    words[draw.ConsumeIntegralInRange<std::size_t>(0, words.size() - 1)] =
        draw.ConsumeBool() ? draw.ConsumeIntegralInRange<std::int64_t>(-2, 50)
                           : draw.ConsumeIntegral<std::int64_t>();
    check_file(seal(words, header.patterns));
  }
  return 0;
}
