// A file descriptor that closes itself, and whole reads and writes through it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

namespace safetensors::detail {

class FileHandle {
 public:
  FileHandle() = default;
  FileHandle(const std::string& path, int flags, unsigned mode = 0)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  FileHandle(FileHandle&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileHandle& operator=(FileHandle&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FileHandle() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  bool is_open() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }

  /// Bytes read, fewer than asked for only at the end of the file. Throws std::system_error.
  std::size_t read_at(std::uint64_t offset, std::byte* target, std::size_t bytes) const {
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t got =
          ::pread(descriptor_, target + done, bytes - done, static_cast<off_t>(offset + done));
      if (got == 0) break;
      if (got < 0 && errno != EINTR) throw std::system_error(errno, std::generic_category());
      if (got > 0) done += static_cast<std::size_t>(got);
    }
    return done;
  }

  /// Throws std::system_error.
  void write(const std::byte* source, std::size_t bytes) const {
    while (bytes > 0) {
      const ssize_t put = ::write(descriptor_, source, bytes);
      if (put < 0 && errno != EINTR) throw std::system_error(errno, std::generic_category());
      if (put > 0) {
        source += put;
        bytes -= static_cast<std::size_t>(put);
      }
    }
  }

  /// Forces the contents to the disk and closes, so that a late write error is not lost. Throws
  /// std::system_error.
  void sync_and_close() {
    const bool failed = ::fsync(descriptor_) != 0;
    const int sync_error = errno;
    const bool close_failed = ::close(std::exchange(descriptor_, -1)) != 0;
    if (failed) throw std::system_error(sync_error, std::generic_category());
    if (close_failed) throw std::system_error(errno, std::generic_category());
  }

 private:
  int descriptor_ = -1;
};

}  // namespace safetensors::detail
