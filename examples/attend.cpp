// attend: ring dilated attention over q, k, v of a safetensors file. `attend --help` lists the options.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/attend_options.hpp"
#include "support/progress.hpp"
#include "support/safetensors.hpp"

namespace {

namespace ra = ring_attention;
using examples::AttendOptions;
using examples::Layout;
using examples::ScalarName;

/// A tensor as it lies in a file, [b, n, h, d] or [b, h, n, d], and a [b, n, h, d] view of it.
template <class Scalar>
struct FileTensor {
  ra::Tensor<Scalar> tensor;
  ra::TensorView<Scalar> view;

  FileTensor(const FileTensor&) = delete;  // a copy's view would see the original's memory
  FileTensor(FileTensor&&) noexcept = default;
  FileTensor(const ra::Shape& shape, Layout layout)
      : tensor(shape),
        view(layout == Layout::bnhd ? tensor.view() : ra::swap_sequence_and_heads(tensor.view())) {}
};

const char* axes(Layout layout) { return layout == Layout::bnhd ? "[b, n, h, d]" : "[b, h, n, d]"; }

ra::Shape rank_4_shape(const safetensors::File& file, const std::string& name, Layout layout) {
  const safetensors::Shape& shape = file.tensor(name).shape;
  if (shape.size() != 4) {
    throw std::invalid_argument(file.path() + ": tensor \"" + name + "\" has shape " +
                                safetensors::to_string(shape) + ", expected rank 4: " + axes(layout));
  }
  return {shape[0], shape[1], shape[2], shape[3]};
}

template <class Scalar>
FileTensor<Scalar> read(const safetensors::File& file, const std::string& name, Layout layout) {
  FileTensor<Scalar> result(rank_4_shape(file, name, layout), layout);
  file.read_into(name, result.tensor.data());
  return result;
}

/// Checks before anything is read that q, k and v belong together.
void check_shapes(const safetensors::File& file, Layout layout) {
  const ra::Shape q = rank_4_shape(file, "q", layout);
  const ra::Shape k = rank_4_shape(file, "k", layout);
  const ra::Shape v = rank_4_shape(file, "v", layout);
  const std::size_t heads = layout == Layout::bnhd ? 2 : 1;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    if (k[axis] != v[axis] || (axis != heads && q[axis] != k[axis])) {
      throw std::invalid_argument(file.path() + ": shapes of q " + ra::to_string(q) + ", k " +
                                  ra::to_string(k) + " and v " + ra::to_string(v) + " disagree; expected " +
                                  axes(layout) + ", of which only q may have more heads");
    }
  }
}

/// One batch item of a tensor.
template <class T>
ra::TensorView<T> item(const ra::TensorView<T>& all, std::int64_t b) {
  const auto [batch, n, h, d] = all.shape();
  return {all.row(b, 0, 0), {1, n, h, d}, all.strides()};
}

/// Item by item, so that progress can be shown: items do not depend on each other.
template <class Scalar, class Accumulator>
void attend(const AttendOptions& options, const ra::TensorView<const Scalar>& q,
            const ra::TensorView<const Scalar>& k, const ra::TensorView<const Scalar>& v,
            const ra::TensorView<Scalar>& out, const ra::TensorView<Accumulator>& lse) {
  const std::int64_t batch = q.shape()[0];
  if (!options.lengths.empty() && static_cast<std::int64_t>(options.lengths.size()) != batch) {
    throw std::invalid_argument("--lengths has " + std::to_string(options.lengths.size()) +
                                " entries: must be one per batch item, " + std::to_string(batch));
  }
  for (const std::int64_t length : options.lengths) {
    if (length < 0 || length > q.shape()[1]) {
      throw std::invalid_argument("--lengths has " + std::to_string(length) + ": must lie in [0, " +
                                  std::to_string(q.shape()[1]) + "]");
    }
  }
  const ra::RingDilatedAttentionV2<Scalar> attention(options.config);
  examples::Progress progress("batch item", batch);
  for (std::int64_t b = 0; b < batch; ++b) {
    ra::ForwardOptions forward;
    if (!options.lengths.empty()) forward.lengths = {options.lengths[static_cast<std::size_t>(b)]};
    attention.forward(item(q, b), item(k, b), item(v, b), item(out, b), item(lse, b), forward);
    progress.finish_item();
  }
}

/// Acceptable difference of results of this precision, in the units of agrees().
double tolerance_of(safetensors::Dtype dtype) {
  switch (dtype) {
    case safetensors::Dtype::f64:
      return 1e-12;
    case safetensors::Dtype::f16:
      return 4e-3;
    case safetensors::Dtype::bf16:
      return 2.5e-2;
    default:
      return 2e-5;
  }
}

