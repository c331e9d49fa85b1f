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

# Parts of texts that check_numbers.py generates: name and function of a results file.
BLOCKS = {name: make for report in REPORTS.values() for name, make in getattr(report, "BLOCKS", {}).items()}
