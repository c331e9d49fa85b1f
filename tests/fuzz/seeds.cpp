// Writes what fuzzing starts from: make_seeds DATA SEEDS, with DATA the folder of the tests' safetensors
// files. Each target gets a folder of its own below SEEDS, which must not exist.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "../../examples/slide_encoder/encoder_config.hpp"
#include "../../examples/support/safetensors.hpp"
#include "support/scratch_folder.hpp"
#include "support/stored_patterns.hpp"

namespace {

namespace fs = std::filesystem;

/// The tensors of a file cut down to two entries along each axis: fuzzing wants small files.
void write_cut(const safetensors::File& file, const fs::path& path) {
  std::map<std::string, std::vector<float>> values;
  safetensors::Writer writer;
  for (const auto& [name, tensor] : file.tensors()) {
    if (!safetensors::is_floating_point(tensor.dtype)) continue;
    safetensors::Shape shape = tensor.shape;
    std::size_t size = 1;
    for (std::int64_t& extent : shape) {
      extent = std::min<std::int64_t>(extent, 2);
      size *= static_cast<std::size_t>(extent);
    }
    auto& numbers = values[name] = file.read<float>(name);
    numbers.resize(size);
    writer.add(name, shape, numbers.data());
  }
  for (const auto& [key, value] : file.metadata()) writer.set_metadata(key, value);
  writer.save(path);
}

void write_safetensors(const fs::path& data, const fs::path& corpus) {
  for (const auto& entry : fs::recursive_directory_iterator(data)) {
    if (entry.path().extension() == ".safetensors") {
      write_cut(safetensors::File(entry.path()), corpus / entry.path().filename());
    }
  }
  safetensors::Writer config;
  for (const auto& [key, value] : slide_encoder::to_metadata({})) config.set_metadata(key, value);
  config.save(corpus / "configuration");
  const std::vector<double> doubles{1, 2, 3};
  const std::vector<Eigen::half> halves(2);
  const std::vector<Eigen::bfloat16> bfloats(1);
  safetensors::Writer dtypes;
  dtypes.add("double", {3}, doubles.data());
  dtypes.add("half", {2, 1}, halves.data());
  dtypes.add("bfloat16", {}, bfloats.data());
  dtypes.add("empty", {0, 5}, bfloats.data());
  dtypes.save(corpus / "dtypes");
  // The target reads its choices from an input's end: these are files as they are.
  for (const auto& entry : fs::directory_iterator(corpus)) std::ofstream(entry.path(), std::ios::app) << '\0';
}

/// Each pattern of the tests as a file and as words that the target puts behind a fitting header. The target
/// reads its choices from an input's end.
void write_patterns(const fs::path& corpus) {
  const auto patterns = test::small_patterns();
  const test::ScratchFolder folder;
  const auto write = [&](const std::vector<test::KeyedPattern>& some, const std::string& name) {
    ring_attention::PatternStore(folder / name).save(some);
    const std::string file = test::read_file(folder / name);
    const std::string payload = file.substr(sizeof(ring_attention::detail::PatternFileHeader));
    test::write_file(corpus / (name + "_file"), file + '\0');
    test::write_file(corpus / (name + "_sealed"), payload + static_cast<char>(some.size()) + '\1');
  };
  write(patterns, "all");
  for (std::size_t i = 0; i < patterns.size(); ++i) write({patterns[i]}, "pattern_" + std::to_string(i));
}

void write_noise(const fs::path& corpus, std::size_t bytes) {
  std::mt19937 random(1);
  for (int file = 0; file < 48; ++file) {
    std::string noise(bytes, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    test::write_file(corpus / ("noise_" + std::to_string(file)), noise);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: make_seeds DATA SEEDS\n", stderr);
    return 2;
  }
  try {
    const fs::path corpora = argv[2];
    for (const char* target : {"safetensors", "config", "pattern_store"})
      fs::create_directories(corpora / target);
    write_safetensors(argv[1], corpora / "safetensors");
    write_noise(corpora / "safetensors", 300);
    write_patterns(corpora / "pattern_store");
    write_noise(corpora / "pattern_store", 200);
    write_noise(corpora / "config", 300);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_seeds: %s\n", error.what());
    return 1;
  }
}
