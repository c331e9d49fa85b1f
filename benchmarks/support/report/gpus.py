"""The report of benchmark_attention_kernels --device cuda and compare_cuda.py."""

from .kernels import draw_best, kernel_summary, lines_of
from .plots import BLUE, BROWN, grouped_bars
from .text import percent, ranged, seconds, table, two_decimals

STEM = "gpus"
TITLE = "GPUs"


def tflops(line):
    return {key: value * 1e-3 if key != "repetitions" else value for key, value in line["gflops"].items()}


def named(line):
    return line["name"] + (" (noisy)" if line["noisy"] else "")


def draw_kernels(lines):
    def draw(axes):
        draw_best(axes, lines, "forward")
        axes.set_ylabel("% of the peak, forward, best case")
        axes.legend(loc="upper left", ncol=4, columnspacing=1.0, handlelength=1.2)

    return draw


def draw_peers(lines):
    def draw(axes):
        names = [line["name"].replace("bfloat16", "bf16").replace("float32", "fp32") for line in lines]
        series = [
            ("this library", BLUE, None, [line["library_tflops"] for line in lines]),
            ("peer", BROWN, None, [line["peer_tflops"] for line in lines]),
        ]
        grouped_bars(axes, names, series)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_ylabel("TFLOP/s")
        axes.legend(loc="upper left", ncol=2)
        axes.margins(y=0.15)

    return draw


def sections(files, plots):
    yield "Forward; operations: 4 * d * query-key pairs. Medians with minimum and maximum.\n"
    if lines := [line for line in lines_of(files, "gpu_kernels") if "gflops" in line]:
        yield "## Kernels against the peak of their instructions\n"
        yield "Peak: a loop of the instruction on registers, measured before and after each sample.\n"
        yield table(
            lines_of(files, "gpu_kernels", "peaks"),
            ("peak", lambda line: line["name"]),
            ("TFLOP/s", lambda line: ranged(tflops(line))),
        )
        yield "The best case of each, in parts of the peak:\n"
        yield kernel_summary(lines)
        yield plots.show("peak", "Part of the peak by kernel and scalar", draw_kernels(lines))
        yield table(
            lines,
            ("case", named),
            ("time", lambda line: ranged(line["seconds"], seconds)),
            ("TFLOP/s", lambda line: ranged(tflops(line))),
            ("part of the peak", lambda line: ranged(line["part_of_peak"], percent)),
            ("peak", lambda line: line["peak"]),
        )
    if accuracy := lines_of(files, "cuda", "accuracy"):
        yield "## Errors\n"
        yield "Root-mean-square errors of outputs against float64, over those of PyTorch's fused attention.\n"
        yield table(
            accuracy,
            ("case", lambda line: line["name"]),
            ("kernel", lambda line: line["kernel"]),
            ("ratio", lambda line: two_decimals(line["error_ratio_out"])),
            left=2,
        )
    if lines := [line for line in lines_of(files, "cuda") if "ratio" in line]:
        yield "## Against PyTorch\n"
        yield (
            "The same inputs, in turn; a ratio is the peer's time over the library's of the same round, above 1 the "
            "library is faster. `benchmarks/compare_cuda.py --help` says what the cases and peers are.\n"
        )
        yield plots.show("peers", "TFLOP/s against PyTorch", draw_peers(lines), size=(8, 4.4))
        yield table(
            lines,
            ("case", named),
            ("kernel", lambda line: line["kernel"]),
            ("library", lambda line: ranged(line["library_seconds"], seconds)),
            ("library, TFLOP/s", lambda line: ranged(line["library_tflops"])),
            ("peer, TFLOP/s", lambda line: ranged(line["peer_tflops"])),
            ("ratio by round", lambda line: ranged(line["ratio"])),
            ("error over the peer's",
             lambda line: two_decimals(line["error_ratio"]) if "error_ratio" in line else None),
            left=2,
        )
