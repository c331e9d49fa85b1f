"""Result files: which benchmark wrote one, when, whether it may be published, and what changed between two."""

import json
import pathlib
import re

from .text import binary_bytes, counted, day, significant


class ReportError(Exception):
    """A file that no report can be made of; the text says why."""


# The benchmark that wrote results, by a word of the command that they name.
KINDS = {
    "benchmarks/run": "cache",
    "--long": "long",
    "compare_lengths": "lengths",
    "--device cuda": "gpu_kernels",
    "benchmark_attention_kernels": "kernels",
    "compare_cuda": "cuda",
    "compare_pytorch": "pytorch",
    "benchmark_mpi_ring": "mpi_ring",
    "compare_slide_encoder": "slide_encoder",
}


class ResultsFile:
    """`data` is its JSON, `kind` one of those of KINDS, `timestamp` as 20261122T184501Z."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        try:
            self.data = json.loads(self.path.read_text(encoding="utf-8"))
            command = self.data.get("command", "").replace("=", " ")
            self.kind = next((kind for word, kind in KINDS.items() if word in command), None)
        except (OSError, ValueError, AttributeError) as error:
            raise ReportError(f"{self.path}: {error}") from error
        if self.kind is None:
            raise ReportError(f"{self.path}: not the results of one of the benchmarks")
        self.timestamp = self.data.get("timestamp", "")
        if not re.fullmatch(r"\d{8}T\d{6}Z", self.timestamp):
            raise ReportError(f"{self.path}: no UTC time of the form 20261122T184501Z")

    def failures(self):
        """What the run itself called wrong: outputs that differ, errors, limits that were not kept."""
        found = list(self.data.get("errors", []))
        for line in self.data.get("results", []):
            name = line.get("name") or line.get("scalar") or line.get("tokens")
            worst = line.get("worst_error_in_tolerances", 0.0)  # null: infinite, or not a number
            if "error" in line:
                found.append(f"{name}: {line['error']}")
            elif worst is None or worst > 1 or not line.get("agree", True):
                found.append(f"{name}: outputs differ")
        return found

    def is_full(self):
        """Neither a quick nor a partial run, whose numbers no text may quote."""
        shortened = re.search(r"--(quick|\w*filter|tiles|rounds|samples|repetitions)\b", self.data["command"])
        return not shortened and self.data.get("pytorch", True) is not None


def kept_files(folder):
    """The result files of a folder, the newest first."""
    found = [ResultsFile(path) for path in sorted(folder.glob("*_results-*.json"))]
    return sorted(found, key=lambda file: file.timestamp, reverse=True)


def provenance(files):
    """What was measured where, when and with what: a list of Markdown lines."""
    lines = []
    for file in files:
        commit = file.data.get("commit") or {}
        where = f" of commit {commit['id'][:12]}" if commit else ""
        where += ", modified" if commit.get("modified") else ""
        lines.append(f"Results: [{file.path.name}]({file.path.name}), {day(file.timestamp)}{where}.")
    data = files[0].data
    machine = data["machine"]
    lines.append(
        f"Machine: {machine['cpu_model']}, {counted(machine['cpus_usable'], 'core')}, "
        f"{binary_bytes(machine['memory_bytes'])} of memory, {machine['os']}, {machine['kernel']}."
    )
    if gpu := machine.get("gpu"):
        lines.append(
            f"GPU: {gpu['name']}, {counted(gpu['multiprocessors'], 'multiprocessor')}, "
            f"{binary_bytes(gpu['memory_bytes'])} of memory."
        )
    if data.get("build"):
        lines.append(f"Build: {data['build']['compiler']}, `{data['build']['flags']}`.")
    if data.get("kernels"):
        lines.append(f"Kernels: {', '.join(data['kernels'])}.")
    if "mpi" in data:
        lines.append(f"MPI: {data['mpi']['library']}, {counted(data['mpi']['ranks'], 'rank')}.")
    torch = next((file.data["pytorch"] for file in files if file.data.get("pytorch")), None)
    if torch:
        parts = [torch[key] for key in ("cpu_capability",) if key in torch]
        parts += [f"{name} {torch[key]}" for key, name in (("cuda", "CUDA"), ("cudnn", "cuDNN")) if key in torch]
        lines.append(f"PyTorch {', '.join([torch['version'], *parts])}.")
    lines += [f"Command: `{file.data['command']}`." for file in files]
    return "".join(f"- {line}\n" for line in lines)


def differ(a, b):
    """Whether two measurements differ by more than they scatter: ranges without a common value, and medians further
    apart than either is wide. A disturbed repetition can hide a small difference, hardly invent one. Single values
    differ if they are not equal."""
    if a["repetitions"] == b["repetitions"] == 1:
        return a["median"] != b["median"]
    widest = max(a["maximum"] - a["minimum"], b["maximum"] - b["minimum"])
    apart = a["maximum"] < b["minimum"] or b["maximum"] < a["minimum"]
    return min(a["repetitions"], b["repetitions"]) >= 3 and apart and abs(a["median"] - b["median"]) > widest


def single(value):
    """A number that is not repeated, as a summary."""
    return {"median": value, "minimum": value, "maximum": value, "repetitions": 1}


def figures(file):
    """(name, summary) of everything that --compare compares: what the lines of the results hold."""
    for line in file.data["results"]:
        parts = (line[key] for key in ("name", "side", "scalar", "tokens", "tiles") if key in line)
        name = ", ".join(map(str, parts))
        for key, value in line.items():
            if isinstance(value, dict) and "median" in value:
                yield f"{name}, {key.replace('_', ' ')}", value


def print_changes(figures, old, new):
    """`figures(file)` gives (name, summary). Prints a line for each figure that differs and counts the rest."""
    print(f"{new.path.name} against {old.path.name}")
    for part in ("machine", "build", "settings", "pytorch", "command"):
        if old.data.get(part) != new.data.get(part):
            print(f"  {part}: {old.data.get(part)} before, {new.data.get(part)} now")
    before, after = (dict(figures(file)) for file in (old, new))
    both = [name for name in after if name in before]
    changed = [name for name in both if differ(before[name], after[name])]
    for name in changed:
        was, now = before[name]["median"], after[name]["median"]
        ratio = f"{significant(now / was)} of it" if was else "from zero"
        print(f"  {name}: {was:g} before, {now:g} now, {ratio}")
    print(f"  {len(both) - len(changed)} of {len(both)} figures in both do not differ beyond their ranges")
    for names, where in ((after.keys() - before.keys(), "new"), (before.keys() - after.keys(), "no longer there")):
        for name in sorted(names):
            print(f"  {where}: {name}")
