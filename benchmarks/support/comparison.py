"""What the comparisons have in common: problems, and processes that make a call when they are asked."""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

from .report import text
from .results import PROGRAMS

SCALARS = {"float32": "float", "bfloat16": "bfloat16"}  # by PyTorch's names, the program's
PAUSE = 0.02  # seconds before a call: the other side's threads may still be spinning
SEGMENTS, RATES = (2048, 4096, 8192, 16384, 32768), (1, 2, 4, 8, 16)  # LongNet's
GIGAPATH_SEGMENTS = (1024, 5792, 32768, 185363, 1048576)
LARGEST_ERROR_RATIO = 1.25  # of root-mean-square errors of 16-bit results against PyTorch's


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

    def flops(self):
        """4 * d * query-key pairs of forward, of presets in which the queries of a branch are the rows that it keeps.
        Zero keys do not count."""
        pairs = 0
        for width, rate in zip(self.segments, self.rates):
            if self.preset == "ring" and rate != 1:
                raise ValueError("with ring's rules every query meets the kept keys")
            for head in range(self.heads):
                offset = head % rate if self.preset == "longnet" else head // -(-self.heads // rate)
                for begin in range(0, self.tokens, width):
                    rows = max(0, -((begin + offset - min(begin + width, self.tokens)) // rate))
                    pairs += rows * (rows + 1) // 2 if self.causal else rows * rows
        return 4 * self.head_dim * pairs

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


def add_case_options(parser):
    """Those of the comparisons of single calls, case by case; parse_case_options() parses them with the others."""
    parser.add_argument(
        "--filter", metavar="TEXT[,TEXT...]", default="", help="only cases whose name contains each TEXT"
    )
    parser.add_argument("--rounds", type=int, help="calls of each side that count (default: 9; quick: 7)")
    parser.add_argument("--accuracy", action="store_true", help="compare errors alone")
    parser.add_argument("--kernel", help="the library's kernel (default: its best)")


def parse_case_options(parser):
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 7 if options.quick else 9
    if options.rounds < 1:
        parser.error("--rounds must be positive")
    return options


def selected(name, options):
    return all(text in name for text in options.filter.split(","))


def compare_errors(scalar, ratios_of, backward=True):
    """A line of the results for each head dimension and mask. `ratios_of(case, seed)`: root-mean-square errors against
    float64 over PyTorch's by name, and the kernel that computed."""
    for head_dim, causal in ((64, False), (64, True), (128, False), (128, True)):
        name = f"accuracy/d{head_dim}/{'causal' if causal else 'full'}/{scalar}"
        case = Case(name, 2048, 2, head_dim, segments=(2048,), backward=backward, causal=causal)
        ratios = []
        for seed in range(1, 6):
            of_seed, kernel = ratios_of(case, seed)
            ratios.append(of_seed)
        medians = {f"error_ratio_{key}": statistics.median(each[key] for each in ratios) for key in ratios[0]}
        agree = max(medians.values()) <= LARGEST_ERROR_RATIO
        texts = ", ".join(f"{key.removeprefix('error_ratio_')} {value:.3f}" for key, value in medians.items())
        print(f"{'' if agree else 'FAILED '}{name}: RMS error over PyTorch's: {texts}", flush=True)
        yield dataclasses.asdict(case) | {"scalar": scalar, "kernel": kernel, "agree": agree} | medians


def cores():
    return len(os.sched_getaffinity(0))


def ranged(line, key, form):
    """Median (minimum to maximum) of a line, or a dash."""
    return text.ranged(line[key], lambda value: format(value, form)) if key in line else "-"
