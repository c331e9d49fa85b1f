// A message of keys and values, or of their gradients, between ring members.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/plan/transfer.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// The rows of a transfer: all those of keys, then all those of values, head_dim elements each.
template <class Element>
class KeyMessage {
 public:
  using Bytes = std::conditional_t<std::is_const_v<Element>, const std::byte, std::byte>;

  KeyMessage() = default;
  KeyMessage(const detail::Transfer& transfer, std::span<Bytes> bytes, std::int64_t head_dim)
      : transfer_(&transfer), data_(reinterpret_cast<Element*>(bytes.data())), head_dim_(head_dim) {}

  static std::size_t bytes(const detail::Transfer& transfer, std::int64_t head_dim) {
    return static_cast<std::size_t>(2 * transfer.rows() * head_dim) * sizeof(Element);
  }

  const detail::Transfer& transfer() const { return *transfer_; }
  Element* data() const { return data_; }
  std::int64_t size() const { return 2 * transfer_->rows() * head_dim_; }  ///< elements

  /// Walks the keys of a meeting that lie among the tokens [begin, end).
  detail::Transfer::Places places(std::int64_t item, std::int64_t kv_head, const detail::Meeting& meeting,
                                  std::int64_t begin, std::int64_t end) const;
  /// The rows of a place.
  KeyRows<Element> at(const detail::KeyPlace& place, std::int64_t, std::int64_t) const {
    Element* const keys = data_ + place.message_row * head_dim_;
    return {{keys, head_dim_}, {keys + transfer_->rows() * head_dim_, head_dim_}};
  }
  /// The rows of a piece of the transfer.
  KeyRows<Element> of_piece(const detail::TransferPiece& piece) const {
    return at({piece.tokens, piece.first_row}, piece.item, piece.kv_head);
  }

 private:
  const detail::Transfer* transfer_ = nullptr;
  Element* data_ = nullptr;
  std::int64_t head_dim_ = 0;
};

#if RING_ATTENTION_DEFINES_ENGINE
template <class Element>
detail::Transfer::Places KeyMessage<Element>::places(std::int64_t item, std::int64_t kv_head,
                                                     const detail::Meeting& meeting, std::int64_t begin,
                                                     std::int64_t end) const {
  return {*transfer_, item, kv_head, meeting, begin, end};
}
#endif

/// Copies the keys and values of a message from the tensors of the member that sends it.
template <class Scalar>
void pack_keys(const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
               const detail::TokenRows& rows, const KeyMessage<Scalar>& message) {
  const std::int64_t head_dim = k.shape()[3];
  for (const detail::TransferPiece& piece : message.transfer().pieces()) {
    const KeyRows<Scalar> to = message.of_piece(piece);
    for (std::int64_t i = 0; i < piece.tokens.count; ++i) {
      const std::int64_t row = rows(piece.tokens[i]);
      std::copy_n(k.row(piece.item, row, piece.kv_head), head_dim, to.keys[i]);
      std::copy_n(v.row(piece.item, row, piece.kv_head), head_dim, to.values[i]);
    }
  }
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
