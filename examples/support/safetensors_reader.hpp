// Reads safetensors files: 8 bytes of header length, a JSON header, then the tensors' bytes back to back.
#pragma once

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "file_handle.hpp"
#include "safetensors_dtype.hpp"

namespace safetensors {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian and are copied without swapping bytes");

/// One tensor of a file, as its header tells it.
struct TensorInfo {
  Dtype dtype = Dtype::f32;
  Shape shape;
  std::uint64_t begin = 0;  ///< first byte, counted from the end of the header
  std::uint64_t end = 0;    ///< one past the last byte
};

/// An opened file. The whole header is checked when it is opened; tensors are read on demand, so that memory
/// is that of the tensors asked for. Reading from several threads at once is safe.
class File {
 public:
  /// The limit of the reference implementation: larger headers are refused before memory is asked for.
  static constexpr std::uint64_t max_header_bytes = 100'000'000;

  /// Throws Error for a file that is missing, truncated or not in the format.
  explicit File(std::string path) : path_(std::move(path)) {
    open();
    parse_header();
    check_layout();
  }

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }

  /// Throws Error where the file has no tensor of that name; the text lists those that it has.
  const TensorInfo& tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    constexpr std::size_t listed = 12;
    std::string names;
    std::size_t count = 0;
    for (const auto& [key, unused] : tensors_) {
      if (count++ == listed) break;
      names.append(names.empty() ? "" : ", ").append(key);
    }
    if (tensors_.size() > listed) names += ", ...";
    fail("no tensor named \"" + name + "\" (has: " + (names.empty() ? "none" : names) + ")");
  }

  /// The elements, converted to T. Throws Error for a missing tensor or one whose dtype is not
  /// floating-point.
  template <Scalar T>
  std::vector<T> read(const std::string& name) const {
    const TensorInfo& wanted = tensor(name);
    std::vector<T> values((wanted.end - wanted.begin) / info(wanted.dtype).bytes);
    read_into(name, values.data());
    return values;
  }

  /// The same, for a tensor that must have this shape.
  template <Scalar T>
  std::vector<T> read(const std::string& name, const Shape& shape) const {
    const TensorInfo& wanted = tensor(name);
    if (wanted.shape != shape) {
      fail("tensor \"" + name + "\" has shape " + to_string(wanted.shape) + ", expected " + to_string(shape));
    }
    return read<T>(name);
  }

  /// Writes the elements, converted to T, to memory that holds as many as the tensor has.
  template <Scalar T>
  void read_into(const std::string& name, T* target) const {
    const TensorInfo& wanted = tensor(name);
    if (!is_floating_point(wanted.dtype)) {
      fail("tensor \"" + name + "\" has dtype " + std::string(info(wanted.dtype).name) +
           ", expected one of F64, F32, F16, BF16");
    }
    const std::uint64_t width = info(wanted.dtype).bytes;
    if (wanted.dtype == dtype_of<T>()) {
      read_bytes(name, wanted.begin, reinterpret_cast<std::byte*>(target), wanted.end - wanted.begin);
      return;
    }
    std::vector<std::byte> chunk(std::min<std::uint64_t>(wanted.end - wanted.begin, std::uint64_t{1} << 20));
    for (std::uint64_t at = wanted.begin; at < wanted.end;) {
      const std::uint64_t bytes = std::min<std::uint64_t>(chunk.size(), wanted.end - at);
      read_bytes(name, at, chunk.data(), bytes);
      convert(wanted.dtype, chunk.data(), bytes / width, target);
      target += bytes / width;
      at += bytes;
    }
  }

 protected:
  int descriptor() const { return file_.descriptor(); }
  std::uint64_t file_bytes() const { return file_bytes_; }
  std::uint64_t data_begin() const { return data_begin_; }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(path_ + ": " + what); }

  /// A header's value in a message. Lists and objects are not shown: that would recurse as deep as they nest.
  static std::string shown(const nlohmann::json& value) {
    return value.is_structured() ? std::string("a JSON ") + value.type_name() : value.dump();
  }

  void open() {
    // Opening a pipe would wait for its other end.
    std::error_code error;
    const auto status = std::filesystem::status(path_, error);
    if (!std::filesystem::exists(status)) fail("no such file");
    if (!std::filesystem::is_regular_file(status)) fail("not a regular file");
    file_ = detail::FileHandle(path_, O_RDONLY);
    if (!file_.is_open()) fail("cannot open: " + std::generic_category().message(errno));
    // Of what was opened: by now the path may name another file.
    struct stat about {};
    if (::fstat(file_.descriptor(), &about) != 0) {
      fail("cannot tell its size: " + std::generic_category().message(errno));
    }
    if (!S_ISREG(about.st_mode)) fail("not a regular file");
    file_bytes_ = static_cast<std::uint64_t>(about.st_size);
  }

  void parse_header() {
    constexpr std::uint64_t length_bytes = sizeof(std::uint64_t);
    if (file_bytes_ < length_bytes) {
      fail("truncated: " + std::to_string(file_bytes_) + " bytes, the header length alone takes 8");
    }
    std::uint64_t length = 0;
    read_exactly(0, reinterpret_cast<std::byte*>(&length), length_bytes);
    if (length > max_header_bytes) {
      fail("header length " + std::to_string(length) + " exceeds the limit of " +
           std::to_string(max_header_bytes) + " bytes: not a safetensors file, or a corrupted one");
    }
    if (length > file_bytes_ - length_bytes) {
      fail("truncated: a header of " + std::to_string(length) + " bytes in a file of " +
           std::to_string(file_bytes_));
    }
    std::string text(length, '\0');
    read_exactly(length_bytes, reinterpret_cast<std::byte*>(text.data()), length);
    data_begin_ = length_bytes + length;

    nlohmann::json header;
    try {
      header = nlohmann::json::parse(text);
    } catch (const nlohmann::json::parse_error& error) {
      fail("header is not valid JSON at byte " + std::to_string(error.byte));
    } catch (const nlohmann::json::exception& error) {
      fail(std::string("header is not valid JSON: ") + error.what());
    }
    if (!header.is_object()) fail("header is not a JSON object");
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        parse_metadata(entry);
      } else {
        tensors_.emplace(name, parse_tensor(name, entry));
      }
    }
  }

  void parse_metadata(const nlohmann::json& entry) {
    if (!entry.is_object()) fail("__metadata__ is not a JSON object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) fail("__metadata__ entry \"" + key + "\" is not a string");
      metadata_.emplace(key, value.get<std::string>());
    }
  }

  TensorInfo parse_tensor(const std::string& name, const nlohmann::json& entry) const {
    const std::string where = "tensor \"" + name + "\"";
    if (!entry.is_object()) fail(where + ": header entry is not a JSON object");
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      if (!entry.contains(key)) fail(where + ": header entry lacks \"" + key + "\"");
    }
    const nlohmann::json& dtype = entry["dtype"];
    const std::optional<Dtype> known =
        dtype.is_string() ? dtype_named(dtype.get<std::string>()) : std::nullopt;
    if (!known) fail(where + ": unknown dtype " + shown(dtype));

    const std::vector<std::uint64_t> extents = parse_sizes(where, "shape", entry["shape"]);
    const std::vector<std::uint64_t> offsets = parse_sizes(where, "data_offsets", entry["data_offsets"]);
    if (offsets.size() != 2 || offsets[0] > offsets[1]) {
      fail(where + ": data_offsets " + entry["data_offsets"].dump() + " are not [begin, end]");
    }
    TensorInfo result{*known, Shape(extents.begin(), extents.end()), offsets[0], offsets[1]};
    const auto bytes = size_in_bytes(result.dtype, result.shape);
    if (!bytes) fail(where + ": the size of shape " + to_string(result.shape) + " overflows");
    if (*bytes != result.end - result.begin) {
      fail(where + ": shape " + to_string(result.shape) + " of " + std::string(info(result.dtype).name) +
           " takes " + std::to_string(*bytes) + " bytes, data_offsets span " +
           std::to_string(result.end - result.begin));
    }
    return result;
  }

  std::vector<std::uint64_t> parse_sizes(const std::string& where, const char* key,
                                         const nlohmann::json& list) const {
    std::vector<std::uint64_t> sizes;
    if (!list.is_array()) fail(where + ": " + key + " is not a list");
    for (const nlohmann::json& item : list) {
      if (!item.is_number_unsigned() ||
          item.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail(where + ": " + key + " holds " + shown(item) + ", expected a non-negative integer");
      }
      sizes.push_back(item.get<std::uint64_t>());
    }
    return sizes;
  }

  /// Tensors must follow one another without gap or overlap and fill the file: anything else is corruption,
  /// or bytes hidden from readers.
  void check_layout() const {
    using Entry = std::pair<const std::string, TensorInfo>;
    std::vector<const Entry*> order;
    for (const Entry& entry : tensors_) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
    });
    const std::uint64_t data_bytes = file_bytes_ - data_begin_;
    std::uint64_t expected = 0;
    for (const Entry* entry : order) {
      const auto& [name, at] = *entry;
      if (at.end > data_bytes) {
        fail("truncated: tensor \"" + name + "\" ends at byte " + std::to_string(at.end) +
             " of the data, which has " + std::to_string(data_bytes));
      }
      if (at.begin != expected) {
        fail("tensor \"" + name + "\" begins at byte " + std::to_string(at.begin) + ", " +
             (at.begin < expected ? "inside the tensor before it" : "after a gap") + " (expected " +
             std::to_string(expected) + ")");
      }
      expected = at.end;
    }
    if (expected != data_bytes) {
      fail(std::to_string(data_bytes - expected) + " bytes after the last tensor");
    }
  }

  void read_bytes(const std::string& name, std::uint64_t begin, std::byte* target,
                  std::uint64_t bytes) const {
    try {
      read_exactly(data_begin_ + begin, target, bytes);
    } catch (const Error& error) {
      throw Error(std::string(error.what()) + " (tensor \"" + name + "\")");
    }
  }

  void read_exactly(std::uint64_t offset, std::byte* target, std::uint64_t bytes) const {
    std::size_t got = 0;
    try {
      got = file_.read_at(offset, target, bytes);
    } catch (const std::system_error& error) {
      fail("cannot read: " + error.code().message());
    }
    if (got != bytes) fail("truncated while it was read");
  }

  std::string path_;
  detail::FileHandle file_;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t data_begin_ = 0;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace safetensors
