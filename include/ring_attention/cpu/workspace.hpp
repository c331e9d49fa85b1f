// Working memory: one aligned block, carved into typed arrays of sizes known beforehand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/tensor.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Hands out consecutive arrays of a block. Without a block it only counts, so that the code that lays a
/// workspace out is also the code that sizes it.
class Carver {
 public:
  explicit Carver(std::byte* block = nullptr) : block_(block) {}

  template <class U>
  U* take(std::int64_t count) {
    U* array = block_ != nullptr ? reinterpret_cast<U*>(block_ + used_) : nullptr;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(U);
    used_ += (bytes + tensor_alignment - 1) / tensor_alignment * tensor_alignment;
    return array;
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

/// A part of a block for each thread; lay_out(carver) carves what one needs.
class ThreadParts {
 public:
  ThreadParts() = default;
  template <class LayOut>
  ThreadParts(Carver& carver, int threads, const LayOut& lay_out) {
    Carver one;
    lay_out(one);
    bytes_ = one.used();
    begin_ = carver.take<std::byte>(static_cast<std::int64_t>(bytes_) * threads);
  }

  Carver of(int thread) const { return Carver(begin_ + bytes_ * static_cast<std::size_t>(thread)); }

 private:
  std::byte* begin_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
