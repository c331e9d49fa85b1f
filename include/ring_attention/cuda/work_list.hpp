// WorkList: what a GPU computes in one call, as plain records in one piece of memory that is copied as it is.
//
// Mixing branches by log-sum-exp is one online softmax over all keys of a row, whichever branch they come
// from. So an item is a tile of query rows of one head that meet the same keys, and runs through the keys of
// all its branches. Where the branches of a head are divided into groups (cuda/branch_groups.hpp), items of
// all groups but the last to run are partial: they leave their rows' states in memory, and final items merge
// them and write the output. Final items hold every row of the output exactly once, also rows without keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ring_attention/version.hpp>
#include <type_traits>
#include <vector>

#if defined(__CUDACC__)
#define RING_ATTENTION_HOST_DEVICE __host__ __device__
#else
#define RING_ATTENTION_HOST_DEVICE
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Rows first, first + stride, ..., `count` of them; a Progression in the integers of a GPU.
struct RowSpan {
  std::int32_t first;
  std::int32_t stride;
  std::int32_t count;

  RING_ATTENTION_HOST_DEVICE std::int32_t operator[](std::int32_t i) const { return first + i * stride; }
  /// The last row; there must be one.
  RING_ATTENTION_HOST_DEVICE std::int32_t last() const { return first + (count - 1) * stride; }
  /// How many rows are below `limit`.
  RING_ATTENTION_HOST_DEVICE std::int32_t count_below(std::int32_t limit) const {
    if (limit <= first) return 0;
    const std::int32_t below = (limit - first - 1) / stride + 1;
    return below < count ? below : count;
  }
  /// The position of a row, or -1.
  RING_ATTENTION_HOST_DEVICE std::int32_t find(std::int32_t row) const {
    if (row < first || (row - first) % stride != 0) return -1;
    const std::int32_t position = (row - first) / stride;
    return position < count ? position : -1;
  }
};

/// Rows whose states partial items leave behind, in order from a slot on.
struct StateSpan {
  RowSpan rows;
  std::int32_t unused;
  std::int64_t slot;  ///< relative to WorkItem::carry
};

/// Query rows of one head, all of which meet the same keys (but for the causal limit), and those keys.
struct WorkItem {
  std::int32_t batch_item;
  std::int32_t head;
  RowSpan rows;              ///< at most WorkSizes::query_rows; if no keys or states, empty_rows
  std::int32_t length;       ///< of the batch item: keys from here on must not be read
  std::int32_t span_begin;   ///< its keys: spans [span_begin, span_end)
  std::int32_t span_end;     ///< the densest branch first
  std::int32_t list;         ///< instead of spans: which sequence's block lists; -1: none
  std::int32_t block;        ///< query block, whose list has the keys
  std::int32_t state_begin;  ///< of a final item: states [state_begin, state_end), of which it merges those
  std::int32_t state_end;    ///< of its rows
  std::int64_t zero_keys;    ///< keys of score 0 and value 0 that every row meets besides
  std::int64_t carry;        ///< partial: slot of its first row; final: slot that those of states count from
};

/// The block lists of a sequence where the executing device can read them: those of query block q are
/// blocks[begin[q]] to blocks[begin[q + 1] - 1], ascending.
struct ListPointers {
  const std::int64_t* begin;
  const std::int64_t* blocks;
};

/// The records of a work list, in host memory or on a device.
struct WorkView {
  const WorkItem* items;  ///< the partial ones first; in both parts long ones first, then in order of place
  const RowSpan* spans;
  const StateSpan* states;
  std::int64_t item_count;
  std::int64_t partial_count;
};

/// Numbers of items that a kernel could not finish, because a score was too far from the reference that it
/// measured from (a running maximum costs time). Another kernel redoes them with exact maxima before items of
/// the next part run. Items of one part depend on nothing that others of it write, so any may be redone.
struct RedoList {
  std::int32_t* count;  ///< raised by atomic additions; 0 to begin with
  std::int32_t* items;  ///< [item_count], in any order
};

