"""Figures and tables as Markdown."""

import textwrap


def significant(value, digits=3):
    """At least `digits` significant digits, no exponent, thousands separated."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # after rounding: 9.996 has that of 10.0
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def scaled(value, units):
    """`units`: (size, name), ascending. The largest that leaves 1 or more."""
    size, name = next((unit for unit in reversed(units) if abs(value) >= unit[0] * 0.9995), units[0])
    return f"{significant(value / size)} {name}"


def seconds(value):
    return scaled(value, ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")))


def binary_bytes(value):
    return "unknown" if value is None else scaled(value, ((1024, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")))


def megabytes(value):
    return f"{value / 1e6:.1f} MB"


def percent(part, digits=2):
    return f"{significant(100 * part, digits)}%"


def two_decimals(value):
    return f"{value:.2f}"


def ranged(summary, form=significant):
    """Median (minimum to maximum)."""
    return f"{form(summary['median'])} ({form(summary['minimum'])} to {form(summary['maximum'])})"


def table(lines, *columns, left=1):
    """A Markdown table. `columns`: (header, function of a line); None becomes a dash. The first `left` are text."""
    rows = [[header for header, _ in columns], ["---" if i < left else "---:" for i in range(len(columns))]]
    for line in lines:
        cells = [form(line) for _, form in columns]
        rows.append(["-" if cell is None else str(cell) for cell in cells])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def paragraph(*sentences):
    """Lines of 120 characters at most; empty sentences are left out."""
    text = " ".join(" ".join(filter(None, sentences)).split())
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n" if text else ""


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


def day(timestamp):
    """2026-11-22 18:45 UTC, of 20261122T184501Z."""
    return f"{timestamp[:4]}-{timestamp[4:6]}-{timestamp[6:8]} {timestamp[9:11]}:{timestamp[11:13]} UTC"
