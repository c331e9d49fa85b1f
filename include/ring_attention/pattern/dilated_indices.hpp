// Which rows of a segment a dilation keeps: the key of a pattern, the pattern, and how a dilated one is made.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ring_attention/pattern/device_copies.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <functional>
#include <ring_attention/error.hpp>
#include <string>
#include <utility>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What a pattern lists: rows of a segment, or for each query block its key blocks (see block_indices.hpp).
/// Pattern files hold these numbers.
enum class PatternKind : std::int64_t {
  dilated,         ///< the rows of a segment that a dilation keeps (LongNet, arXiv 2307.02486)
  local_window,    ///< blocks, as BlockPattern::local_window
  dilated_sparse,  ///< blocks, as BlockPattern::dilated_sparse
  global_local,    ///< blocks, as BlockPattern::global_local
  custom           ///< blocks, listed by the caller
};

/// Everything that decides a pattern. Equal keys mean equal patterns.
struct PatternKey {
  std::int64_t sequence_length = 0;  ///< n in tokens, or in blocks; segment lengths are clipped to it
  std::vector<std::int64_t> segment_lengths;  ///< w_i in tokens
  std::vector<std::int64_t> dilation_rates;   ///< r_i, one per segment length
  std::int64_t offset = 0;                    ///< residue class that is kept
  PatternKind kind = PatternKind::dilated;    ///< what the pattern lists
  std::vector<std::int64_t> parameters = {};  ///< further numbers of the kinds that list blocks

  /// Whether every field is equal.
  friend bool operator==(const PatternKey&, const PatternKey&) = default;
};

/// Hash of a PatternKey; equality decides, so a collision costs time and nothing else.
struct PatternKeyHash {
  /// Mixes every number of the key.
  std::size_t operator()(const PatternKey& key) const noexcept;
};

/// The rows that each branch of a key keeps, relative to the start of a segment and ascending. Immutable; a
/// copy shares the lists. A segment that is cut short at the end of the sequence keeps the prefix of rows
/// below its length, so one list of O(w / r) serves every segment. In patterns of blocks, list i holds the
/// key blocks of query block i.
class DilatedIndices {
 public:
  /// The rows at positions begin[i] to begin[i + 1] - 1 belong to branch i. Throws std::invalid_argument
  /// where begin is no ascending partition of rows.
  DilatedIndices(std::vector<std::int64_t> begin, std::vector<std::int64_t> rows);

  /// The same over lists that `owner` keeps alive and nobody changes. `mapped` says that they lie in a mapped
  /// file, whose memory the system shares between processes and can take back.
  DilatedIndices(std::span<const std::int64_t> begin, std::span<const std::int64_t> rows,
                 std::shared_ptr<const void> owner, bool mapped);

  // No move: it would leave spans behind that nothing keeps alive.
  /// Shares the lists.
  DilatedIndices(const DilatedIndices&) = default;
  /// Shares the lists.
  DilatedIndices& operator=(const DilatedIndices&) = default;

  /// Number of lists.
  std::size_t branches() const { return begin_.size() - 1; }

  /// Rows kept by a branch. Throws std::invalid_argument for a branch that the key did not have.
  std::span<const std::int64_t> rows(std::size_t branch = 0) const;

  /// The rows of a branch as first, stride and count: of a dilation they are at equal distances. Throws
  /// std::invalid_argument for a branch that the key did not have, and where the rows are at none.
  Progression progression(std::size_t branch = 0) const;

  /// Where the rows of branch i begin, for each i, and the number of rows at the end.
  std::span<const std::int64_t> branch_begins() const { return begin_; }
  /// Rows of all branches, one after the other.
  std::span<const std::int64_t> all_rows() const { return rows_; }

  /// Whether the lists lie in a mapped file.
  bool mapped() const { return mapped_; }

  /// Memory that the process itself holds, in bytes: not what lies in a mapped file.
  std::size_t bytes() const;

