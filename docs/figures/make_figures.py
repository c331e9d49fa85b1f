#!/usr/bin/env python3
"""Draws the figures of docs/guides/RING_ATTENTION_EXPLANATION.md as SVG, next to this file.

What they show is computed by the rules of the library, written out here once more. The same matplotlib gives the same
bytes: --check FOLDER draws into FOLDER and compares. Needs matplotlib (Debian and Ubuntu: python3-matplotlib).
"""

import argparse
import pathlib
import sys

try:
    import matplotlib
except ModuleNotFoundError:
    print("skipped: no matplotlib for", sys.executable)
    sys.exit(0)

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch  # noqa: E402
from matplotlib.path import Path  # noqa: E402

DRAWN_WITH = "3.6.3"
FOLDER = pathlib.Path(__file__).resolve().parent
BLUE, ORANGE, GREEN, PURPLE = "#3b6fb6", "#e08a2e", "#4a9d5b", "#8a63b0"
EMPTY, INK = "#ececec", "#222222"

plt.rcParams.update({"svg.hashsalt": "ring_attention", "svg.fonttype": "path", "font.family": "DejaVu Sans",
                     "font.size": 10, "text.color": INK, "path.simplify": False})


# Rules of the library


def kept(token: int, w: int, r: int, offset: int) -> bool:
    return token % w % r == offset


def attends(query: int, key: int, w: int, r: int, offset: int, dilated: bool = True) -> bool:
    return query // w == key // w and kept(key, w, r, offset) and (not dilated or kept(query, w, r, offset))


def distance_of_step(step: int, size: int) -> int:
    return (step + 1) // 2 if step % 2 else size - step // 2


# Drawing


def figure(width: float, height: float):
    """A figure in units of a tenth of an inch, y downwards."""
    drawing = plt.figure(figsize=(width / 10, height / 10))
    axes = drawing.add_axes([0, 0, 1, 1])
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    drawing.patch.set_facecolor("white")
    return drawing, axes


def squares(axes, places, color: str, size: float = 1, gap: float = 0.12, **style):
    """One path of all squares whose upper left corners are `places`."""
    vertices, codes = [], []
    for x, y in places:
        a, b = gap / 2 * size, size - gap / 2 * size
        vertices += [(x + a, y + a), (x + b, y + a), (x + b, y + b), (x + a, y + b), (x + a, y + a)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    if vertices:
        axes.add_patch(PathPatch(Path(vertices, codes), **{"facecolor": color, "linewidth": 0, **style}))


def box(axes, x, y, width, height, text, color="white", edge=INK, size=9, ink=INK):
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.6", facecolor=color,
                                  edgecolor=edge, linewidth=1))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=ink)


def arrow(axes, begin, end, color=INK, style="-|>", **options):
    axes.add_patch(FancyArrowPatch(begin, end, arrowstyle=style, mutation_scale=8, color=color, linewidth=1,
                                   shrinkA=0, shrinkB=0, **options))


def label(axes, x, y, text, **style):
    axes.text(x, y, text, **{"ha": "left", "va": "center", "fontsize": 9, **style})


def token_row(axes, x, y, tokens, is_kept, color, size=2):
    squares(axes, [(x + t * size, y) for t in range(tokens) if not is_kept(t)], EMPTY, size)
    squares(axes, [(x + t * size, y) for t in range(tokens) if is_kept(t)], color, size)


def pair_matrix(axes, x, y, tokens, layers, size=1.0):
    """Squares for query-key pairs: `layers` are (colour, function of query and key), the first that holds counts."""
    squares(axes, [(x, y)], EMPTY, tokens * size, 0)
    left = {(q, k) for q in range(tokens) for k in range(tokens)}
    for color, holds in layers:
        now = {(q, k) for q, k in left if holds(q, k)}
        left -= now
        squares(axes, [(x + k * size, y + q * size) for q, k in sorted(now)], color, size)


# Figures


def draw_dilation():
    drawing, axes = figure(64, 27)
    n, x = 24, 15
    for t in range(n):
        label(axes, x + 2 * t + 1, 4, str(t), ha="center", fontsize=7)
    label(axes, 1, 4, "token")
    rows = [("r = 1, offset 0", 1, 0, BLUE), ("r = 2, offset 0", 2, 0, ORANGE), ("r = 2, offset 1", 2, 1, ORANGE),
            ("r = 4, offset 3", 4, 3, GREEN)]
    for i, (text, r, offset, color) in enumerate(rows):
        y = 6 + 4 * i
        label(axes, 1, y + 1, text)
        token_row(axes, x, y, n, lambda t: kept(t, 8, r, offset), color)
    for segment in range(4):
        axes.plot([x + 16 * segment] * 2, [2.5, 22], color=INK, linewidth=1)
    for segment in range(3):
        label(axes, x + 16 * segment + 8, 23.8, f"segment {segment}", ha="center")
    label(axes, 1, 23.8, "w = 8")
    return drawing


