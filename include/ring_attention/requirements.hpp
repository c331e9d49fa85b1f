// What the library needs of a compiler and its flags. Whatever is missing is one #error: including a file
// that does not exist stops the compiler there, where it would otherwise report every line that needs the
// same.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#error \
    "ring_attention needs vector extensions that MSVC's cl lacks: compile with clang++ 13 or later, or with g++ 12 or later"
#define RING_ATTENTION_CANNOT_COMPILE
#elif defined(__clang__) ? __clang_major__ < 13 : __GNUC__ < 12
#error "ring_attention needs g++ 12 or later, or clang++ 13 or later"
#define RING_ATTENTION_CANNOT_COMPILE
#elif __cplusplus < 202002L
#error "ring_attention needs C++20: compile with -std=c++20 or link the CMake target, which asks for it"
#define RING_ATTENTION_CANNOT_COMPILE
#elif !defined(__cpp_exceptions)
#error "ring_attention reports errors by exceptions: build without -fno-exceptions"
#define RING_ATTENTION_CANNOT_COMPILE
#elif defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error \
    "ring_attention needs infinities, NaN and exact rounding: build without -ffast-math, -ffinite-math-only and -fassociative-math"
#define RING_ATTENTION_CANNOT_COMPILE
#elif defined(__i386__) && __FLT_EVAL_METHOD__ != 0
#error \
    "ring_attention needs exact rounding, which the x87 lacks: build for 32-bit x86 with -msse2 -mfpmath=sse"
#define RING_ATTENTION_CANNOT_COMPILE
#endif

#if defined(RING_ATTENTION_CANNOT_COMPILE)
#include <ring_attention/see_the_error_above>
#endif
