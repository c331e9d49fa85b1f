"""The report of benchmark_ring_pattern_cache."""

import re
import shlex

from .plots import COLOURS, error_bars, grouped_bars, plain_ticks
from .text import (
    binary_bytes,
    branches,
    command_line,
    counted,
    percent,
    provenance,
    ranged,
    seconds,
    significant,
    table,
)

STEM = "ring-pattern-cache"
TITLE = "The pattern cache"


def options(file):
    """What the command line said, as far as results tell: options that differ from the defaults, with values."""
    settings = file.about["settings"]
    if settings["quick"]:
        yield "--quick", True
    if "native" not in file.about["build"]["flags"]:
        yield "--portable", True
    if settings["threads"] != file.about["machine"]["cpus_usable"]:
        yield "--threads", settings["threads"]
    small = settings["small_repetitions"]
    if repetitions := settings.get("repetitions") or small != (5 if settings["quick"] else 9) and small:
        yield "--repetitions", repetitions
    if settings.get("filter"):
        yield f"--benchmark_filter={shlex.quote(settings['filter'])}", True


def command(file):
    return command_line("./benchmarks/run", options(file))


# What the plan of the cache expected, before anything was measured.
EXPECTED_SPEEDUP = (2.0, 3.0)
EXPECTED_LATENCY = (0.10, 0.15)


def readable(what):
    """'patterns/n:16384/cache:cold' as 'patterns, n = 16,384, cold'."""
    words = []
    for part in filter(None, what.split("/")):
        key, _, value = part.partition(":")
        count = f"{int(value):,}" if value.isdigit() else value
        words.append(
            {
                "n": f"n = {count}",
                "ring": f"ring size {count}",
                "cache": value,
                "layers": f"{count} layers",
                "contenders": f"{count} contending thread" + ("" if value == "1" else "s"),
                "class": value,
            }.get(key, part.replace("_", " "))
        )
    return ", ".join(words)


class Cases:
    """The lines of a results file by what they are about."""

    def __init__(self, data):
        about = data["ring_attention"]
        self.settings = about["settings"]
        self.policies = {line["what"]: line for line in about["policies"]}
        self.cold_and_warm = about["cold_and_warm"]
        self.memory, self.memory_reduction = about["memory"], about["memory_reduction"]
        self.lengths, self.rings = self.settings["sequence_lengths"], self.settings["ring_sizes"]
        self.store, self.lookups = about.get("pattern_store"), about["pattern_lookup_ratio"]
        self.patterns = about["patterns_of_one_forward"]

    def starting_with(self, beginning):
        return [line for what, line in self.policies.items() if what.startswith(beginning)]

    def forward(self, n, ring, cache):
        return self.policies.get(f"forward/n:{n}/ring:{ring}/cache:{cache}")

    def generation(self, n, cache):
        return self.policies.get(f"patterns/n:{n}/cache:{cache}")

    def layers_memory(self):
        """Lines of one size of tensors whose number of layers varies, ascending."""
        heads = self.settings["layers_memory_heads"], self.settings["layers_memory_head_dim"]
        chosen = [line for line in self.memory_reduction if (line["heads"], line["head_dim"]) == heads]
        return sorted(chosen, key=lambda line: line["layers"])


def layer_count(what):
    return int(re.search(r"layers:(\d+)", what)[1])


def expectations(cases):
    """Of each expectation: what, what was measured, whether it was met, and why where it was not."""
    return [
        expected_generation(cases),
        expected_latency(cases),
        expected_memory(cases),
    ]


def met_or_not(value, low, high, form):
    if value > high:
        return f"exceeded: {form(value)}, and {form(high)} at most was expected"
    if value >= low:
        return f"met: {form(value)}"
    return f"not met: {form(value)}, {form(low - value)} short of {form(low)}"


def times(value):
    """3 significant digits, without zeros at the end."""
    return f"{float(f'{value:.2e}'):g} times"


