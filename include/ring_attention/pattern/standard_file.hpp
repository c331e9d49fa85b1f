// Files through the standard library alone: how PatternStore reads and replaces a file where POSIX is
// missing.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <ring_attention/version.hpp>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// `code` is an errno.
[[noreturn]] inline void throw_file_error(const char* action, const std::filesystem::path& path, int code) {
  throw std::filesystem::filesystem_error(std::string("cannot ").append(action), path,
                                          std::error_code(code, std::generic_category()));
}

/// Bytes of a file as a size in memory, into which they must fit. A template, because where both types are
/// one g++ warns of a cast.
template <class Bytes>
std::size_t size_in_memory(Bytes bytes) {
  if constexpr (std::is_same_v<Bytes, std::size_t>) {
    return bytes;
  } else {
    return static_cast<std::size_t>(bytes);
  }
}

/// The words of a file; `owner` keeps them.
struct FileContents {
  std::span<const std::int64_t> words;
  std::shared_ptr<const void> owner;
  bool mapped = false;
};

/// The first `bytes` of a file in memory of the process's own, fewer where the file ends before.
/// `read(bytes, offset)` returns how many it read, 0 at the end.
template <class Read>
FileContents read_contents(std::uint64_t bytes, const std::filesystem::path& path, const Read& read) {
  if (bytes > (std::numeric_limits<std::size_t>::max)() / 2) throw_file_error("read", path, EFBIG);
  const auto words =
      std::make_shared<std::vector<std::int64_t>>(size_in_memory(bytes) / sizeof(std::int64_t));
  const std::span<std::byte> target = std::as_writable_bytes(std::span(*words));
  std::size_t done = 0;
  while (done < target.size()) {
    const std::size_t got = read(target.subspan(done), done);
    if (got == 0) break;
    done += got;
  }
  return {std::span<const std::int64_t>(*words).first(done / sizeof(std::int64_t)), words, false};
}

/// Creates a file beside `target` whose name no other writer has. `create(path)` returns whether it did so,
/// or sets errno: EEXIST asks for another name.
template <class Create>
std::filesystem::path create_temporary(const std::filesystem::path& target, const Create& create) {
  for (std::uint64_t attempt = 0;; ++attempt) {
    std::filesystem::path path = target;
    path += ".tmp" + std::to_string(attempt);
    if (create(path)) return path;
    if (errno != EEXIST) throw_file_error("create", path, errno);
  }
}

class StandardInput {
 public:
  /// Throws std::filesystem::filesystem_error, as every member does.
  explicit StandardInput(std::filesystem::path path) : path_(std::move(path)) {
    const auto status = std::filesystem::status(path_);
    if (!std::filesystem::exists(status)) throw_file_error("read", path_, ENOENT);
    if (std::filesystem::is_directory(status)) throw_file_error("read", path_, EISDIR);
    if (!std::filesystem::is_regular_file(status)) throw_file_error("read", path_, EINVAL);
    size_ = std::filesystem::file_size(path_);
    file_.reset(std::fopen(path_.string().c_str(), "rb"));
    if (!file_) throw_file_error("read", path_, errno);
  }

  std::uint64_t size() const { return size_; }

  /// The first bytes of the file; the span returned is shorter where the file is.
  std::span<const std::byte> head(std::span<std::byte> target) {
    std::rewind(file_.get());
    return target.first(read(target));
  }

  /// The file as it stands, cut down to whole words. It is never mapped here.
  FileContents contents(bool /*map*/) {
    std::rewind(file_.get());
    return read_contents(size_, path_,
                         [this](std::span<std::byte> target, std::size_t) { return read(target); });
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { (void)std::fclose(file); }
  };

  std::size_t read(std::span<std::byte> target) {
    const std::size_t got = std::fread(target.data(), 1, target.size(), file_.get());
    if (got < target.size() && std::ferror(file_.get()) != 0) throw_file_error("read", path_, errno);
    return got;
  }

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::uint64_t size_ = 0;
};

/// A file written beside the one that it replaces. Until commit() the old one is untouched; without commit()
/// the new one is removed.
class StandardOutput {
 public:
  explicit StandardOutput(const std::filesystem::path& target) : target_(target) {
    path_ = create_temporary(target, [this](const std::filesystem::path& path) {
      file_ = std::fopen(path.string().c_str(), "wbx");
      return file_ != nullptr;
    });
  }
  StandardOutput(const StandardOutput&) = delete;
  StandardOutput& operator=(const StandardOutput&) = delete;
  ~StandardOutput() {
    if (file_ != nullptr) (void)std::fclose(file_);
    std::error_code ignored;
    if (!committed_) std::filesystem::remove(path_, ignored);
  }

  void write(std::span<const std::byte> bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
      throw_file_error("write", path_, errno);
    }
  }

  void overwrite_start(std::span<const std::byte> bytes) {
    if (std::fseek(file_, 0, SEEK_SET) != 0) throw_file_error("write", path_, errno);
    write(bytes);
  }

  /// Puts the file in the place of its target. Returns whether it is known to be on the device.
  bool commit() {
    if (std::fclose(std::exchange(file_, nullptr)) != 0) throw_file_error("write", path_, errno);
    std::filesystem::rename(path_, target_);
    committed_ = true;
    return false;
  }

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
  bool committed_ = false;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
