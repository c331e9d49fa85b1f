#!/usr/bin/env python3
"""Times the example slide_encoder against the same model in plain PyTorch: same weights and tiles, in turn, one run."""

import array
import math
import pathlib
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

from support import safetensors_file  # noqa: E402
from support.comparison import LineServer, cores, make_parser, pytorch_version, ranged, require_program  # noqa: E402
from support.results import describe_run, summarize, write_results  # noqa: E402

ENCODER = pathlib.Path(__file__).resolve().parent.parent / "build" / "measure" / "examples" / "slide_encoder"
PEER = pathlib.Path(__file__).resolve().parent / "support" / "pytorch_slide_encoder.py"

FLOAT_TOLERANCE = 1e-4  # largest difference of an embedding
BFLOAT16_COSINE = 0.9995  # smallest cosine similarity to PyTorch's embedding in float
LONG_CALL = 20.0  # seconds from which one call of the program by itself is enough

EPILOG = """\
The model is Prov-GigaPath's slide encoder at full size with synthetic weights: 12 layers of 768, 16 heads, a
feed-forward network of 3072, segments of 1024 to 1048576 tokens at rates 1 to 16. PyTorch's side is plain functional
code (support/pytorch_slide_encoder.py); its attention gathers the rows of each branch, calls PyTorch's fused attention,
scatters, and mixes branches by their log-sum-exps.

Embeddings are compared first: in float they may differ by 1e-4, in bfloat16 the cosine similarity to PyTorch's
embedding in float must be above 0.9995. Then calls alternate. A ratio is PyTorch's time divided by the program's of the
same round; above 1 the program is faster. Seconds are those of encoding, without loading. PyTorch stays loaded and one
call warms it up; the program starts anew for every call. Peak memory is the resident memory of each process, weights
and PyTorch's own libraries included.

To build the programs where the defaults expect them:
  cmake -S . -B build/measure -DRING_ATTENTION_BUILD_TESTS=OFF -DRING_ATTENTION_BUILD_EXAMPLES=ON
  cmake --build build/measure --target slide_encoder attention_for_comparison
PyTorch: pip install torch. Without it the program is measured alone and nothing is compared. Exit status 0 only if all
embeddings that were compared agree.

--alone 1000 30000 also measures the program by itself with these numbers of tiles, one call of each if it takes longer
than 20 seconds. benchmarks/report.py makes a page of the results.
"""


class Encoder:
    """The example: a process for every call."""

    def __init__(self, options, inputs, scalar):
        self._out, self._threads = inputs.folder / "embedding.safetensors", options.threads
        self._command = [options.encoder, *inputs.words, "--out", self._out, "--scalar", scalar]

    def encode(self):
        command = [*map(str, self._command), "--threads", str(self._threads)]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        dtype, _, data = safetensors_file.read(self._out)["embedding"]
        assert dtype == "F32"
        return {
            "seconds": float(re.search(r"^encoded \d+ tiles in ([\d.]+) s", text, re.MULTILINE)[1]),
            "mebibytes": float(re.search(r"^peak memory (\d+) MiB", text, re.MULTILINE)[1]),
            "embedding": list(array.array("f", data.tobytes())),
        }


class Inputs:
    """Weights and tiles in files of a folder."""

    def __init__(self, options, count, folder):
        self.folder, self.tiles = folder, count
        self.paths = [folder / "weights.safetensors", folder / "tiles.safetensors"]
        self.words = ["--weights", self.paths[0], "--tiles", self.paths[1]]
        for path in self.paths:  # the program overwrites nothing
            path.unlink(missing_ok=True)
        command = [options.encoder, "--synthetic-full", count, *self.words]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def largest_difference(a, b):
    differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def figures(scalar, inputs, options, answers):
    return {
        "scalar": scalar,
        "tiles": inputs.tiles,
        "threads": options.threads,
        "seconds": summarize([answer["seconds"] for answer in answers]),
        "mebibytes": max(answer["mebibytes"] for answer in answers),
    }


def measure_alone(scalar, inputs, options):
    """One line of the results without PyTorch."""
    encoder = Encoder(options, inputs, scalar)
    ours = [encoder.encode()]
    while len(ours) < options.rounds and ours[0]["seconds"] < LONG_CALL:
        ours.append(encoder.encode())
    return figures(scalar, inputs, options, ours)


