// What RingDilatedAttentionProduction is given and gives back beside tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <ring_attention/version.hpp>
#include <string>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What a RingDilatedAttentionProduction is made with.
struct ProductionOptions {
  /// All working memory of one call, beyond inputs, outputs, its plan and lists of work. Smaller values mean
  /// smaller chunks, the same result up to rounding, and less speed.
  std::size_t workspace_limit_bytes = (std::numeric_limits<std::size_t>::max)();
  /// Refuse q, k, v and grad_out that hold infinities or NaN.
  bool check_finite = false;
};

/// Sums over all calls of one object.
struct ProductionCounters {
  std::uint64_t forward_calls = 0;    ///< forward calls that returned
  std::uint64_t backward_calls = 0;   ///< backward calls that returned
  std::uint64_t tokens = 0;           ///< batch size x sequence length, forward and backward
  double seconds = 0;                 ///< in forward and backward
  std::uint64_t workspace_bytes = 0;  ///< largest working memory of one call so far
  std::uint64_t cache_hits = 0;       ///< pattern lookups answered from the cache
  std::uint64_t cache_misses = 0;     ///< pattern lookups that had to compute
};

/// Not even the smallest workspace could be allocated. Inputs and outputs are untouched.
class OutOfWorkspace : public std::bad_alloc {
 public:
  /// `bytes` is the size of the smallest workspace.
  explicit OutOfWorkspace(std::size_t bytes)
      : text_(std::make_shared<const std::string>("no memory for the smallest workspace of this call, " +
                                                  std::to_string(bytes) + " bytes")) {}
  /// Says how many bytes were asked for.
  const char* what() const noexcept override { return text_->c_str(); }

 private:
  std::shared_ptr<const std::string> text_;
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
