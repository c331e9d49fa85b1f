"""report.py makes a page and plots of every kept result, tells what changed, and refuses what it cannot read.

usage: report_test.py PROJECT
Skipped where no Python has matplotlib.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

checks = failures = 0


def check(what, held):
    global checks, failures
    checks += 1
    if not held:
        failures += 1
        print(f"FAIL  {what}")


def find_python():
    """One that has matplotlib, or None."""
    for candidate in (sys.executable, "python3", "/usr/bin/python3"):
        if (
            shutil.which(candidate)
            and subprocess.run([candidate, "-c", "import matplotlib"], stderr=subprocess.DEVNULL).returncode
            == 0
        ):
            return candidate
    return None


def cases_doubled(data):
    """Results in which the global cache is twice as slow as it was."""
    for line in data["ring_attention"]["policies"]:
        for key in ("median", "minimum", "maximum"):
            line["global"][key] *= 2
        line["speedup_global_over_local"] /= 2
    return data


def main():
    project = pathlib.Path(sys.argv[1]).resolve()
    python = find_python()
    if python is None:
        print("skipped: no Python has matplotlib (Debian and Ubuntu: apt-get install python3-matplotlib)")
        return

    def report(*arguments, interpreter=(python,)):
        command = [*interpreter, str(project / "benchmarks" / "report.py"), *map(str, arguments)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        return done.returncode, done.stdout

    kept = sorted((project / "docs" / "benchmarks").glob("*_results-*.json"))
    check("results are kept", kept)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pages = set()
        # Kept pages with the results of each, and results of which no page is kept.
        groups, covered = [], set()
        for page in sorted((project / "docs" / "benchmarks").glob("*Z.md")):
            names = re.findall(
                r"^- Results: \[.*?\]\((.*?)\)", page.read_text(encoding="utf-8"), re.MULTILINE
            )
            groups.append((names, page))
            covered.update(names)
        groups += [([path.name], None) for path in kept if path.name not in covered]
        for names, kept_page in groups:
            status, text = report(
                *(project / "docs" / "benchmarks" / name for name in names), "--out", folder
            )
            found = re.search(r"^report: (.*)$", text, re.MULTILINE)
            check(f"{names}: {text}", status == 0 and found)
            if not found:
                continue
            page = pathlib.Path(found[1])
            pages.add(page.name.rsplit("-", 1)[0])
            content = page.read_text(encoding="utf-8")
            check(f"{page.name} names its files", all(f"({name})" in content for name in names))
            check(f"{page.name} has a table", "\n| ---" in content)
            check(f"{page.name} has no number that is none", not re.search(r"\bnan\b|\binf\b|None", content))
            plots = re.findall(r"!\[.*?\]\((.*?)\)", content)
            check(f"{page.name} has plots", plots)
            for plot in plots:
                root = xml.etree.ElementTree.parse(folder / plot).getroot()
                check(f"{plot} is an SVG", root.tag.endswith("svg"))
                picture = (folder / plot).with_suffix(".png").read_bytes()
                check(f"{plot} has a PNG beside it", picture.startswith(b"\x89PNG") and len(picture) > 5000)
                check(f"{plot} is kept", not kept_page or (kept_page.parent / plot).exists())
            if kept_page:
                # Nobody typed in it.
                same = kept_page.name == page.name and kept_page.read_text(encoding="utf-8") == content
                check(f"{page.name} is what its results give (benchmarks/report.py --remake)", same)
        print("pages:", ", ".join(sorted(pages)))
        check(f"a report of the pattern cache: {pages}", "ring-pattern-cache" in pages)

        cache = next(
            (path for path in reversed(kept) if path.name.startswith("benchmark_ring_pattern_cache")), None
        )
        if cache:
            plots = {path.name: path.read_bytes() for path in folder.glob("ring-pattern-cache-*.svg")}
            names = {re.sub(r".*Z-|\.svg", "", name) for name in plots}
            check(f"the four plots: {names}", names == {"forward", "patterns", "memory", "contention"})
            report(cache, "--out", folder)
            check(
                "plots are the same bytes again",
                all((folder / n).read_bytes() == b for n, b in plots.items() if cache.stem[-16:] in n),
            )

            # What the page says follows from the numbers.
            data = json.loads(cache.read_text(encoding="utf-8"))
            page = folder / f"ring-pattern-cache-{cache.stem[-16:]}.md"
            told = page.read_text(encoding="utf-8")
            changed = folder / "changed_results-1.json"
            changed.write_text(json.dumps(cases_doubled(data)), encoding="utf-8")
            status, text = report(changed, "--out", folder, "--compare", cache)
            check(f"--compare: {text}", status == 0 and "2.00 of it" in text and "global" in text)
            check("other numbers, another page", page.read_text(encoding="utf-8") != told)
            for line in data["ring_attention"]["policies"]:
                if line["what"].startswith("model_patterns/"):
                    line["speedup_global_over_local"] = 1.25
            changed.write_text(json.dumps(data), encoding="utf-8")
            report(changed, "--out", folder)
            check(
                "an expectation that is not met",
                "not met: 1.25 times, 0.75 times short of 2 times" in page.read_text(encoding="utf-8"),
            )
            status, text = report(cache, "--out", folder, "--compare", cache)
            check(
                f"nothing changed: {text}",
                status == 0 and re.search(r"(\d+) of \1 figures in both do not differ", text),
            )

            # A filter may leave cases of one kind alone.
            whole = data["ring_attention"]["policies"]
            for kind in ("forward/", "nothing"):
                data["ring_attention"]["policies"] = [line for line in whole if line["what"].startswith(kind)]
                changed.write_text(json.dumps(data), encoding="utf-8")
                status, text = report(changed, "--out", folder)
                check(f"results of {kind} alone: {text}", status == 0)

            # Without matplotlib: tables alone.
            blocked = folder / "blocked"
            (blocked / "matplotlib").mkdir(parents=True)
            (blocked / "matplotlib" / "__init__.py").write_text(
                "raise ImportError('blocked')\n", encoding="utf-8"
            )
            status, text = report(
                cache, "--out", folder / "tables", interpreter=("env", f"PYTHONPATH={blocked}", python)
            )
            check(f"without matplotlib: {text}", status == 0 and "no plots" in text)
            check("tables alone", [path.suffix for path in (folder / "tables").iterdir()] == [".md"])

        for content, message in (
            ("{", "Expecting"),
            ("{}", "not the results of one of the benchmarks"),
            ('{"mpi": {}, "timestamp": "today"}', "no UTC time"),
            ('{"mpi": {}, "timestamp": "20260101T000000Z"}', "the results lack"),
        ):
            bad = folder / "bad.json"
            bad.write_text(content, encoding="utf-8")
            status, text = report(bad)
            check(f"{content}: {message!r} expected: {text}", status == 1 and message in text)
        status, text = report(folder / "missing.json")
        check(f"a missing file: {text}", status == 1 and "missing.json" in text)

    print(f"{checks} checks, {failures} failures")
    sys.exit(1 if failures else 0)


main()
