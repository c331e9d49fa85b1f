#!/usr/bin/env python3
"""Times the example slide_encoder against the same model in plain PyTorch: same weights and tiles, in turn, one run."""

import argparse
import array
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

from support import safetensors_file  # noqa: E402
from support.line_server import LineServer  # noqa: E402
from support.machine import describe_commit, describe_machine  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = PROJECT / "build" / "examples" / "slide_encoder"
PEER = PROJECT / "benchmarks" / "support" / "pytorch_slide_encoder.py"

FLOAT_TOLERANCE = 1e-4  # largest difference of an embedding
BFLOAT16_COSINE = 0.9995  # smallest cosine similarity to PyTorch's embedding in float

EPILOG = """\
The model is Prov-GigaPath's slide encoder at full size with synthetic weights: 12 layers of 768, 16 heads, a
feed-forward network of 3072, segments of 1024 to 1048576 tokens at rates 1 to 16. PyTorch's side is plain functional
code (support/pytorch_slide_encoder.py); its attention gathers the rows of each branch, calls PyTorch's fused attention,
scatters, and mixes branches by their log-sum-exps.

Embeddings are compared first: in float they may differ by 1e-4, in bfloat16 the cosine similarity to PyTorch's
embedding in float must be above 0.9995. Then calls alternate. A ratio is PyTorch's time divided by the program's of the
same round; above 1 the program is faster. Seconds are those of encoding, without loading. PyTorch stays loaded and one
call warms it up; the program starts anew for every call. Peak memory is the resident memory of each process, weights and
PyTorch's own libraries included.

To build the program where the default expects it:
  cmake -S . -B build -DRING_ATTENTION_BUILD_TESTS=OFF -DRING_ATTENTION_BUILD_BENCHMARKS=OFF
  cmake --build build --target slide_encoder
PyTorch: pip install torch. Without it the program is measured alone and nothing is compared. Exit status 0 only where
all embeddings that were compared agree.

--alone 1000 30000 also measures the program by itself with these numbers of tiles, one call of each where it takes
longer than 20 seconds. benchmarks/report.py makes a page of the results.
"""


