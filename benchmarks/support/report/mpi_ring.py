"""The report of benchmark_mpi_ring, and the figures of SCALING.md."""

from .plots import BLUE, BROWN, GREEN, label, ranged_line
from .text import (
    binary_bytes, counted, megabytes, paragraph, percent, ranged, seconds, significant, table, two_decimals,
)

STEM = "mpi-ring"
TITLE = "The ring over MPI"


def cases(file):
    return [line for line in file.data["results"] if "error" not in line]


def of_dense(line):
    dense = sum(line["dense_ring_bytes_by_rank"])
    return sum(line["bytes_sent_by_rank"]) / dense if dense else None


def shares_cores(line):
    return line["ranks"] * line["threads_per_rank"] > line["cores"]


def measured_table(file):
    """The table that docs/guides/SCALING.md shows."""

    def messages(line):
        value = line["communicate_alone_seconds"]["median"]
        if line["ranks"] > 1:
            return f"{value * 1e3:.2f} ms" if value < 1e-3 else seconds(value)

    def optional(key):
        return lambda line: two_decimals(line[key]) if key in line and line["ranks"] > 1 else None

    return table(
        cases(file),
        ("case", lambda line: line["name"]),
        ("time", lambda line: seconds(line["seconds"]["median"])),
        ("computing", lambda line: seconds(line["compute_alone_seconds"]["median"])),
        ("messages", messages),
        ("time / computing", lambda line: ranged(line["time_over_compute_alone"], two_decimals)),
        ("gain", optional("gain_over_peak_gain")),
        ("of model", optional("seconds_over_modelled")),
        ("sent / rank", lambda line: megabytes(max(line["bytes_sent_by_rank"])) if line["ranks"] > 1 else None),
        ("of dense", lambda line: f"{100 * of_dense(line):.1f} %" if of_dense(line) else None),
    )


def measured_summary(file):
    """What the table says, in a paragraph."""
    text = []
    if lines := [line for line in cases(file) if line["ranks"] > 1 and not shares_cores(line)]:
        hidden = max(line["communicate_alone_seconds"]["median"] / line["seconds"]["median"] for line in lines)
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
    if shares := [of_dense(line) for line in cases(file) if "longnet" in line["name"] and of_dense(line)]:
        text.append(f"LongNet sends {percent(min(shares))} to {percent(max(shares))} of what a dense ring does.")
    if any(map(shares_cores, cases(file))):
        text.append("The peak of ranks that share cores cannot be measured, so they have neither gain nor model.")
    return paragraph(*text)


def patterns_summary(file):
    if "patterns_per_node" not in file.data:
        return ""
    sharing = file.data["patterns_per_node"]
    once, each = sharing["once_per_node"], sharing["by_every_rank"]
    return paragraph(
        f"The same run looks up {sharing['patterns']} patterns, {binary_bytes(sharing['pattern_bytes'])} in all "
        f"({sharing['tokens']:,} tokens), in processes that start. {sharing['ranks']} ranks that share them hold "
        f"{binary_bytes(once['bytes_of_all_ranks']['median'])} together; each for itself, they hold "
        f"{binary_bytes(each['bytes_of_all_ranks']['median'])}. The lookups take "
        f"{seconds(once['seconds']['median'])} and {seconds(each['seconds']['median'])}."
    )


def method(file):
    settings = file.data["settings"]
    return (
        f"`{settings['class']}`, {settings['scalar']}, {counted(settings['threads_per_rank'], 'thread')} per rank, "
        "contiguous shards; ranks of a machine exchange "
        f"{'in shared memory' if settings['shared_memory'] else 'through MPI'}. In each round the call, its computing "
        "alone (exchange turned off) and its messages alone alternate; times are medians over "
        f"{counted(settings['rounds'], 'round')}, of the slowest rank."
    )


def measured_setup(file):
    """How the table came about, in a paragraph."""
    machine, first = file.data["machine"], cases(file)[0]
    return paragraph(
        f"`{file.data['command']}`, {counted(first['heads'], 'head')} of {first['head_dim']}, on "
        f"{counted(first['cores'], 'core')} ({machine['cpu_model']}, kernel {file.data['kernels'][0]}).",
        method(file),
        f"The figures are those of [this file](../benchmarks/{file.path.name}).",
    )


BLOCKS = {
    "ring_setup": measured_setup,
    "ring": measured_table,
    "ring_summary": measured_summary,
    "ring_patterns": patterns_summary,
}


def draw_speed(file):
    def draw(axes):
        series = {}
        for line in cases(file):
            series.setdefault(f"{line['series']}, {line['problem'].split('-')[0]}", []).append(line)
        # The third shifts points a little, so that ranges do not hide one another.
        styles = ((BLUE, "o", 0.96), (BROWN, "s", 1.0), (GREEN, "^", 1.04))
        for (name, lines), (colour, mark, shift) in zip(series.items(), styles):
            ranks = [line["ranks"] for line in lines]
            ratios = [line["time_over_compute_alone"] for line in lines]
            axes[0].plot(ranks, [line["gflops"] for line in lines], marker=mark, color=colour, label=name)
            ranged_line(axes[1], [count * shift for count in ranks], ratios, marker=mark, color=colour, label=name)
        ranks, cores = sorted({line["ranks"] for line in cases(file)}), cases(file)[0]["cores"]
        for panel, what in zip(axes, ("GFLOP/s of all ranks", "time / computing alone")):
            label(panel, "ranks", what, ranks, logarithmic="x", base=2)
            if ranks[-1] > cores:
                panel.axvspan(cores * 1.05, ranks[-1] * 1.05, color="#f0f0f0", zorder=0)
        axes[0].set_ylim(bottom=0)
        axes[0].legend(loc="lower right")

    return draw


def draw_bytes(file):
    lines = [line for line in cases(file) if line["ranks"] > 1]

    def draw(axes):
        for key, width, colour, label in (("dense_ring_bytes_by_rank", 0.7, "#dddddd", "a dense ring"),
                                          ("bytes_sent_by_rank", 0.4, BLUE, "sent")):
            axes.barh(range(len(lines)), [max(line[key]) / 1e6 for line in lines], width, color=colour, label=label)
        axes.set_yticks(range(len(lines)), [line["name"] for line in lines])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("MB of the rank that sends most, one forward pass")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)

    return draw


def sections(files, plots):
    [file] = files
    lines = cases(file)
    yield method(file) + "\n"
    if lines:
        yield (
            "- **time / computing**: over computing alone, with the exchange turned off; minimum to maximum of the "
            "rounds.\n- **gain**: part of the processor's peak over that with one rank.\n- **of model**: time over "
            "that of the model in [SCALING.md](../guides/SCALING.md).\n- **of dense**: bytes over those of a ring in "
            "which every row travels to every rank.\n"
        )
        yield measured_table(file)
        if noisy := [line["name"] for line in lines if line["noisy"]]:
            yield f"Noisy: {', '.join(noisy)}.\n"
        yield measured_summary(file)
        yield plots.show("speed", "Speed and hidden exchange against ranks", draw_speed(file), 2, (9, 3.6))
        if any(map(shares_cores, lines)):
            yield "Grey: more ranks than cores.\n"
        if lines[-1]["ranks"] > 1:
            yield plots.show("bytes", "Bytes sent by a rank against a dense ring", draw_bytes(file))
    if "patterns_per_node" in file.data:
        yield "## Patterns\n"
        yield patterns_summary(file)
