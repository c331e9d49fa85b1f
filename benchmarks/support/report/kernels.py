"""The report of benchmark_attention_kernels, its --long run, and compare_pytorch.py."""

from .plots import COLOURS, grouped_bars, plain_ticks
from .text import (
    binary_bytes,
    branches,
    command_line,
    counted,
    percent,
    provenance,
    ranged,
    seconds,
    significant,
    table,
)

STEM = "attention-kernels"
TITLE = "Kernels and PyTorch"
TAKES_SEVERAL = True  # files for one page


def options(file):
    """What the command line said, as far as results tell: options that differ from the defaults, with values."""
    settings = file.data.get("settings", {})
    if settings.get("quick") or file.data.get("quick"):
        yield "--quick", True
    if "long" in file.data:
        yield "--long", True
    if settings.get("filters"):
        yield "--filter", ",".join(settings["filters"])
    if file.kind == "kernels":
        if (settings["samples"], settings["best_kernel_samples"]) != (3, 7):
            yield "--samples", settings["samples"]
        return
    if file.data["rounds"] != (7 if file.data["quick"] else 9):
        yield "--rounds", file.data["rounds"]
    machine = file.about.get("machine")
    threads = settings.get("threads") or sorted({line["threads"] for line in file.data["results"]})
    if machine and threads != sorted({1, machine["cpus_usable"]}):
        yield "--threads", threads
    if settings.get("kernel"):
        yield "--kernel", settings["kernel"]


def command(file):
    name = "benchmark_attention_kernels" if file.kind == "kernels" else "python3 benchmarks/compare_pytorch.py"
    return command_line(name, options(file))


def shortened_by(file):
    """Besides options: why these results are not those of a full run."""
    return [] if file.kind == "kernels" or file.data["pytorch"] else ["no PyTorch"]


def lines_of(files, key, kind="kernels"):
    return [line for file in files if file.kind == kind for line in file.data.get(key) or []]


def two_decimals(value):
    return f"{value:.2f}"


def good(files):
    return [line for line in lines_of(files, "results") if "gflops" in line]


def kernel_table(lines):
    rows = []
    for line in lines:
        gain = line.get("thread_gain_over_peak_gain")
        rows.append(
            [
                line["name"] + (" (noisy)" if line["noisy"] else ""),
                ranged(line["gflops"]),
                ranged(line["part_of_peak"], percent),
                f"{line['tokens_per_second']['median']:,.0f}",
                two_decimals(gain) if gain is not None else "-",
            ]
        )
    return table(["case", "GFLOP/s", "part of the peak", "tokens/s", "gain of all threads"], rows)


def best_by_kernel(lines):
    """Part of the peak, GFLOP/s: the best of each kernel, scalar and direction over cases with one thread."""
    best = {}
    for line in lines:
        if line["threads"] == 1:
            key = line["kernel"], line["scalar"], line["direction"]
            if key not in best or line["part_of_peak"]["median"] > best[key]["part_of_peak"]["median"]:
                best[key] = line
    return best


def kernel_summary(lines):
    """The best of each kernel, in a list."""
    text = []
    for kernel in dict.fromkeys(line["kernel"] for line in lines):
        words = []
        for (name, scalar, direction), line in best_by_kernel(lines).items():
            if name == kernel:
                part = percent(line["part_of_peak"]["median"])
                words.append(f"{scalar} {direction} {part} ({line['configuration']}, d = {line['head_dim']})")
        if words:
            text.append(f"- `{kernel}`: {', '.join(words)}.\n")
    return "".join(text)


def draw_kernels(lines):
    best = best_by_kernel(lines)
    kernels = list(dict.fromkeys(line["kernel"] for line in lines))
    scalars = [s for s in ("float", "bfloat16", "half", "double") if any(key[1] == s for key in best)]
    colours = dict(
        zip(
            ("float", "bfloat16", "half", "double"),
            (COLOURS["library"], COLOURS["third"], COLOURS["pytorch"], COLOURS["none"]),
        )
    )

    def draw(axes):
        for panel, direction in zip(axes, ("forward", "backward")):
            series = [
                (
                    s,
                    colours[s],
                    None,
                    [
                        best[k, s, direction]["part_of_peak"] if (k, s, direction) in best else None
                        for k in kernels
                    ],
                )
                for s in scalars
            ]
            grouped_bars(panel, kernels, series, 100)
            panel.set_title(direction)
            panel.set_ylim(0, 118)
            panel.set_yticks(range(0, 101, 20))
        axes[0].set_ylabel("% of the peak, one thread, best case")
        axes[0].legend(loc="upper left", ncol=4, columnspacing=1.0, handlelength=1.2)

    return draw


def draw_pytorch(lines, threads):
    chosen = [line for line in lines if line["threads"] == threads]

    def draw(axes):
        names = [
            line["name"]
            .rsplit("/", 1)[0]
            .replace("/forward", "")
            .replace("float32", "fp32")
            .replace("bfloat16", "bf16")
            for line in chosen
        ]
        series = [
            ("this library", COLOURS["library"], None, [line["library_gflops"] for line in chosen]),
            ("PyTorch", COLOURS["pytorch"], None, [line["pytorch_gflops"] for line in chosen]),
        ]
        grouped_bars(axes, names, series)
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
        axes.set_ylabel(f"GFLOP/s, {counted(threads, 'thread')}")
        axes.legend(loc="upper left", ncol=2)
        axes.margins(y=0.15)

    return draw


