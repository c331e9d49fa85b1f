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
import types
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


def check_publishing(project, python, results, folder):
    """All is kept, or nothing; a plot that cannot be drawn costs no table."""
    copy, failing = folder / "project", folder / "failing"
    shutil.copytree(project / "benchmarks", copy / "benchmarks")
    failing.mkdir()
    # As a matplotlib that does not know an option.
    (failing / "sitecustomize.py").write_text(
        "import matplotlib.axes\n"
        "def legend(*arguments, **options):\n"
        "    raise TypeError('legend() does not know that option')\n"
        "matplotlib.axes.Axes.legend = legend\n",
        encoding="utf-8",
    )
    kept = copy / "docs" / "benchmarks"

    def report(path, *arguments, fails=False):
        command = ["env", f"PYTHONPATH={failing}"] if fails else []
        command += [python, str(copy / "benchmarks" / "report.py"), str(path), *map(str, arguments)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        return done.returncode, done.stdout

    status, text = report(results, "--out", folder / "unplotted", fails=True)
    check(f"a plot that cannot be drawn: {text}", status == 0 and "does not know that option" in text)
    check("tables without plots", [path.suffix for path in (folder / "unplotted").iterdir()] == [".md"])
    page = next((folder / "unplotted").iterdir()).read_text(encoding="utf-8")
    check("tables without plots show none", "\n| ---" in page and "![" not in page)
    status, text = report(results, "--publish", fails=True)
    check(f"no plots, nothing is published: {text}", status == 1 and "without plots" in text and not kept.exists())

    data = json.loads(results.read_text(encoding="utf-8"))
    data["ring_attention"]["verification"]["errors"] = ["forward: other bits"]
    wrong = folder / "wrong_results-1.json"
    wrong.write_text(json.dumps(data), encoding="utf-8")
    status, text = report(wrong, "--publish")
    check(f"a run that failed is not published: {text}", status == 1 and "other bits" in text and not kept.exists())
    status, text = report(wrong, "--out", folder / "wrong")
    check(f"a run that failed has a page: {text}", status == 0)

    status, text = report(results, "--publish")
    names = {path.name for path in kept.iterdir()} if kept.exists() else set()
    check(f"published: {text}", status == 0 and {"README.md", results.name} < names)
    check(f"all pictures are there: {names}", len({name for name in names if name.endswith(".png")}) == 4)


def check_kept_plot(kept, fresh):
    """The same matplotlib gives the same bytes."""
    check(f"{kept.name} is kept", kept.exists())
    check(f"{kept.name} is kept as PNG, too", kept.with_suffix(".png").exists())
    if not kept.exists():
        return
    versions = [
        re.search(r"<dc:title>Matplotlib v([^,]+)", path.read_text(encoding="utf-8")) for path in (kept, fresh)
    ]
    check(f"{kept.name} tells what drew it", all(versions))
    if not all(versions) or versions[0][1] != versions[1][1]:
        print(f"{kept.name} was not compared: another matplotlib drew it")
        return
    same = kept.read_bytes() == fresh.read_bytes()
    check(f"{kept.name} is what its results give (benchmarks/report.py --remake)", same)


def check_commands(project):
    """Each page tells the command that gives its results again."""
    sys.path.insert(0, str(project / "benchmarks"))
    sys.dont_write_bytecode = True
    from support.report.reports import REPORTS, shortened_by
    from support.report.results_files import kind_of

    machine = {"cpus_usable": 2}

    def told(data):
        about = data.get("ring_attention", data)
        file = types.SimpleNamespace(data=data, about=about, kind=kind_of(data))
        return REPORTS[file.kind].command(file), bool(shortened_by(file))

    def cache(**settings):
        settings = {"quick": False, "threads": 2, "small_repetitions": 9} | settings
        build = {"flags": settings.pop("flags", "-march=native -O3")}
        return {"benchmarks": [], "ring_attention": {"settings": settings, "machine": machine, "build": build}}

    def lengths(pytorch="2", **settings):
        settings = {"quick": False, "limit_seconds": 35.0, "threads": 2} | settings
        return {"lengths": [], "machine": machine, "pytorch": pytorch, "settings": settings}

    def ring(ranks=4, **settings):
        settings = {
            "quick": False,
            "filters": [],
            "rounds": 9,
            "threads_per_rank": 1,
            "layout": "contiguous",
            "causal": False,
            "shared_memory": True,
        } | settings
        return {"mpi": {"ranks": ranks}, "machine": machine, "settings": settings}

    def kernels(**settings):
        more = {"long": []} if settings.pop("long", False) else {"peaks": []}
        settings = {"quick": False, "filters": [], "samples": 3, "best_kernel_samples": 7} | settings
        return {"settings": settings, "results": []} | more

    def pytorch(quick=False, rounds=9, threads=(1, 2), **settings):
        lines = [{"library_gflops": {}, "threads": count} for count in threads]
        data = {"machine": machine, "pytorch": {}, "quick": quick, "rounds": rounds, "results": lines}
        return data | {"pytorch": {"version": "2"}} | ({"settings": settings} if settings else {})

    def slide(*tiles, rounds=3, scalars=("float", "bfloat16"), **more):
        lines = [
            {"scalar": scalar, "tiles": count, "threads": 2, "pytorch_seconds": {}}
            for count in tiles
            for scalar in scalars
        ]
        return {"machine": machine, "rounds": rounds, "results": lines} | more

    run, length, kernel = "./benchmarks/run", "python3 benchmarks/compare_lengths.py", "benchmark_attention_kernels"
    compare, slides = "python3 benchmarks/compare_pytorch.py", "python3 benchmarks/compare_slide_encoder.py"
    mpi = "mpirun -n 4 benchmark_mpi_ring"
    settings = {"tiles": 10000, "alone": [10000], "rounds": 3, "threads": 1, "scalars": ["float"]}
    for data, expected, shortened in (
        (cache(), run, False),
        (cache(quick=True, small_repetitions=5), f"{run} --quick", True),
        (cache(small_repetitions=4, flags="-O3"), f"{run} --portable --repetitions 4", False),
        (cache(repetitions=9, threads=1), f"{run} --threads 1 --repetitions 9", False),
        (cache(filter="lookup|x"), f"{run} --benchmark_filter='lookup|x'", True),
        (lengths(), length, False),
        (lengths(limit_seconds=25.0, threads=1), f"{length} --limit 25 --threads 1", False),
        (lengths(pytorch=None), length, True),
        (lengths(quick=True), f"{length} --quick", True),
        (ring(), mpi, False),
        (ring(2, rounds=5, causal=True), "mpirun -n 2 benchmark_mpi_ring --rounds 5 --causal", False),
        (ring(quick=True, rounds=5), f"{mpi} --quick", True),
        (
            ring(filters=["weak", "ranks2"], threads_per_rank=2, layout="zigzag", shared_memory=False),
            f"{mpi} --filter weak,ranks2 --threads 2 --layout zigzag --no-shared-memory",
            True,
        ),
        (kernels(), kernel, False),
        (kernels(long=True), f"{kernel} --long", False),
        (kernels(quick=True, samples=2, best_kernel_samples=2), f"{kernel} --quick --samples 2", True),
        (kernels(filters=["float", "d64"]), f"{kernel} --filter float,d64", True),
        (pytorch(), compare, False),
        (pytorch(quick=True, rounds=7), f"{compare} --quick", True),
        (pytorch(threads=[2], rounds=3), f"{compare} --rounds 3 --threads 2", False),
        (
            pytorch(filters=["sdpa"], threads=[1], kernel="avx2"),
            f"{compare} --filter sdpa --threads 1 --kernel avx2",
            True,
        ),
        (slide(10000), slides, False),
        (slide(10000, 1000, 3000, 30000), f"{slides} --alone 1000 3000 30000", False),
        (slide(500, rounds=2, scalars=["float"]), f"{slides} --tiles 500 --rounds 2 --scalar float", True),
        (
            slide(10000, 10000, scalars=["float"], settings=settings),
            f"{slides} --alone 10000 --threads 1 --scalar float",
            False,
        ),
    ):
        check(f"{expected!r}, shortened: {shortened}; told: {told(data)}", told(data) == (expected, shortened))


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

    check_commands(project)
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
                if kept_page:
                    check_kept_plot(kept_page.parent / plot, folder / plot)
            if kept_page:
                # Nobody typed in it.
                same = kept_page.name == page.name and kept_page.read_text(encoding="utf-8") == content
                check(f"{page.name} is what its results give (benchmarks/report.py --remake)", same)
        print("pages:", ", ".join(sorted(pages)))
        shown = {
            name
            for page in (project / "docs" / "benchmarks").glob("*Z.md")
            for name in re.findall(r"!\[.*?\]\((.*?)\.svg\)", page.read_text(encoding="utf-8"))
        }
        for path in (project / "docs" / "benchmarks").iterdir():
            check(f"{path.name} is in a page", path.suffix not in (".svg", ".png") or path.stem in shown)
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
            check(
                f"how to add plots: {text}",
                re.search(rf"later: python3 \S*/benchmarks/report\.py {re.escape(str(cache))}$", text, re.M),
            )
            check("tables alone", [path.suffix for path in (folder / "tables").iterdir()] == [".md"])

            check_publishing(project, python, cache, folder)

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
