// Files through POSIX: mapped for reading, synchronized before they replace another.
#pragma once

#include <ring_attention/pattern/standard_file.hpp>

#if __has_include(<sys/mman.h>) && __has_include(<unistd.h>)
#define RING_ATTENTION_HAS_POSIX_FILES 1
#else
#define RING_ATTENTION_HAS_POSIX_FILES 0
#endif

#if RING_ATTENTION_HAS_POSIX_FILES
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Repeats a system call that a signal interrupts.
template <class Call>
auto retry_interrupted(const Call& call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int number = -1) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }

  int get() const { return number_; }
  /// Returns 0, or -1 with errno set. Not repeated when interrupted: the number is free again in any case.
  int close() { return ::close(std::exchange(number_, -1)); }

 private:
  int number_;
};

class PosixInput {
 public:
  /// Throws std::filesystem::filesystem_error, as every member does.
  explicit PosixInput(std::filesystem::path path) : path_(std::move(path)) {
    // A pipe without a writer would block open().
    file_ = FileDescriptor(
        retry_interrupted([this] { return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
    struct stat status = {};
    if (file_.get() < 0 || ::fstat(file_.get(), &status) != 0) throw_file_error("read", path_, errno);
    if (S_ISDIR(status.st_mode)) throw_file_error("read", path_, EISDIR);
    if (!S_ISREG(status.st_mode)) throw_file_error("read", path_, EINVAL);
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  std::uint64_t size() const { return size_; }

  /// The first bytes of the file; the span returned is shorter where the file is.
  std::span<const std::byte> head(std::span<std::byte> target) {
    std::size_t done = 0;
    while (done < target.size()) {
      const std::size_t got = read(target.subspan(done), done);
      if (got == 0) break;
      done += got;
    }
    return target.first(done);
  }

  /// The file as it stands, cut down to whole words; mapped where the caller wants that and the system can.
  FileContents contents(bool map) {
    if (map && size_ > 0 && size_ <= (std::numeric_limits<std::size_t>::max)() / 2) {
      const std::size_t bytes = size_in_memory(size_);
      void* const address = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file_.get(), 0);
      if (address != MAP_FAILED) {
        std::shared_ptr<const void> owner(address, [bytes](void* mapped) { ::munmap(mapped, bytes); });
        const auto* words = static_cast<const std::int64_t*>(address);
        return {std::span(words, bytes / sizeof(std::int64_t)), std::move(owner), true};
      }
    }
    return read_contents(size_, path_, [this](std::span<std::byte> target, std::size_t offset) {
      return read(target, offset);
    });
  }

 private:
  std::size_t read(std::span<std::byte> target, std::size_t offset) {
    const ssize_t got = retry_interrupted(
        [&] { return ::pread(file_.get(), target.data(), target.size(), static_cast<off_t>(offset)); });
    if (got < 0) throw_file_error("read", path_, errno);
    return static_cast<std::size_t>(got);
  }

  std::filesystem::path path_;
  FileDescriptor file_;
  std::uint64_t size_ = 0;
};

/// A file written beside the one that it replaces. Until commit() the old one is untouched; without commit()
/// the new one is removed.
class PosixOutput {
 public:
  explicit PosixOutput(const std::filesystem::path& target) : target_(target) {
    path_ = create_temporary(target, [this](const std::filesystem::path& path) {
      // Nobody may write: processes that map the file rely on what they checked when they loaded it.
      constexpr mode_t everyone_reads = S_IRUSR | S_IRGRP | S_IROTH;
      file_ = FileDescriptor(retry_interrupted(
          [&path] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, everyone_reads); }));
      return file_.get() >= 0;
    });
  }
  PosixOutput(const PosixOutput&) = delete;
  PosixOutput& operator=(const PosixOutput&) = delete;
  ~PosixOutput() {
    if (!committed_) ::unlink(path_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done =
          retry_interrupted([&] { return ::write(file_.get(), bytes.data(), bytes.size()); });
      if (done < 0) throw_file_error("write", path_, errno);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  void overwrite_start(std::span<const std::byte> bytes) {
    if (::lseek(file_.get(), 0, SEEK_SET) != 0) throw_file_error("write", path_, errno);
    write(bytes);
  }

  /// Puts the file in the place of its target. Returns whether it is known to be on the device.
  bool commit() {
    const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
    if (retry_interrupted([this] { return ::fsync(file_.get()); }) != 0)
      throw_file_error("write", path_, errno);
    if (file_.close() != 0) throw_file_error("write", path_, errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) throw_file_error("replace", target_, errno);
    committed_ = true;
    // The new file is in place: an error from here on is no failure of the save.
    const FileDescriptor opened(
        retry_interrupted([&folder] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    return opened.get() >= 0 && retry_interrupted([&opened] { return ::fsync(opened.get()); }) == 0;
  }

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
  FileDescriptor file_;
  bool committed_ = false;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention

#endif  // RING_ATTENTION_HAS_POSIX_FILES
