// The pattern of any key.
#pragma once

#include <memory>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/version.hpp>

#if RING_ATTENTION_DEFINES_ENGINE
#include <ring_attention/pattern/block_indices.hpp>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Computes the lists of a key of one of the kinds that list blocks: list i holds the key blocks of query
/// block i, ascending. Throws std::invalid_argument for a key that breaks a rule.
std::shared_ptr<const DilatedIndices> make_block_indices(const PatternKey& key);

/// Computes the pattern of a key of any kind. Throws std::invalid_argument for a key that breaks a rule.
std::shared_ptr<const DilatedIndices> make_indices(const PatternKey& key);

#if RING_ATTENTION_DEFINES_ENGINE
RING_ATTENTION_INLINE std::shared_ptr<const DilatedIndices> make_indices(const PatternKey& key) {
  return key.kind == PatternKind::dilated ? make_dilated_indices(key) : make_block_indices(key);
}
#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
