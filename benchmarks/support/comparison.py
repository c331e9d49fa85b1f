"""What the comparisons have in common: problems, their inputs, and processes that make a call when they are asked."""

import argparse
import array
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys

from . import safetensors_file
from .results import PROGRAMS

SCALARS = {"float32": "F32", "bfloat16": "BF16"}  # names as safetensors files spell them
PAUSE = 0.02  # seconds before a call: the other side's threads may still be spinning
SEGMENTS, RATES = (2048, 4096, 8192, 16384, 32768), (1, 2, 4, 8, 16)  # LongNet's


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    tokens: int
    heads: int
    head_dim: int
    preset: str = "ring"
    segments: tuple = ()
    rates: tuple = (1,)
    backward: bool = False

    def write_inputs(self, path, scalar):
        """Normal numbers: a block of a prime length, repeated, so that no two rows are alike."""
        shape = (1, self.tokens, self.heads, self.head_dim)
        count = self.tokens * self.heads * self.head_dim
        tensors = {}
        for seed, name in enumerate(["q", "k", "v"] + ["grad_out"] * self.backward):
            source = random.Random(seed)
            block = array.array("f", (source.gauss(0, 1) for _ in range(262139)))
            if scalar == "bfloat16":
                block = array.array("H", block.tobytes())[1 if sys.byteorder == "little" else 0 :: 2]
            data = block.tobytes() * (count // len(block) + 1)
            tensors[name] = (SCALARS[scalar], shape, data[: count * block.itemsize])
        safetensors_file.write(path, tensors)


class LineServer:
    """A process that answers lines with lines of JSON, the first, `about`, before it is asked. A context manager."""

    def __init__(self, *command):
        self._command = [str(word) for word in command]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.about = self._answer()

    def ask(self, line):
        self._process.stdin.write(f"{line}\n")
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._command[0]} ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()


def attention_server(program, preset, segments, rates, *words):
    """attention_for_comparison; `words`: what else stands on its command line."""
    lists = [",".join(map(str, numbers)) for numbers in (segments, rates)]
    return LineServer(program, "--preset", preset, "--segments", lists[0], "--rates", lists[1], *words)


def pytorch_version():
    """What is known of PyTorch; None, with a line that says why, if it cannot be imported. Not imported here: a process
    hands its peak memory on to those that it starts."""
    code = (
        "import json, torch; print(json.dumps({'version': torch.__version__, "
        "'cpu_capability': torch.backends.cpu.get_cpu_capability()}))"
    )
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if tried.returncode == 0:
        return json.loads(tried.stdout)
    reason = (tried.stderr.strip().splitlines() or ["import fails"])[-1]
    print(f"PyTorch is missing ({reason}): the library is measured alone. pip install torch", flush=True)
    return None


def make_parser(description, epilog):
    """With the options that all comparisons have."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--program",
        type=pathlib.Path,
        default=PROGRAMS / "attention_for_comparison",
        help="attention_for_comparison, if it is built elsewhere",
    )
    parser.add_argument("--json", type=pathlib.Path, help="results (default: beside the built programs)")
    return parser


def require_program(parser, *programs):
    for program in programs:
        if not program.exists():
            parser.error(f"{program} does not exist: build it (see --help), or name where it is")


def cores():
    return len(os.sched_getaffinity(0))


def ranged(line, key, form):
    """Median (minimum to maximum) of a line, or a dash."""
    if key not in line:
        return "-"
    median, low, high = (format(line[key][part], form) for part in ("median", "minimum", "maximum"))
    return f"{median} ({low} to {high})"
