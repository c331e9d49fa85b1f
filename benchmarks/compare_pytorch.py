#!/usr/bin/env python3
"""Times this library against PyTorch on the CPU: the same inputs, call by call in turn, in one run."""

import dataclasses
import pathlib
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from support.comparison import (  # noqa: E402
    GIGAPATH_SEGMENTS, PAUSE, RATES, SCALARS, SEGMENTS, Case, add_case_options, compare_errors, cores, make_parser,
    parse_case_options, pytorch_version, ranged, require_program, selected,
)
from support.results import describe_run, summarize, write_results  # noqa: E402

EPILOG = """\
cases, each in float32 and bfloat16, with one thread and with all:
  sdpa/d64/forward, sdpa/d128/forward   2,048 tokens, 8 heads, every query meets every key; PyTorch:
                                        scaled_dot_product_attention on [batch, heads, tokens, dim]
  sdpa/d64/backward                     1,024 tokens; PyTorch: its gradient by autograd, without the forward call
  longnet/d64/forward                   16,384 tokens, 12 heads, segments of 2,048 to 32,768 at rates 1 to 16
  gigapath/d48/forward                  10,000 tokens, 16 heads, the segments and rates of Prov-GigaPath, zero keys
                                        attended; PyTorch, both: gather, attention with its log-sum-exp, scatter, mix
Names go on as in sdpa/d64/forward/bfloat16/threads1. The library reads and writes [batch, tokens, heads, dim].

Outputs (backward: gradients) are compared first, within the library's tolerances: 2e-5 for float32 and 2.5e-2 for
bfloat16, gradients five times that, times the larger of the reference and the smaller of 1 and the largest reference.
Then calls alternate: this library, PyTorch, this library, PyTorch. A ratio is PyTorch's time divided by the library's
of the same round; above 1 the library is faster. GFLOP/s count 4 * d * query-key pairs, backward 2.5 times that.

Before that, root-mean-square errors of bfloat16 outputs and gradients against float64 are compared with those of
PyTorch's fused attention: 2,048 normally distributed tokens, 64 and 128 dimensions, full and causal, the median of 5
seeds; --accuracy compares nothing else. More than 1.25 times PyTorch's is a failure.

The program attention_for_comparison makes the library's calls. To build it where the default expects it:
  cmake -S . -B build/measure -DCMAKE_BUILD_TYPE=Release -DRING_ATTENTION_BUILD_TESTS=OFF
  cmake --build build/measure --target attention_for_comparison
PyTorch: pip install torch. Without it the library is measured alone. Exit status 0 only if all outputs agree.
"""


def make_cases(quick):
    return [
        Case("sdpa/d64/forward", 2048, 8, 64, segments=(2048,)),
        Case("sdpa/d128/forward", 2048, 8, 128, segments=(2048,)),
        Case("sdpa/d64/backward", 1024, 8, 64, segments=(1024,), backward=True),
        Case("longnet/d64/forward", 4096 if quick else 16384, 12, 64, "longnet", SEGMENTS, RATES),
        Case("gigapath/d48/forward", 2500 if quick else 10000, 16, 48, "torchscale", GIGAPATH_SEGMENTS, RATES),
    ]


def error_ratios(case, seed, options, peers, folder):
    words = ("--output", folder / "tensors", "--seed", seed) + (("--kernel", options.kernel) if options.kernel else ())
    with case.serve(options.program, "bfloat16", *words) as library:
        kernel = library.about["kernel"]
    return peers.error_ratios(case, peers.read_tensors(folder / "tensors")), kernel


def take_turns(sides, threads, rounds):
    """Seconds of every side, by round; the first round warms up and does not count."""
    taken = [[] for _ in sides]
    for _ in range(rounds + 1):
        for seconds_of, seconds in zip(sides, taken):
            time.sleep(PAUSE)
            seconds.append(seconds_of(threads))
    return [seconds[1:] for seconds in taken]


