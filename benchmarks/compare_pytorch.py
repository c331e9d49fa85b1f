#!/usr/bin/env python3
"""Times this library against PyTorch on the CPU: the same inputs, call by call in turn, in one run."""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from support import safetensors_file  # noqa: E402
from support.attention_server import AttentionServer  # noqa: E402
from support.comparison_cases import SCALARS, make_cases, normal_numbers  # noqa: E402
from support.machine import describe_commit, describe_machine  # noqa: E402
from support.samples import PAUSE, summarize  # noqa: E402

try:
    import torch
    from support import pytorch_attention
    from support.pytorch_peer import PytorchPeer

    torch_missing = None
except (ImportError, OSError) as error:
    torch, torch_missing = None, str(error)

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = PROJECT / "build" / "measure" / "benchmarks" / "attention_for_comparison"

TOLERANCES = {"float32": 2e-5, "bfloat16": 2.5e-2}
LSE_TOLERANCE = 2e-5

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

The program attention_for_comparison makes the library's calls. To build it where the default expects it:
  cmake -S . -B build/measure -DCMAKE_BUILD_TYPE=Release -DRING_ATTENTION_BUILD_TESTS=OFF
  cmake --build build/measure --target attention_for_comparison
PyTorch: pip install torch. Without it the library is measured alone. Exit status 0 only where all outputs agree.
"""


def worst_error(case, scalar, peer, outputs):
    """Largest difference in units of the tolerance, huge for NaN, and the output it was found in."""
    worst = (0.0, "")
    for name, reference in peer.outputs().items():
        actual = pytorch_attention.tensor_of(outputs[name]).double()
        reference = reference.double()
        tolerance = LSE_TOLERANCE if name == "lse" else TOLERANCES[scalar] * (5 if case.backward else 1)
        unit = min(1.0, reference.abs().max().item())
        errors = (actual - reference).abs() / (tolerance * reference.abs().clamp(min=unit))
        worst = max(worst, (errors.nan_to_num(nan=torch.finfo(errors.dtype).max).max().item(), name))
    return worst


def take_turns(sides, threads, rounds):
    """Seconds of every side, by round; the first round warms up and does not count."""
    taken = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, seconds in zip(sides, taken):
            time.sleep(PAUSE)
            seconds.append(side.seconds(threads))
    return [seconds[1:] for seconds in taken]


def measure(case, scalar, thread_counts, options, folder):
    """One line of the results for each number of threads."""
    inputs = {}
    for seed, name in enumerate(["q", "k", "v"] + ["grad_out"] * case.backward):
        count = case.tokens * case.heads * case.head_dim
        inputs[name] = (SCALARS[scalar], case.shape, normal_numbers(count, scalar, seed))
    safetensors_file.write(folder / "inputs", inputs)
    with AttentionServer(
        options.program, case, folder / "inputs", folder / "outputs", options.kernel
    ) as library:
        peer, agreement = None, {}
        if torch:
            inputs = safetensors_file.read(folder / "inputs")
            peer = PytorchPeer(case, inputs)
            worst, where = worst_error(case, scalar, peer, safetensors_file.read(folder / "outputs"))
            agreement = {"worst_difference_in_tolerances": worst, "worst_in": where, "agree": worst <= 1}
        for threads in thread_counts:
            line = (
                dataclasses.asdict(case) | {"scalar": scalar, "threads": threads} | library.about | agreement
            )
            line["name"] = f"{case.name}/{scalar}/threads{threads}"
            if agreement and not agreement["agree"]:
                yield line
                continue
            ours, *theirs = take_turns([library, peer] if peer else [library], threads, options.rounds)
            line["library_seconds"] = summarize(ours)
            line["library_gflops"] = summarize([line["flops"] / s * 1e-9 for s in ours])
            if theirs:
                line["pytorch_seconds"] = summarize(theirs[0])
                line["pytorch_gflops"] = summarize([line["flops"] / s * 1e-9 for s in theirs[0]])
                line["ratio"] = summarize([b / a for a, b in zip(ours, theirs[0])])
            yield line


def show(line):
    def figures(key, digits):
        if key not in line:
            return "-"
        return "{median:.{0}f} ({minimum:.{0}f} to {maximum:.{0}f})".format(digits, **line[key])

    if not line.get("agree", True):
        worst = f"{line['worst_in']} differs by {line['worst_difference_in_tolerances']:g} tolerances"
        print(f"FAILED {line['name']}: {worst}", flush=True)
        return
    columns = (figures("library_gflops", 1), figures("pytorch_gflops", 1), figures("ratio", 2))
    print("{:<38} {:>25} {:>25} {:>21}".format(line["name"], *columns), flush=True)


def describe_pytorch():
    if not torch:
        return None
    return {
        "version": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "attention_with_lse": pytorch_attention.find_attention_with_lse()[1],
    }


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="shorter dilated sequences, and fewer calls of them"
    )
    parser.add_argument(
        "--filter",
        metavar="TEXT[,TEXT...]",
        default="",
        help="only cases whose name contains TEXT; of several texts every one",
    )
    parser.add_argument("--rounds", type=int, help="calls of each side that count (default: 9; quick: 7)")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads (default: 1 and all)")
    parser.add_argument(
        "--kernel", help="the library's kernel (default: its best; the program's --kernels lists them)"
    )
    parser.add_argument(
        "--program", type=pathlib.Path, default=PROGRAM, help="attention_for_comparison, where it is built"
    )
    parser.add_argument(
        "--json",
        type=pathlib.Path,
        help="results (default: compare_pytorch_results-<UTC time>.json beside the program)",
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (7 if options.quick else 9)
    if options.rounds < 1:
        parser.error("--rounds must be positive")
    if not options.program.exists():
        parser.error(f"{options.program} does not exist: build it (see --help), or name it with --program")
    return options


def main():
    options = parse_arguments()
    timestamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = options.json or options.program.parent / f"compare_pytorch_results-{timestamp}.json"
    cores = len(os.sched_getaffinity(0))
    thread_counts = options.threads or sorted({1, cores})
    if torch_missing:
        print(
            f"PyTorch is missing ({torch_missing}): the library is measured alone. pip install torch",
            flush=True,
        )
    elif describe_pytorch()["attention_with_lse"].startswith("scores"):
        print(
            "PyTorch has no operator that gives the log-sum-exp: dilated cases use an explicit softmax",
            flush=True,
        )
    print("{:<38} {:>25} {:>25} {:>21}".format("case, GFLOP/s", "library", "PyTorch", "ratio"))
    lines = []
    for case in make_cases(options.quick):
        for scalar in SCALARS:
            chosen = [
                threads
                for threads in thread_counts
                if all(text in f"{case.name}/{scalar}/threads{threads}" for text in options.filter.split(","))
            ]
            if not chosen:
                continue
            with tempfile.TemporaryDirectory() as folder:
                for line in measure(case, scalar, chosen, options, pathlib.Path(folder)):
                    show(line)
                    lines.append(line)
    if not lines:
        sys.exit("no case matches --filter")
    results = {
        "timestamp": timestamp,
        "commit": describe_commit(),
        "machine": describe_machine(),
        "build": lines[0]["build"],
        "pytorch": describe_pytorch(),
        "quick": options.quick,
        "rounds": options.rounds,
        "settings": {
            "filters": [text for text in options.filter.split(",") if text],
            "threads": thread_counts,
            "kernel": options.kernel,
        },
        "order": "library and PyTorch in turn; ratio: PyTorch's seconds / the library's, by round",
        "results": lines,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(path)
    print(f"\nresults: {path}")
    sys.exit(0 if all(line.get("agree", True) for line in lines) else 1)


if __name__ == "__main__":
    main()
