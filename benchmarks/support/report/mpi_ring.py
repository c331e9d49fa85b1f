"""The report of benchmark_mpi_ring."""

from .plots import COLOURS, error_bars, plain_ticks
from .text import (
    binary_bytes,
    command_line,
    counted,
    paragraph,
    percent,
    provenance,
    ranged,
    seconds,
    significant,
    table,
)

STEM = "mpi-ring"
TITLE = "The ring over MPI"


def options(file):
    """What the command line said, as far as results tell: options that differ from the defaults, with values."""
    settings = file.data["settings"]
    if settings["quick"]:
        yield "--quick", True
    if settings["filters"]:
        yield "--filter", ",".join(settings["filters"])
    if settings["rounds"] != (5 if settings["quick"] else 9):
        yield "--rounds", settings["rounds"]
    if settings["threads_per_rank"] != 1:
        yield "--threads", settings["threads_per_rank"]
    if settings["layout"] != "contiguous":
        yield "--layout", settings["layout"]
    if settings["causal"]:
        yield "--causal", True
    if not settings["shared_memory"]:
        yield "--no-shared-memory", True


def command(file):
    return command_line(f"mpirun -n {file.data['mpi']['ranks']} benchmark_mpi_ring", options(file))


def cases(file):
    return [line for line in file.data.get("results", []) if "error" not in line]


def megabytes(value):
    return f"{value / 1e6:.1f} MB"


def milliseconds(value):
    return f"{value * 1e3:.2f} ms" if value < 1e-3 else seconds(value)


def measured_table(file):
    """The table that docs/guides/SCALING.md shows."""
    rows = []
    for line in cases(file):
        sent = max(line["bytes_sent_by_rank"])
        ratio = line["time_over_compute_alone"]
        rows.append(
            [
                line["name"],
                seconds(line["seconds"]["median"]),
                seconds(line["compute_alone_seconds"]["median"]),
                milliseconds(line["communicate_alone_seconds"]["median"]) if line["ranks"] > 1 else "-",
                ranged(ratio, lambda x: f"{x:.2f}"),
                f"{line['gain_over_peak_gain']:.2f}" if "gain_over_peak_gain" in line else "-",
                f"{line['seconds_over_modelled']:.2f}" if "seconds_over_modelled" in line else "-",
                megabytes(sent) if line["ranks"] > 1 else "-",
                (
                    f"{100 * line['bytes_sent_over_dense_ring']:.1f} %"
                    if line["bytes_sent_over_dense_ring"]
                    else "-"
                ),
            ]
        )
    return table(
        [
            "case",
            "time",
            "computing",
            "messages",
            "time / computing",
            "gain",
            "of model",
            "sent / rank",
            "of dense",
        ],
        rows,
    )


def owning_cores(file):
    """Cases of several ranks each of which has its cores."""
    return [
        line
        for line in cases(file)
        if line["ranks"] > 1 and line["ranks"] * line["threads_per_rank"] <= line["cores"] * line["nodes"]
    ]


def measured_summary(file):
    """What the table says, in a paragraph."""
    lines, text = owning_cores(file), []
    if lines:
        hidden = max(
            line["communicate_alone_seconds"]["median"] / line["seconds"]["median"] for line in lines
        )
        over = max(line["time_over_compute_alone"]["median"] for line in lines)
        ranks = " or ".join(str(count) for count in sorted({line["ranks"] for line in lines}))
        text.append(
            f"With {ranks} ranks on {counted(lines[0]['cores'], 'core')} messages alone take {percent(hidden)} of the "
            f"time of a call at most, and a call takes at most {percent(over - 1)} more than its computing "
            "alone" + (": the exchange is hidden." if over <= 1.10 else ".")
        )
        modelled = [line["seconds_over_modelled"] for line in lines if "seconds_over_modelled" in line]
        if modelled:
            text.append(f"The time is {min(modelled):.2f} to {max(modelled):.2f} of the model's.")
    longnet = [
        line for line in cases(file) if "longnet" in line["name"] and line["bytes_sent_over_dense_ring"]
    ]
    if longnet:
        shares = [line["bytes_sent_over_dense_ring"] for line in longnet]
        text.append(
            f"LongNet sends {percent(min(shares))} to {percent(max(shares))} of what a dense ring does."
        )
    if any(line["ranks"] * line["threads_per_rank"] > line["cores"] for line in cases(file)):
        text.append(
            "Of ranks that share cores the peak cannot be measured, so neither gain nor model is told."
        )
    return paragraph(" ".join(text))


def patterns_summary(file):
    sharing = file.data.get("patterns_per_node")
    if not sharing:
        return ""
    once, each = sharing["once_per_node"], sharing["by_every_rank"]
    return paragraph(
        f"The same run looks up {sharing['patterns']} patterns, {binary_bytes(sharing['pattern_bytes'])} in "
        f"all ({sharing['tokens']:,} tokens), in processes that start. {sharing['ranks']} ranks that share "
        f"them hold {binary_bytes(once['bytes_of_all_ranks']['median'])} together; each for itself, they "
        f"hold {binary_bytes(each['bytes_of_all_ranks']['median'])}. The lookups take "
        f"{seconds(once['seconds']['median'])} and {seconds(each['seconds']['median'])}."
    )


