// What PatternStore tells of a load and of a save.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/version.hpp>
#include <string>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What a load found. The state of a file is told, not thrown.
enum class LoadStatus {
  loaded,            ///< every pattern of the file is offered to the cache
  missing,           ///< there is no such file
  unreadable,        ///< no permission, a folder, an error of the device
  empty,             ///< the file has no bytes
  truncated,         ///< the file is shorter than it says
  foreign,           ///< not a pattern file
  other_version,     ///< written in another version of the format
  other_byte_order,  ///< written on a machine of the other endianness
  corrupted,         ///< a checksum does not match
  malformed          ///< the checksums match and the contents contradict themselves
};

/// What PatternStore::load returns. Where status is not `loaded`, nothing entered the cache.
struct LoadReport {
  LoadStatus status = LoadStatus::loaded;  ///< whether the file was used, or why not
  std::string text;                        ///< what was found, with the file's name; for logs
  std::size_t patterns = 0;                ///< patterns in the file
  std::size_t already_cached = 0;          ///< how many of them the cache had before; it keeps its own object
  std::uint64_t bytes_mapped = 0;  ///< size of the mapping that patterns of the cache view; 0 without one

  /// Whether the file was used.
  explicit operator bool() const { return status == LoadStatus::loaded; }
};

/// What PatternStore::save returns.
struct SaveReport {
  std::size_t patterns = 0;  ///< patterns in the file
  std::uint64_t bytes = 0;   ///< size of the file
  bool durable = false;      ///< the system confirmed that the new file outlives a loss of power
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
