"""The report of benchmark_attention_kernels, compare_lengths.py --long and compare_pytorch.py."""

from .plots import BLUE, BROWN, GREEN, GREY, grouped_bars
from .text import (
    binary_bytes, branches, counted, percent, ranged, seconds, significant, table, two_decimals,
)

STEM = "attention-kernels"
TITLE = "Kernels and PyTorch"
SCALARS = {"float": BLUE, "bfloat16": GREEN, "half": BROWN, "double": GREY}


def lines_of(files, kind, key="results"):
    return [line for file in files if file.kind == kind for line in file.data.get(key, []) if "error" not in line]


def best_by_kernel(lines):
    """The line with the largest part of the peak of each kernel, scalar and direction over cases with one thread."""
    best = {}
    for line in sorted(lines, key=lambda line: line["part_of_peak"]["median"]):
        if line.get("threads", 1) == 1:  # on a GPU there are none
            best[line["kernel"], line["scalar"], line["direction"]] = line
    return best


def kernel_summary(lines):
    """The best of each kernel, in a list."""
    best, text = best_by_kernel(lines), ""
    for kernel in dict.fromkeys(line["kernel"] for line in lines):
        words = []
        for scalar in SCALARS:
            for direction in ("forward", "backward"):
                if line := best.get((kernel, scalar, direction)):
                    part = percent(line["part_of_peak"]["median"])
                    words.append(f"{scalar} {direction} {part} ({line['configuration']}, d = {line['head_dim']})")
        text += f"- `{kernel}`: {', '.join(words)}.\n" if words else ""
    return text


def kernel_table(lines):
    alone = {line["name"].rsplit("/", 1)[0]: line for line in lines if line["threads"] == 1}

    def gain(line):
        one = alone.get(line["name"].rsplit("/", 1)[0])
        if one and line["threads"] > 1:
            return two_decimals(line["part_of_peak"]["median"] / one["part_of_peak"]["median"])

    return table(
        lines,
        ("case", lambda line: line["name"] + (" (noisy)" if line["noisy"] else "")),
        ("GFLOP/s", lambda line: ranged(line["gflops"])),
        ("part of the peak", lambda line: ranged(line["part_of_peak"], percent)),
        ("tokens/s", lambda line: f"{line['tokens'] / line['seconds']['median']:,.0f}"),
        ("gain of all threads", gain),
    )


def draw_best(axes, lines, direction):
    """Bars of the best part of the peak, by kernel and scalar."""
    best = best_by_kernel(lines)
    kernels = list(dict.fromkeys(line["kernel"] for line in lines))
    series = []
    for scalar in SCALARS:
        chosen = [best.get((kernel, scalar, direction)) for kernel in kernels]
        if any(chosen):
            series.append((scalar, SCALARS[scalar], None, [line and line["part_of_peak"] for line in chosen]))
    if series:
        grouped_bars(axes, kernels, series, 100)
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))


def draw_kernels(lines):
    def draw(axes):
        for panel, direction in zip(axes, ("forward", "backward")):
            draw_best(panel, lines, direction)
            panel.set_title(direction)
        axes[0].set_ylabel("% of the peak, one thread, best case")
        axes[0].legend(loc="upper left", ncol=4, columnspacing=1.0, handlelength=1.2)

    return draw


def draw_pytorch(lines, threads):
    chosen = [line for line in lines if line["threads"] == threads]

    def draw(axes):
        short = {"/forward": "", "float32": "fp32", "bfloat16": "bf16"}
        names = []
        for name in (line["name"].rsplit("/", 1)[0] for line in chosen):
            for word, shorter in short.items():
                name = name.replace(word, shorter)
            names.append(name)
        series = [
            ("this library", BLUE, None, [line["library_gflops"] for line in chosen]),
            ("PyTorch", BROWN, None, [line["pytorch_gflops"] for line in chosen]),
        ]
        grouped_bars(axes, names, series)
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
        axes.set_ylabel(f"GFLOP/s, {counted(threads, 'thread')}")
        axes.legend(loc="upper left", ncol=2)
        axes.margins(y=0.15)

    return draw


