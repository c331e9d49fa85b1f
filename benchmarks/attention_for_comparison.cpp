// One attention problem on demand, for compare_pytorch.py: reads the inputs, writes the outputs once, then
// makes one timed call for each line of standard input. `--help` tells the protocol.
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>

#include "../examples/support/command_line.hpp"
#include "../examples/support/safetensors.hpp"
#include "support/attention_patterns.hpp"
#include "support/clock.hpp"
#include "support/machine.hpp"

namespace {

using namespace benchmarks;

constexpr const char* help_text =
    R"(attention_for_comparison: one attention problem, called on demand

usage: attention_for_comparison --input FILE --output FILE --segments W,W,... --rates R,R,... [options]

Reads q, k and v ([batch, tokens, heads, dim] of F32, BF16, F16 or F64; with --backward also grad_out), computes once and
writes out and lse, or with --backward dq, dk and dv. Then it prints one line of JSON (kernel, flops of a call, machine,
build). From then on every line of standard input that holds a number of threads makes one call with that many, and is
answered by a line with the seconds it took. It ends with its input.

  --preset NAME    ring (default), longnet or torchscale
  --backward       calls are of backward; forward has been computed before
  --kernel NAME    one of the kernels of this processor (default: the best)
  --kernels        print their names and end
  --help
)";

struct Options {
  std::string input, output;
  ra::AttentionConfig config = ra::ring_preset();
  Direction direction = Direction::forward;
  std::string kernel = ra::available_kernels().front();
};

Options parse(const command_line::Arguments& arguments) {
  Options options;
  options.input = arguments.text("--input");
  options.output = arguments.text("--output");
  if (options.input.empty() || options.output.empty()) {
    throw command_line::Error("--input and --output are needed (see --help)");
  }
  arguments.choose<ra::AttentionConfig>("--preset",
                                        {{"ring", ra::ring_preset()},
                                         {"longnet", ra::longnet_preset()},
                                         {"torchscale", ra::torchscale_preset()}},
                                        options.config);
  options.config.segment_lengths = arguments.list("--segments");
  options.config.dilation_rates = arguments.list("--rates");
  if (arguments.has("--backward")) options.direction = Direction::backward;
  if (arguments.has("--kernel")) options.kernel = arguments.text("--kernel");
  return options;
}

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

template <class Scalar>
void serve(const Options& options, const safetensors::File& file) {
  const auto q = read<Scalar>(file, "q"), k = read<Scalar>(file, "k"), v = read<Scalar>(file, "v");
  const bool backward = options.direction == Direction::backward;
  const auto grad_out = backward ? read<Scalar>(file, "grad_out") : ra::Tensor<Scalar>();
  const ra::RingDilatedAttentionV2<Scalar> attention(options.config);
  ra::AttentionResult<Scalar> result = attention.forward_with_lse(q, k, v);
  ra::Gradients<Scalar> gradients;
  const auto call = [&] {
    if (backward) {
      gradients = attention.backward(q, k, v, result, grad_out);
    } else {
      attention.forward(q, k, v, result.out);
    }
  };

  call();
  safetensors::Writer writer;
  if (backward) {
    add(writer, "dq", gradients.q);
    add(writer, "dk", gradients.k);
    add(writer, "dv", gradients.v);
  } else {
    add(writer, "out", result.out);
    add(writer, "lse", result.lse);
  }
  writer.save(options.output);

  const auto [batch, tokens, heads, dim] = q.shape();
  const double pairs = static_cast<double>(batch) * count_pairs(options.config, tokens, heads);
  const nlohmann::json ready{{"kernel", options.kernel},
                             {"pairs", pairs},
                             {"flops", count_flops(pairs, dim, options.direction)},
                             {"commit", describe_commit()},
                             {"machine", describe_machine()},
                             {"build", describe_build()}};
  std::cout << ready.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    ra::set_num_threads(command_line::parse_number<int>("threads", line));
    std::cout << nlohmann::json(seconds_of(call)).dump() << std::endl;
  }
}

void run(const Options& options) {
  ra::set_kernel(options.kernel);
  const safetensors::File file(options.input);
  switch (file.tensor("q").dtype) {
    case safetensors::Dtype::bf16:
      return serve<Eigen::bfloat16>(options, file);
    case safetensors::Dtype::f16:
      return serve<Eigen::half>(options, file);
    case safetensors::Dtype::f64:
      return serve<double>(options, file);
    default:
      return serve<float>(options, file);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const command_line::Arguments arguments(
        argc, argv, {"--input", "--output", "--preset", "--segments", "--rates", "--kernel"},
        {"--backward", "--kernels", "--help", "-h"});
    if (arguments.has("--help") || arguments.has("-h")) {
      std::fputs(help_text, stdout);
    } else if (arguments.has("--kernels")) {
      for (const std::string& name : ra::available_kernels()) std::printf("%s\n", name.c_str());
    } else {
      run(parse(arguments));
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_for_comparison: %s\n", error.what());
    return 1;
  }
}
