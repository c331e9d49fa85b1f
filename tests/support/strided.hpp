// Strided memory for a [b, n, h, d] tensor with gaps whose contents are watched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ring_attention/tensor.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/random.hpp"

namespace test {

namespace ra = ring_attention;

/// How a tensor lies in memory; gaps and the base are in elements.
struct Layout {
  bool heads_first = false;  // [b, h, n, d] memory
  std::int64_t row_gap = 0;
  std::int64_t group_gap = 0;
  std::int64_t batch_gap = 0;
  std::int64_t base = 0;  // 1: not even aligned to two elements
  bool reverse_batch = false;
  bool reverse_tokens = false;
  bool reverse_heads = false;
  bool one_batch = false;  // every batch item is the same memory (inputs only)
  bool one_head = false;   // every head is the same memory (inputs only)

  std::string describe() const {
    std::string text = heads_first ? "bhnd" : "bnhd";
    const auto gap = [&text](const char* name, std::int64_t size) {
      if (size != 0) text += std::string(" ") + name + std::to_string(size);
    };
    gap("row+", row_gap);
    gap("group+", group_gap);
    gap("batch+", batch_gap);
    gap("base+", base);
    if (reverse_batch) text += " -b";
    if (reverse_tokens) text += " -n";
    if (reverse_heads) text += " -h";
    if (one_batch) text += " b*0";
    if (one_head) text += " h*0";
    return text;
  }
};

inline Layout random_layout(Random& random, bool is_input) {
  Layout layout;
  if (random.chance(0.4)) return layout;
  layout.heads_first = random.chance(0.5);
  if (random.chance(0.5)) layout.row_gap = random.integer(1, 17);
  if (random.chance(0.3)) layout.group_gap = random.integer(1, 40);
  if (random.chance(0.3)) layout.batch_gap = random.integer(1, 40);
  if (random.chance(0.5)) layout.base = random.pick({1, 1, 3, 5});
  layout.reverse_batch = random.chance(0.15);
  layout.reverse_tokens = random.chance(0.15);
  layout.reverse_heads = random.chance(0.15);
  layout.one_batch = is_input && random.chance(0.1);
  layout.one_head = is_input && random.chance(0.1);
  return layout;
}

/// Owns the memory; every element starts as `filler`.
template <class T>
class Strided {
 public:
  Strided(const ra::Shape& shape, const Layout& layout, T filler) : filler_(filler) {
    const auto [batches, tokens, heads, dim] = shape;
    const std::int64_t row = dim + layout.row_gap;
    const std::int64_t stored_tokens = tokens;
    const std::int64_t stored_heads = layout.one_head ? 1 : heads;
    std::int64_t stride_n = 0;
    std::int64_t stride_h = 0;
    std::int64_t stride_b = 0;
    if (layout.heads_first) {
      stride_n = row;
      stride_h = stored_tokens * row + layout.group_gap;
      stride_b = stored_heads * stride_h + layout.batch_gap;
    } else {
      stride_h = row;
      stride_n = stored_heads * row + layout.group_gap;
      stride_b = stored_tokens * stride_n + layout.batch_gap;
    }
    const std::int64_t stored_batches = layout.one_batch ? 1 : batches;
    storage_.assign(static_cast<std::size_t>(layout.base + stored_batches * stride_b + 8), filler);
    if (layout.one_head) stride_h = 0;
    if (layout.one_batch) stride_b = 0;
    T* first = storage_.data() + layout.base;
    const auto reverse = [&first](bool wanted, std::int64_t extent, std::int64_t& stride) {
      if (!wanted || extent == 0) return;
      first += (extent - 1) * stride;
      stride = -stride;
    };
    reverse(layout.reverse_batch, batches, stride_b);
    reverse(layout.reverse_tokens, tokens, stride_n);
    reverse(layout.reverse_heads, heads, stride_h);
    view_ = ra::TensorView<T>(first, shape, {stride_b, stride_n, stride_h});
  }

  const ra::TensorView<T>& view() const { return view_; }
  ra::TensorView<const T> const_view() const { return view_; }

  /// Whether no element outside the view has changed.
  bool gaps_untouched() const {
    std::vector<bool> inside(storage_.size());
    const auto [batches, tokens, heads, dim] = view_.shape();
    for (std::int64_t b = 0; b < batches; ++b) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t head = 0; head < heads; ++head) {
          const std::int64_t at = view_.row(b, t, head) - storage_.data();
          for (std::int64_t c = 0; c < dim; ++c) inside[static_cast<std::size_t>(at + c)] = true;
        }
      }
    }
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      if (!inside[i] && std::memcmp(&storage_[i], &filler_, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  T filler_;
  std::vector<T> storage_;
  ra::TensorView<T> view_;
};

}  // namespace test
