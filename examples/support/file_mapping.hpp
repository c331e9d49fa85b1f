// A file as read-only memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <system_error>
#include <utility>

namespace safetensors::detail {

/// Pages come from the disk when they are touched, and processes that map the same file share them. A file
/// that is cut short while it is mapped ends the process: replace such files by a rename.
class FileMapping {
 public:
  /// Throws std::system_error.
  FileMapping(int descriptor, std::uint64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    void* memory = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category());
    data_ = static_cast<const std::byte*>(memory);
  }
  FileMapping(FileMapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  FileMapping& operator=(FileMapping&&) = delete;
  ~FileMapping() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), bytes_);
  }

  const std::byte* data() const { return data_; }

  /// Gives the memory of these bytes back: they would be read again if they were touched again.
  void forget(std::uint64_t begin, std::uint64_t end) const {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t first = (begin + page - 1) / page * page;
    const std::uint64_t last = end / page * page;
    if (first >= last) return;
    ::madvise(const_cast<std::byte*>(data_) + first, static_cast<std::size_t>(last - first), MADV_DONTNEED);
  }

 private:
  const std::byte* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace safetensors::detail
