#!/usr/bin/env python3
"""Makes the page and the plots of a benchmark's results."""

import argparse
import pathlib
import shlex
import sys

sys.dont_write_bytecode = True

from support.report import index  # noqa: E402
from support.report.changes import print_changes  # noqa: E402
from support.report.plots import Plots  # noqa: E402
from support.report.reports import REPORTS  # noqa: E402
from support.report.results_files import ReportError, ResultsFile  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent
KEPT = PROJECT / "docs" / "benchmarks"

EPILOG = """\
RESULTS is the JSON of benchmark_ring_pattern_cache, _attention_kernels or _mpi_ring, of compare_pytorch.py,
compare_slide_encoder.py or compare_lengths.py: the file itself tells which. The page NAME-<UTC time>.md and its plots,
each as SVG and PNG, are written beside it. Results of compare_pytorch.py and of benchmark_attention_kernels --long
belong to the report of the kernels; given together with its results they make one page.

Plots need matplotlib (Debian and Ubuntu: apt-get install python3-matplotlib). Without it, or where one cannot be drawn,
the page has its tables alone, and --publish refuses. It also refuses results of a run that failed.
"""


def write_atomically(path, content):
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def make_report(files):
    """The page and the plots of one or more files of one report: bytes by name, and why there are no plots, or None."""
    report = REPORTS[files[0].kind]
    stem = f"{report.STEM}-{files[0].timestamp}"
    plots = Plots(stem)
    page = report.page(files, plots)
    if plots.problem:
        page = report.page(files, Plots(stem, plots.problem))  # one that shows none
    return {index.page_name(report, files[0]): page.encode("utf-8")} | plots.files, plots.problem


def write_report(files, folder, complete=False):
    """Writes page and plots; gives the page's path and why there are no plots, or None. `complete`: all or nothing."""
    made, problem = make_report(files)
    if problem and complete:
        raise ReportError(f"a page without plots is not kept: {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        write_atomically(folder / name, content)
    return folder / next(iter(made)), problem


def write_index():
    write_atomically(KEPT / "README.md", index.render(KEPT, REPORTS).encode("utf-8"))


def remake_all():
    """Every kept page and its plots, and the list of them."""
    for report in dict.fromkeys(REPORTS.values()):
        for page in sorted(KEPT.glob(f"{report.STEM}-*.md")):
            made_of = [ResultsFile(KEPT / name) for name in index.results_of(page)]
            path, _ = write_report(made_of, KEPT, complete=True)
            print(f"report: {path}")
    write_index()


def report_of_all(files):
    """The files of one report, the one it is named after first; refuses others."""
    files.sort(key=lambda file: (file.kind == "pytorch", "long" in file.data))
    main = files[0]
    reports = {REPORTS[file.kind] for file in files}
    if len(reports) > 1:
        raise ReportError("these results belong to different reports: name those of one")
    if len(files) > 1 and not hasattr(REPORTS[main.kind], "TAKES_SEVERAL"):
        raise ReportError("only the report of the kernels takes several files")
    return files


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", type=pathlib.Path, nargs="*", metavar="RESULTS", help="JSON of a benchmark"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="keep results, page and plots in docs/benchmarks, and rewrite its README.md",
    )
    parser.add_argument("--compare", type=pathlib.Path, metavar="OLD.json", help="print what changed since")
    parser.add_argument(
        "--out", type=pathlib.Path, help="folder of page and plots (default: that of the results)"
    )
    parser.add_argument(
        "--remake", action="store_true", help="make all pages of docs/benchmarks anew from their results"
    )
    options = parser.parse_args()
    if options.remake == bool(options.results):
        parser.error("results are needed, or --remake alone")
    if options.out and options.publish:
        parser.error("--out and --publish exclude each other")
    return options


def publish(files):
    """Keeps results, page and plots in docs/benchmarks: all of them, or none."""
    for file in files:
        if failures := file.failures():
            raise ReportError(f"{file.path}: not published, since the run failed: {failures[0]}")
    path, _ = write_report(files, KEPT, complete=True)
    for file in files:
        if file.path.resolve().parent != KEPT:
            write_atomically(KEPT / file.path.name, file.path.read_bytes())
    print(f"report: {path}")
    write_index()


def run(options):
    if options.remake:
        remake_all()
        return
    files = report_of_all([ResultsFile(path) for path in options.results])
    old = ResultsFile(options.compare) if options.compare else None
    if old and old.kind != files[0].kind:
        raise ReportError(f"{old.path}: results of another benchmark")
    if options.publish:
        publish(files)
    else:
        path, problem = write_report(files, options.out or files[0].path.parent)
        print(f"report: {path}", flush=True)
        if problem:
            again = shlex.join([str(pathlib.Path(__file__).resolve()), *map(str, options.results)])
            print(f"no plots: {problem}; this adds them later: python3 {again}", file=sys.stderr)
    if old:
        print()
        print_changes(REPORTS[old.kind].figures, old, files[0])


def main():
    try:
        run(parse_arguments())
    except (ReportError, OSError, KeyError) as error:
        reason = f"the results lack {error}" if isinstance(error, KeyError) else error
        sys.exit(f"report.py: {reason}")


if __name__ == "__main__":
    main()
