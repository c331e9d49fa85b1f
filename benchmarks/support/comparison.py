"""What the comparisons have in common: problems, and processes that make a call when they are asked."""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

from .report import text
from .results import PROGRAMS

SCALARS = {"float32": "float", "bfloat16": "bfloat16"}  # by PyTorch's names, the program's
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
    causal: bool = False

    def serve(self, program, scalar="float32", *words):
        """attention_for_comparison with this problem; `words`: what else stands on its command line."""
        words += ("--backward",) * self.backward + ("--causal",) * self.causal
        for name in ("tokens", "heads", "head_dim", "preset", "segments", "rates"):
            value = getattr(self, name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += ("--" + name.replace("_", "-"), text)
        return LineServer(program, "--scalar", SCALARS[scalar], *words)


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
    return text.ranged(line[key], lambda value: format(value, form)) if key in line else "-"
