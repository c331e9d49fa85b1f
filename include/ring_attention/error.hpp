// How invalid use is told: std::invalid_argument with "argument = value: rule".
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/version.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

std::string invalid_text(std::string_view argument, std::string_view value, std::string_view rule);

[[noreturn]] void throw_invalid(std::string_view argument, std::string_view value, std::string_view rule);
[[noreturn]] void throw_invalid(std::string_view argument, std::int64_t value, std::string_view rule);

inline void require_positive(std::string_view argument, std::int64_t value) {
  if (value <= 0) throw_invalid(argument, value, "must be positive");
}

std::string element_name(std::string_view list, std::size_t index);

#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE std::string invalid_text(std::string_view argument, std::string_view value,
                                               std::string_view rule) {
  std::string text(argument);
  return text.append(" = ").append(value).append(": ").append(rule);
}

RING_ATTENTION_INLINE void throw_invalid(std::string_view argument, std::string_view value,
                                         std::string_view rule) {
  throw std::invalid_argument(invalid_text(argument, value, rule));
}

RING_ATTENTION_INLINE void throw_invalid(std::string_view argument, std::int64_t value,
                                         std::string_view rule) {
  throw_invalid(argument, std::to_string(value), rule);
}

RING_ATTENTION_INLINE std::string element_name(std::string_view list, std::size_t index) {
  return std::string(list).append("[").append(std::to_string(index)).append("]");
}

#endif

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
