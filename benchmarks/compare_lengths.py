#!/usr/bin/env python3
"""Tokens per second and memory against the length of the sequence: dense attention, dilated attention in PyTorch, and
this library."""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

from support import safetensors_file  # noqa: E402
from support.attention_server import AttentionServer  # noqa: E402
from support.comparison_cases import SCALARS, Case, normal_numbers  # noqa: E402
from support.machine import describe_commit, describe_machine  # noqa: E402
from support.samples import summarize  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = PROJECT / "build" / "measure" / "benchmarks"
PEER = PROJECT / "benchmarks" / "support" / "pytorch_length.py"

SEGMENTS, RATES = (2048, 4096, 8192, 16384, 32768), (1, 2, 4, 8, 16)
HEADS, HEAD_DIM = 4, 64
CHECKED_TOKENS = 4096
SIDES = ("library", "pytorch_dilated", "pytorch_dense")
LONG_CALL, TOTAL = 5, 2  # seconds: a call that counts alone, and how long shorter ones are repeated

EPILOG = """\
Forward passes in float32, batch 1, 4 heads of 64, all threads:
  library           RingDilatedAttentionV2, longnet_preset, segments of 2,048 to 32,768 tokens at rates 1 to 16
  pytorch_dilated   the same attention in PyTorch: gather, fused attention with its log-sum-exp, scatter, mix
  pytorch_dense     scaled_dot_product_attention: every query meets every key, a different result
The first two are compared at 4,096 tokens before anything is timed. Every length of every side is a process of its own;
memory is its peak resident size above what it held before it made q, k and v. A side ends where its next length would
take longer than --limit, judged by its last two.

Programs are built by:
  cmake -S . -B build/measure -DCMAKE_BUILD_TYPE=Release -DRING_ATTENTION_BUILD_TESTS=OFF
  cmake --build build/measure --target attention_at_length attention_for_comparison
PyTorch: pip install torch. Without it the library is measured alone. benchmarks/report.py makes a page of the results.
"""


def pytorch_version():
    """What is known of PyTorch, or why it cannot be imported."""
    code = (
        "import json, torch; print(json.dumps({'version': torch.__version__, "
        "'cpu_capability': torch.backends.cpu.get_cpu_capability()}))"
    )
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if tried.returncode:
        return None, (tried.stderr.strip().splitlines() or ["import fails"])[-1]
    return json.loads(tried.stdout), None


def compare_outputs(options):
    """Largest difference between the library and PyTorch's dilated attention, in tolerances."""
    from compare_pytorch import worst_error
    from support.pytorch_peer import PytorchPeer

    case = Case("lengths", CHECKED_TOKENS, HEADS, HEAD_DIM, "longnet", SEGMENTS, RATES)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        count = case.tokens * case.heads * case.head_dim
        inputs = {
            tensor: (SCALARS["float32"], case.shape, normal_numbers(count, "float32", seed))
            for seed, tensor in enumerate("qkv")
        }
        safetensors_file.write(folder / "inputs", inputs)
        program = options.programs / "attention_for_comparison"
        with AttentionServer(program, case, folder / "inputs", folder / "outputs"):
            peer = PytorchPeer(case, safetensors_file.read(folder / "inputs"))
            return worst_error(case, "float32", peer, safetensors_file.read(folder / "outputs"))


def measure(side, tokens, options):
    lists = [",".join(map(str, numbers)) for numbers in (SEGMENTS, RATES)]
    if side == "library":
        command = [options.programs / "attention_at_length", "--tokens", tokens, "--heads", HEADS]
        command += [
            "--head-dim",
            HEAD_DIM,
            "--threads",
            options.threads,
            "--segments",
            lists[0],
            "--rates",
            lists[1],
        ]
        command += ["--long-call", LONG_CALL, "--total", TOTAL]
    else:
        command = [
            sys.executable,
            PEER,
            side.removeprefix("pytorch_"),
            tokens,
            HEADS,
            HEAD_DIM,
            options.threads,
            *lists,
        ]
        command += [LONG_CALL, TOTAL]
    text = subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    answer = json.loads(text)
    seconds = answer.pop("seconds")
    return answer | {
        "side": side,
        "tokens": tokens,
        "seconds": summarize(seconds),
        "tokens_per_second": summarize([tokens / s for s in seconds]),
    }


