#!/usr/bin/env python3
"""Makes the page and the plots of a benchmark's results."""

import argparse
import pathlib
import re
import shlex
import sys

sys.dont_write_bytecode = True

from support.report import cache, gpus, kernels, lengths, mpi_ring, slide_encoder  # noqa: E402
from support.report.files import ReportError, ResultsFile, figures, kept_files, print_changes, provenance  # noqa: E402
from support.report.plots import Plots  # noqa: E402
from support.report.text import day, listed, table  # noqa: E402
from support.results import to_lines, write_atomically  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent
KEPT = PROJECT / "docs" / "benchmarks"

# The report of each kind of results: STEM of its files, TITLE, sections(files, plots) of its page, and if it has them
# BLOCKS, parts of the project's texts by name, and figures(file) that --compare compares.
REPORTS = {
    "cache": cache,
    "lengths": lengths,
    "kernels": kernels,
    "long": kernels,
    "pytorch": kernels,
    "gpu_kernels": gpus,
    "cuda": gpus,
    "mpi_ring": mpi_ring,
    "slide_encoder": slide_encoder,
}

EPILOG = """\
RESULTS is the JSON of benchmark_ring_pattern_cache, _attention_kernels or _mpi_ring, of compare_pytorch.py,
compare_cuda.py, compare_slide_encoder.py or compare_lengths.py: the command in the file tells which. The page
NAME-<UTC time>.md and its plots, each as SVG and PNG, are written beside it. Results of compare_pytorch.py and of
compare_lengths.py --long belong to the report of the kernels, and those of compare_cuda.py to that of
benchmark_attention_kernels --device cuda; given together they make one page.

Plots need matplotlib (Debian and Ubuntu: apt-get install python3-matplotlib). Without it, or if one cannot be drawn,
the page has its tables alone, and --publish refuses. It also refuses results of a run that failed.

Texts of README.md and docs quote results between <!-- measured: NAME --> and <!-- end of measured -->. --publish and
--remake write these parts, from the newest published file that is neither of a quick nor of a partial run; the test
benchmarks.report refuses others.
"""

INDEX = """\
# Measured

Reports that `benchmarks/report.py` made of results: every number in them is computed from the file beside it, and none
is typed. Each page names its machine; figures of another will differ.

<!-- not run: the first measures for minutes, and the others need its results -->
```sh
./benchmarks/run --publish                           # runs the benchmark of the pattern cache and keeps its report here
python3 benchmarks/report.py --publish RESULTS.json  # keeps the report of any other benchmark's results
python3 benchmarks/report.py --compare OLD.json RESULTS.json
python3 benchmarks/report.py --remake                # makes all of this anew, and the parts of texts that quote it
```

"""


def page_name(file):
    return f"{REPORTS[file.kind].STEM}-{file.timestamp}.md"


def make_report(files):
    """The page and the plots of one or more files of one report: bytes by name, and why there are no plots, or None."""
    report = REPORTS[files[0].kind]
    plots = Plots(page_name(files[0]).removesuffix(".md"))

    def make_page(plots):
        first, *rest = report.sections(files, plots)
        parts = [f"# {report.TITLE}, measured {files[0].timestamp}\n", first, provenance(files), *rest]
        return "\n".join(part for part in parts if part)

    page = make_page(plots)
    if plots.problem:
        page = make_page(Plots(plots.stem, plots.problem))  # one that shows none
    return {page_name(files[0]): page.encode("utf-8")} | plots.files, plots.problem


def write_report(files, folder, complete=False):
    """Writes page and plots; gives the page's path and why there are no plots, or None. `complete`: all or nothing."""
    made, problem = make_report(files)
    if problem and complete:
        raise ReportError(f"a page without plots is not kept: {problem}")
    for name, content in made.items():
        write_atomically(folder / name, content)
    print(f"report: {folder / next(iter(made))}", flush=True)
    return problem


