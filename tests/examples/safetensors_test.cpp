// The safetensors reader and writer of the examples: exact round trips, and every way a file can be broken.
#include "../../examples/support/safetensors.hpp"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

namespace fs = std::filesystem;

/// A folder of its own for each test, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "ring_attention_test_XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::ptrdiff_t files() const {
    return std::distance(fs::directory_iterator(path_), fs::directory_iterator());
  }

 private:
  fs::path path_;
};

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::string with_length(const std::string& header) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header;
}

std::string file_with(const std::string& header, std::size_t data_bytes) {
  return with_length(header) + std::string(data_bytes, '\1');
}

std::string error_of(const std::string& path) {
  try {
    const safetensors::File file(path);
  } catch (const safetensors::Error& error) {
    return error.what();
  }
  return "accepted";
}

template <class Action>
std::string error_from(Action action) {
  try {
    action();
  } catch (const safetensors::Error& error) {
    return error.what();
  }
  return "accepted";
}

bool mentions(const std::string& text, const std::string& part) {
  INFO("message: " << text);
  INFO("expected in it: " << part);
  CHECK(text.find(part) != std::string::npos);
  return text.find(part) != std::string::npos;
}

template <class T>
std::vector<T> samples() {
  std::vector<T> values;
  for (const double x : {0.0, -0.0, 1.0, -1.5, 3.14159265358979, 6.1e-5, 65504.0, 1e-7}) {
    values.push_back(static_cast<T>(x));
  }
  values.push_back(static_cast<T>(std::numeric_limits<float>::infinity()));
  values.push_back(static_cast<T>(-std::numeric_limits<float>::infinity()));
  return values;
}

}  // namespace

TEMPLATE_TEST_CASE("safetensors: a round trip keeps every bit", "[safetensors]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  std::vector<TestType> values = samples<TestType>();
  values.push_back(static_cast<TestType>(std::numeric_limits<float>::quiet_NaN()));
  values.push_back(static_cast<TestType>(2.0f));
  safetensors::Writer writer;
  writer.add("x", {3, 4}, values.data());
  writer.save(path);

  const safetensors::File file(path);
  CHECK(file.tensor("x").shape == safetensors::Shape{3, 4});
  CHECK(file.tensor("x").dtype == safetensors::dtype_of<TestType>());
  const auto back = file.read<TestType>("x", {3, 4});
  REQUIRE(back.size() == values.size());
  CHECK(std::memcmp(back.data(), values.data(), values.size() * sizeof(TestType)) == 0);
}

TEMPLATE_TEST_CASE("safetensors: elements convert to the scalar that is asked for", "[safetensors]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const std::vector<TestType> values = samples<TestType>();
  safetensors::Writer writer;
  writer.add("x", {static_cast<std::int64_t>(values.size())}, values.data());
  writer.save(path);

  const safetensors::File file(path);
  const auto as_double = file.read<double>("x");
  const auto as_float = file.read<float>("x");
  const auto as_half = file.read<Eigen::half>("x");
  const auto as_bfloat16 = file.read<Eigen::bfloat16>("x");
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK(as_double[i] == static_cast<double>(values[i]));
    CHECK(as_float[i] == static_cast<float>(values[i]));
    CHECK(std::bit_cast<std::uint16_t>(as_half[i]) ==
          std::bit_cast<std::uint16_t>(static_cast<Eigen::half>(values[i])));
    CHECK(std::bit_cast<std::uint16_t>(as_bfloat16[i]) ==
          std::bit_cast<std::uint16_t>(static_cast<Eigen::bfloat16>(values[i])));
  }
}

TEST_CASE("safetensors: conversion works across its internal buffer", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  std::vector<float> values((std::size_t{1} << 19) + 3);  // a little more than 2 MiB
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  safetensors::Writer writer;
  writer.add("x", {static_cast<std::int64_t>(values.size())}, values.data());
  writer.save(path);
  const auto back = safetensors::File(path).read<double>("x");
  REQUIRE(back.size() == values.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) wrong += back[i] == static_cast<double>(i) ? 0 : 1;
  CHECK(wrong == 0);
}

TEST_CASE("safetensors: names, metadata, empty tensors and scalars survive", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const float one = 1.0f;
  const double two = 2.0;
  safetensors::Writer writer;
  writer.add("encoder.layers.0.self_attn.q_proj.weight", {1, 1}, &one);
  writer.add("scalar", {}, &two);
  writer.add("empty", {2, 0, 3}, &one);
  writer.add("\xc3\xbc \"quoted\"", {1}, &one);
  writer.set_metadata("segment_lengths", "[16, 46, 128]");
  writer.set_metadata("", "an empty key");
  writer.save(path);

  const safetensors::File file(path);
  CHECK(file.tensors().size() == 4);
  CHECK(file.metadata().size() == 2);
  CHECK(file.metadata().at("segment_lengths") == "[16, 46, 128]");
  CHECK(file.read<float>("encoder.layers.0.self_attn.q_proj.weight", {1, 1}).at(0) == 1.0f);
  CHECK(file.read<double>("scalar", {}).at(0) == 2.0);
  CHECK(file.read<float>("empty", {2, 0, 3}).empty());
  CHECK(file.contains("\xc3\xbc \"quoted\""));
  CHECK_FALSE(file.contains("__metadata__"));
}

