// Memory that the processes of one machine share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/version.hpp>
#include <span>
#include <utility>

#if defined(__linux__)
#define RING_ATTENTION_HAS_SHARED_MEMORY 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#else
#define RING_ATTENTION_HAS_SHARED_MEMORY 0
#endif
#include <ring_attention/pattern/posix_file.hpp>
#include <system_error>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Where a process finds memory that another one shares. Plain data: it travels in messages.
struct SharedMemoryName {
  std::int64_t process = 0;
  std::int64_t descriptor = -1;
  std::uint64_t bytes = 0;
};

/// Zeroed memory, which other processes map by its name while the object that created it lives.
/// A mapping then lasts as long as its own object. There is no file to be left behind: the system frees the
/// memory after the last process, however that ends. (An MPI window is freed so, too, but is made by a
/// blocking collective call, in which a lost rank would hold up the others for ever.)
class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept
      : file_(std::move(other.file_)), bytes_(std::exchange(other.bytes_, {})) {}
  SharedMemory& operator=(SharedMemory&& other) noexcept {
    std::swap(file_, other.file_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::span<std::byte> bytes() const { return bytes_; }

#if RING_ATTENTION_HAS_SHARED_MEMORY
  ~SharedMemory() {
    if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
  }

  /// Throws std::system_error, as attach() does.
  static SharedMemory create(std::size_t bytes) {
    SharedMemory memory;
    memory.file_ = FileDescriptor(::memfd_create("ring_attention", MFD_CLOEXEC));
    if (memory.file_.get() < 0) throw_error("memfd_create");
    if (retry_interrupted([&] { return ::ftruncate(memory.file_.get(), static_cast<off_t>(bytes)); }) != 0) {
      throw_error("ftruncate");
    }
    memory.map(memory.file_.get(), bytes);
    return memory;
  }

  /// The same memory in another process.
  static SharedMemory attach(const SharedMemoryName& name) {
    const std::string path =
        "/proc/" + std::to_string(name.process) + "/fd/" + std::to_string(name.descriptor);
    const FileDescriptor file(
        retry_interrupted([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); }));
    struct stat status = {};
    if (file.get() < 0 || ::fstat(file.get(), &status) != 0) throw_error(path.c_str());
    if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) < name.bytes) {
      throw std::system_error(std::make_error_code(std::errc::no_such_file_or_directory), path);
    }
    SharedMemory memory;
    memory.map(file.get(), name.bytes);
    return memory;
  }

  SharedMemoryName name() const { return {::getpid(), file_.get(), bytes_.size()}; }

 private:
  [[noreturn]] static void throw_error(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
  }
  void map(int file, std::size_t bytes) {
    // All of it is used: to get its pages one by one would cost several times as much.
    void* const address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (address == MAP_FAILED) throw_error("mmap");
    bytes_ = {static_cast<std::byte*>(address), bytes};
  }

  FileDescriptor file_;  // of the creator alone
#else
  static SharedMemory create(std::size_t) { throw_unsupported(); }
  static SharedMemory attach(const SharedMemoryName&) { throw_unsupported(); }
  SharedMemoryName name() const { return {}; }

 private:
  [[noreturn]] static void throw_unsupported() {
    throw std::system_error(std::make_error_code(std::errc::not_supported), "shared memory");
  }

  int file_ = -1;
#endif
  std::span<std::byte> bytes_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
