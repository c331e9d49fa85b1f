// What a caller's unit costs to compile: the umbrella and one class.
#include <ring_attention/ring_attention.hpp>

template class ring_attention::RingDilatedAttentionV2<float>;