TEST_CASE("safetensors: a file without tensors is valid", "[safetensors]") {
  const TemporaryFolder folder;
  safetensors::Writer().save(folder.file("a.safetensors"));
  CHECK(safetensors::File(folder.file("a.safetensors")).tensors().empty());
}

TEST_CASE("safetensors: written data is aligned to its element size", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const Eigen::half half{1.0f};
  const float single = 1.0f;
  const double wide = 1.0;
  for (const std::string name : {"x", "xx", "xxx", "xxxx", "xxxxx", "xxxxxx", "xxxxxxx", "xxxxxxxx"}) {
    safetensors::Writer writer;
    writer.add("half", {1}, &half);
    writer.add(name, {1}, &single);
    writer.add("wide", {1}, &wide);
    writer.save(path);
    std::uint64_t length = 0;
    const std::string bytes = bytes_of(path);
    std::memcpy(&length, bytes.data(), sizeof length);
    CHECK(length % 8 == 0);
    const safetensors::File file(path);
    for (const auto& [key, at] : file.tensors()) CHECK(at.begin % safetensors::info(at.dtype).bytes == 0);
    CHECK(file.read<double>("wide").at(0) == 1.0);
    CHECK(file.read<float>("half").at(0) == 1.0f);
  }
}

TEST_CASE("safetensors: a file cut short at any byte is refused", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const std::vector<float> values{1, 2, 3, 4};
  safetensors::Writer writer;
  writer.add("a", {2}, values.data());
  writer.add("b", {2, 2}, values.data());
  writer.save(path);
  const std::string whole = bytes_of(path);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(path, whole.substr(0, size));
    INFO("cut at byte " << size << " of " << whole.size());
    CHECK(error_of(path).find("truncated") != std::string::npos);
  }
  write_bytes(path, whole);
  CHECK(error_of(path) == "accepted");
  write_bytes(path, whole + "x");
  mentions(error_of(path), "1 bytes after the last tensor");
}

TEST_CASE("safetensors: broken headers are told apart", "[safetensors]") {
  struct Case {
    std::string header;
    std::size_t data_bytes;
    std::string message;
  };
  const std::string f32 = R"({"x":{"dtype":"F32",)";
  const std::string nested = std::string(200000, '[') + std::string(200000, ']');
  const std::vector<Case> cases{
      {"not JSON at all!", 0, "not valid JSON at byte"},
      {R"({"x":)", 0, "not valid JSON at byte"},
      {std::string(100000, '['), 0, "not valid JSON"},
      {R"({"x":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}})", 4, "not valid JSON"},
      {"", 0, "not valid JSON"},
      {"[]", 0, "not a JSON object"},
      {R"({"x":3})", 0, "\"x\": header entry is not a JSON object"},
      {R"({"x":{"shape":[1],"data_offsets":[0,4]}})", 4, "lacks \"dtype\""},
      {R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", 4, "lacks \"shape\""},
      {R"({"x":{"dtype":"F32","shape":[1]}})", 4, "lacks \"data_offsets\""},
      {R"({"x":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype \"F31\""},
      {R"({"x":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype 7"},
      {R"({"x":{"dtype":)" + nested + R"(,"shape":[1],"data_offsets":[0,4]}})", 4,
       "unknown dtype a JSON array"},
      {R"({"x":{"dtype":"F32","shape":[)" + nested + R"(],"data_offsets":[0,4]}})", 4, "holds a JSON array"},
      {f32 + R"("shape":1,"data_offsets":[0,4]}})", 4, "shape is not a list"},
      {f32 + R"("shape":[-1],"data_offsets":[0,4]}})", 4, "shape holds -1"},
      {f32 + R"("shape":[1.0],"data_offsets":[0,4]}})", 4, "shape holds 1.0"},
      {f32 + R"("shape":["1"],"data_offsets":[0,4]}})", 4, "shape holds \"1\""},
      {f32 + R"("shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
       "shape holds 18446744073709551615"},
      {f32 + R"("shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "overflows"},
      {f32 + R"("shape":[1],"data_offsets":[0]}})", 4, "are not [begin, end]"},
      {f32 + R"("shape":[1],"data_offsets":[0,4,8]}})", 4, "are not [begin, end]"},
      {f32 + R"("shape":[1],"data_offsets":[4,0]}})", 4, "are not [begin, end]"},
      {f32 + R"("shape":[2],"data_offsets":[0,4]}})", 4, "takes 8 bytes, data_offsets span 4"},
      {f32 + R"("shape":[1],"data_offsets":[4,8]}})", 8, "after a gap (expected 0)"},
      {f32 + R"("shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "\"y\" begins at byte 4, inside the tensor before it (expected 8)"},
      {f32 + R"("shape":[1],"data_offsets":[0,4]}})", 2, "truncated: tensor \"x\" ends at byte 4"},
      {f32 + R"("shape":[1],"data_offsets":[9223372036854775803,9223372036854775807]}})", 4, "truncated"},
      {R"({"__metadata__":[]})", 0, "__metadata__ is not a JSON object"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__ entry \"a\" is not a string"},
  };
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  for (const Case& broken : cases) {
    write_bytes(path, file_with(broken.header, broken.data_bytes));
    mentions(error_of(path), broken.message);
    mentions(error_of(path), path);
  }
}