def pytorch_summary(lines):
    faster = [line for line in lines if line["ratio"]["minimum"] > 1]
    slower = [line["name"] for line in lines if line["ratio"]["maximum"] < 1]
    ratios = [line["ratio"]["median"] for line in lines]
    return (
        f"In {len(faster)} of {len(lines)} cases the library is faster in every round, in {len(slower)} PyTorch is"
        f"{' (' + ', '.join(slower) + ')' if slower else ''}; the median ratio is between {two_decimals(min(ratios))} "
        f"and {two_decimals(max(ratios))}.\n"
    )


def sections(files, plots):
    yield "Operations: 4 * d * query-key pairs forward, 2.5 times that backward. Medians with minimum and maximum.\n"
    if lines := [line for line in lines_of(files, "kernels") if "gflops" in line]:
        yield "## Kernels against the peak of their instructions\n"
        yield "Peak: a loop of multiply-adds on registers, measured before and after each sample.\n"
        yield table(
            lines_of(files, "kernels", "peaks"),
            ("peak", lambda line: line["name"]),
            ("threads", lambda line: line["threads"]),
            ("GFLOP/s", lambda line: ranged(line["gflops"])),
        )
        yield "The best case of each with one thread, in parts of the peak:\n"
        yield kernel_summary(lines)
        if best_by_kernel(lines):
            yield plots.show("peak", "Part of the peak by kernel and scalar", draw_kernels(lines), 2, (9, 3.6))
        yield kernel_table(lines)
    if shared := lines_of(files, "kernels", "shared_cores"):
        yield "## Shared cores\n"
        yield table(
            shared,
            ("who shares the cores", lambda line: line["name"]),
            ("direction", lambda line: line["direction"]),
            ("work per second against one caller",
             lambda line: ranged(line["calls_per_second_over_one_caller"], two_decimals)),
            left=2,
        )
    if long := lines_of(files, "long"):
        yield "## Long sequences\n"
        yield (
            f"Forward passes, {branches(long[0])}, {long[0]['heads']} heads of {long[0]['head_dim']}, "
            f"{long[0]['scalar']}, {counted(long[0]['threads'], 'thread')}.\n"
        )
        yield table(
            long,
            ("tokens", lambda line: f"{line['tokens']:,}"),
            ("time", lambda line: ranged(line["seconds"], seconds)),
            ("tokens/s", lambda line: f"{line['tokens'] / line['seconds']['median']:,.0f}"),
            ("GFLOP/s", lambda line: significant(line["gflops"])),
            ("peak memory", lambda line: binary_bytes(line["peak_bytes"])),
            ("of q, k, v and out",
             lambda line: f"{line['peak_bytes'] / line['tensor_bytes']:.3f}" if line["peak_bytes"] else None),
        )
    pytorch = [line for line in lines_of(files, "pytorch") if "ratio" in line]
    if pytorch:
        yield "## Against PyTorch\n"
        yield (
            "The same inputs, call by call in turn; a ratio is PyTorch's time over the library's of the same round, "
            "above 1 the library is faster.\n"
        )
        yield pytorch_summary(pytorch)
        for threads in sorted({line["threads"] for line in pytorch}):
            title = f"GFLOP/s against PyTorch, {counted(threads, 'thread')}"
            yield plots.show(f"pytorch-{threads}", title, draw_pytorch(pytorch, threads), size=(8, 3.8))
        yield table(
            pytorch,
            ("case", lambda line: line["name"]),
            ("library, GFLOP/s", lambda line: ranged(line["library_gflops"])),
            ("PyTorch, GFLOP/s", lambda line: ranged(line["pytorch_gflops"])),
            ("ratio by round", lambda line: ranged(line["ratio"], two_decimals)),
            ("difference in tolerances", lambda line: two_decimals(line["worst_difference_in_tolerances"])),
        )
    elif lines_of(files, "pytorch"):
        yield "PyTorch was not there when compare_pytorch.py ran: nothing is compared.\n"
