// slide_encoder: Prov-GigaPath's slide encoder on a CPU. `slide_encoder --help` lists the options.
#include <sys/resource.h>

#include <Eigen/Core>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "../support/progress.hpp"
#include "../support/safetensors.hpp"
#include "embeddings.hpp"
#include "options.hpp"
#include "synthetic.hpp"
#include "tiles.hpp"
#include "weights.hpp"

namespace {

using slide_encoder::Embeddings;
using slide_encoder::Matrix;
using slide_encoder::Options;

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

double peak_memory_mib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
#else
  return static_cast<double>(usage.ru_maxrss) / (1 << 10);
#endif
}

/// Before the work is done: what is read must not be overwritten, and the place to write to must be there.
void check_output(const std::string& path, const std::vector<std::string>& inputs) {
  std::error_code none;
  for (const std::string& input : inputs) {
    if (std::filesystem::equivalent(path, input, none)) {
      throw std::runtime_error(path + ": is read, and is not overwritten");
    }
  }
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  if (!std::filesystem::is_directory(folder, none)) {
    throw std::runtime_error(path + ": cannot write: there is no folder " + folder.string());
  }
  if (std::filesystem::exists(path, none) && !std::filesystem::is_regular_file(path, none)) {
    throw std::runtime_error(path + ": cannot write: not a regular file");
  }
}

void save(const Embeddings& embeddings, const Options& options) {
  safetensors::Writer writer;
  const auto add = [&writer](const char* name, const Matrix<float>& rows) {
    if (rows.size() > 0) writer.add(name, {rows.rows(), rows.cols()}, rows.data());
  };
  add("embedding", embeddings.output);
  add("layer_embeddings", embeddings.layers);
  writer.set_metadata("pool", options.pooling == slide_encoder::Pooling::cls ? "cls" : "mean");
  writer.set_metadata("scalar", options.bfloat16 ? "bfloat16" : "float");
  writer.save(options.out);
}

template <class Scalar>
void run(const Options& options) {
  check_output(options.out, {options.weights, options.tiles});
  const Stopwatch loading;
  const slide_encoder::Weights weights(options.weights);
  const slide_encoder::Tiles tiles(options.tiles, weights.config());
  const slide_encoder::SlideEncoder<Scalar> encoder(weights);
  std::printf("read %zu tensors of %s in %.3f s\n", weights.size(), options.weights.c_str(),
              loading.seconds());

  const Stopwatch encoding;
  examples::Progress progress("layer", encoder.layers());
  const Embeddings embeddings = slide_encoder::encode(encoder, tiles, options.pooling, options.all_layers,
                                                      [&progress] { progress.finish_item(); });
  const double seconds = encoding.seconds();
  if (!embeddings.output.allFinite()) {
    throw std::runtime_error("the embedding is not finite: weights or tiles are too large for their type");
  }
  save(embeddings, options);
  std::printf("encoded %lld tiles in %.3f s: %.0f tokens/s with %d threads\n",
              static_cast<long long>(tiles.count()), seconds,
              static_cast<double>(tiles.count() + 1) / seconds, ring_attention::num_threads());
  std::printf("peak memory %.0f MiB\nwrote %s\n", peak_memory_mib(), options.out.c_str());
}

void make_synthetic(const Options& options) {
  if (options.weights == options.tiles) {
    throw std::runtime_error(options.weights + ": weights and tiles need a file each");
  }
  for (const std::string& path : {options.weights, options.tiles}) {
    check_output(path, {});
    if (std::filesystem::exists(path)) throw std::runtime_error(path + ": exists, and is not overwritten");
  }
  const slide_encoder::EncoderConfig config;
  slide_encoder::write_synthetic_weights(options.weights, config);
  slide_encoder::write_synthetic_tiles(options.tiles, config, options.synthetic_tiles);
  std::printf("wrote %s and %s\n", options.weights.c_str(), options.tiles.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = slide_encoder::parse_options(argc, argv);
    if (options.help) {
      std::fputs(slide_encoder::help_text, stdout);
      return 0;
    }
    if (options.threads > 0) ring_attention::set_num_threads(options.threads);
    if (options.synthetic_tiles > 0) {
      make_synthetic(options);
    } else if (options.bfloat16) {
      run<Eigen::bfloat16>(options);
    } else {
      run<float>(options);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "slide_encoder: %s\n", error.what());
    return 1;
  }
}
