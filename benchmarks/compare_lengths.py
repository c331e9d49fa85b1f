#!/usr/bin/env python3
"""Tokens per second and memory against the length of the sequence: dense attention, dilated attention in PyTorch, and
this library."""

import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True

from support.comparison import (  # noqa: E402
    RATES, SEGMENTS, Case, LineServer, cores, make_parser, pytorch_version, ranged, require_program,
)
from support.results import describe_run, summarize, write_results  # noqa: E402

PEER = pathlib.Path(__file__).resolve().parent / "support" / "pytorch_peer.py"
HEADS, HEAD_DIM = 4, 64
CHECKED_TOKENS = 4096
SIDES = ("library", "pytorch_dilated", "pytorch_dense")
LONG_CALL, TOTAL = 5, 2  # seconds: a first call that counts alone, and how long shorter ones are repeated

EPILOG = """\
Forward passes in float32, batch 1, 4 heads of 64, all threads:
  library           RingDilatedAttentionV2, longnet_preset, segments of 2,048 to 32,768 tokens at rates 1 to 16
  pytorch_dilated   the same attention in PyTorch: gather, fused attention with its log-sum-exp, scatter, mix
  pytorch_dense     scaled_dot_product_attention: every query meets every key, a different result
The first two are compared at 4,096 tokens before anything is timed, and some rows of the library's output at every
length with a float64 evaluation. Every length of every side is a process of its own; memory is its peak resident size
above what it held before it made q, k and v. A side ends if its next length would take longer than --limit, judged by
its last two.

--long in place of that: the library alone at 65,536 and 1,048,576 tokens, 12 heads of 64, bfloat16; needs 7 GB of
memory.

The program is built by:
  cmake -S . -B build/measure -DCMAKE_BUILD_TYPE=Release -DRING_ATTENTION_BUILD_TESTS=OFF
  cmake --build build/measure --target attention_for_comparison
PyTorch: pip install torch. Without it the library is measured alone. benchmarks/report.py makes a page of the results.
"""


def compare_outputs(options):
    """Largest difference between the library and PyTorch's dilated attention, in tolerances, and where it is."""
    from support.pytorch_peer import PytorchPeer, read_tensors, worst_error

    case = Case("lengths", CHECKED_TOKENS, HEADS, HEAD_DIM, "longnet", SEGMENTS, RATES)
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "tensors"
        with case.serve(options.program, "float32", "--output", path):
            tensors = read_tensors(path)
            return worst_error(case, "float32", PytorchPeer(case, tensors).outputs(), tensors)


def measure(side, tokens, options, heads=HEADS, scalar="float32"):
    if side == "library":
        server = Case(side, tokens, heads, HEAD_DIM, "longnet", SEGMENTS, RATES).serve(options.program, scalar)
    else:
        server = LineServer(sys.executable, PEER, side, tokens, heads, HEAD_DIM)
    with server:
        about = server.about
        worst = about.get("worst_error_in_tolerances", 0.0)
        if not (worst is not None and worst <= 1):
            sys.exit(f"FAILED: {tokens} tokens: outputs differ by {worst} tolerances")
        seconds, peak = [about["first_seconds"]], about["peak_bytes"]
        if seconds[0] < LONG_CALL or options.threads != cores():  # the first call was with all
            seconds = []
            while len(seconds) < 3 or (sum(seconds) < TOTAL and len(seconds) < 9):
                answer = server.ask(options.threads)
                seconds.append(answer["seconds"])
                peak = answer["peak_bytes"]
    line = {
        "side": side,
        "tokens": tokens,
        "seconds": summarize(seconds),
        "tokens_per_second": summarize([tokens / s for s in seconds]),
        "tensor_bytes": about["tensor_bytes"],
        "peak_bytes": peak or None,  # 0 if the system does not say
        "peak_minus_baseline_bytes": peak - about["bytes_before"] if peak else None,
        "worst_error_in_tolerances": worst,
    }
    memory = "unknown" if not peak else f"{line['peak_minus_baseline_bytes'] / 2**20:,.0f} MiB"
    print(f"{side:<16} {tokens:>9,} {ranged(line, 'tokens_per_second', ',.0f'):>36} {memory:>12}", flush=True)
    return line | ({"gflops": about["flops"] / line["seconds"]["median"] * 1e-9} if "flops" in about else {})


def within_limit(side, lines, options):
    """Whether the next length of a side is worth a try, judged by its last two."""
    taken = [line["seconds"]["median"] for line in lines if line["side"] == side][-2:]
    if len(taken) < 2 or taken[1] * max(taken[1] / taken[0], 1.0) <= options.limit:
        return True
    print(f"{side}: longer sequences would take more than {options.limit:g} s a call", flush=True)
    return False


def parse_arguments():
    parser = make_parser(__doc__, EPILOG)
    parser.add_argument("--quick", action="store_true", help="up to 16,384 tokens in place of 262,144")
    parser.add_argument("--long", action="store_true", help="see below")
    parser.add_argument("--limit", type=float, default=35.0, metavar="S", help="seconds of a call (default: 35)")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all")
    options = parser.parse_args()
    require_program(parser, options.program)
    return options


def main():
    options = parse_arguments()
    results = describe_run(options.program)
    branches = {"segment_lengths": SEGMENTS, "dilation_rates": RATES}
    if options.long:
        about = {"heads": 12, "head_dim": HEAD_DIM, "scalar": "bfloat16", "threads": options.threads} | branches
        lines = [measure("library", tokens, options, 12, "bfloat16") | about for tokens in (65536, 1048576)]
        write_results(results | {"results": lines}, options.json)
        return
    pytorch, worst, lines = pytorch_version(), None, []
    if pytorch:
        worst, where = compare_outputs(options)
        print(f"outputs at {CHECKED_TOKENS:,} tokens differ by {worst:.2f} tolerances at most ({where})", flush=True)
        if not worst <= 1:
            sys.exit("FAILED: the outputs are not the same attention")
    print("{:<16} {:>9} {:>36} {:>12}".format("side", "tokens", "tokens/s", "memory"))
    sides = SIDES if pytorch else SIDES[:1]
    for power in range(10, 15 if options.quick else 19):
        sides = [side for side in sides if within_limit(side, lines, options)]
        lines += [measure(side, 1 << power, options) for side in sides]
    settings = {"threads": options.threads, "scalar": "float32", "heads": HEADS, "head_dim": HEAD_DIM}
    results |= {
        "pytorch": pytorch,
        "settings": settings | branches | {"limit_seconds": options.limit},
        "worst_difference_in_tolerances": worst,
        "results": lines,
    }
    write_results(results, options.json)


if __name__ == "__main__":
    main()