def expected_generation(cases):
    low, high = EXPECTED_SPEEDUP
    [model] = cases.starting_with("model_patterns/") or [None]
    if model is None:
        return f"pattern generation {low:.0f} to {high:.0f} times as fast", "not measured", ""
    layers, speedup = layer_count(model["what"]), model["speedup_global_over_local"]
    verdict = met_or_not(speedup, low, high, times)
    single = cases.generation(cases.lengths[0], "cold")
    why = (
        f"For the first forward pass of {layers} layers local caches make {cases.patterns} patterns in each "
        f"layer, {layers * cases.patterns} in all, the global one makes {cases.patterns} and finds them "
        f"{(layers - 1) * cases.patterns} times: {seconds(model['local']['median'])} against "
        f"{seconds(model['global']['median'])}."
    )
    if single:
        ratio = single["speedup_global_over_local"]
        why += (
            " A single layer's cold call has nothing to share: both make every pattern, and global takes "
            f"{seconds(single['global']['median'])} against {seconds(single['local']['median'])} (local / "
            f"global {significant(ratio)}; {single['global_against_local']})."
        )
    return f"pattern generation {low:.0f} to {high:.0f} times as fast", verdict, why


def expected_latency(cases):
    low, high = EXPECTED_LATENCY
    what = f"{low:.0%} to {high:.0%} of the latency of a forward pass"
    lines = cases.starting_with("forward/") + cases.starting_with("model_first_forward/")
    if not lines:
        return what, "not measured", ""
    saved = {line["what"]: 1 - line["global"]["median"] / line["local"]["median"] for line in lines}
    told = [line for line in lines if line["global_against_local"] == "global faster"]
    best = max(told or lines, key=lambda line: saved[line["what"]])
    if told:
        verdict = met_or_not(saved[best["what"]], low, high, percent) + f" ({readable(best['what'])})"
    else:
        verdict = (
            f"not met: in none of {len(lines)} cases is global measurably faster than local (its medians are "
            f"between {percent(max(saved.values()))} below and {percent(-min(saved.values()))} above)"
        )
    shares = []
    for n in cases.lengths:
        made = cases.generation(n, "cold")
        for ring in cases.rings:
            warm = cases.forward(n, ring, "warm")
            if made and warm:
                shares.append((made["local"]["median"] / warm["local"]["median"], n, ring, made, warm))
    why = ""
    if shares:
        share, n, ring, made, warm = max(shares, key=lambda entry: entry[0])
        why = (
            f"Making the patterns of a call takes {seconds(made['local']['median'])} where the call itself "
            f"takes {seconds(warm['local']['median'])} (n = {n:,}, ring size {ring}, the largest share of "
            f"all sizes): a cache that cost nothing could save {percent(share)} at most."
        )
        first, last = (cases.generation(n, "cold") for n in (cases.lengths[0], cases.lengths[-1]))
        if first and last:
            why += (
                " Patterns are stored relative to their segment: making them takes "
                f"{seconds(first['local']['median'])} at n = {cases.lengths[0]:,} and "
                f"{seconds(last['local']['median'])} at n = {cases.lengths[-1]:,}."
            )
    return what, verdict, why


def expected_memory(cases):
    lines = [line for line in cases.layers_memory() if line["layers"] > 1]
    what = "less memory"
    if not lines:
        return what, "not measured", ""
    line = max(lines, key=lambda one: one["layers"])
    model = next((one for one in lines if one["layers"] == cases_layers(cases)), line)
    words = []
    for one in ([model] if model is line else [model, line]):
        words.append(
            f"{binary_bytes(one['global_cache_bytes'])} against {binary_bytes(one['local_cache_bytes'])} "
            f"with {one['layers']} layers, {significant(one['cache_bytes_reduction'])} times less"
        )
    met = all(one["global_cache_bytes"] < one["local_cache_bytes"] for one in lines)
    verdict = ("met: " if met else "not met: ") + "; ".join(words)
    first = lines[0]
    why = (
        f"From {first['layers']} to {line['layers']} layers local caches grow by "
        f"{binary_bytes(line['local_cache_bytes'] - first['local_cache_bytes'])}, the global one by "
        f"{binary_bytes(line['global_cache_bytes'] - first['global_cache_bytes'])} (n = {line['n']:,})."
    )
    peaks = line["local_peak_minus_baseline_bytes"], line["global_peak_minus_baseline_bytes"]
    if None not in peaks:
        why += (
            f" The peak memory of the process above its inputs, with {line['layers']} layers and tensors of "
            f"{line['heads']} heads of {line['head_dim']}, is {binary_bytes(peaks[1])} against {binary_bytes(peaks[0])}"
        )
        full = [
            one
            for one in cases.memory_reduction
            if one["layers"] == 1
            and (one["heads"], one["head_dim"]) == (cases.settings["heads"], cases.settings["head_dim"])
            and one["local_peak_minus_baseline_bytes"]
        ]
        if full:
            share = max(one["local_cache_bytes"] / one["local_peak_minus_baseline_bytes"] for one in full)
            why += (
                f"; with those of {cases.settings['heads']} heads of {cases.settings['head_dim']} the "
                f"patterns of a layer are {percent(share)} at most of what a call needs above its inputs"
            )
        why += "."
    return what, verdict, why