def measure(case, scalar, thread_counts, options, peers, folder):
    """One line of the results for each number of threads. `peers`: support.pytorch_peer, or None."""
    words = ("--output", folder / "tensors") + (("--kernel", options.kernel) if options.kernel else ())
    with case.serve(options.program, scalar, *words) as library:
        about, sides = {key: library.about[key] for key in ("kernel", "flops")}, [lambda n: library.ask(n)["seconds"]]
        if peers:
            tensors = peers.read_tensors(folder / "tensors")
            peer = peers.PytorchPeer(case, tensors)
            worst, where = peers.worst_error(case, scalar, peer.outputs(), tensors)
            about |= {"worst_difference_in_tolerances": worst, "worst_in": where, "agree": worst <= 1}
            sides.append(peer.seconds)
        for threads in thread_counts:
            line = dataclasses.asdict(case) | {"scalar": scalar, "threads": threads} | about
            line["name"] = f"{case.name}/{scalar}/threads{threads}"
            if line.get("agree", True):
                taken = take_turns(sides, threads, options.rounds)
                for side, seconds in zip(("library", "pytorch"), taken):
                    line[f"{side}_seconds"] = summarize(seconds)
                    line[f"{side}_gflops"] = summarize([line["flops"] / s * 1e-9 for s in seconds])
                if peers:
                    line["ratio"] = summarize([b / a for a, b in zip(*taken)])
            yield line


def show(line):
    if not line.get("agree", True):
        worst = f"{line['worst_in']} differs by {line['worst_difference_in_tolerances']:g} tolerances"
        print(f"FAILED {line['name']}: {worst}", flush=True)
        return
    forms = {"library_gflops": ".1f", "pytorch_gflops": ".1f", "ratio": ".2f"}
    columns = [ranged(line, key, form) for key, form in forms.items()]
    print("{:<38} {:>25} {:>25} {:>21}".format(line["name"], *columns), flush=True)


def parse_arguments():
    parser = make_parser(__doc__, EPILOG)
    parser.add_argument("--quick", action="store_true", help="shorter dilated sequences, and fewer calls of them")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads (default: 1 and all)")
    add_case_options(parser)
    options = parse_case_options(parser)
    require_program(parser, options.program)
    return options


def main():
    options = parse_arguments()
    results, pytorch, peers, lines, accuracy = describe_run(options.program), pytorch_version(), None, [], []
    if pytorch:
        from support import pytorch_peer as peers

        pytorch["attention_with_lse"] = peers.find_attention_with_lse()[1]
        print(f"PyTorch's dilated cases use {pytorch['attention_with_lse']}", flush=True)
        if not options.filter:
            with tempfile.TemporaryDirectory() as name:
                more = (options, peers, pathlib.Path(name))
                accuracy.extend(compare_errors("bfloat16", lambda case, seed: error_ratios(case, seed, *more)))
    print("{:<38} {:>25} {:>25} {:>21}".format("case, GFLOP/s", "library", "PyTorch", "ratio"))
    for case in () if options.accuracy else make_cases(options.quick):
        for scalar in SCALARS:
            chosen = [
                threads
                for threads in options.threads or sorted({1, cores()})
                if selected(f"{case.name}/{scalar}/threads{threads}", options)
            ]
            with tempfile.TemporaryDirectory() as folder:
                for line in measure(case, scalar, chosen, options, peers, pathlib.Path(folder)) if chosen else ():
                    show(line)
                    lines.append(line)
    if not lines and not accuracy:
        sys.exit("nothing was compared: no case matches --filter, or there is no PyTorch")
    settings = {"rounds": options.rounds}
    write_results(results | {"pytorch": pytorch, "settings": settings, "accuracy": accuracy, "results": lines}, options.json)
    sys.exit(0 if all(line.get("agree", True) for line in accuracy + lines) else 1)


if __name__ == "__main__":
    main()
