"""docs/benchmarks/README.md: the newest report of each benchmark, and all of them."""

import re

from .results_files import ResultsFile, kept_files
from .text import day, listed, table

HEAD = """\
# Measured

Reports that `benchmarks/report.py` made of results: every number in them is computed from the file beside it, and none
is typed. Each page names its machine; figures of another will differ.

<!-- not run: the first measures for minutes, and the others need its results -->
```sh
./benchmarks/run --publish                           # runs the benchmark of the pattern cache and keeps its report here
python3 benchmarks/report.py --publish RESULTS.json  # keeps the report of any other benchmark's results
python3 benchmarks/report.py --compare OLD.json RESULTS.json
python3 benchmarks/check_numbers.py                  # numbers in README.md and docs are those of these files
python3 benchmarks/check_numbers.py --update         # take them from the newest files
```

"""


def page_name(report, file):
    return f"{report.STEM}-{file.timestamp}.md"


def results_of(page):
    """Names of the files that a page was made of, in order."""
    return re.findall(r"^- Results: \[.*?\]\((.*?)\)", page.read_text(encoding="utf-8"), re.MULTILINE)


def page_of(folder, report, file):
    """Name of the newest page that was made of a file, alone or with others; None where there is none."""
    for page in sorted(folder.glob(f"{report.STEM}-*.md"), reverse=True):
        if file.path.name in results_of(page):
            return page.name
    return None


def render(folder, reports):
    """`reports`: the module of each kind, by kind, in the order of the page."""
    files = kept_files(folder)
    newest, rows = [], []
    for report in dict.fromkeys(reports.values()):
        kept = [file for file in files if reports[file.kind] is report]
        pages = {file.path: page_of(folder, report, file) for file in kept}
        with_page = next((file for file in kept if pages[file.path]), None)
        if with_page:
            link = f"[{day(with_page.timestamp)}]({pages[with_page.path]})"
            made_of = [ResultsFile(folder / name) for name in results_of(folder / pages[with_page.path])]
            commands = listed(f"`{report.command(file)}`" for file in made_of)
            newest.append(f"- **{report.TITLE}**: {link}, by {commands}")
        for file in kept:
            machine, commit = file.about.get("machine") or {}, file.about.get("commit") or {}
            rows.append(
                [
                    report.TITLE,
                    (
                        f"[{day(file.timestamp)}]({pages[file.path]})"
                        if pages[file.path]
                        else day(file.timestamp)
                    ),
                    f"[{file.path.name.split('_results')[0]}]({file.path.name})",
                    machine.get("cpu_model", "not told"),
                    machine.get("cpus_usable", "not told"),
                    commit.get("id", "not told")[:12],
                ]
            )
    everything = table(["report", "measured", "results", "processor", "cores", "commit"], rows, left=4)
    return HEAD + "## The newest\n\n" + "\n".join(newest) + "\n\n## All\n\n" + everything
