"""Results files: JSON with a line for each case."""

import json
import pathlib
import statistics
import subprocess
import sys

PROGRAMS = pathlib.Path(__file__).resolve().parent.parent.parent / "build" / "measure" / "benchmarks"


def summarize(values):
    return {
        "median": statistics.median(values),
        "minimum": min(values),
        "maximum": max(values),
        "repetitions": len(values),
    }


def describe_run(program):
    """Time, machine, build, commit and kernels, as attention_for_comparison describes them, and the command that gives
    such results again: this script and its arguments, but for paths."""
    about = json.loads(subprocess.run([program, "--about"], check=True, stdout=subprocess.PIPE, text=True).stdout)
    words, rest = [f"python3 benchmarks/{pathlib.Path(sys.argv[0]).name}"], iter(sys.argv[1:])
    for word in rest:
        name, equals, _ = word.partition("=")
        if name not in ("--json", "--program", "--library", "--encoder"):
            words.append(word)
        elif not equals:
            next(rest, None)
    return about | {"command": " ".join(words)}


def to_lines(results):
    """One line for each member of an object, and for each element of a list of objects."""

    def text(value):
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            return json.dumps(value, ensure_ascii=False)
        return "[\n" + ",\n".join(json.dumps(element, ensure_ascii=False) for element in value) + "\n]"

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {text(value)}" for key, value in results.items()) + "\n}\n"


def write_atomically(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def write_results(results, wanted):
    """To the path that is wanted, or one beside the benchmarks' programs; prints it."""
    path = wanted or PROGRAMS / f"{pathlib.Path(sys.argv[0]).stem}_results-{results['timestamp']}.json"
    write_atomically(path, to_lines(results).encode("utf-8"))
    print(f"\nresults: {path}")
