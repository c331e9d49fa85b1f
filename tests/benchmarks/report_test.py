"""What docs/benchmarks holds and the texts that quote it are what report.py makes of the kept results, and report.py
says what changed, publishes all or nothing, and refuses what it cannot read.

usage: report_test.py PROJECT
Without matplotlib only the texts are checked.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

from checks import check, finish  # noqa: E402


def find_python():
    """One that has matplotlib, or None."""
    for candidate in (sys.executable, "python3", "/usr/bin/python3"):
        command = [candidate, "-c", "import matplotlib"]
        if shutil.which(candidate) and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    return None


class Copy:
    """A copy of the project's texts and scripts; kept: its docs/benchmarks."""

    def __init__(self, project, folder, python):
        self.folder, self.kept, self._python = folder, folder / "docs" / "benchmarks", python
        shutil.copytree(project / "docs", folder / "docs")
        shutil.copytree(project / "benchmarks", folder / "benchmarks")
        shutil.copyfile(project / "README.md", folder / "README.md")

    def report(self, *arguments, path=None):
        """Status and output; `path`: a folder of modules that take the place of others."""
        command = ["env", f"PYTHONPATH={path}"] if path else []
        command += [self._python, self.folder / "benchmarks" / "report.py", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run([str(word) for word in command], text=True, encoding="utf-8", **streams)
        return done.returncode, done.stdout

    def newest(self, beginning):
        return sorted(self.kept.glob(f"{beginning}*_results-*.json"))[-1]

    def texts(self):
        return {path.relative_to(self.folder): path.read_text(encoding="utf-8") for path in self.folder.rglob("*.md")}

    def pictures(self):
        return {path.name: path.read_bytes() for path in self.kept.iterdir() if path.suffix in (".svg", ".png")}


def drawn_by(svg):
    return re.search(rb"<dc:title>Matplotlib v([^,]+)", svg)[1]


def same_picture(svg, other):
    """Equal but for the last digit of coordinates, which depends on the processor that numpy computes on."""
    number = re.compile(rb"-?\d+\.\d+")
    pairs = zip(number.findall(svg), number.findall(other))
    return number.sub(b"", svg) == number.sub(b"", other) and all(abs(float(a) - float(b)) < 2e-6 for a, b in pairs)


def check_kept(copy, plots):
    """Nobody typed into what is kept: --remake changes nothing. `plots`: whether they can be drawn."""
    texts, pictures = copy.texts(), copy.pictures()
    for name in pictures if plots else ():
        (copy.kept / name).unlink()
    status, text = copy.report("--remake")
    check(f"--remake: {text}", status == (0 if plots else 1))
    for path, made in copy.texts().items():
        check(f"{path} is what results give (benchmarks/report.py --remake)", made == texts.get(path))
    if not plots:
        return
    made = copy.pictures()
    check(f"pictures of pages and no others: {made.keys() ^ pictures.keys()}", made.keys() == pictures.keys())
    for name in (name for name in made if name.endswith(".svg")):
        if drawn_by(made[name]) != drawn_by(pictures[name]):
            print(f"{name} was not compared: another matplotlib drew it")
        else:
            same = same_picture(made[name], pictures[name])
            check(f"{name} is what its results give (benchmarks/report.py --remake)", same)
    for path in copy.kept.glob("*Z.md"):
        page = path.read_text(encoding="utf-8")
        check(f"{path.name} has a table and plots", "\n| ---" in page and ".svg)" in page)
        check(f"{path.name} has no number that is none", not re.search(r"\bnan\b|\binf\b|None", page))


def check_texts(copy, blocked):
    """Numbers in texts are those of the newest full run, whatever was typed. They need no matplotlib."""
    readme, source = copy.folder / "README.md", copy.newest("compare_slide_encoder")
    before = readme.read_text(encoding="utf-8")
    wrong = re.sub(r"take [\d.]+ s in float", "take 77.7 s in float", before)
    check("README.md quotes seconds of the slide encoder", wrong != before)
    readme.write_text(wrong, encoding="utf-8")
    copy.report("--remake", path=blocked)
    check("a number that was typed is replaced", readme.read_text(encoding="utf-8") == before)
    kept = source.read_text(encoding="utf-8")
    data = json.loads(kept)
    for line in data["results"]:
        line["seconds"]["median"] = 88.8
    source.write_text(json.dumps(data), encoding="utf-8")
    copy.report("--remake", path=blocked)
    check("other results, other numbers", "take 88.8 s in float" in readme.read_text(encoding="utf-8"))
    source.write_text(json.dumps(data | {"command": data["command"] + " --quick"}), encoding="utf-8")
    copy.report("--remake", path=blocked)
    check("no text quotes a quick run", "88.8 s" not in readme.read_text(encoding="utf-8"))
    source.write_text(kept, encoding="utf-8")
    readme.write_text(before + "\n<!-- measured: nothing -->\n<!-- end of measured -->\n", encoding="utf-8")
    status, text = copy.report("--remake", path=blocked)
    check(f"a part that no report has: {text}", status == 1 and "measured: nothing" in text)
    readme.write_text(before, encoding="utf-8")


def check_changes(copy, folder):
    """--compare and what the page says follow from the numbers."""
    cache = copy.newest("benchmark_ring_pattern_cache")
    status, text = copy.report(cache, "--out", folder, "--compare", cache)
    check(f"nothing changed: {text}", status == 0 and re.search(r"(\d+) of \1 figures in both do not differ", text))
    data = json.loads(cache.read_text(encoding="utf-8"))
    for line in data["benchmarks"]:
        line["real_time"] *= 40 if "policy:global" in line["name"] else 1
    changed = folder / "changed_results-1.json"
    changed.write_text(json.dumps(data), encoding="utf-8")
    status, text = copy.report(changed, "--out", folder, "--compare", cache)
    page = next(folder.glob("ring-pattern-cache-*.md")).read_text(encoding="utf-8")
    check(f"--compare: {text}", status == 0 and "40.0 of it" in text)
    check("an expectation that is not met", "not met: 0.41" in page)
    check("cases in which global is slower", "| global slower |" in page)
    # A filter may leave cases of one kind alone, or none.
    for kind in ("forward/", "nothing"):
        some = [line for line in data["benchmarks"] if line["name"].startswith(kind)]
        changed.write_text(json.dumps(data | {"benchmarks": some}), encoding="utf-8")
        status, text = copy.report(changed, "--out", folder)
        check(f"results of {kind} alone: {text}", status == 0)


def check_publishing(copy, folder):
    """All is kept, or nothing; a plot that cannot be drawn costs no table."""
    cache = folder / copy.newest("benchmark_ring_pattern_cache").name
    shutil.copyfile(copy.kept / cache.name, cache)
    shutil.rmtree(copy.kept)
    for name, message in (("missing", "matplotlib is missing"), ("failing", "cannot be drawn")):
        blocked, out = folder / name, folder / f"out_{name}"
        status, text = copy.report(cache, "--out", out, path=blocked)
        check(f"plots {name}: {text}", status == 0 and message in text and f"report.py {cache}" in text)
        check(f"plots {name}: tables alone", [path.suffix for path in out.iterdir()] == [".md"])
        page = next(out.iterdir()).read_text(encoding="utf-8")
        check(f"plots {name}: none is shown", "\n| ---" in page and "![" not in page)
        status, text = copy.report(cache, "--publish", path=blocked)
        check(f"plots {name}, nothing is published: {text}", status == 1 and not copy.kept.exists())

    data = json.loads(cache.read_text(encoding="utf-8"))
    wrong = folder / "wrong_results-1.json"
    wrong.write_text(json.dumps(data | {"errors": ["forward: other bits"]}), encoding="utf-8")
    status, text = copy.report(wrong, "--publish")
    check(f"a run that failed is not published: {text}", status == 1 and "other bits" in text)
    check("nor is any of its files", not copy.kept.exists())
    status, text = copy.report(wrong, "--out", folder)
    check(f"a run that failed has a page: {text}", status == 0)

    status, text = copy.report(cache, "--publish")
    names = {path.name for path in copy.kept.iterdir()} if copy.kept.exists() else set()
    check(f"published: {text}", status == 0 and {"README.md", cache.name} < names)
    check(f"all pictures are there: {names}", len({name for name in names if name.endswith(".png")}) == 4)


def check_refusals(copy, folder):
    bad = folder / "bad.json"
    for content, message in (
        ("{", "Expecting"),
        ("{}", "not the results of one of the benchmarks"),
        ("[]", "no attribute"),
        ('{"command": "benchmark_mpi_ring", "timestamp": "today"}', "no UTC time"),
        ('{"command": "benchmark_mpi_ring", "timestamp": "20260101T000000Z"}', "the results lack"),
    ):
        bad.write_text(content, encoding="utf-8")
        status, text = copy.report(bad)
        check(f"{content}: {message!r} expected: {text}", status == 1 and message in text)
    status, text = copy.report(folder / "missing.json")
    check(f"a missing file: {text}", status == 1 and "missing.json" in text)


def main():
    project, python = pathlib.Path(sys.argv[1]).resolve(), find_python()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copy = Copy(project, folder / "project", python or sys.executable)
        check_kept(copy, plots=python is not None)
        if python is None:
            print("pages and plots were not checked: no Python has matplotlib (apt-get install python3-matplotlib)")
        else:
            for name, module, code in (
                ("missing", "matplotlib.py", "raise ImportError('blocked')\n"),
                ("failing", "sitecustomize.py", "import matplotlib.axes as axes\naxes.Axes.legend = None\n"),
            ):
                (folder / name).mkdir()
                (folder / name / module).write_text(code, encoding="utf-8")
            check_texts(copy, folder / "missing")
            check_changes(copy, folder)
            check_refusals(copy, folder)
            check_publishing(copy, folder)
    finish()


main()
