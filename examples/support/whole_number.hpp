// Numbers from texts that hold nothing else.
#pragma once

#include <charconv>
#include <limits>
#include <locale>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

/// The number that fills the whole text, or nothing. Floating-point numbers come from a stream, because
/// libc++ before version 20 has no std::from_chars for them; whatever the program's locale, with a point.
template <class Number>
std::optional<Number> whole_number(std::string_view text) {
  Number value{};
  if constexpr (std::is_integral_v<Number>) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  } else {
    for (const Number special :
         {std::numeric_limits<Number>::infinity(), std::numeric_limits<Number>::quiet_NaN()}) {
      const std::string_view name = special > 0 ? "inf" : "nan";  // streams know neither
      if (text == name) return special;
      if (text.substr(0, 1) == "-" && text.substr(1) == name) return -special;
    }
    std::istringstream stream{std::string(text)};
    stream.imbue(std::locale::classic());
    if (text.substr(0, 1) == "+" || !(stream >> std::noskipws >> value)) return std::nullopt;
    if (stream.peek() != std::istringstream::traits_type::eof()) return std::nullopt;
  }
  return value;
}
