// The text of the std::invalid_argument that a call throws.
#pragma once

#include <stdexcept>
#include <string>

namespace test {

/// "no error" where the call returns; any other exception goes through.
template <class Call>
std::string error_text(Call&& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace test
