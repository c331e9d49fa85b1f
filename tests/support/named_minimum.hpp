// What the error of a workspace limit of one byte says would do.
#pragma once

#include <cstddef>
#include <string>

#include "support/catch.hpp"
#include "support/error_text.hpp"

namespace test {

/// The number behind "at least".
template <class Call>
std::size_t named_minimum(const Call& call_with_limit_1) {
  const std::string text = error_text(call_with_limit_1);
  INFO(text);
  const std::string before = "workspace_limit_bytes = 1: a call of this shape needs at least ";
  REQUIRE(text.starts_with(before));
  REQUIRE(text.ends_with(" bytes"));
  return std::stoull(text.substr(before.size()));
}

}  // namespace test