def within_limit(side, lines, options):
    """Whether the next length of a side is worth a try, judged by its last two."""
    taken = [line["seconds"]["median"] for line in lines if line["side"] == side][-2:]
    if len(taken) < 2 or taken[1] * max(taken[1] / taken[0], 1.0) <= options.limit:
        return True
    print(f"{side}: longer sequences would take more than {options.limit:g} s a call", flush=True)
    return False


def show(line):
    memory = line["peak_minus_baseline_bytes"]
    print(
        "{:<16} {:>9,} {:>36} {:>12}".format(
            line["side"],
            line["tokens"],
            "{median:,.0f} ({minimum:,.0f} to {maximum:,.0f})".format(**line["tokens_per_second"]),
            "unknown" if memory is None else f"{memory / 2**20:,.0f} MiB",
        ),
        flush=True,
    )


def measure_all(sides, options):
    """Length by length, the sides in turn, as far as the limit allows."""
    lines = []
    for tokens in options.lengths:
        sides = [side for side in sides if within_limit(side, lines, options)]
        for side in sides:
            lines.append(measure(side, tokens, options))
            show(lines[-1])
    return lines


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 16,384 tokens in place of 262,144")
    parser.add_argument(
        "--limit", type=float, default=35.0, metavar="S", help="seconds of a call (default: 35)"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument(
        "--programs", type=pathlib.Path, default=PROGRAMS, help="folder of the built programs"
    )
    parser.add_argument(
        "--json",
        type=pathlib.Path,
        help="results (default: compare_lengths_results-<UTC time>.json beside the programs)",
    )
    options = parser.parse_args()
    options.lengths = [1 << power for power in range(10, 15 if options.quick else 19)]
    for name in ("attention_at_length", "attention_for_comparison"):
        if not (options.programs / name).exists():
            parser.error(
                f"{options.programs / name} does not exist: build it (see --help), or name its folder"
            )
    return options


def main():
    options = parse_arguments()
    timestamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = options.json or options.programs / f"compare_lengths_results-{timestamp}.json"
    pytorch, missing = pytorch_version()
    worst = None
    if missing:
        print(f"PyTorch is missing ({missing}): the library is measured alone. pip install torch", flush=True)
    else:
        worst, where = compare_outputs(options)
        print(
            f"outputs at {CHECKED_TOKENS:,} tokens differ by {worst:.2f} tolerances at most ({where})",
            flush=True,
        )
        if not worst <= 1:
            sys.exit("FAILED: the outputs are not the same attention")
    print("{:<16} {:>9} {:>36} {:>12}".format("side", "tokens", "tokens/s", "memory"))
    lines = measure_all(SIDES if pytorch else SIDES[:1], options)
    build = [line.pop("build", None) for line in lines][0]
    results = {
        "timestamp": timestamp,
        "commit": describe_commit(),
        "machine": describe_machine(),
        "build": build,
        "pytorch": pytorch,
        "settings": {
            "quick": options.quick,
            "threads": options.threads,
            "scalar": "float32",
            "batch": 1,
            "heads": HEADS,
            "head_dim": HEAD_DIM,
            "segment_lengths": SEGMENTS,
            "dilation_rates": RATES,
            "limit_seconds": options.limit,
            "memory": "peak resident size above that before q, k and v were made",
        },
        "worst_difference_in_tolerances": worst,
        "lengths": lines,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(path)
    print(f"\nresults: {path}")


if __name__ == "__main__":
    main()
