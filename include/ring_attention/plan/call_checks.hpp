// Checks of the tensors of a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/error.hpp>
#include <ring_attention/memory_overlap.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

CallShape check_shapes(const Shape& q, const Shape& k, const Shape& v);
/// The same checks of extents that stand for tensors yet to come.
void check_call_shape(const CallShape& shape);

/// Checks that q [b, n, h, d], k and v [b, n, h_kv, d] fit together; returns their extents.
template <class View>
CallShape check_inputs(const View& q, const View& k, const View& v) {
  return check_shapes(q.shape(), k.shape(), v.shape());
}

inline Shape lse_shape(const Shape& q_shape) { return {q_shape[0], q_shape[2], q_shape[1], 1}; }

void check_shape(std::string_view name, const Shape& shape, const Shape& expected);

[[noreturn]] void throw_rows_overlap(std::string_view name, const Strides& strides, const Shape& shape);
[[noreturn]] void throw_shared_memory(std::string_view name, std::string_view other_name);

/// Checks a tensor that a call writes to.
template <class View>
void check_output(std::string_view name, const View& view, const Shape& expected) {
  check_shape(name, view.shape(), expected);
  if (rows_overlap(view)) throw_rows_overlap(name, view.strides(), expected);
}

/// Checks that a tensor that a call writes to shares no memory with another of its tensors.
template <class Output, class Other>
void check_apart(std::string_view name, const Output& output, std::string_view other_name,
                 const Other& other) {
  if (views_overlap(output, other)) throw_shared_memory(name, other_name);
}

/// Checks the caller's output of a forward call, and its log-sum-exp if it is wanted: their shapes, and that
/// they share no memory with another tensor of the call. lse may be a view without data.
template <class Input, class Output, class Lse>
void check_forward_outputs(const Input& q, const Input& k, const Input& v, const Output& out, const Lse& lse,
                           bool with_lse) {
  check_output("out", out, q.shape());
  if (with_lse) check_output("lse", lse, lse_shape(q.shape()));
  check_apart("out", out, "q", q);
  check_apart("out", out, "k", k);
  check_apart("out", out, "v", v);
  check_apart("lse", lse, "q", q);
  check_apart("lse", lse, "k", k);
  check_apart("lse", lse, "v", v);
  check_apart("lse", lse, "out", out);
}

#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE void require_head_groups(std::int64_t heads, std::int64_t kv_heads) {
  if (heads % kv_heads == 0) return;
  throw_invalid("q heads", heads,
                "must be a multiple of the key/value heads, of which k has " + std::to_string(kv_heads));
}

RING_ATTENTION_INLINE CallShape check_shapes(const Shape& q, const Shape& k, const Shape& v) {
  const auto [b, n, h, d] = q;
  const std::int64_t kv_heads = k[2];
  require_positive("q heads", h);
  require_positive("q head dimension", d);
  require_positive("k heads", kv_heads);
  if (k != Shape{b, n, kv_heads, d}) {
    throw_invalid("k shape", to_string(k), "must agree with q in b, n and d; q has shape " + to_string(q));
  }
  if (v != k) {
    throw_invalid("v shape", to_string(v), "must equal the shape of k, " + to_string(k));
  }
  require_head_groups(h, kv_heads);
  return {b, n, h, kv_heads, d};
}

RING_ATTENTION_INLINE void check_call_shape(const CallShape& shape) {
  if (shape.batch < 0) throw_invalid("q batch size", shape.batch, "must not be negative");
  if (shape.tokens < 0) throw_invalid("q tokens", shape.tokens, "must not be negative");
  require_positive("q heads", shape.heads);
  require_positive("q head dimension", shape.head_dim);
  require_positive("k heads", shape.kv_heads);
  require_head_groups(shape.heads, shape.kv_heads);
}

RING_ATTENTION_INLINE void check_shape(std::string_view name, const Shape& shape, const Shape& expected) {
  if (shape != expected) {
    throw_invalid(std::string(name) + " shape", to_string(shape), "must be " + to_string(expected));
  }
}

RING_ATTENTION_INLINE void throw_rows_overlap(std::string_view name, const Strides& strides,
                                              const Shape& shape) {
  for (std::size_t axis = 0; axis < strides.size(); ++axis) {
    if (strides[axis] == 0 && shape[axis] > 1) {
      throw_invalid(element_name(std::string(name) + " strides", axis), std::int64_t{0},
                    "rows that are written must not share memory");
    }
  }
  std::string text;
  for (const std::int64_t stride : strides) text += (text.empty() ? "" : ", ") + std::to_string(stride);
  throw_invalid(std::string(name) + " strides", "[" + text + "]",
                "rows that are written must not share memory, and rows of shape " + to_string(shape) + " do");
}

RING_ATTENTION_INLINE void throw_shared_memory(std::string_view name, std::string_view other_name) {
  throw_invalid(name, "memory of " + std::string(other_name),
                "what a call writes must not share memory with what it reads or writes besides");
}

#endif

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
