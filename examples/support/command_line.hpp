// Reads "--name value", "--name=value" and "--flag" arguments; every mistake is told with the argument's
// name.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "whole_number.hpp"

namespace command_line {

/// A mistake on the command line.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A number that fills the whole text.
template <class Number>
Number parse_number(const std::string& name, std::string_view text) {
  const std::optional<Number> value = whole_number<Number>(text);
  if (!value) {
    throw Error(name + " = \"" + std::string(text) + "\": must be " +
                (std::is_integral_v<Number> ? "an integer" : "a number"));
  }
  return *value;
}

/// Integers separated by commas.
inline std::vector<std::int64_t> parse_list(const std::string& name, std::string_view text) {
  std::vector<std::int64_t> values;
  while (true) {
    const std::size_t comma = text.find(',');
    values.push_back(parse_number<std::int64_t>(name, text.substr(0, comma)));
    if (comma == std::string_view::npos) return values;
    text.remove_prefix(comma + 1);
  }
}

/// One of several words.
template <class Value>
Value parse_choice(const std::string& name, std::string_view text,
                   std::initializer_list<std::pair<std::string_view, Value>> choices) {
  std::string known;
  for (const auto& [word, value] : choices) {
    if (word == text) return value;
    known.append(known.empty() ? "" : ", ").append(word);
  }
  throw Error(name + " = \"" + std::string(text) + "\": must be one of " + known);
}

/// What was said. Of an argument given twice the last one counts.
class Arguments {
 public:
  /// Throws Error for an argument that is in neither list, or one without its value.
  Arguments(int argc, const char* const* argv, const std::set<std::string>& options,
            const std::set<std::string>& flags) {
    for (int i = 1; i < argc; ++i) {
      const std::string argument = argv[i];
      const std::size_t equals = argument.find('=');
      const std::string name = argument.substr(0, equals);
      if (flags.contains(name)) {
        if (equals != std::string::npos) throw Error(name + " takes no value");
        values_[name] = "";
      } else if (options.contains(name)) {
        if (equals == std::string::npos && i + 1 == argc) throw Error(name + " needs a value");
        values_[name] = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
      } else {
        throw Error("unknown argument \"" + argument + "\" (see --help)");
      }
    }
  }

  bool has(const std::string& name) const { return values_.contains(name); }

  /// The value, or an empty text where the argument was not given.
  std::string text(const std::string& name) const { return has(name) ? values_.at(name) : std::string(); }

  std::vector<std::int64_t> list(const std::string& name) const {
    return has(name) ? parse_list(name, values_.at(name)) : std::vector<std::int64_t>();
  }

  template <class Number>
  std::optional<Number> number(const std::string& name) const {
    if (!has(name)) return std::nullopt;
    return parse_number<Number>(name, values_.at(name));
  }

  /// Throws Error for a number that is not positive, too.
  template <class Number>
  std::optional<Number> positive(const std::string& name) const {
    const std::optional<Number> value = number<Number>(name);
    if (value && !(*value > Number(0))) throw Error(name + " = " + text(name) + ": must be positive");
    return value;
  }

  /// Overwrites `target` where the argument was given.
  template <class Value>
  void choose(const std::string& name, std::initializer_list<std::pair<std::string_view, Value>> choices,
              Value& target) const {
    if (has(name)) target = parse_choice(name, values_.at(name), choices);
  }

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace command_line
