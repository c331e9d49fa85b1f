// suites: instructions
// A build with RING_ATTENTION_PORTABLE, which is what a compiler for another processor makes of the library.
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <vector>

#include "support/catch.hpp"

#if defined(RING_ATTENTION_PORTABLE)

// g++'s and clang++'s guards of the header of all intrinsics.
#if defined(_IMMINTRIN_H_INCLUDED) || defined(__IMMINTRIN_H)
#error "a portable build has read immintrin.h"
#endif

TEST_CASE("a portable build has the generic kernel alone", "[kernel]") {
  CHECK(ring_attention::available_kernels() == std::vector<std::string>{"generic"});
  CHECK_THROWS_AS(ring_attention::set_kernel("avx2"), std::invalid_argument);
}

#endif
