"""The report of compare_slide_encoder.py."""

from .plots import COLOURS, grouped_bars, plain_ticks
from .text import command_line, counted, paragraph, provenance, ranged, seconds, significant, table

STEM = "slide-encoder"
TITLE = "Prov-GigaPath's slide encoder"

TILES, ROUNDS, SCALARS = 10000, 3, ["float", "bfloat16"]  # the defaults


def options(file):
    """What the command line said, as far as results tell: options that differ from the defaults, with values."""
    settings, machine = settings_of(file), file.about.get("machine")
    if settings["tiles"] != TILES:
        yield "--tiles", settings["tiles"]
    if settings["alone"]:
        yield "--alone", settings["alone"]
    if settings["rounds"] != ROUNDS:
        yield "--rounds", settings["rounds"]
    if machine and settings["threads"] != machine["cpus_usable"]:
        yield "--threads", settings["threads"]
    if settings["scalars"] != SCALARS:
        yield "--scalar", settings["scalars"]


def settings_of(file):
    """Those that the file tells, or what they must have been: the first lines, one of each scalar, are of --tiles, the
    others of --alone."""
    if "settings" in file.data:
        return file.data["settings"]
    lines = file.data["results"]
    scalars = list(dict.fromkeys(line["scalar"] for line in lines))
    return {
        "tiles": lines[0]["tiles"],
        "alone": list(dict.fromkeys(line["tiles"] for line in lines[len(scalars) :])),
        "rounds": file.data["rounds"],
        "threads": lines[0]["threads"],
        "scalars": scalars,
    }


def command(file):
    return command_line("python3 benchmarks/compare_slide_encoder.py", options(file))


def shortened_by(file):
    """Besides options: why these results are not those of a full run."""
    found = [] if compared(file) else ["no PyTorch"]
    settings = settings_of(file)
    if settings["tiles"] < TILES:
        found.append(f"{settings['tiles']:,} tiles in place of {TILES:,}")
    if settings["rounds"] < ROUNDS:
        found.append(f"{counted(settings['rounds'], 'round')} in place of {ROUNDS}")
    return found


def compared(file):
    return [line for line in file.data["results"] if "pytorch_seconds" in line]


def alone_by_tiles(file):
    """Lines of float and bfloat16 by number of tiles, ascending."""
    found = {}
    for line in file.data["results"]:
        if "seconds" in line:
            found.setdefault(line["tiles"], {})[line["scalar"]] = line
    return dict(sorted(found.items()))


def two_decimals(value):
    return f"{value:.2f}"


def mebibytes(value):
    return f"{value:,.0f} MiB"


def comparison_table(file):
    lines = compared(file)
    if not lines:
        return ""
    first = lines[0]
    version = first["pytorch"]["version"].split("+")[0]
    rows = []
    for line in lines:
        rows.append(
            [
                line["scalar"],
                ranged(line["seconds"], seconds),
                ranged(line["pytorch_seconds"], seconds),
                ranged(line["ratio"], two_decimals),
                mebibytes(line["mebibytes"]),
                mebibytes(line["pytorch_mebibytes"]),
            ]
        )
    return table(
        [
            f"{first['tiles']:,} tiles, {counted(first['threads'], 'core')}",
            "slide_encoder",
            f"PyTorch {version}",
            "ratio by round",
            "peak memory",
            "PyTorch's",
        ],
        rows,
    )


def tiles_table(file):
    rows = []
    for tiles, lines in alone_by_tiles(file).items():
        row = [f"{tiles:,}"]
        for scalar in ("float", "bfloat16"):
            if scalar in lines:
                median = lines[scalar]["seconds"]["median"]
                memory = f"{lines[scalar]['mebibytes']:,.0f}"
                row += [significant(median), significant(median / (tiles + 1) * 1e6), memory]
            else:
                row += ["-"] * 3
        rows.append(row)
    header = [
        "tiles",
        "float, s",
        "µs per token",
        "memory, MiB",
        "bfloat16, s",
        "µs per token",
        "memory, MiB",
    ]
    return table(header, rows)


def agreement(file):
    """How well embeddings agree, in a paragraph."""
    lines = {line["scalar"]: line for line in compared(file)}
    parts = []
    if "float" in lines:
        parts.append(
            f"In float it differs from PyTorch's by {lines['float']['largest_difference']:.1e} at most."
        )
    if "bfloat16" in lines:
        line = lines["bfloat16"]
        parts.append(
            f"In bfloat16 its cosine similarity to PyTorch's in float is {line['cosine']:.6f}, and that of "
            f"PyTorch's own in bfloat16 {line['pytorch_cosine']:.6f}."
        )
    if not parts:
        return ""
    tiles = compared(file)[0]["tiles"]
    return paragraph(
        f"The embedding of {tiles:,} tiles by the full model with synthetic weights agrees with PyTorch's. "
        + " ".join(parts)
    )