/// The online-softmax states that partial items leave (cpu/softmax_state.hpp), in the accumulator type T.
template <class T>
struct CarriedStates {
  T* maximum;  ///< [slots]
  T* sum;      ///< [slots]
  T* output;   ///< [slots, head dimension]
};

/// The keys of an item as runs of rows, all visible to at least one of its rows.
class ItemKeys {
 public:
  RING_ATTENTION_HOST_DEVICE ItemKeys(const WorkItem& item, const RowSpan* spans, const ListPointers* lists,
                                      std::int32_t block_size, bool causal)
      : spans_(spans),
        next_(item.span_begin),
        end_(item.span_end),
        block_size_(block_size),
        limit_(causal && item.rows.last() < item.length ? item.rows.last() + 1 : item.length) {
    if (item.list < 0) return;
    blocks_ = lists[item.list].blocks;
    next_ = lists[item.list].begin[item.block];
    end_ = lists[item.list].begin[item.block + 1];
  }

  /// Goes to the next run; false at the end.
  RING_ATTENTION_HOST_DEVICE bool next() {
    while (next_ < end_) {
      if (blocks_ == nullptr) {
        run_ = spans_[next_++];
      } else {
        const std::int64_t begin = blocks_[next_++];
        std::int64_t end = begin + 1;
        for (; next_ < end_ && blocks_[next_] == end; ++next_) ++end;
        if (begin * block_size_ >= limit_) return false;
        const std::int64_t rows = (end - begin) * block_size_;
        const std::int64_t first = begin * block_size_;
        run_ = {static_cast<std::int32_t>(first), 1,
                static_cast<std::int32_t>(rows < limit_ - first ? rows : limit_ - first)};
      }
      run_.count = run_.count_below(limit_);
      if (run_.count > 0) return true;
    }
    return false;
  }
  RING_ATTENTION_HOST_DEVICE const RowSpan& operator*() const { return run_; }

 private:
  const RowSpan* spans_;
  const std::int64_t* blocks_ = nullptr;
  std::int64_t next_, end_;
  std::int64_t block_size_;
  std::int32_t limit_;
  RowSpan run_{0, 1, 0};
};

/// Owns the records in one piece of memory.
class WorkList {
 public:
  WorkList() = default;
  WorkList(const std::vector<WorkItem>& items, std::size_t partial_count, const std::vector<RowSpan>& spans,
           const std::vector<StateSpan>& states, std::int64_t carried_rows)
      : item_count_(items.size()), partial_count_(partial_count), carried_rows_(carried_rows) {
    append(items);
    states_at_ = append(states);
    spans_at_ = append(spans);
  }

  const std::byte* data() const { return memory_.data(); }
  std::size_t bytes() const { return memory_.size(); }
  /// Slots for states that partial items fill.
  std::int64_t carried_rows() const { return carried_rows_; }
  /// The records where a copy of data() begins at `base`, which is aligned for 64-bit integers.
  WorkView at(const void* base) const {
    const std::byte* const begin = static_cast<const std::byte*>(base);
    return {reinterpret_cast<const WorkItem*>(begin), reinterpret_cast<const RowSpan*>(begin + spans_at_),
            reinterpret_cast<const StateSpan*>(begin + states_at_), static_cast<std::int64_t>(item_count_),
            static_cast<std::int64_t>(partial_count_)};
  }
  WorkView view() const { return at(data()); }

 private:
  template <class Record>
  std::size_t append(const std::vector<Record>& records) {
    static_assert(std::is_trivially_copyable_v<Record>);
    const std::size_t begin = memory_.size();
    memory_.resize(begin + records.size() * sizeof(Record));
    if (!records.empty())
      std::memcpy(memory_.data() + begin, records.data(), records.size() * sizeof(Record));
    return begin;
  }

  // Records with 64-bit integers come first, so that all are aligned.
  static_assert(sizeof(WorkItem) % alignof(StateSpan) == 0 && sizeof(StateSpan) % alignof(RowSpan) == 0);

  std::vector<std::byte> memory_;
  std::size_t item_count_ = 0, partial_count_ = 0, states_at_ = 0, spans_at_ = 0;
  std::int64_t carried_rows_ = 0;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