def cases_layers(cases):
    models = cases.starting_with("model_patterns/")
    return layer_count(models[0]["what"]) if models else 0


def timings_table(cases):
    rows = []
    for what, line in cases.policies.items():
        rows.append(
            [
                readable(what),
                ranged(line["local"], seconds),
                ranged(line["global"], seconds),
                ranged(line["none"], seconds),
                significant(line["speedup_global_over_local"]),
                line["global_against_local"],
            ]
        )
    return table(
        ["case", "local (old)", "global (new)", "none", "local / global", "global against local"], rows
    )


def cold_and_warm_table(cases):
    rows = []
    for line in cases.cold_and_warm:
        rows.append(
            [
                readable(line["what"].replace("policy:", "policy ")),
                ranged(line["cold"], seconds),
                ranged(line["warm"], seconds),
                significant(line["speedup_warm_over_cold"]),
                line["warm_against_cold"],
            ]
        )
    return table(["case", "cold", "warm", "cold / warm", "warm against cold"], rows)


def memory_table(cases):
    rows = []
    for line in cases.memory_reduction:
        rows.append(
            [
                f"{line['class']}, n = {line['n']:,}, ring size {line['ring_size']}",
                line["layers"],
                f"{line['heads']} x {line['head_dim']}",
                binary_bytes(line["local_cache_bytes"]),
                binary_bytes(line["global_cache_bytes"]),
                significant(line["cache_bytes_reduction"]),
                binary_bytes(line["local_peak_minus_baseline_bytes"]),
                binary_bytes(line["global_peak_minus_baseline_bytes"]),
            ]
        )
    return table(
        [
            "case",
            "layers",
            "heads",
            "local (old)",
            "global (new)",
            "local / global",
            "peak, local",
            "peak, global",
        ],
        rows,
    )


def hit_rate_table(cases):
    rows = []
    for line in cases.memory:
        if line["policy"] == "none" or "hits" not in line or line["hits"] + line["misses"] == 0:
            continue
        if line["class"] != "V2" or line["head_dim"] != cases.settings["layers_memory_head_dim"]:
            continue
        lookups = line["hits"] + line["misses"]
        rows.append(
            [
                f"{line['layers']} layers" if line["layers"] > 1 else "1 layer",
                line["policy"],
                lookups,
                line["hits"],
                percent(line["hits"] / lookups, 3),
            ]
        )
    rows.sort(key=lambda row: (int(row[0].split()[0]), row[1] == "global"))
    return (
        table(["first forward pass of", "cache", "lookups", "hits", "hit rate"], rows, left=2) if rows else ""
    )


def draw_forward(cases):
    def draw(axes):
        panels = axes if len(cases.rings) > 1 else [axes]
        for panel, ring in zip(panels, cases.rings):
            series = []
            for label, colour, hatch, cache, policy in (
                ("local, cold", COLOURS["local"], "///", "cold", "local"),
                ("global, cold", COLOURS["global"], "///", "cold", "global"),
                ("local, warm", COLOURS["local"], None, "warm", "local"),
                ("global, warm", COLOURS["global"], None, "warm", "global"),
                ("no cache", COLOURS["none"], None, "warm", "none"),
            ):
                lines = [cases.forward(n, ring, cache) for n in cases.lengths]
                series.append((label, colour, hatch, [line and line[policy] for line in lines]))
            grouped_bars(panel, [f"{n:,}" for n in cases.lengths], series, 1e3)
            panel.set_title(f"ring size {ring}")
            panel.set_xlabel("tokens n")
        top = max(panel.get_ylim()[1] for panel in panels)
        for panel in panels:
            panel.set_ylim(0, top)
        panels[0].set_ylabel("forward pass, ms")
        panels[0].legend(loc="upper left")

    return draw


