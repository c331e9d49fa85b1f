// Writes safetensors files: to a temporary file beside the target, then renamed, so that no reader ever sees
// half.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "file_handle.hpp"
#include "safetensors_dtype.hpp"

namespace safetensors {

/// Collects tensors, whose memory is borrowed until save(), and writes them all at once.
class Writer {
 public:
  /// Throws Error for a name that is taken or reserved, or a shape of negative or overflowing size.
  template <Scalar T>
  void add(const std::string& name, Shape shape, const T* data) {
    const auto bytes = size_in_bytes(dtype_of<T>(), shape);
    if (!bytes) throw Error("tensor \"" + name + "\": the size of shape " + to_string(shape) + " overflows");
    const bool taken = std::any_of(entries_.begin(), entries_.end(),
                                   [&name](const Entry& entry) { return entry.name == name; });
    if (name == "__metadata__" || taken) throw Error("tensor name \"" + name + "\" is taken");
    entries_.push_back(
        {name, dtype_of<T>(), std::move(shape), reinterpret_cast<const std::byte*>(data), *bytes});
  }

  void set_metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }

  /// Throws Error and leaves an existing file untouched where anything fails.
  void save(const std::string& path) const {
    std::vector<const Entry*> order;
    for (const Entry& entry : entries_) order.push_back(&entry);
    // Wide elements first: every tensor is then aligned to its element size.
    std::stable_sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      return info(a->dtype).bytes > info(b->dtype).bytes;
    });
    const std::string header = make_header(order);
    const std::uint64_t length = header.size();

    std::error_code ignored;
    if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
      throw Error(path +
                  ": cannot write: not a regular file");  // a rename would replace a device or a folder
    }
    const std::string temporary = path + ".partial-" + std::to_string(::getpid());
    detail::FileHandle file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (!file.is_open()) {
      throw Error(path + ": cannot write: " + std::generic_category().message(errno));
    }
    try {
      file.write(reinterpret_cast<const std::byte*>(&length), sizeof length);
      file.write(reinterpret_cast<const std::byte*>(header.data()), header.size());
      for (const Entry* entry : order) file.write(entry->data, entry->bytes);
      file.sync_and_close();
      if (std::rename(temporary.c_str(), path.c_str()) != 0) {
        throw std::system_error(errno, std::generic_category());
      }
    } catch (const std::system_error& error) {
      std::remove(temporary.c_str());
      throw Error(path + ": cannot write: " + error.code().message());
    }
  }

 private:
  struct Entry {
    std::string name;
    Dtype dtype;
    Shape shape;
    const std::byte* data;
    std::uint64_t bytes;
  };

  std::string make_header(const std::vector<const Entry*>& order) const {
    nlohmann::json header = nlohmann::json::object();
    if (!metadata_.empty()) header["__metadata__"] = metadata_;
    std::uint64_t begin = 0;
    for (const Entry* entry : order) {
      header[entry->name] = {{"dtype", std::string(info(entry->dtype).name)},
                             {"shape", entry->shape},
                             {"data_offsets", {begin, begin + entry->bytes}}};
      begin += entry->bytes;
    }
    std::string text;
    try {
      text = header.dump();
    } catch (const nlohmann::json::exception&) {
      throw Error("tensor names and metadata must be valid UTF-8");
    }
    text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the data 8-byte aligned, as the format asks
    return text;
  }

  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace safetensors
