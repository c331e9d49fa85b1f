// Macros that other headers and environments define before a program includes the library: Qt, windows.h,
// X11, old Mac headers, <complex.h>, <termios.h>, <sys/sysmacros.h>, <math.h>. Compiled, and never linked.
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cmath>
#include <compare>
#include <complex>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>
#if !defined(RING_ATTENTION_CHECK_WITHOUT_MPI)
#include <mpi.h>
#endif
#if __has_include(<termios.h>) && __has_include(<sys/sysmacros.h>)
#include <sys/sysmacros.h>
#include <termios.h>
#endif
#include <complex.h>  // in GNU modes of g++ it defines I

#undef I
#undef major
#undef minor
#undef B0
#undef OVERFLOW
#undef DOMAIN

// Qt
#define slots
#define signals public
#define emit
#define foreach(variable, container) for (variable : container)
#define forever for (;;)
// <complex.h>
#define I _Complex_I
#define complex _Complex
#define imaginary _Imaginary
// windows.h
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define near
#define far
#define small char
#define hyper long long
#define interface struct
#define IN
#define OUT
#define OPTIONAL
#define ERROR 0
#define DELETE 0x00010000L
#define CONST const
#define VOID void
#define TRUE 1
#define FALSE 0
#define ABSOLUTE 1
#define RELATIVE 2
#define STRICT 1
#define THIS void
#define Yield()
#define GetObject GetObjectW
#define SendMessage SendMessageW
// X11
#define Bool int
#define Status int
#define None 0L
#define Success 0
#define True 1
#define False 0
#define Always 2
#define Complex 0
#define Above 0
#define Below 1
// Old Mac headers, and kernels' and test frameworks'
#define check(assertion) \
  do not use
#define verify(assertion) \
  do not use
#define require(assertion, label) \
  do not use
#define nil 0
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define CHECK(x) \
  do not use
#define REQUIRE(x) \
  do not use
#define LOG(x) \
  do not use
#define PI 3.14159265358979323846
#define DEBUG 1
#define VERSION "1.0"
// <sys/sysmacros.h>, <termios.h>, <math.h>
#define major(device) \
  do not use
#define minor(device) \
  do not use
#define B0 0000000
#define B1 0000001
#define OVERFLOW 3
#define UNDERFLOW 4
#define DOMAIN 1
#define SING 2
#define HUGE 3.40282347e+38F

#include "all_headers.inl"

template void every_class::call<float>(const ra::AttentionConfig&);