def draw_patterns(cases):
    def draw(axes):
        groups = [(f"n = {n:,}", f"patterns/n:{n}") for n in cases.lengths]
        series = []
        for label, colour, hatch, cache, policy in (
            ("local, cold", COLOURS["local"], "///", "cold", "local"),
            ("global, cold", COLOURS["global"], "///", "cold", "global"),
            ("no cache", COLOURS["none"], None, "cold", "none"),
            ("local, warm", COLOURS["local"], None, "warm", "local"),
            ("global, warm", COLOURS["global"], None, "warm", "global"),
        ):
            lines = [cases.policies.get(f"{beginning}/cache:{cache}") for _, beginning in groups]
            model = cases.starting_with("model_patterns/") if cache == "cold" else []
            series.append(
                (label, colour, hatch, [line and line[policy] for line in lines + (model or [None])])
            )
        layers = cases_layers(cases)
        grouped_bars(
            axes,
            [label for label, _ in groups] + [f"{layers} layers,\nn = {cases.lengths[0]:,}"],
            series,
            1e6,
        )
        axes.set_yscale("log")
        axes.set_ylabel("patterns of a forward pass, µs")
        axes.legend(loc="upper left", ncol=2)
        low, high = axes.get_ylim()
        axes.set_ylim(low / 2, high * 4)  # room for the legend

    return draw


def draw_memory(cases):
    lines = cases.layers_memory()

    def draw(axes):
        layers = [line["layers"] for line in lines]
        for policy, label in (("local", "local (old)"), ("global", "global (new)")):
            kibibytes = [line[f"{policy}_cache_bytes"] / 1024 for line in lines]
            axes.plot(layers, kibibytes, "o-", color=COLOURS[policy], label=label)
            axes.annotate(
                binary_bytes(lines[-1][f"{policy}_cache_bytes"]),
                (layers[-1], kibibytes[-1]),
                textcoords="offset points",
                xytext=(-4, 7),
                ha="right",
            )
        plain_ticks(axes.xaxis, layers)
        axes.set_ylim(bottom=0)
        axes.margins(y=0.15)
        axes.set_xlabel("layers of a model")
        axes.set_ylabel("held by pattern caches, KiB")
        axes.legend(loc="upper left")

    return draw


def draw_contention(cases):
    lines = cases.starting_with("lookup/")

    def draw(axes):
        threads = [int(re.search(r"contenders:(\d+)", line["what"])[1]) for line in lines]
        for policy, label in (
            ("none", "no cache: made at each lookup"),
            ("local", "local (one per thread)"),
            ("global", "global (shared by all)"),
        ):
            medians, spread = error_bars([line[policy] for line in lines], 1e9)
            axes.errorbar(threads, medians, spread, marker="o", capsize=2, color=COLOURS[policy], label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        plain_ticks(axes.xaxis, threads)
        axes.set_xlabel("threads that look patterns up at once")
        axes.set_ylabel("wall time per lookup, ns")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)

    return draw


def contention_text(cases):
    lines = cases.starting_with("lookup/")
    if len(lines) < 2:
        return ""
    last = lines[-1]
    return (
        f"With {readable(last['what'].split('/')[1])} a lookup of the global cache takes "
        f"{seconds(last['global']['median'])} of wall time, of local ones "
        f"{seconds(last['local']['median'])}, and making the pattern anew {seconds(last['none']['median'])}; "
        "time is divided by the lookups of all threads.\n"
    )


def verified(about):
    """What the run checked of the outputs."""
    verification = about["verification"]
    if verification["errors"]:
        return "FAILED CHECKS: " + "; ".join(verification["errors"]) + "."
    text = "All give the same bits" if verification["policies_bitwise_equal"] else "Bits were not compared"
    return text + (
        "; every timed output was compared." if verification["every_timed_forward_compared"] else "."
    )


