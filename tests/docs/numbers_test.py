"""The numbers of README.md and docs are those of docs/benchmarks, and check_numbers.py notices where they are not.

usage: numbers_test.py PROJECT
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

checks = failures = 0


def check(what, held):
    global checks, failures
    checks += 1
    if not held:
        failures += 1
        print(f"FAIL  {what}")


def run(project, copy, *arguments):
    command = [
        sys.executable,
        str(project / "benchmarks" / "check_numbers.py"),
        "--project",
        str(copy),
        *arguments,
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    return done.returncode, done.stdout


def one_round(results):
    for settings in (results, results.get("settings", {})):
        settings["rounds"] = 1


def main():
    project = pathlib.Path(sys.argv[1]).resolve()
    status, text = run(project, project)
    check(f"numbers as they are:\n{text}", status == 0)

    with tempfile.TemporaryDirectory() as name:
        copy = pathlib.Path(name) / "project"

        def fresh():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(project / "docs", copy / "docs")
            shutil.copyfile(project / "README.md", copy / "README.md")
            return copy / "README.md"

        def refused(what, message):
            status, text = run(project, copy)
            check(f"{what}: status 1 expected, got {status}: {text}", status == 1)
            check(f"{what}: {message!r} expected: {text}", message in text)

        # A number of the text.
        readme = fresh()
        before = readme.read_text(encoding="utf-8")
        wrong = re.sub(
            r"take(\s+)[\d.]+(\s+)s(\s+)in(\s+)float", r"take\g<1>77.7\g<2>s\g<3>in\g<4>float", before
        )
        check("the README tells seconds of the slide encoder", wrong != before)
        readme.write_text(wrong, encoding="utf-8")
        refused("a wrong number in README.md", "77.7 is written")
        status, text = run(project, copy, "--update")
        check(f"--update mends it: {text}", status == 0 and run(project, copy)[0] == 0)

        # A number of the file.
        fresh()
        rules = json.loads((copy / "docs/benchmarks/numbers.json").read_text(encoding="utf-8"))
        source = copy / "docs/benchmarks" / rules["sources"]["slide_encoder"]["file"]
        results = json.loads(source.read_text(encoding="utf-8"))
        for line in results["results"]:
            line["seconds"]["median"] *= 2
        source.write_text(json.dumps(results), encoding="utf-8")
        refused("another number in the file", "is in " + source.name)
        refused("another number in the file", "slide_tiles is not what")

        # A generated table.
        fresh()
        page = copy / "docs/guides/SCALING.md"
        page.write_text(page.read_text(encoding="utf-8").replace(" ms |", " us |", 1), encoding="utf-8")
        refused("an edited table", "ring is not what")

        # A number that nothing vouches for.
        for added in (
            "It takes 7 ms.",
            "It is 2.5 times\nas fast.",
            "It saves 12%.",
            "It computes 900 GFLOP/s.",
            "3x as fast.",
            "It computes 47,000 tokens per second.",
            "It computes 47,000 tokens/s.",
            "It waits 40 microseconds.",
            "It is 2-3x as fast.",
            "It is 2–3x as fast.",
            "A 1.5-fold gain.",
            "It is 2.5× as fast.",
            "It is 2.5 x faster.",
            "It saves 5 percent.",
            "It saves 5 per cent.",
            "Faster by a factor of 3.",
            "A speedup of about 3.2.",
            "It needs 7 ms/token.",
            "It reads 12 MiB/s.",
            "It sends 12 Gbit/s.",
            "It computes 300 GFLOPS.",
            "Twice as fast.",
            "It is three times faster.",
            "It takes half the time.",
        ):
            readme = fresh()
            readme.write_text(before + "\n" + added + "\n", encoding="utf-8")
            refused(f"the new text {added!r}", "no source for")
        readme = fresh()
        for added in ("4 x 64, 2x4 and 4 × 64 numbers", "n = 64, h = 4", "version 2.5.1", "32-bit numbers"):
            readme.write_text(before + "\n" + added + "\n", encoding="utf-8")
            status, text = run(project, copy)
            check(f"{added!r} is not measured: {text}", status == 0)

        # Results that are not of a full run.
        for kind, shorten, message in (
            ("cache", lambda data: data["ring_attention"]["settings"].update(quick=True), "--quick"),
            ("ring", lambda data: data["settings"].update(filters=["dense"]), "--filter"),
            ("lengths", lambda data: data.update(pytorch=None), "no PyTorch"),
            ("slide_encoder", one_round, "1 round in place of 3"),
        ):
            fresh()
            shortened = copy / "docs/benchmarks" / rules["sources"][kind]["file"]
            results = json.loads(shortened.read_text(encoding="utf-8"))
            shorten(results)
            shortened.write_text(json.dumps(results), encoding="utf-8")
            refused(f"numbers of a shortened run of {kind}", f"{shortened.name} is not of a full run: ")
            refused(f"numbers of a shortened run of {kind}", message)

        # A picture that is gone.
        fresh()
        for picture in (copy / "docs/benchmarks").glob("lengths-*.svg"):
            picture.unlink()
        refused("a missing picture", "speed-and-memory.svg is not there")

        # Files and texts that are gone.
        fresh()
        source.unlink()
        refused("a missing file", source.name)
        readme = fresh()
        readme.write_text(before.replace("of the full model", "of the model"), encoding="utf-8")
        refused("a text that is gone", "README.md: not found")

    print(f"{checks} checks, {failures} failures")
    sys.exit(1 if failures else 0)


main()
