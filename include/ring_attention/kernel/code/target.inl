// The kernel of one instruction set: what is compiled once for each. Read by targets.hpp within the region of
// a target, whose macros it uses and ends; what it needs from other headers is read there, before any region.

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace RING_ATTENTION_TARGET {

// Each uses those before it.
#include <ring_attention/kernel/code/lanes.inl>
//
#include <ring_attention/kernel/code/exp2.inl>
#include <ring_attention/kernel/code/register_tile.inl>
#include <ring_attention/kernel/code/visible_keys.inl>
//
#include <ring_attention/kernel/code/rows.inl>
//
#include <ring_attention/kernel/code/forward.inl>
//
#include <ring_attention/kernel/code/backward.inl>
#if RING_ATTENTION_TARGET_BF16
#include <ring_attention/kernel/code/pair_forward.inl>
//
#include <ring_attention/kernel/code/pair_backward.inl>
#endif
#include <ring_attention/kernel/code/table.inl>
#if RING_ATTENTION_TARGET_BF16
#include <ring_attention/kernel/code/tile_layout.inl>
#include <ring_attention/kernel/code/tile_products.inl>
//
#include <ring_attention/kernel/code/tile_forward.inl>
#endif

}  // namespace RING_ATTENTION_TARGET
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#undef RING_ATTENTION_TARGET
#undef RING_ATTENTION_TARGET_NAME
#undef RING_ATTENTION_TARGET_BYTES
#undef RING_ATTENTION_TARGET_REGISTERS
#undef RING_ATTENTION_TARGET_F16C
#undef RING_ATTENTION_TARGET_AVX512
#undef RING_ATTENTION_TARGET_BF16