class Program:
    """The example: a process for every call."""

    def __init__(self, program, weights, tiles, folder, scalar):
        self._out = folder / "embedding.safetensors"
        self._command = [str(program), "--weights", weights, "--tiles", tiles, "--out", str(self._out)]
        self._command += ["--scalar", scalar]

    def encode(self, threads):
        text = subprocess.run(
            [*self._command, "--threads", str(threads)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        dtype, _, data = safetensors_file.read(self._out)["embedding"]
        assert dtype == "F32"
        return {
            "seconds": float(re.search(r"^encoded \d+ tiles in ([\d.]+) s", text, re.MULTILINE)[1]),
            "mebibytes": float(re.search(r"^peak memory (\d+) MiB", text, re.MULTILINE)[1]),
            "embedding": list(array.array("f", data.tobytes())),
        }


class PytorchPeer(LineServer):
    """PyTorch in a process of its own."""

    def __init__(self, weights, tiles, scalar):
        super().__init__([sys.executable, str(PEER), weights, tiles, scalar], PEER.name)

    def encode(self, threads):
        return self.ask(threads)


def pytorch_missing():
    """Why PyTorch cannot be imported, or None. Not tried here: this process must stay small, or what it starts would
    take over its peak memory."""
    tried = subprocess.run([sys.executable, "-c", "import torch"], stderr=subprocess.PIPE, text=True)
    return (tried.stderr.strip().splitlines() or ["import fails"])[-1] if tried.returncode else None


def largest_difference(a, b):
    differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def summarize(values):
    return {
        "median": statistics.median(values),
        "minimum": min(values),
        "maximum": max(values),
        "repetitions": len(values),
    }


LONG_CALL = 20.0  # seconds from which one call is enough


def measure_alone(scalar, tiles_count, options, weights, tiles, folder):
    """One line of the results without PyTorch."""
    program = Program(options.program, weights, tiles, folder, scalar)
    ours = [program.encode(options.threads)]
    while len(ours) < options.rounds and ours[0]["seconds"] < LONG_CALL:
        ours.append(program.encode(options.threads))
    return {
        "scalar": scalar,
        "tiles": tiles_count,
        "threads": options.threads,
        "seconds": summarize([answer["seconds"] for answer in ours]),
        "mebibytes": max(answer["mebibytes"] for answer in ours),
    }


def measure(scalar, options, weights, tiles, folder, reference):
    """One line of the results. `reference`: PyTorch's embedding in float, kept by the first call."""
    program = Program(options.program, weights, tiles, folder, scalar)
    line = {"scalar": scalar, "tiles": options.tiles, "threads": options.threads}
    ours = [program.encode(options.threads)]
    if options.without_pytorch:
        ours = [program.encode(options.threads) for _ in range(options.rounds)]
    else:
        with PytorchPeer(weights, tiles, scalar) as peer:
            first = peer.encode(options.threads)
            if not reference:
                if scalar != "float":
                    with PytorchPeer(weights, tiles, "float") as in_float:
                        reference.extend(in_float.encode(options.threads)["embedding"])
                else:
                    reference.extend(first["embedding"])
            line["pytorch"] = peer.about
            line["largest_difference"] = largest_difference(ours[0]["embedding"], reference)
            line["cosine"] = cosine(ours[0]["embedding"], reference)
            line["pytorch_cosine"] = cosine(first["embedding"], reference)
            if scalar == "float":
                line["agree"] = line["largest_difference"] <= FLOAT_TOLERANCE
            else:
                line["agree"] = line["cosine"] > BFLOAT16_COSINE
            if not line["agree"]:
                return line
            rounds = [
                (program.encode(options.threads), peer.encode(options.threads)) for _ in range(options.rounds)
            ]
            ours, theirs = zip(*rounds)
            line["pytorch_seconds"] = summarize([answer["seconds"] for answer in theirs])
            line["pytorch_mebibytes"] = max(answer["mebibytes"] for answer in theirs)
            line["ratio"] = summarize([b["seconds"] / a["seconds"] for a, b in rounds])
    line["seconds"] = summarize([answer["seconds"] for answer in ours])
    line["mebibytes"] = max(answer["mebibytes"] for answer in ours)
    return line


def show(line):
    if not line.get("agree", True):
        print(
            f"FAILED {line['scalar']}: embeddings differ by {line['largest_difference']:g}, cosine "
            f"similarity {line['cosine']:.6f}",
            flush=True,
        )
        return

    def figures(key):
        if key not in line:
            return "-"
        return "{median:.2f} ({minimum:.2f} to {maximum:.2f})".format(**line[key])

    def number(key, form):
        return format(line[key], form) if key in line else "-"

    print(
        "{:<9} {:>22} {:>22} {:>21} {:>8} {:>8} {:>10} {:>9}".format(
            line["scalar"],
            figures("seconds"),
            figures("pytorch_seconds"),
            figures("ratio"),
            number("mebibytes", ".0f"),
            number("pytorch_mebibytes", ".0f"),
            number("largest_difference", ".1e"),
            number("cosine", ".6f"),
        ),
        flush=True,
    )


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=10000, help="default: 10000")
    parser.add_argument("--alone", type=int, nargs="+", default=[], metavar="TILES", help="see below")
    parser.add_argument("--rounds", type=int, default=3, help="calls of each side that count (default: 3)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument(
        "--scalar",
        nargs="+",
        choices=["float", "bfloat16"],
        default=["float", "bfloat16"],
        help="default: both",
    )
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM, help="slide_encoder, where it is built")
    parser.add_argument(
        "--json",
        type=pathlib.Path,
        help="results (default: compare_slide_encoder_results-<UTC time>.json beside the program)",
    )
    options = parser.parse_args()
    if min(options.tiles, options.rounds, options.threads, *options.alone) < 1:
        parser.error("--tiles, --rounds, --threads and --alone must be positive")
    if options.tiles > 185_362:
        parser.error("--tiles: with more than 185,362, rate 8 does not divide the segments of 185,363 tokens, which the "
                     "gathering of rows in PyTorch cannot serve")
    if not options.program.exists():
        parser.error(f"{options.program} does not exist: build it (see --help), or name it with --program")
    return options


def main():
    options = parse_arguments()
    timestamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = options.json or options.program.parent / f"compare_slide_encoder_results-{timestamp}.json"
    missing = pytorch_missing()
    options.without_pytorch = missing is not None
    if missing:
        print(f"PyTorch is missing ({missing}): the program is measured alone. pip install torch", flush=True)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        weights, tiles = str(folder / "weights.safetensors"), str(folder / "tiles.safetensors")

        def write_inputs(count):
            for path in (weights, tiles):  # the program overwrites nothing
                pathlib.Path(path).unlink(missing_ok=True)
            subprocess.run(
                [str(options.program), "--synthetic-full", str(count), "--weights", weights, "--tiles", tiles],
                check=True,
                stdout=subprocess.DEVNULL,
            )

        write_inputs(options.tiles)
        print(f"{options.tiles} tiles, {options.threads} threads; memory in MiB")
        columns = ["scalar", "slide_encoder, s", "PyTorch, s", "ratio", "memory", "PyTorch", "difference", "cosine"]
        print("{:<9} {:>22} {:>22} {:>21} {:>8} {:>8} {:>10} {:>9}".format(*columns), flush=True)
        reference = []
        for scalar in options.scalar:
            lines.append(measure(scalar, options, weights, tiles, folder, reference))
            show(lines[-1])
        for count in options.alone:
            print(f"{count} tiles")
            write_inputs(count)
            for scalar in options.scalar:
                lines.append(measure_alone(scalar, count, options, weights, tiles, folder))
                show(lines[-1])
    results = {
        "timestamp": timestamp,
        "commit": describe_commit(),
        "machine": describe_machine(),
        "pytorch": next((line["pytorch"] for line in lines if "pytorch" in line), None),
        "rounds": options.rounds,
        "settings": {
            "tiles": options.tiles,
            "alone": options.alone,
            "rounds": options.rounds,
            "threads": options.threads,
            "scalars": options.scalar,
        },
        "order": "slide_encoder and PyTorch in turn; ratio: PyTorch's seconds / slide_encoder's, by round",
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