BLOCKS = {"slide_comparison": comparison_table, "slide_tiles": tiles_table, "slide_agreement": agreement}


def draw_seconds(lines):
    def draw(axes):
        series = [
            ("slide_encoder", COLOURS["library"], None, [line["seconds"] for line in lines]),
            ("PyTorch", COLOURS["pytorch"], None, [line["pytorch_seconds"] for line in lines]),
        ]
        grouped_bars(axes[0], [line["scalar"] for line in lines], series)
        axes[0].set_ylabel(f"seconds, {lines[0]['tiles']:,} tiles")
        axes[0].legend(loc="upper right")
        for i, (key, colour) in enumerate((("mebibytes", "library"), ("pytorch_mebibytes", "pytorch"))):
            places = [group + (i - 0.5) * 0.41 for group in range(len(lines))]
            axes[1].bar(places, [line[key] for line in lines], 0.38, color=COLOURS[colour])
        axes[1].set_xticks(range(len(lines)), [line["scalar"] for line in lines])
        axes[1].grid(axis="x", visible=False)
        axes[1].set_ylabel("peak memory of the process, MiB")

    return draw


def draw_tiles(file):
    def draw(axes):
        for scalar, colour, mark in (("float", COLOURS["library"], "o"), ("bfloat16", COLOURS["third"], "s")):
            lines = [lines[scalar] for lines in alone_by_tiles(file).values() if scalar in lines]
            tiles = [line["tiles"] for line in lines]
            times = [line["seconds"]["median"] / (line["tiles"] + 1) * 1e6 for line in lines]
            axes[0].plot(tiles, times, marker=mark, color=colour, label=scalar)
            axes[1].plot(
                tiles, [line["mebibytes"] for line in lines], marker=mark, color=colour, label=scalar
            )
        for panel, label in zip(axes, ("µs per token", "peak memory, MiB")):
            panel.set_xscale("log")
            plain_ticks(panel.xaxis, alone_by_tiles(file))
            panel.set_ylim(bottom=0)
            panel.set_xlabel("tiles")
            panel.set_ylabel(label)
        axes[0].legend(loc="best")

    return draw


def page(files, plots):
    [file] = files
    lines = compared(file)
    parts = [
        f"# {TITLE}, measured {file.timestamp}\n",
        "The whole model at full size with synthetic weights, in `examples/slide_encoder` and in plain "
        "PyTorch, called in turn after embeddings were compared. Medians of "
        f"{counted(file.data['rounds'], 'round')} with minimum and maximum; a ratio is PyTorch's time over the "
        "program's of the same round, above 1 the program is faster.\n",
        provenance(files, command),
    ]
    if lines:
        parts += ["## Against PyTorch\n", comparison_table(file)]
        for line in lines:
            ratio = line["ratio"]
            if ratio["minimum"] > 1:
                parts.append(
                    f"{line['scalar']}: the program is {two_decimals(ratio['median'])} times as fast.\n"
                )
            elif ratio["maximum"] < 1:
                parts.append(
                    f"{line['scalar']}: PyTorch is {two_decimals(1 / ratio['median'])} times as fast.\n"
                )
            else:
                parts.append(f"{line['scalar']}: neither is faster in every round.\n")
        parts += [
            agreement(file),
            plots.show("pytorch", "Time and memory against PyTorch", draw_seconds(lines), 2, (8, 3.4)),
        ]
    parts += ["## By tiles\n", tiles_table(file)]
    if len(alone_by_tiles(file)) > 1:
        parts.append(
            plots.show("tiles", "Time per token and memory against tiles", draw_tiles(file), 2, (8, 3.4))
        )
    return "\n".join(part for part in parts if part)


def figures(file):
    for line in file.data["results"]:
        name = f"{line['scalar']}, {line['tiles']:,} tiles"
        for key, what, form in (
            ("seconds", "slide_encoder", seconds),
            ("pytorch_seconds", "PyTorch", seconds),
            ("ratio", "ratio", two_decimals),
        ):
            if key in line:
                yield f"{name}, {what}", {"repetitions": file.data["rounds"]} | line[key], form
