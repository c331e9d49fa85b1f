// PatternStore: patterns on disk, which processes of one machine share in memory.
#pragma once

#include <filesystem>
#include <ring_attention/pattern/global_cache.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/pattern/store_report.hpp>
#include <ring_attention/version.hpp>
#include <utility>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/error.hpp>
#include <ring_attention/pattern/pattern_check.hpp>
#include <ring_attention/pattern/pattern_file.hpp>
#include <ring_attention/pattern/posix_file.hpp>
#include <ring_attention/pattern/standard_file.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// How PatternStore::load reads.
struct LoadOptions {
  /// Map the file where the system can. False reads it into memory of the process's own: for folders on
  /// devices that fail, or where something truncates files in place, which would end a process that maps
  /// them.
  bool map = true;
};

/// A file of patterns. Any number of threads and processes may save to it and load from it at once: a load
/// sees one save whole. A save replaces the file, or a symbolic link in its place, and never edits it.
///
///     ra::PatternStore store("/var/cache/service/patterns");
///     store.load();  // a file that is missing or damaged only means that patterns are computed
///     ...
///     store.save();  // what the global cache holds by now
class PatternStore {
 public:
  /// Names the file, which need not exist. Touches no disk.
  explicit PatternStore(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }  ///< as given to the constructor

  /// Replaces the file by the patterns of a cache. Throws std::filesystem::filesystem_error (a
  /// std::system_error) where the file cannot be written; the old one is then as it was. Throws
  /// std::invalid_argument for a pattern that is not the one of its key.
  SaveReport save(const PatternCache& cache = get_global_pattern_cache()) const {
    return save(cache.entries());
  }
  /// The same with listed patterns, the one used last first.
  SaveReport save(const std::vector<PatternCache::KeyedPattern>& patterns) const;

  /// Puts the patterns of the file into a cache, all or none. They view the mapped file, which all processes
  /// that load it share; the mapping lasts as long as any of them. A file that is not as save() wrote it is
  /// told in the report and otherwise ignored.
  LoadReport load(PatternCache& into = get_global_pattern_cache(), LoadOptions options = {}) const;

 private:
  std::filesystem::path path_;
};

#if RING_ATTENTION_DEFINES_ENGINE
namespace detail {

#if RING_ATTENTION_HAS_POSIX_FILES
using NativeInput = PosixInput;
using NativeOutput = PosixOutput;
#else
using NativeInput = StandardInput;
using NativeOutput = StandardOutput;
#endif

inline void check_entry(const PatternCache::KeyedPattern& entry, std::size_t index) {
  const auto& [key, pattern] = entry;
  if (!pattern) throw_invalid(element_name("patterns", index), "null", "a pattern is needed");
  if (!is_pattern_of(key, pattern->branch_begins(), pattern->all_rows())) {
    throw_invalid(element_name("patterns", index), "other rows",
                  "must be the pattern that make_indices computes for its key");
  }
}

template <class Output>
SaveReport save_patterns(const std::filesystem::path& path,
                         const std::vector<PatternCache::KeyedPattern>& patterns) {
  for (std::size_t i = 0; i < patterns.size(); ++i) check_entry(patterns[i], i);
  Output output(path);
  PatternWriter writer(output);
  for (const auto& [key, pattern] : patterns) writer.write(key, *pattern);
  SaveReport report;
  report.patterns = patterns.size();
  report.bytes = writer.finish();
  report.durable = output.commit();
  return report;
}

template <class Input>
LoadReport load_patterns(const std::filesystem::path& path, PatternCache& into, bool map) {
  LoadReport report;
  std::vector<PatternCache::KeyedPattern> patterns;
  bool mapped = false;
  std::uint64_t bytes = 0;
  const auto refuse = [&](LoadStatus status, const std::string& why) {
    report.status = status;
    report.text = path.string() + ": " + why;
    return report;
  };
  try {
    Input input(path);
    std::array<std::byte, sizeof(PatternFileHeader)> head;
    const PatternFileHeader header = check_header(input.head(head), input.size());
    const FileContents contents = input.contents(map);
    patterns = read_patterns(header, contents);
    mapped = contents.mapped;
    bytes = header.file_bytes;
  } catch (const FileRefused& refused) {
    return refuse(refused.status, refused.text);
  } catch (const std::system_error& error) {
    const bool missing =
        error.code() == std::errc::no_such_file_or_directory || error.code() == std::errc::not_a_directory;
    return refuse(missing ? LoadStatus::missing : LoadStatus::unreadable, error.code().message());
  }
  report.patterns = patterns.size();
  // A file begins with the pattern used last, which must be the last to enter.
  for (auto entry = patterns.rbegin(); entry != patterns.rend(); ++entry) {
    report.already_cached += into.put_dilated_indices(entry->first, entry->second) != entry->second;
  }
  if (mapped && report.already_cached < report.patterns) report.bytes_mapped = bytes;
  report.text = path.string() + ": " + std::to_string(report.patterns) + " patterns in " +
                std::to_string(bytes) + " bytes, " + std::to_string(report.already_cached) +
                " of them already cached";
  return report;
}

}  // namespace detail

RING_ATTENTION_INLINE SaveReport
PatternStore::save(const std::vector<PatternCache::KeyedPattern>& patterns) const {
  return detail::save_patterns<detail::NativeOutput>(path_, patterns);
}

RING_ATTENTION_INLINE LoadReport PatternStore::load(PatternCache& into, LoadOptions options) const {
  return detail::load_patterns<detail::NativeInput>(path_, into, options.map);
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
