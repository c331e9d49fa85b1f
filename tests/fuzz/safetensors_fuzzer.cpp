// Any bytes as a safetensors file: it is refused by safetensors::Error, or its tensors are what the bytes
// say.
#include <fuzzer/FuzzedDataProvider.h>

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "../../examples/slide_encoder/encoder_config.hpp"
#include "../../examples/support/safetensors.hpp"
#include "fuzz/memory_file.hpp"
#include "fuzz/property.hpp"

namespace {

using fuzz::require;

/// Runs an action; whether it threw the one exception that is documented. Others end the process.
template <class Action>
bool refused(const std::string& path, const Action& action) {
  try {
    action();
    return false;
  } catch (const safetensors::Error& error) {
    require(std::string(error.what()).find(path + ": ") == 0, "an error names the file");
    return true;
  }
}

void check_layout(const safetensors::File& file, std::span<const std::uint8_t> bytes,
                  std::uint64_t data_begin) {
  std::map<std::uint64_t, std::uint64_t> ranges;  // of tensors with bytes
  for (const auto& [name, tensor] : file.tensors()) {
    std::uint64_t size = safetensors::info(tensor.dtype).bytes;
    for (const std::int64_t extent : tensor.shape) {
      require(extent >= 0, "an extent is not negative");
      if (extent == 0) size = 0;
    }
    for (const std::int64_t extent : tensor.shape) {
      if (size == 0) break;
      require(static_cast<std::uint64_t>(extent) <= bytes.size(), "an extent is within the file");
      size *= static_cast<std::uint64_t>(extent);
    }
    require(tensor.end - tensor.begin == size, "a tensor takes the bytes of its shape");
    require(tensor.end <= bytes.size() - data_begin, "a tensor ends within the file");
    if (size > 0) require(ranges.emplace(tensor.begin, tensor.end).second, "tensors do not overlap");
  }
  std::uint64_t expected = 0;
  for (const auto& [begin, end] : ranges) {
    require(begin == expected, "tensors follow one another");
    expected = end;
  }
  require(expected == bytes.size() - data_begin, "tensors fill the file");
}

template <class T>
bool same_bits(const std::vector<T>& values, const std::uint8_t* bytes) {
  return values.empty() || std::memcmp(values.data(), bytes, values.size() * sizeof(T)) == 0;
}

void check_tensor(const safetensors::MappedFile& file, const std::string& name, const std::uint8_t* bytes) {
  const safetensors::TensorInfo& tensor = file.tensor(name);
  const std::uint64_t size = tensor.end - tensor.begin;
  require(size == 0 || std::memcmp(file.bytes(tensor), bytes, size) == 0,
          "the mapping shows the file's bytes");
  if (!safetensors::is_floating_point(tensor.dtype)) {
    require(refused(file.path(), [&] { file.read<float>(name); }), "integers are not read as numbers");
    return;
  }
  const std::uint64_t count = size / safetensors::info(tensor.dtype).bytes;
  require(file.read<float>(name).size() == count, "every element is read as float");
  require(file.read<Eigen::half>(name, tensor.shape).size() == count, "every element is read as half");
  const auto doubles = file.read<double>(name);
  require(doubles.size() == count, "every element is read as double");
  if (tensor.dtype == safetensors::Dtype::f64) require(same_bits(doubles, bytes), "F64 is read as it is");
  if (tensor.dtype == safetensors::Dtype::f32) {
    const auto floats = file.read<float>(name);
    require(same_bits(floats, bytes), "F32 is read as it is");
    for (std::size_t i = 0; i < floats.size(); ++i) {
      require(floats[i] != floats[i] || doubles[i] == floats[i], "F32 becomes the same double");
    }
  }
  if (tensor.dtype == safetensors::Dtype::bf16) {
    require(same_bits(file.read<Eigen::bfloat16>(name), bytes), "BF16 is read as it is");
  }
}

/// A configuration of a slide encoder that is accepted has attention that is accepted.
void check_encoder_config(const safetensors::File& file) {
  slide_encoder::EncoderConfig config;
  if (refused(file.path(), [&] { config = slide_encoder::read_config(file); })) return;
  require(config.layers > 0 && config.heads > 0 && config.embed % config.heads == 0,
          "heads divide the width");
  config.attention().validate();
}

/// Opens a file in memory and checks what is told of it; whether it was accepted.
bool check_file(std::span<const std::uint8_t> bytes) {
  const fuzz::MemoryFile memory(bytes);
  const std::string path = memory.path();
  std::optional<safetensors::MappedFile> file;
  if (refused(path, [&] { file.emplace(path); })) {
    require(refused(path, [&] { const safetensors::File again(path); }), "a file is refused mapped or not");
    return false;
  }
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const std::uint64_t data_begin = sizeof header + header;
  require(data_begin <= bytes.size(), "the header ends within the file");
  check_layout(*file, bytes, data_begin);
  for (const auto& [name, tensor] : file->tensors()) {
    check_tensor(*file, name, bytes.data() + data_begin + tensor.begin);
  }
  require(file->contains("absent") || refused(path, [&] { file->tensor("absent"); }),
          "a missing name is told");
  check_encoder_config(*file);
  return true;
}

/// Mostly the number itself, else one near it or any; `changed` says which.
std::uint64_t draw_near(FuzzedDataProvider& draw, std::uint64_t number, bool& changed) {
  std::uint64_t drawn = number;
  const int choice = draw.ConsumeIntegralInRange<int>(0, 31);
  if (choice == 31) drawn = draw.ConsumeIntegral<std::uint64_t>();
  if (choice >= 28 && choice < 31) drawn += draw.ConsumeIntegralInRange<std::uint64_t>(0, 8) - 4;
  changed = changed || drawn != number;
  return drawn;
}

/// A file with a sound header, or one with wrong numbers in it, such as damage alone never makes. `changed`
/// says which.
std::vector<std::uint8_t> draw_file(FuzzedDataProvider& draw, bool& changed) {
  nlohmann::json header = nlohmann::json::object();
  std::uint64_t end = 0;
  const auto count = draw.ConsumeIntegralInRange<std::size_t>(0, 4);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& dtype =
        safetensors::dtypes[draw.ConsumeIntegralInRange<std::size_t>(0, safetensors::dtypes.size() - 1)];
    std::vector<std::uint64_t> shape(draw.ConsumeIntegralInRange<std::size_t>(0, 3));
    std::uint64_t size = dtype.bytes;
    for (std::uint64_t& extent : shape) size *= extent = draw.ConsumeIntegralInRange<std::uint64_t>(0, 4);
    const std::uint64_t begin = end;
    end += size;
    for (std::uint64_t& extent : shape) extent = draw_near(draw, extent, changed);
    // One of both, or both by as much: tensors that overlap and leave gaps.
    const std::uint64_t shift = draw_near(draw, 0, changed);
    header[std::string(1, static_cast<char>('a' + i))] = {
        {"dtype", std::string(dtype.name)},
        {"shape", shape},
        {"data_offsets", {draw_near(draw, begin, changed) + shift, draw_near(draw, end, changed) + shift}}};
  }
  if (draw.ConsumeBool()) {
    auto metadata = slide_encoder::to_metadata({});
    for (auto& [key, value] : metadata) {
      if (draw.ConsumeIntegralInRange<int>(0, 15) == 15) value = draw.ConsumeRandomLengthString(24);
    }
    try {
      header["__metadata__"] = nlohmann::json::parse(nlohmann::json(metadata).dump());
    } catch (const nlohmann::json::exception&) {
      // Not UTF-8.
    }
  }
  const std::string text = header.dump();
  const std::uint64_t length = draw_near(draw, text.size(), changed);
  std::vector<std::uint8_t> file(sizeof length);
  std::memcpy(file.data(), &length, sizeof length);
  file.insert(file.end(), text.begin(), text.end());
  const std::uint64_t data = draw_near(draw, end, changed) % 4096;
  changed = changed || data != end;
  for (std::uint64_t i = 0; i < data; ++i) file.push_back(draw.ConsumeIntegral<std::uint8_t>());
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider draw(data, size);
  if (draw.ConsumeBool()) {
    bool changed = false;
    const auto file = draw_file(draw, changed);
    require(check_file(file) || changed, "a sound file is accepted");
  } else {
    check_file(draw.ConsumeRemainingBytes<std::uint8_t>());
  }
  return 0;
}
