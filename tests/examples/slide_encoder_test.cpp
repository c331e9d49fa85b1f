// suites: vector-instructions
// The slide encoder of the examples: every stage against GigaPath's own code in float64, and files it must
// refuse.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../../examples/slide_encoder/embeddings.hpp"
#include "../../examples/slide_encoder/synthetic.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/scratch_folder.hpp"

namespace {

using slide_encoder::Linear;
using slide_encoder::Matrix;
using slide_encoder::Pooling;
using slide_encoder::SlideEncoder;
using slide_encoder::Tiles;
using slide_encoder::Weights;

const std::string folder = std::string(RING_ATTENTION_TEST_DATA_DIR) + "/slide_encoder/";
const std::string weights_path = folder + "weights.safetensors";
const std::string io_path = folder + "io.safetensors";

/// Every stage that the reference files record, by its name there.
using Stages = std::map<std::string, Matrix<float>>;

template <class Scalar>
Stages encode(const std::string& weights_file, const std::string& tiles_file) {
  const Weights weights(weights_file);
  const Tiles tiles(tiles_file, weights.config());
  const SlideEncoder<Scalar> encoder(weights);
  Stages stages;
  Matrix<float> state = encoder.embed(tiles);
  stages["tokens"] = state;
  auto workspace = encoder.make_workspace(state.rows());
  for (std::int64_t layer = 0; layer < encoder.layers(); ++layer) {
    encoder.apply_layer(layer, state, workspace);
    if (layer == 0) stages["state_1"] = state;
  }
  encoder.normalize_output(state);
  stages["encoder_out"] = state;
  stages["cls_embedding"] = encoder.pool(state, Pooling::cls);
  stages["mean_embedding"] = encoder.pool(state, Pooling::mean);
  encoder.norm()(state, state);
  stages["norm_out"] = state;
  return stages;
}

std::vector<double> reference(const std::string& name) {
  return safetensors::File(io_path).read<double>(name);
}

double cosine(const Matrix<float>& actual, const std::vector<double>& expected) {
  REQUIRE(actual.size() == static_cast<Eigen::Index>(expected.size()));
  const Eigen::VectorXd a = actual.row(0).transpose().cast<double>();
  const Eigen::Map<const Eigen::VectorXd> b(expected.data(), a.size());
  return a.dot(b) / (a.norm() * b.norm());
}

/// A safetensors file in memory, to be changed and written again.
struct Contents {
  std::map<std::string, std::pair<safetensors::Shape, std::vector<float>>> tensors;
  std::map<std::string, std::string> metadata;

  explicit Contents(const std::string& path) {
    const safetensors::File file(path);
    metadata = file.metadata();
    for (const auto& [name, info] : file.tensors()) tensors[name] = {info.shape, file.read<float>(name)};
  }

