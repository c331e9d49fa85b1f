#!/usr/bin/env python3
"""Times this library against PyTorch on a GPU: the same inputs, in turn, in one process."""

import dataclasses
import pathlib
import sys

sys.dont_write_bytecode = True

from support.comparison import (  # noqa: E402
    GIGAPATH_SEGMENTS, RATES, SEGMENTS, Case, add_case_options, compare_errors, make_parser, parse_case_options, ranged,
    selected,
)
from support.results import PROGRAMS, describe_run, summarize, write_results  # noqa: E402

EPILOG = """\
cases, forward:
  dense/d64/full, dense/d64/causal,   8,192 tokens, 16 heads, bfloat16, against PyTorch's FlashAttention kernel (flash)
  dense/d128/full, dense/d128/causal  and cuDNN's (cudnn)
  dense/d64/full/float32              against PyTorch's memory-efficient kernel (efficient)
  strided/d64/r4, strided/d64/r16     8,192 rows of tensors 4 and 16 times as long, against the library's own call of
                                      8,192 rows one behind the other (contiguous)
  dilated/d64/r4, dilated/d64/r16     one branch of rate 4 and 16 that keeps 8,192 rows, against the same; the rows that
                                      are not kept, which are 0, are written, too
  longnet/n16384, longnet/n262144     12 heads of 64, segments of 2,048 to 32,768 at rates 1 to 16, against gathering,
                                      FlashAttention, scattering and mixing in PyTorch (gather)
  gigapath/n10000                     16 heads of 48, the segments and rates of Prov-GigaPath, zero keys attended,
                                      against the same, and against torchscale's own code if that and flash-attn are
                                      there
  torchscale/n16384, .../n262144      longnet by torchscale's rules, against torchscale's own code alone
Names go on as in dense/d64/full/bfloat16/flash. The library reads and writes [batch, tokens, heads, dim].

Outputs of all sides are compared with PyTorch's in float64 first. The library's must agree within its tolerances: 2e-5
for float32 and 2.5e-2 for bfloat16 times the larger of the reference and the smaller of 1 and the largest reference; a
peer's within ten times that, or it is not the same attention. error_ratio is the library's root-mean-square error over
the peer's.

Then calls alternate, in an order that changes from round to round: a sample is as many calls as take 10 ms, between
events, with caches as they are after the calls before. A ratio is the peer's time over the library's of the same round;
above 1 the library is faster. A large product of bfloat16 matrices is timed around every round; one counts only if the
two agree within 7 %. "noisy" marks cases with fewer rounds than asked for. TFLOP/s count 4 * d * query-key pairs.

Before that, root-mean-square errors of 16-bit outputs against float64 are compared with those of PyTorch's fused
attention, as compare_pytorch.py does; --accuracy compares nothing else.

benchmarks/run --device cuda builds what this needs and runs it. To build it where the defaults expect it (with nvcc,
libeigen3-dev and nlohmann-json3-dev; PyTorch: pip install torch):
  cmake -S . -B build/measure -DCMAKE_BUILD_TYPE=Release -DRING_ATTENTION_BUILD_TESTS=OFF \\
    -DRING_ATTENTION_BUILD_EXAMPLES=OFF -DRING_ATTENTION_BUILD_CUDA_COMPILED=ON
  cmake --build build/measure --target ring_attention_c attention_for_comparison
attention_for_comparison describes the machine and the build. Exit status 0 if all outputs agree, 1 if not, 2 for a
mistake on the command line, 3 if something is missing, which is named: PyTorch, a GPU, the library or the program.
"""

MISSING = 3
PEER_TOLERANCES = 10  # peers may round more often
BRACKET_TOLERANCE = 0.07


@dataclasses.dataclass(frozen=True)
class GpuCase(Case):
    scalar: str = "bfloat16"
    peers: tuple = ()
    stride: int = 1  # rows of the tensors that the library is given lie that far apart

    def contiguous(self):
        """As many rows without dilation, one behind the other."""
        rows = self.tokens // self.rates[0]
        return dataclasses.replace(
            self, tokens=rows, preset="ring", segments=(rows,), rates=(1,), peers=(), stride=1
        )


