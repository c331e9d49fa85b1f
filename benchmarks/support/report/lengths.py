"""The report of compare_lengths.py, and the picture of README.md."""

from .plots import BLUE, BROWN, GREY, label
from .text import (
    binary_bytes, branches, counted, listed, paragraph, percent, ranged, seconds, significant, table,
)

STEM = "lengths"
TITLE = "Speed and memory by length"
# Label, colour and mark of each side.
SIDES = {
    "library": ("this library, dilated", BLUE, "o"),
    "pytorch_dilated": ("PyTorch, dilated", BROWN, "s"),
    "pytorch_dense": ("PyTorch, dense", GREY, "^"),
}


def by_side(file):
    """Lines by side, then by tokens."""
    found = {}
    for line in file.data["results"]:
        found.setdefault(line["side"], {})[line["tokens"]] = line
    return found


def whole(value):
    return f"{float(f'{value:.2e}'):,.0f}"


def draw(file):
    def draw_both(axes):
        lengths = sorted({line["tokens"] for line in file.data["results"]})
        sides = by_side(file)
        for side, lines in sides.items():
            name, colour, mark = SIDES[side]
            memory = {n: line["peak_minus_baseline_bytes"] for n, line in lines.items()}
            known = {n: value / 2**20 for n, value in memory.items() if value}
            speed = [line["tokens_per_second"]["median"] for line in lines.values()]
            axes[0].plot(list(lines), speed, marker=mark, color=colour, label=name)
            axes[1].plot(list(known), list(known.values()), marker=mark, color=colour, label=name)
        held = {n: line["tensor_bytes"] / 2**20 for n, line in sides["library"].items()}
        axes[1].plot(list(held), list(held.values()), "--", color="#333333", linewidth=1,
                     label="q, k, v and output alone")
        short = [f"{n // 1024}K" if n % 1024 == 0 else f"{n:,}" for n in lengths]
        for panel, what, place in zip(axes, ("tokens/s", "peak memory of a call, MiB"), ("lower left", "upper left")):
            label(panel, "tokens n", what, lengths, short, "xy", 2)
            panel.legend(loc=place)

    return draw_both


def summary(file):
    """What the picture says, in sentences."""
    sides = by_side(file)
    library = sides["library"]
    longest = library[max(library)]
    bytes_held = longest["peak_minus_baseline_bytes"]
    memory = bytes_held and (
        f" in {binary_bytes(bytes_held)}, {bytes_held / longest['tensor_bytes']:.2f} times the bytes of q, k, v and "
        "the output"
    )
    text = [
        f"At {max(library):,} tokens the library computes {whole(longest['tokens_per_second']['median'])} tokens/s"
        f"{memory or ''}."
    ]
    for side, name in (("pytorch_dilated", "PyTorch's dilated attention"), ("pytorch_dense", "dense attention")):
        theirs = sides.get(side, {})
        ratios = {n: theirs[n]["seconds"]["median"] / library[n]["seconds"]["median"] for n in library if n in theirs}
        if not ratios:
            continue
        ahead, n = [n for n in ratios if ratios[n] > 1], max(ratios)
        memories = [of[n]["peak_minus_baseline_bytes"] for of in (library, theirs)]
        above = f", and above 1 at {listed(f'{n:,}' for n in ahead)} tokens" if ahead else ", and nowhere above 1"
        text.append(
            f"It is {significant(ratios[n])} times as fast as {name} at {n:,} tokens"
            + (f", with {percent(memories[0] / memories[1])} of its memory" if all(memories) else "")
            + f"; the ratio is {significant(min(ratios.values()))} to {significant(max(ratios.values()))} over all "
            + f"lengths{above if len(ahead) < len(ratios) else ''}."
        )
    return paragraph(*text)


def setup(file):
    settings = file.data["settings"]
    return (
        f"Forward passes in {settings['scalar']}, {settings['heads']} heads of {settings['head_dim']}, "
        f"{branches(settings)}"
    )


def picture(file):
    """For README.md: the plot and what it says."""
    name = f"docs/benchmarks/{STEM}-{file.timestamp}"
    return (
        f"![Tokens per second and memory against the length of the sequence]({name}-speed-and-memory.svg)\n\n"
        + paragraph(
            f"{setup(file)}, on {counted(file.data['settings']['threads'], 'core')} "
            f"({file.data['machine']['cpu_model']}; [report]({name}.md)).",
            summary(file),
        )
    )


BLOCKS = {"lengths": picture}


def sections(files, plots):
    [file] = files
    settings, worst, sides = file.data["settings"], file.data["worst_difference_in_tolerances"], by_side(file)
    yield (
        f"{setup(file)}, {counted(settings['threads'], 'thread')}. Dense attention is another result, in which every "
        "query meets every key; it is here for its cost. Memory is the peak resident size above that before q, k and v "
        "were made; each figure is of a process of its own.\n"
    )
    yield plots.show("speed-and-memory", "Tokens per second and memory against n", draw(file), 2, (9, 3.8))
    yield summary(file)
    if worst is not None:
        yield f"The outputs of the two dilated ones differ by {significant(worst, 2)} tolerances at most.\n"
    dense = sides.get("pytorch_dense")
    if dense and max(dense) < max(sides["library"]):
        yield (
            f"Dense attention was measured up to {max(dense):,} tokens; one length more would take longer than "
            f"{settings['limit_seconds']:g} s a call.\n"
        )
    columns = [("tokens", lambda n: f"{n:,}")]
    for side, lines in sides.items():
        columns += [
            (f"{SIDES[side][0]}, tokens/s",
             lambda n, lines=lines: ranged(lines[n]["tokens_per_second"], whole) if n in lines else None),
            ("memory",
             lambda n, lines=lines: binary_bytes(lines[n]["peak_minus_baseline_bytes"]) if n in lines else None),
        ]
    yield table(sorted({line["tokens"] for line in file.data["results"]}), *columns)