def measure(scalar, inputs, options, reference):
    """One line of the results, and what PyTorch says of itself. `reference`: PyTorch's embedding in float."""
    encoder = Encoder(options, inputs, scalar)
    with LineServer(sys.executable, PEER, *inputs.paths, scalar) as peer:
        ours, theirs = encoder.encode()["embedding"], peer.ask(options.threads)["embedding"]
        agreement = {
            "largest_difference": largest_difference(ours, reference),
            "cosine": cosine(ours, reference),
            "pytorch_cosine": cosine(theirs, reference),
        }
        if scalar == "float":
            agreement["agree"] = agreement["largest_difference"] <= FLOAT_TOLERANCE
        else:
            agreement["agree"] = agreement["cosine"] > BFLOAT16_COSINE
        if not agreement["agree"]:
            return {"scalar": scalar, "tiles": inputs.tiles} | agreement, peer.about
        rounds = [(encoder.encode(), peer.ask(options.threads)) for _ in range(options.rounds)]
        about = peer.about
    ours, theirs = zip(*rounds)
    of_pytorch = figures(scalar, inputs, options, theirs)
    comparison = {
        "pytorch_seconds": of_pytorch["seconds"],
        "pytorch_mebibytes": of_pytorch["mebibytes"],
        "ratio": summarize([b["seconds"] / a["seconds"] for a, b in rounds]),
    }
    return figures(scalar, inputs, options, ours) | agreement | comparison, about


def show(line):
    if not line.get("agree", True):
        print(f"FAILED {line['scalar']}: embeddings differ by {line['largest_difference']:g}, cosine similarity "
              f"{line['cosine']:.6f}", flush=True)
        return
    columns = [ranged(line, key, ".2f") for key in ("seconds", "pytorch_seconds", "ratio")]
    forms = {"mebibytes": ".0f", "pytorch_mebibytes": ".0f", "largest_difference": ".1e", "cosine": ".6f"}
    for key, form in forms.items():
        columns.append(format(line[key], form) if key in line else "-")
    print("{:>6} {:<9} {:>22} {:>22} {:>21} {:>8} {:>8} {:>10} {:>9}".format(line["tiles"], line["scalar"], *columns),
          flush=True)


def parse_arguments():
    parser = make_parser(__doc__, EPILOG)
    parser.add_argument("--tiles", type=int, default=10000, help="default: 10000")
    parser.add_argument("--alone", type=int, nargs="+", default=[], metavar="TILES", help="see below")
    parser.add_argument("--rounds", type=int, default=3, help="calls of each side that count (default: 3)")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all")
    parser.add_argument("--encoder", type=pathlib.Path, default=ENCODER, help="slide_encoder, if it is built elsewhere")
    options = parser.parse_args()
    if min(options.tiles, options.rounds, options.threads, *options.alone) < 1:
        parser.error("--tiles, --rounds, --threads and --alone must be positive")
    if options.tiles > 185_362:
        parser.error("--tiles: with more than 185,362, rate 8 does not divide the segments of 185,363 tokens, which "
                     "PyTorch's side cannot gather")
    require_program(parser, options.encoder, options.program)
    return options


def main():
    options = parse_arguments()
    results, pytorch, lines = describe_run(options.program), pytorch_version(), []
    with tempfile.TemporaryDirectory() as name:
        inputs = Inputs(options, options.tiles, pathlib.Path(name))
        columns = ["scalar", "slide_encoder, s", "PyTorch, s", "ratio", "MiB", "PyTorch", "difference", "cosine"]
        print("{:>6} {:<9} {:>22} {:>22} {:>21} {:>8} {:>8} {:>10} {:>9}".format("tiles", *columns), flush=True)
        if pytorch:
            with LineServer(sys.executable, PEER, *inputs.paths, "float") as peer:
                reference = peer.ask(options.threads)["embedding"]
        for scalar in ("float", "bfloat16"):
            if pytorch:
                line, pytorch = measure(scalar, inputs, options, reference)
            else:
                line = measure_alone(scalar, inputs, options)
            lines.append(line)
            show(line)
        for count in options.alone:
            inputs = Inputs(options, count, pathlib.Path(name))
            for scalar in ("float", "bfloat16"):
                lines.append(measure_alone(scalar, inputs, options))
                show(lines[-1])
    settings = {"rounds": options.rounds, "threads": options.threads}
    write_results(results | {"pytorch": pytorch, "settings": settings, "results": lines}, options.json)
    sys.exit(0 if all(line.get("agree", True) for line in lines) else 1)


if __name__ == "__main__":
    main()
