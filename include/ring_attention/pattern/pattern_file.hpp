// The format of pattern files. After the header the file consists of int64 words in the byte order of the
// machine that wrote it. A pattern is
//   sequence_length, offset, kind, and the length of each list that follows:
//   segment lengths, dilation rates, parameters, begins (of each branch, and the end of the last), rows
// and every list lies where a reader can use it in place.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/pattern/pattern_check.hpp>
#include <ring_attention/pattern/standard_file.hpp>
#include <ring_attention/pattern/store_report.hpp>
#include <ring_attention/pattern/xxh64.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The first three fields stay as they are in every version of the format.
struct PatternFileHeader {
  // Bytes that a transfer as text would change.
  static constexpr std::array<unsigned char, 8> expected_magic{0x89, 'R', 'A', 'P', '\r', '\n', 0x1a, '\n'};
  static constexpr std::uint32_t expected_byte_order = 0x01020304;
  static constexpr std::uint32_t current_version = 1;

  std::array<unsigned char, 8> magic = expected_magic;
  std::uint32_t byte_order = expected_byte_order;
  std::uint32_t version = current_version;
  std::uint64_t file_bytes = 0;
  std::uint64_t patterns = 0;
  std::uint64_t payload_checksum = 0;  ///< of everything after the header
  std::uint64_t header_checksum = 0;   ///< of the fields before

  std::uint64_t compute_checksum() const {
    return xxh64(std::as_bytes(std::span(this, 1)).first(offsetof(PatternFileHeader, header_checksum)));
  }
};
static_assert(sizeof(PatternFileHeader) == 48, "no padding, and whole words");

inline constexpr std::size_t header_words = sizeof(PatternFileHeader) / sizeof(std::int64_t);

/// Why a file is not used. Never leaves PatternStore.
struct FileRefused {
  LoadStatus status;
  std::string text;
};

/// The header of a file of `size` bytes that begins with `head`. Throws FileRefused.
inline PatternFileHeader check_header(std::span<const std::byte> head, std::uint64_t size) {
  if (head.empty()) throw FileRefused{LoadStatus::empty, "the file is empty"};
  PatternFileHeader header;
  const std::size_t magic = (std::min)(head.size(), header.magic.size());
  if (std::memcmp(head.data(), header.magic.data(), magic) != 0) {
    throw FileRefused{LoadStatus::foreign, "not a pattern file"};
  }
  if (head.size() < sizeof header) {
    throw FileRefused{LoadStatus::truncated, "ends after " + std::to_string(size) + " bytes, in its header"};
  }
  std::memcpy(&header, head.data(), sizeof header);
  if (header.byte_order == 0x04030201) {
    throw FileRefused{LoadStatus::other_byte_order, "written on a machine of the other byte order"};
  }
  if (header.byte_order != PatternFileHeader::expected_byte_order) {
    throw FileRefused{LoadStatus::corrupted, "the mark of the byte order is damaged"};
  }
  if (header.version != PatternFileHeader::current_version) {
    throw FileRefused{LoadStatus::other_version, "format version " + std::to_string(header.version) +
                                                     ", this library reads version " +
                                                     std::to_string(PatternFileHeader::current_version)};
  }
  if (header.header_checksum != header.compute_checksum()) {
    throw FileRefused{LoadStatus::corrupted, "the checksum of the header does not match"};
  }
  if (header.file_bytes > size) {
    throw FileRefused{LoadStatus::truncated,
                      "has " + std::to_string(size) + " of " + std::to_string(header.file_bytes) + " bytes"};
  }
  if (header.file_bytes < size || size % sizeof(std::int64_t) != 0) {
    throw FileRefused{LoadStatus::malformed, "has " + std::to_string(size) + " bytes where it says " +
                                                 std::to_string(header.file_bytes)};
  }
  return header;
}

/// Takes words off the front of a payload.
class WordReader {
 public:
  explicit WordReader(std::span<const std::int64_t> words) : rest_(words) {}

