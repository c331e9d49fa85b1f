#!/usr/bin/env python3
"""Times the library in a program built with plain -O2 against the same program built with -O2 -march=native."""

import argparse
import array
import datetime
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from support import safetensors_file  # noqa: E402
from support.attention_server import AttentionServer  # noqa: E402
from support.comparison_cases import SCALARS, make_cases, normal_numbers  # noqa: E402
from support.samples import PAUSE, summarize  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCES = {"float32": 2e-5, "bfloat16": 2.5e-2}
FLAGS = {"plain": "-O2", "native": "-O2 -march=native"}

EPILOG = """\
Builds attention_for_comparison twice, checks that both compute the same, and has both make the same calls in turn, for the cases of compare_pytorch.py. A
ratio is the native build's time divided by the plain build's of the same round; 0.95 or more means that the plain build
is within 5 %. Their kernels are the same code: what is compared is everything around them. Exit status 0 only where
every median is within the bound.
"""


def build(folder, flags):
    configure = [
        "cmake",
        f"-S{PROJECT}",
        f"-B{folder}",
        "-DCMAKE_BUILD_TYPE=None",
        f"-DCMAKE_CXX_FLAGS={flags}",
        "-DRING_ATTENTION_BUILD_TESTS=OFF",
        "-DRING_ATTENTION_BUILD_EXAMPLES=OFF",
    ]
    for command in (configure, ["cmake", "--build", str(folder), "--target", "attention_for_comparison"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks" / "attention_for_comparison"


def largest_difference(first, second):
    """Of two files of outputs, relative to the larger of 1 and the number itself; infinite for NaN."""
    worst = 0.0
    ours, others = safetensors_file.read(first), safetensors_file.read(second)
    if ours.keys() != others.keys():
        return math.inf
    for name, (dtype, _, data) in ours.items():
        if bytes(data) == bytes(others[name][2]):
            continue
        for a, b in zip(numbers(dtype, data), numbers(dtype, others[name][2])):
            error = abs(a - b) / max(1.0, abs(a))
            if a != b and not error <= worst:
                worst = math.inf if math.isnan(error) else error
    return worst


def numbers(dtype, data):
    if dtype == "F32":
        return array.array("f", bytes(data))
    if dtype != "BF16":
        raise RuntimeError(f"outputs of {dtype}")
    return array.array("f", b"".join(b"\0\0" + bytes(data[i : i + 2]) for i in range(0, len(data), 2)))


def measure(case, scalar, threads, programs, rounds, folder):
    """Seconds of both builds, by round; the first round warms up and does not count."""
    count = case.tokens * case.heads * case.head_dim
    inputs = {
        name: (SCALARS[scalar], case.shape, normal_numbers(count, scalar, seed))
        for seed, name in enumerate(["q", "k", "v"] + ["grad_out"] * case.backward)
    }
    safetensors_file.write(folder / "inputs", inputs)
    taken = {name: [] for name in programs}
    with AttentionServer(programs["plain"], case, folder / "inputs", folder / "plain") as plain:
        with AttentionServer(programs["native"], case, folder / "inputs", folder / "native") as native:
            difference = largest_difference(folder / "plain", folder / "native")
            if not difference <= TOLERANCES[scalar] * (5 if case.backward else 1):
                sys.exit(f"{case.name}/{scalar}: outputs of the builds differ by {difference}")
            for i in range(rounds + 1):
                sides = [("plain", plain), ("native", native)]
                for name, server in sides if i % 2 == 0 else reversed(sides):
                    time.sleep(PAUSE)
                    taken[name].append(server.seconds(threads))
            flops = plain.about["flops"]
    plain, native = taken["plain"][1:], taken["native"][1:]
    return {
        "name": f"{case.name}/{scalar}/threads{threads}",
        "plain_gflops": summarize([flops / s * 1e-9 for s in plain]),
        "native_gflops": summarize([flops / s * 1e-9 for s in native]),
        "ratio": summarize([b / a for a, b in zip(plain, native)]),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter dilated sequences")
    parser.add_argument("--filter", default="", help="only cases whose name contains this text")
    parser.add_argument("--rounds", type=int, default=11, help="calls of each build that count (default: 11)")
    parser.add_argument("--bound", type=float, default=0.95, help="least ratio that passes (default: 0.95)")
    parser.add_argument(
        "--build-dir",
        type=pathlib.Path,
        default=PROJECT / "build" / "compare_builds",
        help="where to build (default: build/compare_builds)",
    )
    parser.add_argument("--json", type=pathlib.Path, help="results (default: a file in the build folder)")
    options = parser.parse_args()
    if shutil.which("cmake") is None:
        parser.error("cmake is missing")
    programs = {name: build(options.build_dir / name, flags) for name, flags in FLAGS.items()}
    print("{:<38} {:>12} {:>12} {:>22}".format("case, GFLOP/s", "plain", "native", "ratio"))
    lines = []
    for case in make_cases(options.quick):
        for scalar in SCALARS:
            for threads in sorted({1, len(os.sched_getaffinity(0))}):
                if options.filter not in f"{case.name}/{scalar}/threads{threads}":
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    line = measure(
                        case, scalar, threads, programs, options.rounds, pathlib.Path(folder)
                    )
                ratio = "{median:.3f} ({minimum:.3f} to {maximum:.3f})".format(**line["ratio"])
                gflops = [line[f"{name}_gflops"]["median"] for name in FLAGS]
                print("{:<38} {:>12.1f} {:>12.1f} {:>22}".format(line["name"], *gflops, ratio), flush=True)
                lines.append(line)
    if not lines:
        sys.exit("no case matches --filter")
    timestamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = options.json or options.build_dir / f"compare_builds_results-{timestamp}.json"
    results = {"timestamp": timestamp, "flags": FLAGS, "rounds": options.rounds, "results": lines}
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nresults: {path}")
    sys.exit(0 if all(line["ratio"]["median"] >= options.bound for line in lines) else 1)


if __name__ == "__main__":
    main()