TEST_CASE("safetensors: a huge header length is refused before memory is asked for", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  for (const std::uint64_t length : {std::uint64_t{100'000'001}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    write_bytes(path, std::string(reinterpret_cast<const char*>(&length), sizeof length) + "{}");
    mentions(error_of(path), "header length " + std::to_string(length) + " exceeds the limit");
  }
  const std::uint64_t length = 100'000'000;
  write_bytes(path, std::string(reinterpret_cast<const char*>(&length), sizeof length) + "{}");
  mentions(error_of(path), "truncated: a header of 100000000 bytes");
}

TEST_CASE("safetensors: what is no file is refused", "[safetensors]") {
  const TemporaryFolder folder;
  mentions(error_of(folder.file("missing")), "no such file");
  mentions(error_of(fs::temp_directory_path().string()), "not a regular file");
  mentions(error_of("/dev/null"), "not a regular file");
}

TEST_CASE("safetensors: a request that the file cannot meet names tensor and shapes", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  write_bytes(path, file_with(R"({"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                              R"("ids":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},)"
                              R"("none":{"dtype":"I64","shape":[0],"data_offsets":[16,16]}})",
                              16));
  const safetensors::File file(path);
  mentions(error_from([&] { file.read<float>("y"); }), "no tensor named \"y\" (has: ids, none, x)");
  mentions(error_from([&] { file.read<float>("x", {1, 2}); }), "\"x\" has shape [2, 1], expected [1, 2]");
  mentions(error_from([&] { file.read<float>("ids"); }), "\"ids\" has dtype I64, expected one of F64");
  mentions(error_from([&] { file.read<float>("none"); }), "\"none\" has dtype I64");
  CHECK(file.tensor("ids").dtype == safetensors::Dtype::i64);
}

TEST_CASE("safetensors: a failed save leaves what was there", "[safetensors]") {
  const TemporaryFolder folder;
  const float one = 1.0f;
  safetensors::Writer writer;
  writer.add("x", {1}, &one);
  mentions(error_from([&] { writer.save(folder.file("missing/a.safetensors")); }), "cannot write");
  fs::create_directory(folder.file("taken"));
  mentions(error_from([&] { writer.save(folder.file("taken")); }), "not a regular file");
  CHECK(folder.files() == 1);

  writer.save(folder.file("a.safetensors"));
  const std::string before = bytes_of(folder.file("a.safetensors"));
  safetensors::Writer invalid;
  invalid.add("\xff", {1}, &one);
  mentions(error_from([&] { invalid.save(folder.file("a.safetensors")); }), "UTF-8");
  CHECK(bytes_of(folder.file("a.safetensors")) == before);
  CHECK(folder.files() == 2);
}

TEST_CASE("safetensors: the writer refuses names and shapes that no file can hold", "[safetensors]") {
  const float one = 1.0f;
  safetensors::Writer writer;
  writer.add("x", {1}, &one);
  mentions(error_from([&] { writer.add("x", {1}, &one); }), "\"x\" is taken");
  mentions(error_from([&] { writer.add("__metadata__", {1}, &one); }), "\"__metadata__\" is taken");
  mentions(error_from([&] { writer.add("y", {-1}, &one); }), "overflows");
  mentions(error_from([&] { writer.add("y", {std::int64_t{1} << 62, 2}, &one); }), "overflows");
}

TEST_CASE("safetensors: corrupted bytes are refused or read consistently", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  safetensors::Writer writer;
  writer.add("a.weight", {2, 3}, values.data());
  writer.add("b", {6}, values.data());
  writer.set_metadata("causal", "true");
  writer.save(path);
  const std::string whole = bytes_of(path);
  std::mt19937 random(20260117);
  int accepted = 0;
  constexpr int trials = 3000;
  for (int trial = 0; trial < trials; ++trial) {
    std::string damaged = whole;
    for (int change = 0; change < 1 + trial % 3; ++change) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    write_bytes(path, damaged);
    try {
      const safetensors::File file(path);
      for (const auto& [name, at] : file.tensors()) {
        const auto bytes = safetensors::size_in_bytes(at.dtype, at.shape);
        REQUIRE(bytes.has_value());
        REQUIRE(*bytes == at.end - at.begin);
        REQUIRE(at.end <= damaged.size());
        if (safetensors::is_floating_point(at.dtype)) {
          REQUIRE(file.read<double>(name).size() == *bytes / safetensors::info(at.dtype).bytes);
        }
      }
      ++accepted;
    } catch (const safetensors::Error&) {
    }
  }
  CHECK(accepted > 0);
  CHECK(accepted < trials);
}
