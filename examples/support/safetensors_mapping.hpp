// A safetensors file whose tensors are used where they lie in the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

#include "file_mapping.hpp"
#include "safetensors_reader.hpp"

namespace safetensors {

/// A File that is mapped as a whole: its bytes are read once, when they are used.
class MappedFile : public File {
 public:
  /// Throws Error.
  explicit MappedFile(const std::string& path) : File(path), mapping_(map()) {}

  const std::byte* bytes(const TensorInfo& tensor) const {
    return mapping_.data() + data_begin() + tensor.begin;
  }

  /// Gives back the memory of bytes [begin, end) of a tensor that nobody will want again soon.
  void forget(const TensorInfo& tensor, std::uint64_t begin, std::uint64_t end) const {
    mapping_.forget(data_begin() + tensor.begin + begin, data_begin() + tensor.begin + end);
  }

 private:
  detail::FileMapping map() const {
    try {
      return {descriptor(), file_bytes()};
    } catch (const std::system_error& error) {
      throw Error(path() + ": cannot map: " + error.code().message());
    }
  }

  detail::FileMapping mapping_;
};

}  // namespace safetensors
