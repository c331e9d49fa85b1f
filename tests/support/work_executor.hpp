// A work list executed on the CPU, one number at a time: what a kernel does with it, without a GPU.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

namespace test {

namespace ra = ring_attention;

/// The block lists of every sequence of a plan.
inline std::vector<ra::detail::ListPointers> list_pointers(const ra::AttentionPlan& plan) {
  std::vector<ra::detail::ListPointers> lists;
  for (const ra::SequencePlan& sequence : plan.sequences) {
    lists.push_back({sequence.blocks.begin.data(), sequence.blocks.blocks.data()});
  }
  return lists;
}

/// Executes the items of a work list. Of the plan it knows what a kernel is told: scale, causal, block size.
template <class Scalar>
class WorkExecutor {
  using T = ra::accumulator_t<Scalar>;
  using Input = ra::TensorView<const Scalar>;

 public:
  WorkExecutor(const ra::AttentionPlan& plan, const ra::detail::WorkList& list, Input q, Input k, Input v,
               ra::TensorView<Scalar> out, ra::TensorView<T> lse)
      : memory_(list.data(), list.data() + list.bytes()),
        work_(list.at(memory_.data())),
        lists_(list_pointers(plan)),
        block_size_(static_cast<std::int32_t>(plan.block_size)),
        causal_(plan.causal),
        scale_(static_cast<T>(plan.scale * std::numbers::log2e)),
        q_(q),
        k_(k),
        v_(v),
        out_(out),
        lse_(lse),
        dims_(static_cast<std::size_t>(plan.shape.head_dim)),
        maxima_(static_cast<std::size_t>(list.carried_rows()), not_a_number),
        sums_(maxima_),
        outputs_(maxima_.size() * dims_, not_a_number) {}

  void run() {
    run(0, work_.partial_count);
    run(work_.partial_count, work_.item_count);
  }

  /// As a kernel that gives up the items for which gives_up(number) holds: what they should have written is
  /// NaN until they are redone.
  template <class GivesUp>
  void run_with_redo(const GivesUp& gives_up) {
    run_with_redo(0, work_.partial_count, gives_up);
    run_with_redo(work_.partial_count, work_.item_count, gives_up);
  }

 private:
  static constexpr T none = -std::numeric_limits<T>::infinity();
  static constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

  struct State {
    T maximum = none;
    T sum = 0;
    std::vector<T> output;
  };

  void run(std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) attend(work_.items[i], i < work_.partial_count);
  }

  template <class GivesUp>
  void run_with_redo(std::int64_t begin, std::int64_t end, const GivesUp& gives_up) {
    std::int32_t count = 0;
    std::vector<std::int32_t> items(static_cast<std::size_t>(work_.item_count));
    const ra::detail::RedoList redo{&count, items.data()};
    for (std::int64_t i = begin; i < end; ++i) {
      const bool partial = i < work_.partial_count;
      if (gives_up(i)) {
        spoil(work_.items[i], partial);
        redo.items[(*redo.count)++] = static_cast<std::int32_t>(i);
      } else {
        attend(work_.items[i], partial);
      }
    }
    for (std::int32_t i = 0; i < *redo.count; ++i) {
      attend(work_.items[redo.items[i]], redo.items[i] < work_.partial_count);
    }
  }

  void spoil(const ra::detail::WorkItem& item, bool partial) {
    const State state{not_a_number, not_a_number, std::vector<T>(dims_, not_a_number)};
    for (std::int32_t i = 0; i < item.rows.count; ++i) {
      if (partial) {
        leave(state, static_cast<std::size_t>(item.carry + i));
      } else {
        write(state, item, item.rows[i]);
      }
    }
  }

