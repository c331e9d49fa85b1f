"""Result files: which benchmark wrote one, when, and where its page and plots belong."""

import json
import pathlib
import re


class ReportError(Exception):
    """A file that no report can be made of; the text says why."""


def kind_of(data):
    """Name of the benchmark that wrote these results, or None."""
    if not isinstance(data, dict):
        return None
    if "ring_attention" in data and "benchmarks" in data:
        return "cache"
    if "mpi" in data:
        return "mpi_ring"
    if "lengths" in data:
        return "lengths"
    if "peaks" in data or "long" in data:
        return "kernels"
    lines = data.get("results") or [{}]
    if "tiles" in lines[0]:
        return "slide_encoder"
    if "worst_in" in lines[0] or "library_gflops" in lines[0]:
        return "pytorch"
    return None


class ResultsFile:
    """`data` is its JSON, `kind` one of kind_of's, `timestamp` as 20261122T184501Z."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        try:
            self.text = self.path.read_text(encoding="utf-8")
            self.data = json.loads(self.text)
        except (OSError, ValueError) as error:
            raise ReportError(f"{self.path}: {error}") from error
        self.kind = kind_of(self.data)
        if self.kind is None:
            raise ReportError(f"{self.path}: not the results of one of the benchmarks")
        about = self.data["ring_attention"] if self.kind == "cache" else self.data
        self.timestamp = about.get("timestamp", "")
        if not re.fullmatch(r"\d{8}T\d{6}Z", self.timestamp):
            raise ReportError(f"{self.path}: no UTC time of the form 20261122T184501Z")

    @property
    def about(self):
        """Where machine, build, commit and settings are told."""
        if self.kind == "cache":
            return self.data["ring_attention"]
        if self.kind == "pytorch" and "machine" not in self.data:
            return self.data | self.data["results"][0]
        return self.data

    def failures(self):
        """What the run itself called wrong: outputs that differ, errors, limits that were not kept."""
        found = list(self.about.get("verification", {}).get("errors", []))
        if not self.about.get("pattern_lookup_ratio", {}).get("within_limit", True):
            found.append("warm lookups are above the limit")
        for key in ("results", "long", "lengths"):
            for line in self.data.get(key) or []:
                name = line.get("name") or line.get("scalar") or line.get("tokens")
                if "error" in line:
                    found.append(f"{name}: {line['error']}")
                    continue
                worst = line.get("worst_error_in_tolerances", 0.0)  # null: infinite, or not a number
                if worst is None or worst > 1 or not line.get("agree", True):
                    found.append(f"{name}: outputs differ")
        return found


def kept_files(folder):
    """The result files of a folder, the newest first; files that are none are left out."""
    found = []
    for path in sorted(pathlib.Path(folder).glob("*_results-*.json")):
        try:
            found.append(ResultsFile(path))
        except ReportError:
            continue
    return sorted(found, key=lambda file: file.timestamp, reverse=True)
