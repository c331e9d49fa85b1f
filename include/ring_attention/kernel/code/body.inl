// Everything that is compiled once per instruction set. Read by targets.hpp within the namespace and the
// region of a target, whose macros it uses; std headers are read there, before any target's region.
#include <ring_attention/kernel/code/lanes.inl>
//
#include <ring_attention/kernel/code/exp2.inl>
#include <ring_attention/kernel/code/register_tile.inl>
#include <ring_attention/kernel/code/rows.inl>
//
#include <ring_attention/kernel/code/forward.inl>
#if RING_ATTENTION_TARGET_BF16
#include <ring_attention/kernel/code/pair_forward.inl>
#endif
//
#include <ring_attention/kernel/code/backward.inl>
#if RING_ATTENTION_TARGET_BF16
#include <ring_attention/kernel/code/pair_backward.inl>
#endif
#include <ring_attention/kernel/code/table.inl>