def draw_rules():
    drawing, axes = figure(84, 65)
    heads = 8

    label(axes, 1, 2, "head_partition", weight="bold", fontsize=11)
    for column, (name, runs) in enumerate((("grouped", lambda h, i: i == h // 3 if h < 2 else i == 1 + (h - 2) // 3),
                                           ("shared", lambda h, i: True))):
        x = 8 + 15 * column
        label(axes, x + 4.5, 5, name, ha="center")
        for i, color in enumerate((BLUE, ORANGE, GREEN)):
            squares(axes, [(x + 3 * i, 8 + 2 * h) for h in range(heads) if not runs(h, i)], EMPTY, 2)
            squares(axes, [(x + 3 * i, 8 + 2 * h) for h in range(heads) if runs(h, i)], color, 2)
            label(axes, x + 3 * i + 1, 7, str(i), ha="center", fontsize=7)
    label(axes, 1, 7, "branch", fontsize=7)
    label(axes, 1, 16, "8 heads", fontsize=7, rotation=90)

    label(axes, 41, 2, "offset_rule", weight="bold", fontsize=11)
    r, branch = 4, 1
    for column, (name, offset) in enumerate((("by_branch", lambda h: branch % r), ("by_head", lambda h: h % r),
                                             ("by_head_block", lambda h: h // -(-heads // r)))):
        x = 41 + 12.5 * column
        label(axes, x + 5, 5, name, ha="center")
        for keeps, color in ((False, EMPTY), (True, ORANGE)):
            squares(axes, [(x + 1.25 * t, 8 + 2 * h) for h in range(heads) for t in range(8)
                           if kept(t, 8, r, offset(h)) == keeps], color, 1.25)
    label(axes, 41, 25.5, "branch 1, r = 4: which of the tokens 0 to 7 the heads 0 to 7 keep", fontsize=8)

    label(axes, 1, 31, "query_rule", weight="bold", fontsize=11)
    for column, (name, dilated) in enumerate((("all", False), ("dilated", True))):
        x = 6 + 17 * column
        label(axes, x + 6, 34, name, ha="center")
        pair_matrix(axes, x, 36, 8, [(BLUE, lambda q, k: attends(q, k, 8, 2, 1, dilated))], 1.5)
        label(axes, x + 6, 49.5, "key", ha="center", fontsize=8)
        label(axes, x - 1.5, 42, "query", ha="center", fontsize=8, rotation=90)
    label(axes, 1, 52, "a segment of 8 tokens, r = 2, offset 1", fontsize=8)

    label(axes, 41, 31, "padding_rule", weight="bold", fontsize=11)
    n, w, r = 13, 8, 3
    for row, name in enumerate(("masked", "zero_attended")):
        y = 36 + 9 * row
        label(axes, 41, y - 1.7, name)
        for segment in (0, 1):
            length = min(n - segment * w, w)
            end = -(-w // r) * r
            x = 41 + 20 * segment
            token_row(axes, x, y, length, lambda t: t % r == 0, GREEN)
            if name == "zero_attended":
                squares(axes, [(x + 2 * t, y) for t in range(length, end)], "white", 2, edgecolor="#999999",
                        linewidth=0.7)
                for t in range(length, end):
                    if t % r == 0:
                        squares(axes, [(x + 2 * t, y)], "#b9dcc0", 2, edgecolor=GREEN, linewidth=1)
                    label(axes, x + 2 * t + 1, y + 1, "0", ha="center", fontsize=7)
    label(axes, 41, 49.5, "13 tokens, w = 8, r = 3, offset 0: two segments. A zero row that", fontsize=8)
    label(axes, 41, 51.5, "the dilation keeps is a key with score 0 and value 0.", fontsize=8)

    presets = (("ring_preset", "grouped, by_branch, all, masked"),
               ("longnet_preset", "shared, by_head, dilated, masked"),
               ("torchscale_preset", "shared, by_head_block, dilated, zero_attended"))
    for row, (name, values) in enumerate(presets):
        label(axes, 1, 57 + 2.5 * row, name, weight="bold")
        label(axes, 20, 57 + 2.5 * row, values)
    return drawing


def draw_branches():
    drawing, axes = figure(76, 46)
    n, size = 32, 0.5
    branches = ((8, 1, BLUE), (16, 2, ORANGE), (32, 4, GREEN))
    for row, head in enumerate((0, 1)):
        y = 5 + 20 * row
        label(axes, 1, y + 8, f"head {head}", rotation=90, ha="center", weight="bold")
        for column, (w, r, color) in enumerate(branches):
            x = 4 + 18 * column
            pair_matrix(axes, x, y, n, [(color, lambda q, k: attends(q, k, w, r, head % r))], size)
            if row == 0:
                label(axes, x + 8, 2.5, f"w = {w}, r = {r}", ha="center")
        x = 4 + 18 * 3
        pair_matrix(axes, x, y, n, [(c, lambda q, k, w=w, r=r: attends(q, k, w, r, head % r)) for w, r, c in branches],
                    size)
        if row == 0:
            label(axes, x + 8, 2.5, "all three", ha="center")
    label(axes, 4, 43.5, "32 tokens, longnet_preset; rows are queries, columns keys. "
          "What several branches keep has the colour of the first.", fontsize=8)
    return drawing


def draw_merge():
    from math import exp, log
    drawing, axes = figure(76, 40)
    pieces = ([1.0, 2.5, 0.5, 1.8], [3.4, 2.0, 1.2])
    states = []

    def bars(x, base, heights, color, unit):
        for i, height in enumerate(heights):
            axes.add_patch(plt.Rectangle((x + 2.6 * i, base - unit * height), 2, unit * height, facecolor=color,
                                         linewidth=0))
        axes.plot([x - 0.8, x + 2.6 * len(heights)], [base, base], color=INK, linewidth=0.8)

    label(axes, 10, 2, "scores", weight="bold", ha="center")
    label(axes, 33, 2, "state of a piece", weight="bold", ha="center")
    label(axes, 62, 2, "merged state", weight="bold", ha="center")
    for i, (scores, color) in enumerate(zip(pieces, (BLUE, ORANGE))):
        base = 17 + 17 * i
        m = max(scores)
        l = sum(exp(s - m) for s in scores)
        states.append((m, l))
        bars(4, base, scores, color, 3)
        for k, s in enumerate(scores):
            label(axes, 5 + 2.6 * k, base + 1.3, f"{s}", ha="center", fontsize=7)
        arrow(axes, (16, base - 4), (23, base - 4))
        bars(26, base, [exp(s - m) for s in scores], color, 8)
        label(axes, 26, base + 1.6, f"exp(s - m), m = {m}, l = {l:.2f}", fontsize=8)
    (m1, l1), (m2, l2) = states
    m = max(m1, m2)
    l = sum(exp(s - m) for scores in pieces for s in scores)
    assert abs(l - (l1 * exp(m1 - m) + l2 * exp(m2 - m))) < 1e-12
    base = 25
    bars(52, base, [exp(s - m) for s in pieces[0]], BLUE, 8)
    bars(52 + 2.6 * 4, base, [exp(s - m) for s in pieces[1]], ORANGE, 8)
    arrow(axes, (42, 13), (49, 19))
    arrow(axes, (42, 30), (49, 25))
    label(axes, 50, base + 2, f"M = {m}, l = {l:.2f}", fontsize=8)
    label(axes, 50, base + 4.3, f"piece 1 shrinks by exp({m1} - {m}) = {exp(m1 - m):.2f}", fontsize=8)
    label(axes, 50, base + 6.6, f"piece 2 by exp({m2} - {m}) = {exp(m2 - m):.0f}", fontsize=8)
    label(axes, 50, base + 8.9, f"lse = M + ln l = {m + log(l):.2f}", fontsize=8)
    return drawing


def draw_ring():
    drawing, axes = figure(76, 66)
    size = 5
    colors = (BLUE, ORANGE, GREEN, PURPLE, "#7f7f7f")
    label(axes, 1, 2, "whose keys a member computes with, 5 members", weight="bold", fontsize=11)
    label(axes, 1, 5, "member")
    for member in range(size):
        label(axes, 15 + 5 * member, 5, str(member), ha="center")
    for step in range(size):
        y = 7 + 3.6 * step
        distance = distance_of_step(step, size)
        label(axes, 1, y + 1.5, f"step {step}")
        for member in range(size):
            owner = (member - distance + size) % size
            box(axes, 13 + 5 * member, y, 4, 3, str(owner), colors[owner], "white", ink="white")
        back = distance % size
        text = "its own" if back == 0 else f"{back} before it" if 2 * back <= size else f"{size - back} after it"
        label(axes, 41, y + 1.5, text)
    label(axes, 52, 10, "While a member computes with the keys", fontsize=8)
    label(axes, 52, 12.3, "of one step, those of the next two travel.", fontsize=8)

    label(axes, 1, 28, "rows of member 0 that travel: 32 tokens, 4 members", weight="bold", fontsize=11)
    n, members, x = 32, 4, 13
    for member in range(members):
        label(axes, x + 1.25 * (8 * member + 4), 31, f"member {member}", ha="center", fontsize=8)
    for row, (w, r, color) in enumerate(((8, 1, BLUE), (16, 2, ORANGE), (32, 4, GREEN))):
        y = 33 + 4.5 * row
        label(axes, 1, y + 0.6, f"w = {w}, r = {r}")
        token_row(axes, x, y, n, lambda t: kept(t, w, r, 0), color, 1.25)
        receivers = [m for m in range(1, members) if m * 8 < w]
        if receivers:
            squares(axes, [(x + 1.25 * t, y) for t in range(8) if kept(t, w, r, 0)], "none", 1.25, edgecolor=INK,
                    linewidth=1.2)
        for segment in range(n // w + 1):
            axes.plot([x + 1.25 * w * segment] * 2, [y - 0.6, y + 1.9], color=INK, linewidth=1)
        rows = sum(kept(t, w, r, 0) for t in range(8))
        text = f"{rows} rows, to {', '.join(map(str, receivers))}" if receivers else "none: segments inside shards"
        label(axes, x + 42, y + 0.6, text)

    label(axes, 1, 49, "shard_layout, 4 members", weight="bold", fontsize=11)
    layouts = (("contiguous", [0, 0, 1, 1, 2, 2, 3, 3]), ("zigzag", [0, 1, 2, 3, 3, 2, 1, 0]))
    for row, (name, owners) in enumerate(layouts):
        y = 52 + 5 * row
        label(axes, 1, y + 1.5, name)
        for chunk, owner in enumerate(owners):
            box(axes, x + 5 * chunk, y, 4.8, 3, str(owner), colors[owner], "white", ink="white")
    label(axes, x, 63, "first token", fontsize=8)
    label(axes, x + 40, 63, "last token", fontsize=8, ha="right")
    return drawing


def draw_cache():
    drawing, axes = figure(76, 40)
    key = "n, w, r,\noffset"
    pattern = "rows\n0, 4, 8, ..."
    label(axes, 18, 2, "use_pattern_cache", weight="bold", ha="center", fontsize=11)
    layers = ("layer 1", "layer 2", "layer 24")
    for i, name in enumerate(layers):
        y = 6 + 9 * i + (2 if i == 2 else 0)
        box(axes, 2, y, 10, 5, name)
        arrow(axes, (12, y + 2.5), (18, 17))
    label(axes, 7, 23.2, "...", ha="center")
    box(axes, 18, 9, 18, 16, "", "#f4f7fb", BLUE)
    label(axes, 27, 11, "global cache", ha="center")
    box(axes, 19, 14, 6.5, 7, key, size=7)
    arrow(axes, (25.5, 17.5), (27.5, 17.5))
    box(axes, 27.5, 14, 7.5, 7, pattern, "#cfe0f3", BLUE, size=7)
    label(axes, 18, 35, "one list, made once,\nfor every layer and every call", ha="center", fontsize=8)

    axes.plot([39, 39], [2, 38], color="#bbbbbb", linewidth=1)
    label(axes, 58, 2, "use_local_cache", weight="bold", ha="center", fontsize=11)
    for i, name in enumerate(layers):
        y = 6 + 9 * i + (2 if i == 2 else 0)
        box(axes, 41, y, 10, 5, name)
        arrow(axes, (51, y + 2.5), (55, y + 2.5))
        box(axes, 55, y - 0.7, 6.5, 6.4, key, size=7)
        arrow(axes, (61.5, y + 2.5), (64, y + 2.5))
        box(axes, 64, y - 0.7, 9, 6.4, pattern, "#f8dcbd", ORANGE, size=7)
    label(axes, 46, 23.2, "...", ha="center")
    label(axes, 58, 35, "a list for each layer, made at its first call", ha="center", fontsize=8)
    return drawing


FIGURES = {"dilation": draw_dilation, "rules": draw_rules, "branches": draw_branches, "merge": draw_merge,
           "ring": draw_ring, "cache": draw_cache}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FOLDER", help="draw there, and compare with the files beside this one")
    arguments = parser.parse_args()
    if arguments.check and matplotlib.__version__ != DRAWN_WITH:
        print(f"skipped: matplotlib is {matplotlib.__version__}, the figures were drawn with {DRAWN_WITH}")
        return 0
    folder = pathlib.Path(arguments.check) if arguments.check else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    different = 0
    for name, draw in FIGURES.items():
        path = folder / f"{name}.svg"
        drawing = draw()
        drawing.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(drawing)
        committed = FOLDER / path.name
        if arguments.check and (not committed.exists() or path.read_bytes() != committed.read_bytes()):
            print(f"{committed} is not what this script draws: run {pathlib.Path(__file__).name}")
            different += 1
    known = {f"{name}.svg" for name in FIGURES}
    for path in sorted(FOLDER.glob("*.svg")):
        if path.name not in known:
            print(f"{path}: no figure of this script")
            different += 1
    print(f"{len(FIGURES)} figures, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