def page(files, plots):
    [file] = files
    cases = Cases(file.data)
    settings = cases.settings
    rows = [(what, verdict, why) for what, verdict, why in expectations(cases)]
    faster = [w for w, line in cases.policies.items() if line["global_against_local"] == "global faster"]
    slower = [w for w, line in cases.policies.items() if line["global_against_local"] == "global slower"]

    def show(beginning, *arguments):
        """The plot of cases of which a filter may have left none."""
        return plots.show(*arguments) if cases.starting_with(beginning) else ""

    parts = [
        f"# {TITLE}, measured {file.timestamp}\n",
        f"`{settings['class']}`, batch 1, {settings['heads']} heads of {settings['head_dim']}, "
        f"{branches(settings)}, {counted(settings['threads'], 'thread')}. Three policies: one "
        "cache per object (local, the old way), one for the process (global, the new one), none. "
        f"{verified(file.about)}\n",
        provenance(files, command),
        "## What was expected\n",
        table(["expected", "measured", "why"], rows, left=3),
        "Figures are medians with minimum and maximum. Two count as different where these ranges do not "
        f"overlap and the medians are further apart than either range is wide. Of {len(cases.policies)} "
        f"cases global is faster than local in {len(faster)} and slower in {len(slower)}"
        + (f" ({'; '.join(map(readable, slower))})" if slower else "")
        + ".\n",
        "## Local (old) against global (new)\n",
        timings_table(cases),
        "## Forward passes, cold against warm\n",
        show(
            "forward/",
            "forward",
            "Time of forward passes, cold and warm, by tokens",
            draw_forward(cases),
            len(cases.rings),
            (9, 3.8),
        ),
        cold_and_warm_table(cases),
        "## Making patterns\n",
        show("patterns/", "patterns", "Time to get the patterns of a forward pass", draw_patterns(cases)),
        "## Memory\n",
        plots.show("memory", "Bytes held by pattern caches against layers", draw_memory(cases)),
        "Bytes held by pattern caches, and peak memory above the inputs; each case is a process of its own.\n",
        memory_table(cases),
    ]
    if hits := hit_rate_table(cases):
        parts += [
            "How often lookups hit, with these layers one after the other and every cache empty before:\n",
            hits,
        ]
    parts += [
        "## Contention\n",
        show("lookup/", "contention", "Time per lookup against threads", draw_contention(cases)),
        contention_text(cases),
        f"Warm lookups by one thread: global {seconds(cases.lookups['global_seconds']['median'])}, local "
        f"{seconds(cases.lookups['local_seconds']['median'])}, ratio {ranged(cases.lookups)} by round.\n",
    ]
    if cases.store:
        store = cases.store
        ratio = store["making_seconds"]["median"] / store["loading_seconds"]["median"]
        parts += [
            "## Patterns on disk\n",
            f"A pattern of {store['rows']:,} rows ({binary_bytes(store['pattern_bytes'])}) takes "
            f"{ranged(store['making_seconds'], seconds)} to make, {ranged(store['saving_seconds'], seconds)} "
            f"to save, and {ranged(store['loading_seconds'], seconds)} to check and map from a file in the "
            f"page cache, {significant(ratio)} times as fast as making it.\n",
        ]
    return "\n".join(part for part in parts if part)


def figures(file):
    """(name, summary, form, whether less is better) of everything that --compare compares."""
    cases = Cases(file.data)
    for what, line in cases.policies.items():
        for policy in ("local", "global", "none"):
            yield f"{readable(what)}, {policy}", line[policy], seconds
    for line in cases.memory:
        name = f"held, {line['class']}, n = {line['n']:,}, ring size {line['ring_size']}, {line['layers']} layers, "
        name += f"{line['heads']} x {line['head_dim']}, {line['policy']}"
        yield name, exact(line["cache_bytes"]), binary_bytes
    if cases.store:
        for what in ("making", "saving", "loading"):
            yield f"pattern store, {what}", cases.store[f"{what}_seconds"], seconds


def exact(value):
    return {"median": value, "minimum": value, "maximum": value, "repetitions": 1}