def pytorch_table(lines):
    rows = []
    for line in lines:
        rows.append(
            [
                line["name"],
                ranged(line["library_gflops"]),
                ranged(line["pytorch_gflops"]),
                ranged(line["ratio"], two_decimals),
                f"{line['worst_difference_in_tolerances']:.2f}",
            ]
        )
    return table(
        ["case", "library, GFLOP/s", "PyTorch, GFLOP/s", "ratio by round", "difference in tolerances"], rows
    )


def pytorch_summary(lines):
    faster = [line for line in lines if line["ratio"]["minimum"] > 1]
    slower = [line for line in lines if line["ratio"]["maximum"] < 1]
    ratios = [line["ratio"]["median"] for line in lines]
    text = (
        f"In {len(faster)} of {len(lines)} cases the library is faster in every round, in {len(slower)} "
        f"PyTorch is; the median ratio is between {two_decimals(min(ratios))} and "
        f"{two_decimals(max(ratios))}."
    )
    if slower:
        text += " PyTorch is faster in: " + ", ".join(line["name"] for line in slower) + "."
    return text + "\n"


LONG_BRANCHES = {"segment_lengths": [2048, 4096, 8192, 16384, 32768], "dilation_rates": [1, 2, 4, 8, 16]}


def long_setup(line):
    """What was computed. Results that do not tell segments and rates are of runs that knew no others."""
    return (
        f"{branches(LONG_BRANCHES | line)}, {line['heads']} heads of {line['head_dim']}, {line['scalar']}, "
        f"{counted(line['threads'], 'thread')}"
    )


def long_table(lines):
    rows = []
    for line in lines:
        rows.append(
            [
                f"{line['tokens']:,}",
                ranged(line["seconds"], seconds),
                f"{line['tokens_per_second']:,.0f}",
                significant(line["gflops"]),
                binary_bytes(line["peak_bytes"]),
                f"{line['peak_over_tensors']:.3f}" if line["peak_over_tensors"] is not None else "unknown",
            ]
        )
    return table(["tokens", "time", "tokens/s", "GFLOP/s", "peak memory", "of q, k, v and out"], rows)


def shared_table(lines):
    rows = [
        [line["name"], line["direction"], ranged(line["calls_per_second_over_one_caller"], two_decimals)]
        for line in lines
    ]
    return table(["who shares the cores", "direction", "work per second against one caller"], rows, left=2)


def page(files, plots):
    main = files[0]
    lines, long_lines = good(files), lines_of(files, "long")
    pytorch = [line for line in lines_of(files, "results", "pytorch") if "ratio" in line]
    parts = [
        f"# {TITLE}, measured {main.timestamp}\n",
        "Operations: 4 * d * query-key pairs forward, 2.5 times that backward. Medians with minimum and maximum.\n",
        provenance(files, command),
    ]
    if lines:
        peaks = [[line["name"], line["threads"], ranged(line["gflops"])] for line in lines_of(files, "peaks")]
        parts += [
            "## Kernels against the peak of their instructions\n",
            "Peak: a loop of multiply-adds on registers, measured before and after each sample.\n",
            table(["peak", "threads", "GFLOP/s"], peaks),
            "The best case of each with one thread, in parts of the peak:\n",
            kernel_summary(lines),
            plots.show("peak", "Part of the peak by kernel and scalar", draw_kernels(lines), 2, (9, 3.6)),
            kernel_table(lines),
        ]
    shared = lines_of(files, "shared_cores")
    if shared:
        parts += ["## Shared cores\n", shared_table(shared)]
    if long_lines:
        parts += [
            "## Long sequences\n",
            f"Forward passes, {long_setup(long_lines[0])}.\n",
            long_table(long_lines),
        ]
    if pytorch:
        parts += [
            "## Against PyTorch\n",
            "The same inputs, call by call in turn; a ratio is PyTorch's time over the library's of the "
            "same round, above 1 the library is faster.\n",
            pytorch_summary(pytorch),
            *(
                plots.show(
                    f"pytorch-{threads}",
                    f"GFLOP/s against PyTorch, {counted(threads, 'thread')}",
                    draw_pytorch(pytorch, threads),
                    size=(8, 3.8),
                )
                for threads in sorted({line["threads"] for line in pytorch})
            ),
            pytorch_table(pytorch),
        ]
    elif any(file.kind == "pytorch" for file in files):
        parts.append("PyTorch was not there when compare_pytorch.py ran: nothing is compared.\n")
    return "\n".join(part for part in parts if part)


def figures(file):
    if file.kind == "pytorch":
        for line in file.data["results"]:
            for key, form in (
                ("library_gflops", significant),
                ("pytorch_gflops", significant),
                ("ratio", two_decimals),
            ):
                if key in line:
                    yield f"{line['name']}, {key.replace('_', ' ')}", line[key], form
        return
    for line in good([file]):
        yield f"{line['name']}, part of the peak", line["part_of_peak"], percent
        yield f"{line['name']}, GFLOP/s", line["gflops"], significant
    for line in lines_of([file], "long"):
        yield f"LongNet, {line['tokens']:,} tokens", line["seconds"], seconds