  /// What GPUs hold of the lists; the library's own.
  detail::DeviceCopies& device_copies() const { return device_copies_; }

  /// Whether the lists are equal, wherever they lie.
  friend bool operator==(const DilatedIndices& a, const DilatedIndices& b);

 private:
  struct Lists {
    std::vector<std::int64_t> begin;
    std::vector<std::int64_t> rows;
  };

  explicit DilatedIndices(const std::shared_ptr<const Lists>& lists);

  std::span<const std::int64_t> begin_;
  std::span<const std::int64_t> rows_;
  std::shared_ptr<const void> owner_;
  bool mapped_;
  bool is_even_ = true;  // whether the rows of every branch are at equal distances
  mutable detail::DeviceCopies device_copies_;
};

/// Number of rows t in [0, length) with t % rate == offset.
constexpr std::int64_t count_dilated_rows(std::int64_t length, std::int64_t rate, std::int64_t offset) {
  return offset < length ? (length - offset - 1) / rate + 1 : 0;
}

namespace detail {

/// Throws std::invalid_argument for what make_dilated_indices refuses.
void check_dilated_key(const PatternKey& key);

/// Number of rows that a branch of a checked key keeps.
inline std::int64_t count_branch_rows(const PatternKey& key, std::size_t branch) {
  const std::int64_t rate = key.dilation_rates[branch];
  const std::int64_t length = (std::min)(key.segment_lengths[branch], key.sequence_length);
  return key.offset < rate ? count_dilated_rows(length, rate, key.offset) : 0;
}

}  // namespace detail

/// Computes the pattern of a key: offset, offset + r, ... below min(w, n) for every branch; nothing where
/// offset is not a residue of r. Throws std::invalid_argument for a key of another kind, lists of unequal
/// size, non-positive lengths or rates, a negative sequence length or a negative offset.
std::shared_ptr<const DilatedIndices> make_dilated_indices(const PatternKey& key);

#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE std::size_t PatternKeyHash::operator()(const PatternKey& key) const noexcept {
  std::uint64_t state = 0x9e3779b97f4a7c15ULL;
  const auto mix = [&state](std::int64_t value) {  // the finalizer of splitmix64, chained
    state ^= static_cast<std::uint64_t>(value);
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
    state ^= state >> 31;
  };
  mix(key.sequence_length);
  mix(key.offset);
  mix(static_cast<std::int64_t>(key.segment_lengths.size()));
  for (const std::int64_t w : key.segment_lengths) mix(w);
  for (const std::int64_t r : key.dilation_rates) mix(r);
  mix(static_cast<std::int64_t>(key.kind));
  for (const std::int64_t parameter : key.parameters) mix(parameter);
  return std::hash<std::uint64_t>{}(state);
}

RING_ATTENTION_INLINE DilatedIndices::DilatedIndices(std::vector<std::int64_t> begin,
                                                     std::vector<std::int64_t> rows)
    : DilatedIndices(std::make_shared<const Lists>(Lists{std::move(begin), std::move(rows)})) {}

RING_ATTENTION_INLINE DilatedIndices::DilatedIndices(const std::shared_ptr<const Lists>& lists)
    : DilatedIndices(lists->begin, lists->rows, lists, false) {}

RING_ATTENTION_INLINE DilatedIndices::DilatedIndices(std::span<const std::int64_t> begin,
                                                     std::span<const std::int64_t> rows,
                                                     std::shared_ptr<const void> owner, bool mapped)
    : begin_(begin), rows_(rows), owner_(std::move(owner)), mapped_(mapped) {
  if (begin_.empty() || begin_.front() != 0 || begin_.back() != static_cast<std::int64_t>(rows_.size())) {
    detail::throw_invalid("begin", static_cast<std::int64_t>(begin_.size()),
                          "must run from 0 to the number of rows");
  }
  for (std::size_t i = 1; i < begin_.size(); ++i) {
    if (begin_[i] < begin_[i - 1]) {
      detail::throw_invalid(detail::element_name("begin", i), begin_[i], "must not descend");
    }
  }
  for (std::size_t branch = 0; branch < branches() && is_even_; ++branch) {
    const std::span<const std::int64_t> kept = this->rows(branch);
    for (std::size_t i = 1; i < kept.size() && is_even_; ++i) {
      is_even_ = kept[i] - kept[i - 1] == kept[1] - kept[0] && kept[i] > kept[i - 1];
    }
  }
}