def make_cases(quick, torchscale):
    """`torchscale`: whether it is there."""

    def dense(head_dim, causal, **more):
        name = f"dense/d{head_dim}/{'causal' if causal else 'full'}"
        return GpuCase(name, 8192, 16, head_dim, segments=(8192,), causal=causal, **more)

    yield from (dense(head_dim, causal, peers=("flash", "cudnn")) for head_dim in (64, 128) for causal in (False, True))
    yield dense(64, False, scalar="float32", peers=("efficient",))
    for rate in (4, 16):
        yield GpuCase(f"strided/d64/r{rate}", 8192, 16, 64, segments=(8192,), stride=rate, peers=("contiguous",))
    for rate in (4, 16):
        rows = 8192 * rate
        yield GpuCase(f"dilated/d64/r{rate}", rows, 16, 64, "longnet", (rows,), (rate,), peers=("contiguous",))
    for tokens in (16384,) if quick else (16384, 262144):
        yield GpuCase(f"longnet/n{tokens}", tokens, 12, 64, "longnet", SEGMENTS, RATES, peers=("gather",))
        if torchscale:
            yield GpuCase(f"torchscale/n{tokens}", tokens, 12, 64, "torchscale", SEGMENTS, RATES, peers=("torchscale",))
    peers = ("gather", "torchscale") if torchscale else ("gather",)
    yield GpuCase("gigapath/n10000", 10000, 16, 48, "torchscale", GIGAPATH_SEGMENTS, RATES, peers=peers)


def take_rounds(sides, peak, wanted):
    """Seconds of every side and operations per second of the peak beside it, by round, out of at most three times as
    many rounds as are wanted; and whether fewer count. If none does, all are there."""
    names = list(sides)
    for name in names:
        sides[name].seconds()  # warms up
    counted, disturbed = [], []
    before = peak()
    for number in range(3 * wanted):
        if len(counted) == wanted:
            break
        first = number % len(names)
        seconds = {name: sides[name].seconds() for name in names[first:] + names[:first]}
        after = peak()
        agree = abs(after - before) <= BRACKET_TOLERANCE * max(after, before)
        (counted if agree else disturbed).append((seconds, (before + after) / 2))
        before = after
    return counted or disturbed, len(counted) < wanted


def measure(case, names, gpu, rounds):
    """A line of the results for each peer; `names` by peer."""
    case = dataclasses.replace(case, peers=tuple(names))
    problem, about = gpu.problem(case), dataclasses.asdict(case) | {"kernel": gpu.kernel, "flops": case.flops()}
    del about["peers"]
    errors = problem.errors()
    worst, where, error = errors["library"]
    about |= {"worst_difference_in_tolerances": worst, "worst_in": where}
    lines = [about | {"name": name, "peer": peer, "agree": worst <= 1} for peer, name in names.items()]
    for line in lines:
        if line["peer"] in errors:
            line["peer_difference_in_tolerances"], _, peer_error = errors[line["peer"]]
            line["error_ratio"] = error / peer_error
            line["agree"] = line["agree"] and line["peer_difference_in_tolerances"] <= PEER_TOLERANCES
    if not all(line["agree"] for line in lines):
        return lines
    taken, noisy = take_rounds(problem.sides, gpu.peak, rounds)

    def summary(of_round):
        return summarize([of_round(seconds, peak) for seconds, peak in taken])

    for line in lines:
        peer, flops = line["peer"], line["flops"]
        line |= {
            "library_seconds": summary(lambda seconds, _: seconds["library"]),
            "library_tflops": summary(lambda seconds, _: flops / seconds["library"] * 1e-12),
            "peer_seconds": summary(lambda seconds, _: seconds[peer]),
            "peer_tflops": summary(lambda seconds, _: flops / seconds[peer] * 1e-12),
            "ratio": summary(lambda seconds, _: seconds[peer] / seconds["library"]),
            "product_tflops": summary(lambda _, peak: peak * 1e-12),
            "noisy": noisy,
        }
    return lines


