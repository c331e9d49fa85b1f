// One attention problem on demand, for the compare_*.py: one timed call for each line of standard input.
// `--help` describes the protocol.
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <utility>
#include <vector>

#include "../examples/support/command_line.hpp"
#include "../examples/support/ring_shard.hpp"
#include "../examples/support/safetensors.hpp"
#include "support/measuring.hpp"
#include "support/problems.hpp"
#include "support/results.hpp"

namespace {

using namespace benchmarks;

constexpr const char* help_text =
    R"(attention_for_comparison: one attention problem, called on demand

usage: attention_for_comparison --input FILE --output FILE --segments W,W,... --rates R,R,... [options]
       attention_for_comparison --tokens N --segments W,W,... --rates R,R,... [options]
       attention_for_comparison --about

The first reads q, k and v ([batch, tokens, heads, dim] of F32, BF16, F16 or F64; with --backward also grad_out),
computes once and writes out and lse, or with --backward dq, dk and dv. The second makes q, k and v of random numbers,
calls forward once and checks some rows of the output against a float64 evaluation. Then it prints one line of JSON
(kernel, flops of a call, seconds of the first call, resident memory before there were tensors, machine, build). From
then on every line of standard input that holds a number of threads makes one call with that many, and is answered by a
line with its seconds and the peak resident memory so far. It ends with its input.

  --preset NAME    ring (default), longnet or torchscale
  --backward       calls are of backward; forward has been computed before
  --kernel NAME    one of the kernels of this processor (default: the best)
  --heads N        with --tokens (default 4)
  --head-dim N     with --tokens (default 64)
  --scalar NAME    with --tokens: float (default) or bfloat16
  --about          print machine, build, commit and kernels as JSON and end
  --help
)";

template <class Scalar>
ra::Tensor<Scalar> read(const safetensors::File& file, const std::string& name) {
  const safetensors::Shape& shape = file.tensor(name).shape;
  if (shape.size() != 4) {
    throw safetensors::Error(file.path() + ": tensor \"" + name + "\" has shape " +
                             safetensors::to_string(shape) + ", expected [batch, tokens, heads, dim]");
  }
  ra::Tensor<Scalar> tensor(shape[0], shape[1], shape[2], shape[3]);
  file.read_into(name, tensor.data());
  return tensor;
}

template <class T>
void add(safetensors::Writer& writer, const std::string& name, const ra::Tensor<T>& tensor) {
  writer.add(name, {tensor.shape().begin(), tensor.shape().end()}, tensor.data());
}

/// Prints `ready`, then answers each line with what call() took.
template <class Call>
void serve(const nlohmann::json& ready, const Call& call) {
  std::cout << ready.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    ra::set_num_threads(command_line::parse_number<int>("threads", line));
    const double seconds = seconds_of(call);
    nlohmann::json answer{{"seconds", seconds}, {"peak_bytes", nullptr}};
    if (const auto peak = peak_resident_bytes()) answer["peak_bytes"] = *peak;
    std::cout << answer.dump() << std::endl;
  }
}

template <class Scalar>
void serve_file(const command_line::Arguments& arguments, const ra::AttentionConfig& config,
                const safetensors::File& file, nlohmann::json ready) {
  const auto q = read<Scalar>(file, "q"), k = read<Scalar>(file, "k"), v = read<Scalar>(file, "v");
  const auto direction = arguments.has("--backward") ? Direction::backward : Direction::forward;
  const ra::RingDilatedAttentionV2<Scalar> attention(config);
  ra::AttentionResult<Scalar> result = attention.forward_with_lse(q, k, v);
  ra::Tensor<Scalar> grad_out;
  ra::Gradients<Scalar> gradients;
  if (direction == Direction::backward) grad_out = read<Scalar>(file, "grad_out");
  const auto call = [&] {
    if (direction == Direction::backward) {
      gradients = attention.backward(q, k, v, result, grad_out);
    } else {
      attention.forward(q, k, v, result.out);
    }
  };

  call();
  safetensors::Writer writer;
  if (direction == Direction::backward) {
    add(writer, "dq", gradients.q);
    add(writer, "dk", gradients.k);
    add(writer, "dv", gradients.v);
  } else {
    add(writer, "out", result.out);
    add(writer, "lse", result.lse);
  }
  writer.save(arguments.text("--output"));
  const auto [batch, tokens, heads, dim] = q.shape();
  ready["flops"] =
      static_cast<double>(batch) * count_flops(count_pairs(config, tokens, heads), dim, direction);
  serve(ready, call);
}