RING_ATTENTION_INLINE std::span<const std::int64_t> DilatedIndices::rows(std::size_t branch) const {
  if (branch >= branches()) {
    detail::throw_invalid("branch", static_cast<std::int64_t>(branch),
                          "the pattern has " + std::to_string(branches()) + " branches");
  }
  return rows_.subspan(static_cast<std::size_t>(begin_[branch]),
                       static_cast<std::size_t>(begin_[branch + 1] - begin_[branch]));
}

RING_ATTENTION_INLINE Progression DilatedIndices::progression(std::size_t branch) const {
  const std::span<const std::int64_t> kept = rows(branch);
  if (!is_even_) detail::throw_invalid("pattern", "rows at unequal distances", "a dilation keeps every r-th");
  const auto count = static_cast<std::int64_t>(kept.size());
  return {count > 0 ? kept[0] : 0, count > 1 ? kept[1] - kept[0] : 1, count};
}

RING_ATTENTION_INLINE std::size_t DilatedIndices::bytes() const {
  if (mapped_) return sizeof *this;
  return sizeof *this + sizeof(Lists) + (begin_.size() + rows_.size()) * sizeof(std::int64_t);
}

RING_ATTENTION_INLINE bool operator==(const DilatedIndices& a, const DilatedIndices& b) {
  return std::equal(a.begin_.begin(), a.begin_.end(), b.begin_.begin(), b.begin_.end()) &&
         std::equal(a.rows_.begin(), a.rows_.end(), b.rows_.begin(), b.rows_.end());
}

RING_ATTENTION_INLINE void detail::check_dilated_key(const PatternKey& key) {
  if (key.kind != PatternKind::dilated) {
    throw_invalid("kind", static_cast<std::int64_t>(key.kind),
                  "must be PatternKind::dilated; make_indices serves every kind");
  }
  if (key.sequence_length < 0) throw_invalid("sequence_length", key.sequence_length, "must not be negative");
  if (key.offset < 0) throw_invalid("offset", key.offset, "must not be negative");
  const std::size_t branches = key.segment_lengths.size();
  if (key.dilation_rates.size() != branches) {
    throw_invalid("dilation_rates.size()", static_cast<std::int64_t>(key.dilation_rates.size()),
                  "must equal segment_lengths.size() = " + std::to_string(branches));
  }
  for (std::size_t i = 0; i < branches; ++i) {
    require_positive(element_name("segment_lengths", i), key.segment_lengths[i]);
    require_positive(element_name("dilation_rates", i), key.dilation_rates[i]);
  }
}

RING_ATTENTION_INLINE std::shared_ptr<const DilatedIndices> make_dilated_indices(const PatternKey& key) {
  detail::check_dilated_key(key);
  const std::size_t branches = key.segment_lengths.size();
  std::vector<std::int64_t> begin{0};
  begin.reserve(branches + 1);
  for (std::size_t i = 0; i < branches; ++i) {
    begin.push_back(begin.back() + detail::count_branch_rows(key, i));
  }
  std::vector<std::int64_t> rows(static_cast<std::size_t>(begin.back()));
  for (std::size_t i = 0; i < branches; ++i) {
    for (std::int64_t k = begin[i]; k < begin[i + 1]; ++k) {
      rows[static_cast<std::size_t>(k)] = key.offset + (k - begin[i]) * key.dilation_rates[i];
    }
  }
  return std::make_shared<const DilatedIndices>(std::move(begin), std::move(rows));
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