def show(line):
    if not line["agree"]:
        worst = f"{line['worst_in']} differs by {line['worst_difference_in_tolerances']:g} tolerances"
        peers = f", the peer's by {line['peer_difference_in_tolerances']:g}" if "error_ratio" in line else ""
        print(f"FAILED {line['name']}: {worst}{peers}", flush=True)
        return
    columns = [ranged(line, key, ".3g") for key in ("library_tflops", "peer_tflops", "ratio")]
    columns.append(f"{line['error_ratio']:.2f}" if "error_ratio" in line else "-")
    noisy = "  noisy" if line["noisy"] else ""
    print("{:<38} {:>24} {:>24} {:>22} {:>7}{}".format(line["name"], *columns, noisy), flush=True)


def find_gpu(options):
    """The side of PyTorch, support.cuda_peers; ends with status MISSING, and what is missing, if it cannot be used."""
    missing = []
    try:
        import torch

        if not torch.cuda.is_available():
            missing.append(f"PyTorch {torch.__version__} finds no GPU")
    except ImportError as error:
        missing.append(f"PyTorch is missing ({error}): pip install torch")
    for what, path in (("the library", options.library), ("the program", options.program)):
        if not path.exists():
            missing.append(f"{what} {path} does not exist: build it (see --help), or name where it is")
    if not missing:
        from support import c_library, cuda_peers

        try:
            return cuda_peers.Gpu(options.library, options.kernel)
        except c_library.LibraryError as error:
            missing.append(str(error))
    for line in missing:
        print(f"compare_cuda.py: {line}", file=sys.stderr)
    sys.exit(MISSING)


def parse_arguments():
    parser = make_parser(__doc__, EPILOG)
    parser.add_argument(
        "--library",
        type=pathlib.Path,
        default=PROGRAMS / "c_interface" / "libring_attention_c.so",
        help="the shared library of examples/python, if it is built elsewhere",
    )
    parser.add_argument("--quick", action="store_true", help="without the longest sequences, and fewer rounds")
    add_case_options(parser)
    return parse_case_options(parser)


def main():
    options = parse_arguments()
    gpu = find_gpu(options)
    results, lines, accuracy = describe_run(options.program), [], []
    results["machine"]["gpu"] = gpu.machine
    results["kernels"] = gpu.kernels
    print(f"{gpu.machine['name']}, kernels {', '.join(gpu.kernels)}; measured: {gpu.kernel}", flush=True)
    if gpu.torchscale is None:
        print(f"torchscale is not compared: {gpu.why_no_torchscale}", flush=True)
    if not options.filter:
        for scalar in ("bfloat16", "float16"):

            def error_ratios(case, seed, scalar=scalar):
                return gpu.error_ratios(GpuCase(**dataclasses.asdict(case), scalar=scalar), seed)

            accuracy.extend(compare_errors(scalar, error_ratios, backward=False))
    header = ("case, TFLOP/s", "library", "peer", "ratio", "errors")
    print("{:<38} {:>24} {:>24} {:>22} {:>7}".format(*header), flush=True)
    for case in () if options.accuracy else make_cases(options.quick, gpu.torchscale is not None):
        names = {peer: f"{case.name}/{case.scalar}/{peer}" for peer in case.peers}
        chosen = {peer: name for peer, name in names.items() if selected(name, options)}
        for line in measure(case, chosen, gpu, options.rounds) if chosen else ():
            show(line)
            lines.append(line)
    if not lines and not accuracy:
        sys.exit("nothing was compared: no case matches --filter")
    settings = {"rounds": options.rounds}
    results |= {"pytorch": gpu.pytorch, "torchscale": gpu.why_no_torchscale or "compared", "settings": settings}
    write_results(results | {"accuracy": accuracy, "results": lines}, options.json)
    sys.exit(0 if all(line["agree"] for line in accuracy + lines) else 1)


if __name__ == "__main__":
    main()
