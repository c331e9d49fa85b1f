"""The report of compare_lengths.py, and the picture of README.md."""

from .plots import COLOURS, plain_ticks
from .text import (
    binary_bytes,
    branches,
    command_line,
    counted,
    listed,
    paragraph,
    percent,
    provenance,
    ranged,
    seconds,
    significant,
    table,
)

STEM = "lengths"
TITLE = "Speed and memory by length"


def options(file):
    """What the command line said, as far as results tell: options that differ from the defaults, with values."""
    settings = file.data["settings"]
    if settings["quick"]:
        yield "--quick", True
    if settings["limit_seconds"] != 35:
        yield "--limit", settings["limit_seconds"]
    if settings["threads"] != file.data["machine"]["cpus_usable"]:
        yield "--threads", settings["threads"]


def command(file):
    return command_line("python3 benchmarks/compare_lengths.py", options(file))


def shortened_by(file):
    """Besides options: why these results are not those of a full run."""
    return [] if file.data["pytorch"] else ["no PyTorch"]


LABELS = {
    "library": "this library, dilated",
    "pytorch_dilated": "PyTorch, dilated",
    "pytorch_dense": "PyTorch, dense",
}
LOOKS = {
    "library": (COLOURS["library"], "o"),
    "pytorch_dilated": (COLOURS["pytorch"], "s"),
    "pytorch_dense": (COLOURS["dense"], "^"),
}


def by_side(file):
    """Lines by side, then by tokens."""
    found = {}
    for line in file.data["lengths"]:
        found.setdefault(line["side"], {})[line["tokens"]] = line
    return found


def short(tokens):
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else f"{tokens:,}"


def whole(value):
    return f"{float(f'{value:.2e}'):,.0f}"


def draw(file):
    sides = by_side(file)

    def draw_both(axes):
        lengths = sorted({line["tokens"] for line in file.data["lengths"]})
        for side, lines in sides.items():
            colour, mark = LOOKS[side]
            tokens = list(lines)
            axes[0].plot(
                tokens,
                [line["tokens_per_second"]["median"] for line in lines.values()],
                marker=mark,
                color=colour,
                label=LABELS[side],
            )
            known = [line for line in lines.values() if line["peak_minus_baseline_bytes"]]
            axes[1].plot(
                [line["tokens"] for line in known],
                [line["peak_minus_baseline_bytes"] / 2**20 for line in known],
                marker=mark,
                color=colour,
                label=LABELS[side],
            )
        held = next(iter(sides.values()))
        axes[1].plot(
            list(held),
            [line["tensor_bytes"] / 2**20 for line in held.values()],
            "--",
            color="#333333",
            linewidth=1,
            label="q, k, v and output alone",
        )
        for panel, label in zip(axes, ("tokens/s", "peak memory of a call, MiB")):
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            plain_ticks(panel.xaxis, lengths, [short(tokens) for tokens in lengths])
            panel.set_xlabel("tokens n")
            panel.set_ylabel(label)
        axes[0].legend(loc="lower left")
        axes[1].legend(loc="upper left")

    return draw_both


def lengths_table(file):
    sides = by_side(file)
    tokens = sorted({line["tokens"] for line in file.data["lengths"]})
    header, rows = ["tokens"], []
    for side in sides:
        header += [f"{LABELS[side]}, tokens/s", "memory"]
    for count in tokens:
        row = [f"{count:,}"]
        for lines in sides.values():
            line = lines.get(count)
            row += (
                [ranged(line["tokens_per_second"], whole), binary_bytes(line["peak_minus_baseline_bytes"])]
                if line
                else ["-"] * 2
            )
        rows.append(row)
    return table(header, rows)


