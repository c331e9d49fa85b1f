// Working memory: one aligned block per thread, carved into typed arrays of sizes known beforehand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <ring_attention/tensor.hpp>
#include <utility>

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

/// Uninitialized, aligned memory that is kept while it is large enough.
class Block {
 public:
  std::byte* reserve(std::size_t bytes) {
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{tensor_alignment})));
      size_ = bytes;
    }
    return memory_.get();
  }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte, AlignedDelete> memory_;
  std::size_t size_ = 0;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
