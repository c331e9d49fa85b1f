// Memory without a type: aligned as tensors are.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <ring_attention/tensor.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

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
  std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte, AlignedDelete> memory_;
  std::size_t size_ = 0;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
