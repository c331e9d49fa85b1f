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

#include "../support/progress.hpp"
#include "../support/safetensors.hpp"
#include "encoder.hpp"
#include "options.hpp"
#include "synthetic.hpp"
#include "tiles.hpp"
#include "weights.hpp"

namespace {

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

/// Embeddings: of the output, and where they are asked for of every layer.
struct Embeddings {
  Matrix<float> output;
  Matrix<float> layers;
};

template <class Scalar>
Embeddings encode(const slide_encoder::SlideEncoder<Scalar>& encoder, const slide_encoder::Tiles& tiles,
                  const Options& options) {
  examples::Progress progress("layer", encoder.layers());
  Embeddings embeddings;
  Matrix<float> state = encoder.embed(tiles);
  const auto keep_layer = [&](std::int64_t row) {
    if (options.all_layers) embeddings.layers.row(row) = encoder.pool(state, options.pooling);
  };
  if (options.all_layers) embeddings.layers.resize(encoder.layers() + 1, state.cols());
  keep_layer(0);
  auto workspace = encoder.make_workspace(state.rows());
  for (std::int64_t layer = 0; layer < encoder.layers(); ++layer) {
    encoder.apply_layer(layer, state, workspace);
    keep_layer(layer + 1);
    progress.finish_item();
  }
  encoder.normalize_output(state);
  embeddings.output = encoder.pool(state, options.pooling);
  return embeddings;
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
  const Stopwatch loading;
  const slide_encoder::Weights weights(options.weights);
  const slide_encoder::Tiles tiles(options.tiles, weights.config());
  const slide_encoder::SlideEncoder<Scalar> encoder(weights);
  std::printf("read %zu tensors of %s in %.3f s\n", weights.size(), options.weights.c_str(),
              loading.seconds());

  const Stopwatch encoding;
  const Embeddings embeddings = encode(encoder, tiles, options);
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
  for (const std::string& path : {options.weights, options.tiles}) {
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