  template <class Scalar = float>
  void save(const std::string& path) const {
    safetensors::Writer writer;
    std::vector<std::vector<Scalar>> converted;
    for (const auto& [name, tensor] : tensors) {
      auto& values = converted.emplace_back();
      for (const float value : tensor.second) values.push_back(static_cast<Scalar>(value));
      writer.add(name, tensor.first, values.data());
    }
    for (const auto& [key, value] : metadata) writer.set_metadata(key, value);
    writer.save(path);
  }
};

/// The message about a weights or tiles file after a change; the other file is good.
template <class Scalar = float>
std::string refusal(const std::string& path, const std::function<void(Contents&)>& change) {
  const test::ScratchFolder scratch;
  Contents contents(path);
  change(contents);
  const std::string changed = (scratch / "changed.safetensors").string();
  contents.save<Scalar>(changed);
  try {
    if (path == weights_path) {
      encode<float>(changed, io_path);
    } else {
      encode<float>(weights_path, changed);
    }
  } catch (const safetensors::Error& error) {
    return error.what();
  }
  return "accepted";
}

void check_mentions(const std::string& text, const std::string& part) {
  INFO("message: " << text);
  INFO("expected in it: " << part);
  CHECK(text.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("slide encoder: every recorded stage in float", "[slide_encoder]") {
  const Stages stages = encode<float>(weights_path, io_path);
  CHECK(stages.size() == 6);
  for (const auto& [name, actual] : stages) {
    const std::vector<double> expected = reference(name);
    REQUIRE(actual.size() == static_cast<Eigen::Index>(expected.size()));
    double worst = 0;
    for (Eigen::Index i = 0; i < actual.size(); ++i) {
      const double error = std::abs(actual.data()[i] - expected[static_cast<std::size_t>(i)]);
      worst = error <= worst ? worst : error;  // NaN stays
    }
    INFO(name << " differs by " << worst);
    CHECK(worst < 1e-4);
  }
}

TEST_CASE("slide encoder: embeddings of every layer", "[slide_encoder]") {
  const Weights weights(weights_path);
  const Tiles tiles(io_path, weights.config());
  const SlideEncoder<float> encoder(weights);
  const auto recorded = [](const std::string& name) {
    const std::vector<float> values = safetensors::File(io_path).read<float>(name);
    const Eigen::Index width = 64;
    return Matrix<float>(Eigen::Map<const Matrix<float>>(
        values.data(), static_cast<Eigen::Index>(values.size()) / width, width));
  };
  for (const Pooling pooling : {Pooling::cls, Pooling::mean}) {
    int layers = 0;
    const auto embeddings = slide_encoder::encode(encoder, tiles, pooling, true, [&layers] { ++layers; });
    CHECK(layers == 2);
    REQUIRE(embeddings.layers.rows() == 3);
    const char* output = pooling == Pooling::cls ? "cls_embedding" : "mean_embedding";
    CHECK((embeddings.output - recorded(output)).cwiseAbs().maxCoeff() < 1e-4F);
    // The recorded states, pooled and normalised here.
    for (const auto& [row, name] : {std::pair{0, "tokens"}, std::pair{1, "state_1"}}) {
      const Matrix<float> state = recorded(name);
      Matrix<float> expected = pooling == Pooling::cls
                                   ? Matrix<float>(state.row(0))
                                   : Matrix<float>(state.bottomRows(state.rows() - 1).colwise().mean());
      encoder.norm()(expected, expected);
      CHECK((embeddings.layers.row(row) - expected).cwiseAbs().maxCoeff() < 1e-4F);
    }
    CHECK((embeddings.layers.row(2) - embeddings.layers.row(1)).cwiseAbs().maxCoeff() > 1e-2F);
  }
}

TEST_CASE("slide encoder: numbers that overflow on their way are told", "[slide_encoder]") {
  const test::ScratchFolder scratch;
  const std::string path = (scratch / "tiles.safetensors").string();
  for (const float factor : {1e10F, 1e25F, 1e36F}) {
    Contents contents(io_path);
    for (float& value : contents.tensors["x"].second) value *= factor;
    contents.save(path);
    std::string told = "nothing";
    try {
      encode<float>(weights_path, path);
    } catch (const std::runtime_error& error) {
      told = error.what();
    }
    INFO("tiles times " << factor);
    CHECK(told == (factor < 1e20F ? "nothing" : "a layer norm overflows: weights or tiles are too large"));
  }
}

TEST_CASE("slide encoder: weights that lie athwart in the file", "[slide_encoder]") {
  const test::ScratchFolder scratch;
  const std::string path = (scratch / "weights.safetensors").string();
  const Stages expected = encode<float>(weights_path, io_path);
  for (std::uint64_t shift = 1; shift < 4; ++shift) {
    std::string bytes = test::read_file(weights_path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    bytes.insert(sizeof length + length, shift, ' ');
    length += shift;
    std::memcpy(bytes.data(), &length, sizeof length);
    test::write_file(path, bytes);
    CHECK(encode<float>(path, io_path).at("norm_out") == expected.at("norm_out"));
  }
}

TEST_CASE("slide encoder: embeddings in bfloat16", "[slide_encoder]") {
  const Stages stages = encode<Eigen::bfloat16>(weights_path, io_path);
  for (const char* name : {"cls_embedding", "mean_embedding"}) {
    const double similarity = cosine(stages.at(name), reference(name));
    INFO(name << " has cosine similarity " << similarity);
    CHECK(similarity > 0.9995);
  }
  // The bound tells embeddings of one slide apart: it is not met by whatever comes out.
  CHECK(cosine(stages.at("cls_embedding"), reference("mean_embedding")) < 0.99);
}

TEMPLATE_TEST_CASE("slide encoder: weights of 16 bits on disk", "[slide_encoder]", Eigen::half,
                   Eigen::bfloat16) {
  const test::ScratchFolder scratch;
  const std::string path = (scratch / "weights.safetensors").string();
  Contents contents(weights_path);
  contents.save<TestType>(path);
  const Stages stages = encode<float>(path, io_path);
  // What is read is what the file holds: the same as from float32 weights that were rounded before.
  for (auto& [name, tensor] : contents.tensors) {
    for (float& value : tensor.second) value = static_cast<float>(static_cast<TestType>(value));
  }
  const std::string rounded = (scratch / "rounded.safetensors").string();
  contents.save(rounded);
  const Stages expected = encode<float>(rounded, io_path);
  CHECK(stages.at("norm_out") == expected.at("norm_out"));
  CHECK(cosine(stages.at("cls_embedding"), reference("cls_embedding")) > 0.9995);
}

TEST_CASE("slide encoder: tiles without a batch axis, of other types and with a ragged last block",
          "[slide_encoder]") {
  const test::ScratchFolder scratch;
  const std::string path = (scratch / "tiles.safetensors").string();
  const Contents io(io_path);
  const auto& x = io.tensors.at("x").second;
  const std::int64_t chans = io.tensors.at("x").first.back();
  for (const std::int64_t count : {1, 2, 109}) {
    std::vector<std::int64_t> coords;
    for (std::int64_t i = 0; i < 2 * count; ++i) {
      coords.push_back(
          static_cast<std::int64_t>(io.tensors.at("coords").second[static_cast<std::size_t>(i)]));
    }
    std::vector<double> wide(x.begin(), x.begin() + count * chans);
    // The writer knows floating-point types only: its integers are doubles whose type is renamed.
    safetensors::Writer writer;
    writer.add("x", {count, chans}, wide.data());
    writer.add("coords", {count, 2}, reinterpret_cast<const double*>(coords.data()));
    writer.save(path);
    std::string bytes = test::read_file(path);
    const std::size_t entry = bytes.find("\"coords\"");
    bytes[bytes.find("F64", entry)] = 'I';
    test::write_file(path, bytes);
    const Matrix<float> tokens = encode<float>(weights_path, path).at("tokens");
    REQUIRE(tokens.rows() == count + 1);
    const std::vector<double> all = reference("tokens");
    const std::vector<double> expected(all.begin(), all.begin() + tokens.size());
    const std::vector<float> actual(tokens.data(), tokens.data() + tokens.size());
    const test::Comparison comparison = test::compare_all("tokens", actual, expected, 1e-4);
    INFO(comparison.message());
    CHECK(comparison.passed());
  }
}

TEST_CASE("slide encoder: results do not depend on the number of threads", "[slide_encoder]") {
  const int before = ring_attention::num_threads();
  ring_attention::set_num_threads(1);
  const Stages one = encode<Eigen::bfloat16>(weights_path, io_path);
  ring_attention::set_num_threads(3);
  const Stages three = encode<Eigen::bfloat16>(weights_path, io_path);
  ring_attention::set_num_threads(before);
  CHECK(one.at("norm_out") == three.at("norm_out"));
}

TEST_CASE("slide encoder: GELU by erf", "[slide_encoder]") {
  Eigen::ArrayXXf x = Eigen::ArrayXf::LinSpaced(4001, -20, 20).transpose();
  const Eigen::ArrayXXf before = x;
  slide_encoder::gelu(x);
  for (Eigen::Index i = 0; i < x.size(); ++i) {
    const double value = before(0, i);
    const double expected = 0.5 * value * std::erfc(-value * std::sqrt(0.5));
    CHECK(std::abs(x(0, i) - expected) < 1e-6 * std::max(1.0, std::abs(value)));
  }
}

TEST_CASE("slide encoder: a bfloat16 layer is the product of rounded numbers", "[slide_encoder]") {
  // Widths around those of registers and panels, an odd one, and rows that do not fill a group.
  for (const auto& [in, out, rows] : std::vector<std::array<std::int64_t, 3>>{{2, 4, 1},
                                                                              {6, 12, 7},
                                                                              {64, 16, 8},
                                                                              {10, 20, 9},
                                                                              {34, 44, 3},
                                                                              {130, 48, 17},
                                                                              {8, 52, 8},
                                                                              {7, 100, 5}}) {
    const test::ScratchFolder scratch;
    slide_encoder::detail::Numbers numbers(static_cast<std::uint64_t>(in));
    // Weights come from a file of a whole encoder, whose width is a multiple of 4.
    slide_encoder::EncoderConfig config;
    config.layers = 1;
    config.heads = 1;
    config.embed = out;
    config.ffn = 4;
    config.in_chans = in;
    config.segment_lengths = {4};
    config.dilation_rates = {1};
    const std::string path = (scratch / "weights.safetensors").string();
    slide_encoder::write_synthetic_weights(path, config);
    const Weights weights(path);
    const Linear<Eigen::bfloat16> layer(weights, "patch_embed.proj");
    const auto matrix = weights.read("patch_embed.proj.weight");
    const auto offsets = weights.read("patch_embed.proj.bias");

    Matrix<Eigen::bfloat16> x(rows, in);
    for (Eigen::Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Eigen::bfloat16>(numbers.next(1));
    Matrix<float> y(rows, out);
    layer(x, y);
    std::vector<double> expected;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < out; ++column) {
        double sum = offsets[static_cast<std::size_t>(column)];
        for (std::int64_t i = 0; i < in; ++i) {
          const auto rounded =
              static_cast<Eigen::bfloat16>(matrix[static_cast<std::size_t>(column * in + i)]);
          sum += static_cast<double>(static_cast<float>(rounded)) *
                 static_cast<double>(static_cast<float>(x(row, i)));
        }
        expected.push_back(sum);
      }
    }
    const std::vector<float> actual(y.data(), y.data() + y.size());
    const test::Comparison comparison = test::compare_all("product", actual, expected, 2e-5);
    INFO(in << " inputs, " << out << " outputs, " << rows << " rows: " << comparison.message());
    CHECK(comparison.passed());
  }
}

TEST_CASE("slide encoder: weights that are not as expected", "[slide_encoder]") {
  using Change = std::function<void(Contents&)>;
  const std::string fc1 = "encoder.layers.1.ffn.fc1.weight";
  const std::vector<std::pair<Change, std::string>> cases{
      {[&](Contents& c) { c.tensors.erase(fc1); },
       "tensor \"" + fc1 + "\" is missing, expected shape [128, 64]"},
      {[&](Contents& c) {
         c.tensors[fc1].first = {64, 128};
       },
       "tensor \"" + fc1 + "\" has shape [64, 128], expected [128, 64]"},
      {[](Contents& c) {
         c.tensors["pos_embed"] = {{1}, {0}};
       },
       "tensor \"pos_embed\" is unknown"},
      {[](Contents& c) { c.tensors["norm.bias"].second[3] = std::numeric_limits<float>::quiet_NaN(); },
       "tensor \"norm.bias\" holds values that are not finite"},
      {[&](Contents& c) { c.tensors[fc1].second[3] = std::numeric_limits<float>::infinity(); },
       "tensor \"" + fc1 + "\" holds values that are not finite"},
      {[](Contents& c) { c.metadata["layers"] = "3"; }, "tensor \"encoder.layers.2."},
      {[](Contents& c) { c.metadata["layers"] = "1"; },
       "tensor \"encoder.layers.1.ffn.fc1.bias\" is unknown"},
      {[](Contents& c) { c.metadata["layers"] = "1000000000"; }, "holds 47 tensors, too few for 1000000000"},
      {[](Contents& c) { c.metadata["layers"] = "two"; },
       "metadata \"layers\" is \"two\", expected an integer from 1"},
      {[](Contents& c) { c.metadata["embed"] = "0"; }, "metadata \"embed\" is \"0\""},
      {[](Contents& c) { c.metadata["heads"] = "5"; }, "\"embed\" must be a multiple of \"heads\""},
      {[](Contents& c) { c.metadata.erase("norm_eps"); }, "metadata lacks \"norm_eps\", expected a number"},
      {[](Contents& c) { c.metadata["norm_eps"] = "nan"; }, "metadata \"norm_eps\" is \"nan\""},
      {[](Contents& c) { c.metadata["dilation_rates"] = "[1, 2"; }, "metadata \"dilation_rates\""},
      {[](Contents& c) { c.metadata["dilation_rates"] = "[1, 0, 4]"; },
       "expected a list of positive integers"},
      {[](Contents& c) { c.metadata["dilation_rates"] = "[1, 2]"; }, "must be of one length"},
  };
  for (const auto& [change, message] : cases) check_mentions(refusal(weights_path, change), message);
  check_mentions(refusal(weights_path, [](Contents&) {}), "accepted");
}

TEST_CASE("slide encoder: tiles that are not as expected", "[slide_encoder]") {
  using Change = std::function<void(Contents&)>;
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<Change, std::string>> cases{
      {[](Contents& c) { c.tensors.erase("x"); },
       "tensor \"x\" is missing, expected shape [n, 24] or [1, n, 24]"},
      {[](Contents& c) { c.tensors.erase("coords"); }, "tensor \"coords\" is missing, expected shape [n, 2]"},
      {[](Contents& c) { c.tensors["x"].first = {109 * 24}; },
       "tensor \"x\" has shape [2616], expected shape [n, 24] or [1, n, 24]"},
      {[](Contents& c) {
         c.tensors["x"].first = {1, 218, 12};
       },
       "tensor \"x\" has shape [1, 218, 12], expected shape [n, 24]"},
      {[](Contents& c) {
         c.tensors["coords"] = {{108, 2}, std::vector<float>(216)};
       },
       "tensor \"coords\" has shape [108, 2], expected [109, 2]"},
      {[](Contents& c) { c.tensors["coords"].second[7] = 4096; },
       "tensor \"coords\" has 4096.000000 at [3, 1], expected a number in [0, 4096)"},
      {[](Contents& c) { c.tensors["coords"].second[4] = -1; }, "has -1.000000 at [2, 0]"},
      {[=](Contents& c) { c.tensors["coords"].second[0] = nan; }, "nan at [0, 0]"},
      {[=](Contents& c) { c.tensors["x"].second[24 * 50] = nan; },
       "tensor \"x\" holds values that are not finite, in row 50"},
      {[](Contents& c) {
         c.tensors = {{"x", {{0, 24}, {}}}, {"coords", {{0, 2}, {}}}};
       },
       "tensor \"x\" holds no tiles"},
  };
  for (const auto& [change, message] : cases) check_mentions(refusal(io_path, change), message);
  check_mentions(refusal(io_path, [](Contents& c) { c.tensors["coords"].second[7] = 4095.5F; }), "accepted");
  check_mentions(refusal<Eigen::half>(io_path, [](Contents&) {}),
                 "tensor \"coords\" has dtype F16, expected F64, F32, I64 or I32");
}

TEST_CASE("slide encoder: the positions of the full model's grid", "[slide_encoder]") {
  slide_encoder::PositionTable table(768);
  const Eigen::ArrayXf entry = table.entry(999, 3);
  for (const Eigen::Index i : {0, 1, 100, 191}) {
    const double frequency = std::pow(10000.0, -static_cast<double>(i) / 192);
    CHECK(std::abs(entry[i] - std::sin(3 * frequency)) < 1e-6);
    CHECK(std::abs(entry[192 + i] - std::cos(3 * frequency)) < 1e-6);
    CHECK(std::abs(entry[384 + i] - std::sin(999 * frequency)) < 1e-6);
    CHECK(std::abs(entry[576 + i] - std::cos(999 * frequency)) < 1e-6);
  }
}
