"""What the comparisons have in common: the pause between calls, and how repeated measurements are told."""

import statistics

PAUSE = 0.02  # seconds before a call: the other side's threads may still be spinning


def summarize(values):
    ordered = sorted(values)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {
        "median": quartiles[1],
        "minimum": ordered[0],
        "maximum": ordered[-1],
        "lower_quartile": quartiles[0],
        "upper_quartile": quartiles[2],
        "repetitions": len(ordered),
    }