/// The largest error of three rows, in units of the scalar's tolerance; infinite for NaN.
template <class Scalar>
double worst_of_sampled_rows(const ra::AttentionConfig& config, const ra::Tensor<Scalar>& out) {
  const auto [batch, n, heads, dim] = out.shape();
  const examples::TokenRanges rows{{0, 1}, {n / 3, n / 3 + 1}, {n - 1, n}};
  ra::Tensor<float> sampled(1, 3, heads, dim);
  for (std::int64_t i = 0; i < 3; ++i) {
    const Scalar* const row = out.data() + rows[static_cast<std::size_t>(i)].first * heads * dim;
    for (std::int64_t j = 0; j < heads * dim; ++j)
      sampled.data()[i * heads * dim + j] = static_cast<float>(row[j]);
  }
  const double in_float =
      examples::check_rows(sampled, rows, examples::DirectRow(config, n, heads, dim), 3).worst;
  return std::is_same_v<Scalar, float> ? in_float : in_float * (2e-5 / 2.5e-2);
}

template <class Scalar>
void serve_tokens(const command_line::Arguments& arguments, const ra::AttentionConfig& config,
                  nlohmann::json ready) {
  const std::int64_t tokens = *arguments.number<std::int64_t>("--tokens");
  const std::int64_t heads = arguments.number<std::int64_t>("--heads").value_or(4);
  const std::int64_t dim = arguments.number<std::int64_t>("--head-dim").value_or(64);
  if (tokens < 1 || heads < 1 || dim < 1)
    throw command_line::Error("--tokens, --heads and --head-dim must be positive");
  const auto before = peak_resident_bytes();
  const auto q = random_numbers<Scalar>(tokens, heads, dim, examples::Operand::query);
  const auto k = random_numbers<Scalar>(tokens, heads, dim, examples::Operand::key);
  const auto v = random_numbers<Scalar>(tokens, heads, dim, examples::Operand::value);
  ra::Tensor<Scalar> out(q.shape());
  const ra::RingDilatedAttentionV2<Scalar> attention(config);
  const auto call = [&] { attention.forward(q, k, v, out); };
  ready["first_seconds"] = seconds_of(call);
  const auto after = peak_resident_bytes();
  if (before && after) {
    ready["bytes_before"] = *before;
    ready["peak_bytes"] = *after;
  }
  ready["tensor_bytes"] = 4 * q.size() * static_cast<std::int64_t>(sizeof(Scalar));
  ready["worst_error_in_tolerances"] = worst_of_sampled_rows(config, out);
  ready["flops"] = count_flops(count_pairs(config, tokens, heads), dim, Direction::forward);
  serve(ready, call);
}

void run(const command_line::Arguments& arguments) {
  nlohmann::json ready = describe_run();
  if (arguments.has("--about")) {
    std::printf("%s\n", ready.dump().c_str());
    return;
  }
  ra::AttentionConfig config = ra::ring_preset();
  arguments.choose<ra::AttentionConfig>("--preset",
                                        {{"ring", ra::ring_preset()},
                                         {"longnet", ra::longnet_preset()},
                                         {"torchscale", ra::torchscale_preset()}},
                                        config);
  config.segment_lengths = arguments.list("--segments");
  config.dilation_rates = arguments.list("--rates");
  if (arguments.has("--kernel")) ra::set_kernel(arguments.text("--kernel"));
  ready["kernel"] = arguments.has("--kernel") ? arguments.text("--kernel") : ra::available_kernels().front();
  if (arguments.has("--tokens")) {
    bool bfloat16 = false;
    arguments.choose<bool>("--scalar", {{"float", false}, {"bfloat16", true}}, bfloat16);
    return bfloat16 ? serve_tokens<Eigen::bfloat16>(arguments, config, ready)
                    : serve_tokens<float>(arguments, config, ready);
  }
  if (!arguments.has("--input") || !arguments.has("--output")) {
    throw command_line::Error("--input and --output are needed, or --tokens (see --help)");
  }
  const safetensors::File file(arguments.text("--input"));
  switch (file.tensor("q").dtype) {
    case safetensors::Dtype::bf16:
      return serve_file<Eigen::bfloat16>(arguments, config, file, ready);
    case safetensors::Dtype::f16:
      return serve_file<Eigen::half>(arguments, config, file, ready);
    case safetensors::Dtype::f64:
      return serve_file<double>(arguments, config, file, ready);
    default:
      return serve_file<float>(arguments, config, file, ready);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const command_line::Arguments arguments(argc, argv,
                                            {"--input", "--output", "--preset", "--segments", "--rates",
                                             "--kernel", "--tokens", "--heads", "--head-dim", "--scalar"},
                                            {"--backward", "--about", "--help", "-h"});
    if (arguments.has("--help") || arguments.has("-h")) {
      std::fputs(help_text, stdout);
    } else {
      run(arguments);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_for_comparison: %s\n", error.what());
    return 1;
  }
}