def files_of(page):
    """The files that a kept page was made of, in order."""
    names = re.findall(r"^- Results: \[.*?\]\((.*?)\)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [ResultsFile(KEPT / name) for name in names]


def write_index():
    """docs/benchmarks/README.md: the newest report of each benchmark, and all results."""
    pages = {}  # the files of each kept page, by its name
    for report in dict.fromkeys(REPORTS.values()):
        for page in sorted(KEPT.glob(f"{report.STEM}-*.md"), reverse=True):
            pages[page.name] = files_of(page)
    newest, rows = {}, []
    for name, files in pages.items():
        commands = listed(f"`{file.data['command']}`" for file in files)
        title = REPORTS[files[0].kind].TITLE
        newest.setdefault(title, f"- **{title}**: [{day(files[0].timestamp)}]({name}), by {commands}\n")
        rows += [(name, file) for file in files]
    everything = table(
        rows,
        ("report", lambda row: f"[{row[0].removesuffix('.md')}]({row[0]})"),
        ("measured", lambda row: day(row[1].timestamp)),
        ("results", lambda row: f"[{row[1].path.name.split('_results')[0]}]({row[1].path.name})"),
        ("processor", lambda row: row[1].data["machine"]["cpu_model"]),
        ("cores", lambda row: row[1].data["machine"]["cpus_usable"]),
        ("commit", lambda row: ((row[1].data.get("commit") or {}).get("id") or "unknown")[:12]),
        left=4,
    )
    text = INDEX + "## The newest\n\n" + "".join(newest.values()) + "\n## All\n\n" + everything
    write_atomically(KEPT / "README.md", text.encode("utf-8"))


def write_texts():
    """The parts of README.md and docs that quote results."""
    newest = {}
    for file in kept_files(KEPT):
        if file.is_full():
            newest.setdefault(file.kind, file)
    blocks = {}
    for kind, report in REPORTS.items():
        blocks |= {name: (kind, make) for name, make in getattr(report, "BLOCKS", {}).items()}

    def quote(match):
        if match[2] not in blocks:
            raise ReportError(f"<!-- measured: {match[2]} -->: no report has such a part")
        kind, make = blocks[match[2]]
        return match[1] + (make(newest[kind]) if kind in newest else "") + match[3]

    marks = re.compile(r"(^<!-- measured: (\w+) -->\n).*?(^<!-- end of measured -->$)", re.MULTILINE | re.DOTALL)
    for page in [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]:
        if page.exists():
            old = page.read_text(encoding="utf-8")
            new = marks.sub(quote, old)
            if new != old:
                write_atomically(page, new.encode("utf-8"))
                print(f"numbers of {page}")


def remake():
    """Every kept page and its plots, the list of them, and the texts that quote them."""
    write_index()
    write_texts()
    for report in dict.fromkeys(REPORTS.values()):
        for page in sorted(KEPT.glob(f"{report.STEM}-*.md")):
            write_report(files_of(page), KEPT, complete=True)


def publish(files):
    """Keeps results, page and plots in docs/benchmarks: all of them, or none."""
    for file in files:
        if failures := file.failures():
            raise ReportError(f"{file.path}: not published, since the run failed: {failures[0]}")
    write_report(files, KEPT, complete=True)
    for file in files:
        if file.path.resolve().parent != KEPT:
            write_atomically(KEPT / file.path.name, to_lines(file.data).encode("utf-8"))
    write_index()
    write_texts()


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=pathlib.Path, nargs="*", metavar="RESULTS", help="JSON of a benchmark")
    parser.add_argument("--publish", action="store_true", help="keep results, page and plots in docs/benchmarks")
    parser.add_argument("--compare", type=pathlib.Path, metavar="OLD.json", help="print what changed since")
    parser.add_argument("--out", type=pathlib.Path, help="folder of page and plots (default: that of the results)")
    parser.add_argument("--remake", action="store_true", help="make all of docs/benchmarks anew from its results")
    options = parser.parse_args()
    if options.remake == bool(options.results):
        parser.error("results are needed, or --remake alone")
    if options.out and options.publish:
        parser.error("--out and --publish exclude each other")
    return options


def run(options):
    if options.remake:
        remake()
        return
    order = list(REPORTS)
    files = sorted(map(ResultsFile, options.results), key=lambda file: order.index(file.kind))
    if len({REPORTS[file.kind] for file in files}) > 1 or len({file.kind for file in files}) < len(files):
        raise ReportError("one page takes one file, or one of each benchmark that belongs to the same report")
    old = ResultsFile(options.compare) if options.compare else None
    if old and old.kind != files[0].kind:
        raise ReportError(f"{old.path}: results of another benchmark")
    if options.publish:
        publish(files)
    elif problem := write_report(files, options.out or files[0].path.parent):
        again = shlex.join([str(pathlib.Path(__file__).resolve()), *map(str, options.results)])
        print(f"no plots: {problem}; this adds them later: python3 {again}", file=sys.stderr)
    if old:
        print()
        print_changes(getattr(REPORTS[old.kind], "figures", figures), old, files[0])


def main():
    try:
        run(parse_arguments())
    except (ReportError, OSError, KeyError) as error:
        reason = f"the results lack {error}" if isinstance(error, KeyError) else error
        sys.exit(f"report.py: {reason}")


if __name__ == "__main__":
    main()
