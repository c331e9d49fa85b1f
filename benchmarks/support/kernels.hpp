// The kernels that the library offers on this machine. One that lets nobody choose counts as offering the
// kernel that it is compiled with.
#pragma once

#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// What stands in for the library's functions where it has none: templates, so that these lose to them.
namespace kernel_fallback {

template <class = void>
std::vector<std::string> available_kernels() {
#if defined(__AVX512F__)
  return {"avx512"};
#elif defined(__AVX2__) && defined(__FMA__)
  return {"avx2"};
#else
  return {"generic"};
#endif
}

template <class Name>
void set_kernel(const Name& name) {
  const std::string only = available_kernels().front();
  if (name != only) {
    throw std::invalid_argument("kernel = \"" + std::string(name) + "\": this library has only " + only);
  }
}

}  // namespace kernel_fallback

namespace benchmarks {
namespace detail {

using namespace ring_attention;
using namespace kernel_fallback;

inline std::vector<std::string> list_kernels() { return available_kernels(); }
inline void choose_kernel(std::string_view name) { set_kernel(name); }

}  // namespace detail

/// Names, best first.
inline std::vector<std::string> kernel_names() { return detail::list_kernels(); }

/// Throws std::invalid_argument for a name that is not offered.
inline void use_kernel(std::string_view name) { detail::choose_kernel(name); }

}  // namespace benchmarks
