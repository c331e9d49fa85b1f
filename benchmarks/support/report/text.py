"""Figures and tables as Markdown."""

import re
import shlex
import textwrap


def significant(value, digits=3):
    """At least `digits` significant digits, no exponent, thousands separated."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # after rounding: 9.996 has that of 10.0
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def scaled(value, units):
    """`units`: (size, name), ascending. The largest that leaves 1 or more."""
    size, name = units[0]
    for other_size, other_name in units[1:]:
        if abs(value) >= other_size * 0.9995:
            size, name = other_size, other_name
    return f"{significant(value / size)} {name}"


def seconds(value):
    return scaled(value, ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")))


def binary_bytes(value):
    return "unknown" if value is None else scaled(value, ((1024, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")))


def percent(part, digits=2):
    return f"{significant(100 * part, digits)}%"


def ranged(summary, form=significant):
    """Median (minimum to maximum)."""
    return f"{form(summary['median'])} ({form(summary['minimum'])} to {form(summary['maximum'])})"


def table(header, rows, left=1):
    """A Markdown table; the first `left` columns are text, the others numbers."""
    marks = ["---" if i < left else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, marks, *rows]) + "\n"


def paragraph(text):
    """Lines of 120 characters at most."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def listed(words):
    words = [str(word) for word in words]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def branches(settings):
    return (
        f"segments of {listed(f'{w:,}' for w in settings['segment_lengths'])} tokens at rates "
        f"{listed(settings['dilation_rates'])}"
    )


def counted(count, noun):
    """1 core, 2 cores."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def system_version(kernel):
    """Linux 6.1.0, of Linux 6.1.0-13-amd64: what follows the number is a distributor's or a host's own."""
    return re.sub(r"(\d+(?:\.\d+)+)\S*", r"\1", kernel)


def day(timestamp):
    """2026-11-22 18:45 UTC, of 20261122T184501Z."""
    return f"{timestamp[:4]}-{timestamp[4:6]}-{timestamp[6:8]} {timestamp[9:11]}:{timestamp[11:13]} UTC"


def provenance(files, command):
    """What was measured where, when and with what: a list of Markdown lines. `command(file)` made the results."""
    lines = []
    for file in files:
        about = file.about
        commit = about.get("commit") or {}
        where = f" of commit {commit['id'][:12]}" if commit.get("id") else ""
        if commit.get("modified"):
            where += ", modified"
        lines.append(f"- Results: [{file.path.name}]({file.path.name}), {day(file.timestamp)}{where}.")
    about = files[0].about
    machine = about.get("machine")
    if machine:
        lines.append(
            f"- Machine: {machine['cpu_model']}, {counted(machine['cpus_usable'], 'core')}, "
            f"{binary_bytes(machine['memory_bytes'])} of memory, {machine['os']}, "
            f"{system_version(machine['kernel'])}."
        )
    build = about.get("build")
    if build:
        lines.append(f"- Build: {build['compiler']}, `{build['flags']}`.")
    if about.get("kernels"):
        lines.append(f"- Kernels: {', '.join(about['kernels'])}.")
    if about.get("mpi"):
        lines.append(f"- MPI: {about['mpi']['library'].split(',')[0]}, {counted(about['mpi']['ranks'], 'rank')}.")
    torch = next((file.data["pytorch"] for file in files if file.data.get("pytorch")), None)
    if torch:
        lines.append(f"- PyTorch {torch['version']}, {torch['cpu_capability']}.")
    if about.get("settings", {}).get("quick") or about.get("quick"):
        lines.append("- A `--quick` run: smaller problems and fewer repetitions than a full one.")
    lines += [f"- Command: `{command(file)}`." for file in files]
    return "\n".join(lines) + "\n"


def command_line(command, options):
    """`options`: (name, value) of those that differ from the defaults; a value of True takes no word."""
    words = [command]
    for name, value in options:
        words.append(name)
        if value is not True:
            words += [shlex.quote(f"{one:g}" if isinstance(one, float) else str(one)) for one in as_list(value)]
    return " ".join(words)


def as_list(value):
    return value if isinstance(value, (list, tuple)) else [value]
