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
        ):
            readme = fresh()
            readme.write_text(before + "\n" + added + "\n", encoding="utf-8")
            refused(f"the new text {added!r}", "no source for")

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