  void attend(const ra::detail::WorkItem& item, bool partial) {
    for (std::int32_t i = 0; i < item.rows.count; ++i) {
      const std::int32_t row = item.rows[i];
      State state{none, 0, std::vector<T>(dims_, T{0})};
      if (item.zero_keys > 0) merge(state, 0, static_cast<T>(item.zero_keys), nullptr);
      const std::int64_t kv_head = item.head / (q_.shape()[2] / k_.shape()[2]);
      for (ra::detail::ItemKeys keys(item, work_.spans, lists_.data(), block_size_, causal_); keys.next();) {
        const std::int32_t visible = causal_ ? (*keys).count_below(row + 1) : (*keys).count;
        for (std::int32_t j = 0; j < visible; ++j) {
          meet(state, q_.row(item.batch_item, row, item.head), k_.row(item.batch_item, (*keys)[j], kv_head),
               v_.row(item.batch_item, (*keys)[j], kv_head));
        }
      }
      if (partial) {
        leave(state, static_cast<std::size_t>(item.carry + i));
      } else {
        take_states(state, item, row);
        write(state, item, row);
      }
    }
  }

  void meet(State& state, const Scalar* q, const Scalar* k, const Scalar* v) const {
    // Sums of few numbers each: one of all would round too much for the tolerances of large scores.
    std::array<T, 8> parts{};
    for (std::size_t c = 0; c < dims_; ++c) {
      parts[c % parts.size()] += static_cast<T>(q[c]) * static_cast<T>(k[c]);
    }
    const T score = scale_ * std::accumulate(parts.begin(), parts.end(), T{0});
    const T maximum = std::max(state.maximum, score);
    const T kept = state.maximum == none ? T{0} : std::exp2(state.maximum - maximum);
    const T added = std::exp2(score - maximum);
    state.maximum = maximum;
    state.sum = state.sum * kept + added;
    for (std::size_t c = 0; c < dims_; ++c) {
      state.output[c] = state.output[c] * kept + added * static_cast<T>(v[c]);
    }
  }

  void merge(State& state, T other_maximum, T other_sum, const T* other_output) const {
    if (other_maximum == none) return;
    const T maximum = std::max(state.maximum, other_maximum);
    const T kept = state.maximum == none ? T{0} : std::exp2(state.maximum - maximum);
    const T added = std::exp2(other_maximum - maximum);
    state.maximum = maximum;
    state.sum = state.sum * kept + other_sum * added;
    for (std::size_t c = 0; c < dims_; ++c) {
      state.output[c] = state.output[c] * kept + (other_output == nullptr ? T{0} : other_output[c] * added);
    }
  }

  void leave(const State& state, std::size_t place) {
    maxima_.at(place) = state.maximum;
    sums_[place] = state.sum;
    for (std::size_t c = 0; c < dims_; ++c) outputs_[place * dims_ + c] = state.output[c];
  }

  void take_states(State& state, const ra::detail::WorkItem& item, std::int32_t row) const {
    for (std::int32_t i = item.state_begin; i < item.state_end; ++i) {
      const ra::detail::StateSpan& states = work_.states[i];
      const std::int32_t position = states.rows.find(row);
      if (position < 0) continue;
      const auto place = static_cast<std::size_t>(item.carry + states.slot + position);
      merge(state, maxima_.at(place), sums_[place], outputs_.data() + place * dims_);
    }
  }

  void write(const State& state, const ra::detail::WorkItem& item, std::int32_t row) const {
    Scalar* out = out_.row(item.batch_item, row, item.head);
    for (std::size_t c = 0; c < dims_; ++c) {
      out[c] = state.sum == T{0} ? Scalar(0) : Scalar(state.output[c] / state.sum);
    }
    *lse_.row(item.batch_item, item.head, row) =
        state.sum == T{0} ? none : std::numbers::ln2_v<T> * (state.maximum + std::log2(state.sum));
  }

  std::vector<std::byte> memory_;
  ra::detail::WorkView work_;
  std::vector<ra::detail::ListPointers> lists_;
  std::int32_t block_size_;
  bool causal_;
  T scale_;
  Input q_, k_, v_;
  ra::TensorView<Scalar> out_;
  ra::TensorView<T> lse_;
  std::size_t dims_;
  std::vector<T> maxima_, sums_, outputs_;
};

}  // namespace test