  std::span<const std::int64_t> take(std::int64_t count) {
    if (count < 0 || static_cast<std::uint64_t>(count) > rest_.size()) {
      throw FileRefused{LoadStatus::malformed, "a list of " + std::to_string(count) + " numbers where " +
                                                   std::to_string(rest_.size()) + " remain"};
    }
    const auto taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::int64_t take_one() { return take(1).front(); }
  bool done() const { return rest_.empty(); }

 private:
  std::span<const std::int64_t> rest_;
};

/// One pattern, its lists in place. Throws FileRefused.
inline PatternCache::KeyedPattern read_pattern(WordReader& reader, const FileContents& contents) {
  PatternKey key;
  key.sequence_length = reader.take_one();
  key.offset = reader.take_one();
  key.kind = static_cast<PatternKind>(reader.take_one());
  const auto lengths = reader.take(5);
  const auto take_list = [&](std::vector<std::int64_t>& list, std::size_t index) {
    const auto words = reader.take(lengths[index]);
    list.assign(words.begin(), words.end());
  };
  take_list(key.segment_lengths, 0);
  take_list(key.dilation_rates, 1);
  take_list(key.parameters, 2);
  const auto begins = reader.take(lengths[3]);
  const auto rows = reader.take(lengths[4]);
  bool belongs = false;
  try {
    belongs = !begins.empty() && is_pattern_of(key, begins, rows);
  } catch (const std::invalid_argument& error) {
    throw FileRefused{LoadStatus::malformed, error.what()};
  }
  if (!belongs) throw FileRefused{LoadStatus::malformed, "a pattern is not the one of its key"};
  return {std::move(key),
          std::make_shared<const DilatedIndices>(begins, rows, contents.owner, contents.mapped)};
}

/// Every pattern of a file whose header has been checked. Throws FileRefused.
inline std::vector<PatternCache::KeyedPattern> read_patterns(const PatternFileHeader& header,
                                                             const FileContents& contents) {
  if (contents.words.size_bytes() != header.file_bytes) {
    throw FileRefused{LoadStatus::truncated, "became shorter while it was read"};
  }
  const auto payload = contents.words.subspan(header_words);
  if (xxh64(std::as_bytes(payload)) != header.payload_checksum) {
    throw FileRefused{LoadStatus::corrupted, "the checksum of the patterns does not match"};
  }
  std::vector<PatternCache::KeyedPattern> patterns;
  for (WordReader reader(payload); !reader.done();) patterns.push_back(read_pattern(reader, contents));
  if (patterns.size() != header.patterns) {
    throw FileRefused{LoadStatus::malformed, "has " + std::to_string(patterns.size()) +
                                                 " patterns where it says " +
                                                 std::to_string(header.patterns)};
  }
  return patterns;
}

/// Writes a pattern file to an output, in blocks; the header, which has the checksums, last.
template <class Output>
class PatternWriter {
 public:
  explicit PatternWriter(Output& output) : output_(output) {
    block_.reserve(block_words);
    const PatternFileHeader unfinished;
    output_.write(std::as_bytes(std::span(&unfinished, 1)));
    header_.file_bytes = sizeof unfinished;
  }

  void write(const PatternKey& key, const DilatedIndices& indices) {
    const std::array<std::span<const std::int64_t>, 5> lists{
        key.segment_lengths, key.dilation_rates, key.parameters, indices.branch_begins(), indices.all_rows()};
    put(std::array{key.sequence_length, key.offset, static_cast<std::int64_t>(key.kind)});
    for (const auto list : lists) put(std::array{static_cast<std::int64_t>(list.size())});
    for (const auto list : lists) put(list);
    ++header_.patterns;
  }

  /// Returns the size of the file.
  std::uint64_t finish() {
    header_.payload_checksum = checksum_.finish(std::as_bytes(std::span(block_)));
    write_block();
    header_.header_checksum = header_.compute_checksum();
    output_.overwrite_start(std::as_bytes(std::span(&header_, 1)));
    return header_.file_bytes;
  }

 private:
  static constexpr std::size_t block_words = std::size_t{1} << 17;
  static_assert(block_words * sizeof(std::int64_t) % Xxh64::stripe_bytes == 0, "blocks are whole stripes");

  void put(std::span<const std::int64_t> words) {
    while (!words.empty()) {
      const auto part = words.first((std::min)(words.size(), block_words - block_.size()));
      block_.insert(block_.end(), part.begin(), part.end());
      words = words.subspan(part.size());
      if (block_.size() == block_words) {
        checksum_.update(std::as_bytes(std::span(block_)));
        write_block();
      }
    }
  }

  void write_block() {
    const auto bytes = std::as_bytes(std::span(block_));
    output_.write(bytes);
    header_.file_bytes += bytes.size();
    block_.clear();
  }

  Output& output_;
  PatternFileHeader header_;
  Xxh64 checksum_;
  std::vector<std::int64_t> block_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