def summary(file):
    """What the picture says, in sentences."""
    sides, text = by_side(file), []
    library = sides["library"]
    longest = max(library)
    line = library[longest]
    text.append(
        f"At {longest:,} tokens the library computes {whole(line['tokens_per_second']['median'])} tokens/s"
        + (
            f" in {binary_bytes(line['peak_minus_baseline_bytes'])}, "
            f"{line['peak_minus_baseline_bytes'] / line['tensor_bytes']:.2f} times the bytes of q, k, v and "
            "the output"
            if line["peak_minus_baseline_bytes"]
            else ""
        )
        + "."
    )
    for side, name in (
        ("pytorch_dilated", "PyTorch's dilated attention"),
        ("pytorch_dense", "dense attention"),
    ):
        both = sorted(library.keys() & sides.get(side, {}).keys())
        if not both:
            continue
        ratios = {n: sides[side][n]["seconds"]["median"] / library[n]["seconds"]["median"] for n in both}
        ahead = [n for n in both if ratios[n] > 1]
        n = both[-1]
        theirs, ours = sides[side][n]["peak_minus_baseline_bytes"], library[n]["peak_minus_baseline_bytes"]
        text.append(
            f"It is {significant(ratios[n])} times as fast as {name} at {n:,} tokens"
            + (f", with {percent(ours / theirs)} of its memory" if ours and theirs else "")
            + f"; the ratio is {significant(min(ratios.values()))} to {significant(max(ratios.values()))} "
            "over all lengths"
            + (
                "."
                if len(ahead) == len(both)
                else (
                    f", and above 1 at {listed(f'{n:,}' for n in ahead)} tokens."
                    if ahead
                    else ", and nowhere above 1."
                )
            )
        )
    return paragraph(" ".join(text))


PICTURE = "speed-and-memory"


def picture(file):
    """For README.md: the plot and what it says."""
    settings, machine = file.data["settings"], file.data["machine"]
    name = f"docs/benchmarks/{STEM}-{file.timestamp}"
    return (
        f"![Tokens per second and memory against the length of the sequence]({name}-{PICTURE}.svg)\n\n"
        + paragraph(
            f"Forward passes in {settings['scalar']}, {settings['heads']} heads of {settings['head_dim']}, "
            f"{branches(settings)}, on {counted(settings['threads'], 'core')} ({machine['cpu_model']}; "
            f"[report]({name}.md)). " + summary(file)
        )
    )


BLOCKS = {"lengths": picture}


def page(files, plots):
    [file] = files
    settings = file.data["settings"]
    worst = file.data.get("worst_difference_in_tolerances")
    dense = by_side(file).get("pytorch_dense", {})
    parts = [
        f"# {TITLE}, measured {file.timestamp}\n",
        f"Forward passes in {settings['scalar']}, batch {settings['batch']}, {settings['heads']} heads of "
        f"{settings['head_dim']}, {counted(settings['threads'], 'thread')}, {branches(settings)}. Dense "
        "attention is another result, in which every query meets every key; it is here for its cost. Memory is "
        f"the {settings['memory']}; each figure is of a process of its own.\n",
        provenance(files, command),
        plots.show(PICTURE, "Tokens per second and memory against n", draw(file), 2, (9, 3.8)),
        summary(file),
        (
            f"The outputs of the two dilated ones differ by {significant(worst, 2)} tolerances at most.\n"
            if worst is not None
            else ""
        ),
        (
            f"Dense attention was measured up to {max(dense):,} tokens; one length more would take longer "
            f"than {settings['limit_seconds']:g} s a call.\n"
            if dense and max(dense) < max(by_side(file)["library"])
            else ""
        ),
        lengths_table(file),
    ]
    return "\n".join(part for part in parts if part)


def figures(file):
    for line in file.data["lengths"]:
        name = f"{LABELS[line['side']]}, {line['tokens']:,} tokens"
        yield f"{name}, time", line["seconds"], seconds
        value = line["peak_minus_baseline_bytes"]
        if value is not None:
            # Pages of a process are not the same from run to run; a tenth is taken for their range.
            yield f"{name}, memory", {
                "median": value,
                "minimum": value * 0.95,
                "maximum": value * 1.05,
                "repetitions": 3,
            }, binary_bytes
