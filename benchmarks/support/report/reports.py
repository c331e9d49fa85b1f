"""The report of each kind of results."""

from . import cache, kernels, lengths, mpi_ring, slide_encoder

REPORTS = {
    "cache": cache,
    "lengths": lengths,
    "kernels": kernels,
    "pytorch": kernels,
    "mpi_ring": mpi_ring,
    "slide_encoder": slide_encoder,
}


def shortened_by(file):
    """Why results are those of a quick or partial run, whose numbers no text may tell; nothing of a full one."""
    report = REPORTS[file.kind]
    given = [name for name, _ in report.options(file)]
    found = [name for name in given if name.startswith(("--quick", "--filter", "--benchmark_filter"))]
    return found + (report.shortened_by(file) if hasattr(report, "shortened_by") else [])


# Parts of texts that check_numbers.py generates: name and function of a results file.
BLOCKS = {name: make for report in REPORTS.values() for name, make in getattr(report, "BLOCKS", {}).items()}