/// Prints the largest difference; true if it is within the tolerance. Errors of 16 bits grow with the values,
/// even if the sums of these cancel.
template <class Scalar>
bool agrees(const AttendOptions& options, const safetensors::File& file, const ra::Tensor<Scalar>& v,
            const ra::Tensor<Scalar>& out) {
  const safetensors::Shape shape(out.shape().begin(), out.shape().end());
  const std::vector<double> reference = file.read<double>(options.compare, shape);
  double least = 1.0;
  for (std::int64_t i = 0; sizeof(Scalar) == 2 && i < v.size(); ++i) {
    const double size = std::abs(static_cast<double>(v.data()[i])) / 5;
    if (std::isfinite(size)) least = std::max(least, size);
  }
  double worst = 0.0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const auto value = static_cast<double>(out.data()[i]);
    double difference = value == reference[i]
                            ? 0.0
                            : std::abs(value - reference[i]) / std::max(least, std::abs(reference[i]));
    if (std::isnan(difference)) difference = std::numeric_limits<double>::infinity();
    if (difference > worst) {
      worst = difference;
      where = i;
    }
  }
  const double tolerance = options.tolerance.value_or(std::max(
      tolerance_of(safetensors::dtype_of<Scalar>()), tolerance_of(file.tensor(options.compare).dtype)));
  const bool within = worst <= tolerance;
  std::printf("largest difference from \"%s\": %.3g at element %zu of %zu, tolerance %.3g: %s\n",
              options.compare.c_str(), worst, where, reference.size(), tolerance,
              within ? "agrees" : "DIFFERS");
  return within;
}

std::string joined(const std::vector<std::int64_t>& list) { return nlohmann::json(list).dump(); }

template <class Scalar>
bool run(const AttendOptions& options, const safetensors::File& file) {
  using Accumulator = ra::accumulator_t<Scalar>;
  check_shapes(file, options.layout);
  if (!options.compare.empty()) file.tensor(options.compare);  // missing: told before any work is done
  const FileTensor<Scalar> q = read<Scalar>(file, "q", options.layout);
  const FileTensor<Scalar> k = read<Scalar>(file, "k", options.layout);
  const FileTensor<Scalar> v = read<Scalar>(file, "v", options.layout);
  FileTensor<Scalar> out(q.tensor.shape(), options.layout);
  const auto [b, n, h, d] = q.view.shape();
  ra::Tensor<Accumulator> lse(b, h, n, 1);

  const auto start = std::chrono::steady_clock::now();
  attend<Scalar, Accumulator>(options, q.view, k.view, v.view, out.view, lse.view());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::printf("attention over %lld batch items of %lld tokens, %lld heads of %lld, %s: %.3f s\n",
              static_cast<long long>(b), static_cast<long long>(n), static_cast<long long>(h),
              static_cast<long long>(d),
              std::string(safetensors::info(safetensors::dtype_of<Scalar>()).name).c_str(), elapsed.count());

  if (!options.output.empty()) {
    safetensors::Writer writer;
    const ra::Shape& shape = out.tensor.shape();
    writer.add("out", safetensors::Shape(shape.begin(), shape.end()), out.tensor.data());
    writer.add("lse", {b, h, n}, lse.data());
    writer.set_metadata("segment_lengths", joined(options.config.segment_lengths));
    writer.set_metadata("dilation_rates", joined(options.config.dilation_rates));
    writer.set_metadata("causal", options.config.causal ? "true" : "false");
    writer.save(options.output);
    std::printf("wrote %s\n", options.output.c_str());
  }
  return options.compare.empty() || agrees(options, file, v.tensor, out.tensor);
}

ScalarName scalar_of(const safetensors::File& file) {
  switch (file.tensor("q").dtype) {
    case safetensors::Dtype::f64:
      return ScalarName::float64;
    case safetensors::Dtype::f16:
      return ScalarName::half;
    case safetensors::Dtype::bf16:
      return ScalarName::bfloat16;
    default:
      return ScalarName::float32;  // integers are refused when q is read
  }
}

bool run(AttendOptions options) {
  const safetensors::File file(options.input);
  examples::complete_from_metadata(options, file.metadata());
  if (options.threads > 0) ra::set_num_threads(options.threads);
  switch (options.scalar ? *options.scalar : scalar_of(file)) {
    case ScalarName::float64:
      return run<double>(options, file);
    case ScalarName::half:
      return run<Eigen::half>(options, file);
    case ScalarName::bfloat16:
      return run<Eigen::bfloat16>(options, file);
    case ScalarName::float32:
      break;
  }
  return run<float>(options, file);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const AttendOptions options = examples::parse_attend_options(argc, argv);
    if (options.help) {
      std::fputs(examples::attend_help, stdout);
      return 0;
    }
    return run(options) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attend: %s\n", error.what());
    return 1;
  }
}
