"""What all plots have in common. matplotlib is imported by Plots alone, so that tables need none."""

import io

BLUE, BROWN, GREY, GREEN = "#1f5fa8", "#b3541e", "#7a7a7a", "#3d7d3d"

STYLE = {
    "svg.hashsalt": "ring_attention",  # else the names inside an SVG change from run to run
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
}


class Plots:
    """Draws plots NAME-TIMESTAMP-subject as SVG and PNG, and gives the lines of Markdown that show them. `problem` is
    None, or why there are no plots: then nothing is drawn and nothing shown. `files` are the bytes by name."""

    def __init__(self, stem, problem=None):
        self.stem, self.problem, self.files = stem, problem, {}
        if problem is None:
            try:
                import matplotlib

                matplotlib.use("Agg")
                import matplotlib.pyplot

                matplotlib.rcdefaults()  # whatever a matplotlibrc says
                matplotlib.rcParams.update(STYLE)
                self._pyplot = matplotlib.pyplot
            except ImportError as error:
                self.problem = f"matplotlib is missing ({error}); apt-get install python3-matplotlib"
            except Exception as error:  # of another version than the one this was written for, or broken
                self.problem = f"matplotlib fails: {type(error).__name__}: {error}"

    def show(self, subject, alternative, draw, panels=1, size=(7.2, 3.6)):
        """`draw` takes the axes: one, or a list if there are several panels."""
        if self.problem is not None:
            return ""
        try:
            figure, axes = self._pyplot.subplots(1, panels, figsize=size, layout="constrained")
            draw(axes)
            for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 144})):
                picture = io.BytesIO()
                figure.savefig(picture, format=ending, **options)
                self.files[f"{self.stem}-{subject}.{ending}"] = picture.getvalue()
            self._pyplot.close(figure)
        except Exception as error:  # whatever it is: the tables are worth keeping
            self.problem = f"{subject} cannot be drawn: {type(error).__name__}: {error}"
            self.files.clear()
            return ""
        return f"![{alternative}]({self.stem}-{subject}.svg)\n"


def error_bars(summaries, scale=1.0):
    """Medians, and their distances to minimum and maximum as errorbar() and bar() want them."""
    medians = [s["median"] * scale for s in summaries]
    below = [max(0.0, (s["median"] - s["minimum"]) * scale) for s in summaries]
    above = [max(0.0, (s["maximum"] - s["median"]) * scale) for s in summaries]
    return medians, [below, above]


def grouped_bars(axes, groups, series, scale=1.0):
    """`series`: (label, colour, hatch, summaries, one per group, None if there is none)."""
    width = 0.82 / len(series)
    for i, (label, colour, hatch, summaries) in enumerate(series):
        places = [g + (i - (len(series) - 1) / 2) * width for g, s in enumerate(summaries) if s]
        heights, spread = error_bars([s for s in summaries if s], scale)
        axes.bar(places, heights, width * 0.92, label=label, color=colour, hatch=hatch, edgecolor="white",
                 linewidth=0.5, yerr=spread, error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": "#333333"})
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)  # also if bars are missing
    axes.grid(axis="x", visible=False)


def ranged_line(axes, places, summaries, scale=1.0, **style):
    """Medians with minimum and maximum."""
    medians, spread = error_bars(summaries, scale)
    axes.errorbar(places, medians, spread, capsize=2, **style)


def label(axes, x, y, ticks=None, names=None, logarithmic="", base=10):
    """Labels of the axes, and ticks of the first at these values and nowhere else. `logarithmic`: x, y, xy or none."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if "x" in logarithmic:
        axes.set_xscale("log", base=base)
    if "y" in logarithmic:
        axes.set_yscale("log")
    if ticks is not None:
        axes.xaxis.set_ticks(list(ticks), names or [f"{value:,}" for value in ticks])
        axes.xaxis.set_ticks([], minor=True)
