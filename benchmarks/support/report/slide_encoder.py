"""The report of compare_slide_encoder.py, and the figures of README.md and GIGAPATH_ON_CPU.md."""

from .plots import BLUE, BROWN, GREEN, grouped_bars, label
from .text import counted, paragraph, ranged, seconds, significant, table, two_decimals

STEM = "slide-encoder"
TITLE = "Prov-GigaPath's slide encoder"


def compared(file):
    return [line for line in file.data["results"] if "pytorch_seconds" in line]


def by_tiles(file):
    """Lines of float and bfloat16 by number of tiles, ascending."""
    found = {}
    for line in file.data["results"]:
        if "seconds" in line:
            found.setdefault(line["tiles"], {})[line["scalar"]] = line
    return dict(sorted(found.items()))


def per_token(line):
    return line["seconds"]["median"] / (line["tiles"] + 1) * 1e6


def comparison_table(file):
    lines = compared(file)
    if not lines:
        return ""
    return table(
        lines,
        (f"{lines[0]['tiles']:,} tiles, {counted(lines[0]['threads'], 'core')}", lambda line: line["scalar"]),
        ("slide_encoder", lambda line: ranged(line["seconds"], seconds)),
        (f"PyTorch {file.data['pytorch']['version'].split('+')[0]}",
         lambda line: ranged(line["pytorch_seconds"], seconds)),
        ("ratio by round", lambda line: ranged(line["ratio"], two_decimals)),
        ("peak memory", lambda line: f"{line['mebibytes']:,.0f} MiB"),
        ("PyTorch's", lambda line: f"{line['pytorch_mebibytes']:,.0f} MiB"),
    )


def tiles_table(file):
    columns = [("tiles", lambda item: f"{item[0]:,}")]
    for scalar in ("float", "bfloat16"):

        def cell(form, scalar=scalar):
            return lambda item: form(item[1][scalar]) if scalar in item[1] else None

        columns += [
            (f"{scalar}, s", cell(lambda line: significant(line["seconds"]["median"]))),
            ("µs per token", cell(lambda line: significant(per_token(line)))),
            ("memory, MiB", cell(lambda line: f"{line['mebibytes']:,.0f}")),
        ]
    return table(by_tiles(file).items(), *columns)


def agreement(file):
    """How well embeddings agree, in a paragraph."""
    lines = {line["scalar"]: line for line in compared(file)}
    text = []
    if "float" in lines:
        text.append(f"In float it differs from PyTorch's by {lines['float']['largest_difference']:.1e} at most.")
    if "bfloat16" in lines:
        line = lines["bfloat16"]
        text.append(
            f"In bfloat16 its cosine similarity to PyTorch's in float is {line['cosine']:.6f}, and that of PyTorch's "
            f"own in bfloat16 {line['pytorch_cosine']:.6f}."
        )
    return text and paragraph(
        f"The embedding of {compared(file)[0]['tiles']:,} tiles by the full model with synthetic weights agrees with "
        "PyTorch's.",
        *text,
    )


def headline(file):
    """For README.md."""
    in_float, bfloat16 = compared(file)
    return paragraph(
        f"{in_float['tiles']:,} tiles of the full model take {in_float['seconds']['median']:.1f} s in float and "
        f"{bfloat16['seconds']['median']:.1f} s in bfloat16 on {counted(in_float['threads'], 'core')}, "
        f"{in_float['ratio']['median']:.1f} and {bfloat16['ratio']['median']:.1f} times as fast as plain PyTorch there."
    )


def libraries(file):
    return paragraph(
        f"{file.data['pytorch']['mebibytes_before_loading']:.0f} MiB of PyTorch's memory are its own libraries."
    )


BLOCKS = {
    "slide_headline": headline,
    "slide_comparison": comparison_table,
    "slide_tiles": tiles_table,
    "slide_agreement": agreement,
    "slide_libraries": libraries,
}


def draw_seconds(lines):
    def draw(axes):
        scalars = [line["scalar"] for line in lines]
        series = [
            ("slide_encoder", BLUE, None, [line["seconds"] for line in lines]),
            ("PyTorch", BROWN, None, [line["pytorch_seconds"] for line in lines]),
        ]
        grouped_bars(axes[0], scalars, series)
        axes[0].set_ylabel(f"seconds, {lines[0]['tiles']:,} tiles")
        axes[0].legend(loc="upper right")
        for i, (key, colour) in enumerate((("mebibytes", BLUE), ("pytorch_mebibytes", BROWN))):
            places = [group + (i - 0.5) * 0.41 for group in range(len(lines))]
            axes[1].bar(places, [line[key] for line in lines], 0.38, color=colour)
        axes[1].set_xticks(range(len(lines)), scalars)
        axes[1].grid(axis="x", visible=False)
        axes[1].set_ylabel("peak memory of the process, MiB")

    return draw


def draw_tiles(file):
    def draw(axes):
        forms = {"µs per token": per_token, "peak memory, MiB": lambda line: line["mebibytes"]}
        for panel, (what, form) in zip(axes, forms.items()):
            for scalar, colour, mark in (("float", BLUE, "o"), ("bfloat16", GREEN, "s")):
                lines = [lines[scalar] for lines in by_tiles(file).values() if scalar in lines]
                tiles = [line["tiles"] for line in lines]
                panel.plot(tiles, [form(line) for line in lines], marker=mark, color=colour, label=scalar)
            label(panel, "tiles", what, by_tiles(file), logarithmic="x")
            panel.set_ylim(bottom=0)
        axes[0].legend(loc="best")

    return draw


def sections(files, plots):
    [file] = files
    yield (
        "The whole model at full size with synthetic weights, in `examples/slide_encoder` and in plain PyTorch, called "
        f"in turn after embeddings were compared. Medians of {counted(file.data['settings']['rounds'], 'round')} with "
        "minimum and maximum; a ratio is PyTorch's time over the program's of the same round, above 1 the program is "
        "faster.\n"
    )
    if lines := compared(file):
        yield "## Against PyTorch\n"
        yield comparison_table(file)
        yield agreement(file)
        yield plots.show("pytorch", "Time and memory against PyTorch", draw_seconds(lines), 2, (8, 3.4))
    yield "## By tiles\n"
    yield tiles_table(file)
    if len(by_tiles(file)) > 1:
        yield plots.show("tiles", "Time per token and memory against tiles", draw_tiles(file), 2, (8, 3.4))
