#!/usr/bin/env python3
"""Makes the page and the plots of a benchmark's results."""

import argparse
import pathlib
import shutil
import sys

sys.dont_write_bytecode = True

from support.report import cache, index, kernels, lengths, mpi_ring, slide_encoder  # noqa: E402
from support.report.changes import print_changes  # noqa: E402
from support.report.plots import Plots, available  # noqa: E402
from support.report.results_files import ReportError, ResultsFile  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent
KEPT = PROJECT / "docs" / "benchmarks"

REPORTS = {
    "cache": cache,
    "lengths": lengths,
    "kernels": kernels,
    "pytorch": kernels,
    "mpi_ring": mpi_ring,
    "slide_encoder": slide_encoder,
}

EPILOG = """\
RESULTS is the JSON of benchmark_ring_pattern_cache, benchmark_attention_kernels, benchmark_mpi_ring, compare_pytorch.py,
compare_slide_encoder.py or compare_lengths.py: the file itself tells which. The page NAME-<UTC time>.md and its plots, each
as SVG and PNG, are written beside it. Results of compare_pytorch.py and of benchmark_attention_kernels --long belong to
the report of the kernels; given together with its results they make one page.

Plots need matplotlib (Debian and Ubuntu: apt-get install python3-matplotlib). Without it the page has its tables alone,
and --publish refuses.
"""


def write_atomically(path, text):
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_report(files, folder):
    """The page of one or more files of one report; gives its path and why there are no plots, or None."""
    report = REPORTS[files[0].kind]
    plots = Plots(folder, f"{report.STEM}-{files[0].timestamp}")
    path = folder / index.page_name(report, files[0])
    write_atomically(path, report.page(files, plots))
    return path, plots.missing


def write_index(folder=KEPT):
    write_atomically(folder / "README.md", index.render(folder, REPORTS))


def report_of_all(files):
    """The files of one report, the one it is named after first; refuses others."""
    files.sort(key=lambda file: file.kind == "pytorch")
    main = files[0]
    reports = {REPORTS[file.kind] for file in files}
    if len(reports) > 1:
        raise ReportError("these results belong to different reports: name those of one")
    if len(files) > 1 and not hasattr(REPORTS[main.kind], "MAIN"):
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
    parser.add_argument("--index", action="store_true", help="only rewrite docs/benchmarks/README.md")
    options = parser.parse_args()
    if options.index == bool(options.results):
        parser.error("results are needed, or --index alone")
    if options.out and options.publish:
        parser.error("--out and --publish exclude each other")
    return options


def run(options):
    if options.index:
        write_index()
        return
    files = report_of_all([ResultsFile(path) for path in options.results])
    old = ResultsFile(options.compare) if options.compare else None
    if old and old.kind != files[0].kind:
        raise ReportError(f"{old.path}: results of another benchmark")
    if options.publish:
        if missing := available():
            raise ReportError(f"--publish needs matplotlib ({missing}): apt-get install python3-matplotlib")
        KEPT.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.path.resolve().parent != KEPT:
                shutil.copyfile(file.path, KEPT / file.path.name)
            file.path = KEPT / file.path.name
    folder = options.out or files[0].path.parent
    folder.mkdir(parents=True, exist_ok=True)
    path, missing = write_report(files, folder)
    print(f"report: {path}")
    if missing:
        print(
            f"no plots: matplotlib is missing ({missing}); apt-get install python3-matplotlib",
            file=sys.stderr,
        )
    if options.publish:
        write_index()
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