def measured_setup(file):
    """How the table came about, in a paragraph."""
    settings, machine, mpi = file.data["settings"], file.data["machine"], file.data["mpi"]
    threads = settings["threads_per_rank"]
    cores = counted(machine["cpus_usable"], "core")
    shared = (
        f"{mpi['ranks']} ranks share the {cores}. "
        if mpi["ranks"] * threads > machine["cpus_usable"]
        else ""
    )
    exchange = "in shared memory" if settings["shared_memory"] else "through MPI"
    first = cases(file)[0]
    return paragraph(
        f"`{command(file)}`, {counted(first['heads'], 'head')} of {first['head_dim']}, {settings['scalar']}, "
        f"{counted(threads, 'thread')} per rank, on {cores} "
        f"({machine['cpu_model']}, kernel {file.data['kernels'][0]}), ranks exchanging {exchange}. "
        f"{shared}In each round the call, its computing alone (exchange turned off) and its messages alone "
        f"alternate; medians over {counted(settings['rounds'], 'round')}, of the slowest rank. The figures are "
        f"those of [this file](../benchmarks/{file.path.name})."
    )


BLOCKS = {
    "ring_setup": measured_setup,
    "ring": measured_table,
    "ring_summary": measured_summary,
    "ring_patterns": patterns_summary,
}


def series(file):
    """Lines by series and problem, by ranks."""
    found = {}
    for line in cases(file):
        name = f"{line['series']}, {line['problem'].split('-')[0]}"
        found.setdefault(name, []).append(line)
    return found


def draw_speed(file):
    def draw(axes):
        # The third shifts points a little, so that ranges do not hide one another.
        styles = (
            (COLOURS["library"], "o", 0.96),
            (COLOURS["pytorch"], "s", 1.0),
            (COLOURS["third"], "^", 1.04),
        )
        for (name, lines), (colour, mark, shift) in zip(series(file).items(), styles):
            ranks = [line["ranks"] for line in lines]
            medians, spread = error_bars([line["time_over_compute_alone"] for line in lines])
            axes[0].plot(ranks, [line["gflops"] for line in lines], marker=mark, color=colour, label=name)
            places = [count * shift for count in ranks]
            axes[1].errorbar(places, medians, spread, marker=mark, capsize=2, color=colour, label=name)
        ranks = sorted({line["ranks"] for line in cases(file)})
        cores = cases(file)[0]["cores"]
        for panel in axes:
            panel.set_xscale("log", base=2)
            plain_ticks(panel.xaxis, ranks)
            panel.set_xlabel("ranks")
            if ranks[-1] > cores:
                panel.axvspan(cores * 1.05, ranks[-1] * 1.05, color="#f0f0f0", zorder=0)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("GFLOP/s of all ranks")
        axes[1].set_ylabel("time / computing alone")
        axes[0].legend(loc="lower right")

    return draw


def draw_bytes(file):
    lines = [line for line in cases(file) if line["ranks"] > 1]

    def draw(axes):
        places = range(len(lines))
        dense = [max(line["dense_ring_bytes_by_rank"]) / 1e6 for line in lines]
        sent = [max(line["bytes_sent_by_rank"]) / 1e6 for line in lines]
        axes.barh(places, dense, 0.7, color="#dddddd", label="a dense ring")
        axes.barh(places, sent, 0.4, color=COLOURS["library"], label="sent")
        axes.set_yticks(places, [line["name"] for line in lines])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("MB of the rank that sends most, one forward pass")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)

    return draw


def page(files, plots):
    [file] = files
    settings = file.data["settings"]
    lines = cases(file)
    if not lines:
        measured = [patterns_summary(file)]
    else:
        noisy = [line["name"] for line in lines if line["noisy"]]
        measured = [
            "- **time / computing**: over computing alone, with the exchange turned off; minimum to maximum "
            "of the rounds.\n- **gain**: part of the processor's peak over that with one rank.\n- **of "
            "model**: time over that of the model in [SCALING.md](../guides/SCALING.md).\n- **of dense**: "
            "bytes over those of a ring in which every row travels to every rank.\n",
            measured_table(file),
            (f"Noisy: {', '.join(noisy)}.\n" if noisy else ""),
            measured_summary(file),
            plots.show("speed", "Speed and hidden exchange against ranks", draw_speed(file), 2, (9, 3.6)),
            "Grey: more ranks than cores.\n" if any(one["ranks"] > one["cores"] for one in lines) else "",
            (
                plots.show("bytes", "Bytes sent by a rank against a dense ring", draw_bytes(file))
                if any(line["ranks"] > 1 for line in lines)
                else ""
            ),
            "## Patterns\n" if "patterns_per_node" in file.data else "",
            patterns_summary(file),
        ]
    exchange = (
        "ranks of a machine exchange in shared memory" if settings["shared_memory"] else "MPI moves all bytes"
    )
    parts = [
        f"# {TITLE}, measured {file.timestamp}\n",
        f"`{settings['class']}`, {settings['scalar']}, {counted(settings['threads_per_rank'], 'thread')} per "
        f"rank, {settings['layout']} shards{', causal' if settings['causal'] else ''}, {exchange}. Times are "
        f"medians of the slowest rank over {counted(settings['rounds'], 'round')}, in each of which the call, "
        "its computing alone and its messages alone alternate.\n",
        provenance(files, command),
        *measured,
    ]
    return "\n".join(part for part in parts if part)


def figures(file):
    for line in cases(file):
        yield line["name"] + ", time", line["seconds"], seconds
        yield line["name"] + ", time / computing", line["time_over_compute_alone"], significant
        yield line["name"] + ", part of the peak", line["part_of_peak"], percent
        sent = max(line["bytes_sent_by_rank"])
        yield line["name"] + ", sent", {
            "median": sent,
            "minimum": sent,
            "maximum": sent,
            "repetitions": 1,
        }, megabytes
