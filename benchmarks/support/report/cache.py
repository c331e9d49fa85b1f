"""The report of benchmark_ring_pattern_cache."""

import re

from .files import differ, single
from .plots import BLUE, BROWN, GREY, grouped_bars, label, ranged_line
from .text import (
    binary_bytes, branches, counted, paragraph, percent, ranged, seconds, significant, table, two_decimals,
)

STEM = "ring-pattern-cache"
TITLE = "The pattern cache"
COLOURS = {"local": BROWN, "global": BLUE, "none": GREY}
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def readable(what):
    """'patterns/n:16384/cache:cold' as 'patterns, n = 16,384, cold'."""
    words = []
    for part in filter(None, what.split("/")):
        key, _, value = part.partition(":")
        count = f"{int(value):,}" if value.isdigit() else value
        plural = "" if value == "1" else "s"
        forms = {"n": f"n = {count}", "ring": f"ring size {count}", "cache": value, "layers": f"{count} layers",
                 "contenders": f"{count} contending thread{plural}", "class": value, "policy": f"policy {value}"}
        words.append(forms.get(key, part.replace("_", " ")))
    return ", ".join(words)


def verdict(base, other, name):
    if not differ(base, other):
        return "no measurable difference"
    return f"{name} {'faster' if other['median'] < base['median'] else 'slower'}"


class Cases:
    """The figures of a results file by what they are about."""

    def __init__(self, file):
        from ..results import summarize

        data = file.data
        self.settings, self.memory, self.store = data["settings"], data["memory"], data["pattern_store"]
        self.lengths, self.rings = self.settings["sequence_lengths"], self.settings["ring_sizes"]
        self.patterns = data["patterns_of_one_forward"]
        samples = {}
        for line in data["benchmarks"]:
            case = re.match(r"(.*)/policy:(\w+)", line["name"])
            if line["run_type"] == "iteration" and case and "error_occurred" not in line:
                time = line["real_time"] * UNITS[line["time_unit"]]
                samples.setdefault(case[1], {}).setdefault(case[2], []).append(time)
        # Seconds by case, then by policy; cases of a group were run in a random order.
        groups = list(dict.fromkeys(what.rpartition("/")[0] for what in samples))
        self.cases = {
            what: {policy: summarize(times) for policy, times in samples[what].items()}
            for what in sorted(samples, key=lambda what: (groups.index(what.rpartition("/")[0]), what))
            if len(samples[what]) == len(COLOURS)
        }

    def starting_with(self, beginning):
        return {what: case for what, case in self.cases.items() if what.startswith(beginning)}

    def forward(self, n, ring, cache):
        return self.cases.get(f"forward/n:{n}/ring:{ring}/cache:{cache}")

    def generation(self, n, cache="cold"):
        return self.cases.get(f"patterns/n:{n}/cache:{cache}")

    def model(self):
        """Number of layers and the figures of their patterns, or None."""
        found = list(self.starting_with("model_patterns/").items())
        return (int(found[0][0].split(":")[-1]), found[0][1]) if found else None

    def memory_pairs(self):
        """(local, global) of each memory case."""
        keys = ("class", "n", "ring_size", "layers", "heads", "head_dim")
        shared = {tuple(line[key] for key in keys): line for line in self.memory if line["policy"] == "global"}
        return [
            (line, shared[tuple(line[key] for key in keys)]) for line in self.memory if line["policy"] == "local"
        ]

    def layers_pairs(self):
        """Those of small tensors, whose number of layers varies, ascending."""
        chosen = [pair for pair in self.memory_pairs() if pair[0]["head_dim"] == 1]
        return sorted(chosen, key=lambda pair: pair[0]["layers"])


def ratio(case):
    return case["local"]["median"] / case["global"]["median"]


def met(value, least, text):
    return f"{'met' if value >= least else 'not met'}: {text}"


def expectations(cases):
    """What the plan of the cache expected, before anything was measured, and what was."""
    if cases.model():
        layers, model = cases.model()
        times = [seconds(model[policy]["median"]) for policy in ("local", "global")]
        yield "pattern generation 2 to 3 times as fast", met(ratio(model), 2, (
            f"{significant(ratio(model))} times for the first forward pass of {layers} layers ({times[0]} against "
            f"{times[1]}), for which local caches make {layers * cases.patterns} patterns and the global one "
            f"{cases.patterns}; a single layer has nothing to share"
        ))
    forwards = cases.starting_with("forward/") | cases.starting_with("model_first_forward/")
    if forwards:
        saved = {name: 1 - 1 / ratio(case) for name, case in forwards.items()}
        faster = [name for name, case in forwards.items() if verdict(case["local"], case["global"], "") == " faster"]
        best = max(faster or saved, key=saved.get)
        text = f"{percent(saved[best])} ({readable(best)})"
        if not faster:
            text = f"global is measurably faster in none of {len(forwards)} cases ({text} is the most)"
        shares = [
            (cases.generation(n)["local"]["median"] / cases.forward(n, ring, "warm")["local"]["median"], n)
            for n in cases.lengths
            for ring in cases.rings
            if cases.generation(n) and cases.forward(n, ring, "warm")
        ]
        if shares:
            share, n = max(shares)
            text += (
                f"; making the patterns of a call takes {seconds(cases.generation(n)['local']['median'])} and "
                f"{percent(share)} of the call at most, whatever caches save"
            )
        yield "10% to 15% of the latency of a forward pass", met(saved[best] if faster else 0, 0.1, text)
    if cases.layers_pairs():
        local, shared = cases.layers_pairs()[-1]
        held = [binary_bytes(line["cache_bytes"]) for line in (shared, local)]
        peaks = [binary_bytes(line["peak_minus_baseline_bytes"]) for line in (shared, local)]
        yield "less memory", met(local["cache_bytes"] - shared["cache_bytes"], 1, (
            f"{held[0]} against {held[1]} with {local['layers']} layers, "
            f"{significant(local['cache_bytes'] / shared['cache_bytes'])} times less; the peak of a process with "
            f"tensors of {local['heads']} heads of {local['head_dim']} is {peaks[0]} above its inputs against {peaks[1]}"
        ))


def hit_rate_table(cases):
    lines = [line for pair in cases.layers_pairs() for line in pair if line["hits"] + line["misses"]]
    return table(
        lines,
        ("first forward pass of", lambda line: counted(line["layers"], "layer")),
        ("cache", lambda line: line["policy"]),
        ("lookups", lambda line: line["hits"] + line["misses"]),
        ("hits", lambda line: line["hits"]),
        ("hit rate", lambda line: percent(line["hits"] / (line["hits"] + line["misses"]), 3)),
        left=2,
    )


def draw_forward(cases):
    def draw(axes):
        panels = axes if len(cases.rings) > 1 else [axes]
        for panel, ring in zip(panels, cases.rings):
            series = []
            for cache, policy in (("cold", "local"), ("cold", "global"), ("warm", "local"), ("warm", "global"),
                                  ("warm", "none")):
                lines = [cases.forward(n, ring, cache) for n in cases.lengths]
                label = "no cache" if policy == "none" else f"{policy}, {cache}"
                hatch = "///" if cache == "cold" else None
                series.append((label, COLOURS[policy], hatch, [line and line[policy] for line in lines]))
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
        groups, series, model = [f"n = {n:,}" for n in cases.lengths], [], cases.model()
        if model:
            groups.append(f"{model[0]} layers,\nn = {cases.lengths[0]:,}")
        for cache, policy in (("cold", "local"), ("cold", "global"), ("cold", "none"), ("warm", "local"),
                              ("warm", "global")):
            lines = [cases.generation(n, cache) for n in cases.lengths]
            if model:
                lines.append(model[1] if cache == "cold" else None)
            label = "no cache" if policy == "none" else f"{policy}, {cache}"
            hatch = "///" if cache == "cold" and policy != "none" else None
            series.append((label, COLOURS[policy], hatch, [line and line[policy] for line in lines]))
        grouped_bars(axes, groups, series, 1e6)
        axes.set_yscale("log")
        axes.set_ylabel("patterns of a forward pass, µs")
        axes.legend(loc="upper left", ncol=2)
        low, high = axes.get_ylim()
        axes.set_ylim(low / 2, high * 4)  # room for the legend

    return draw


def draw_memory(cases):
    def draw(axes):
        pairs = cases.layers_pairs()
        layers = [local["layers"] for local, _ in pairs]
        for i, policy in enumerate(("local", "global")):
            kibibytes = [pair[i]["cache_bytes"] / 1024 for pair in pairs]
            axes.plot(layers, kibibytes, "o-", color=COLOURS[policy], label=policy)
            axes.annotate(binary_bytes(pairs[-1][i]["cache_bytes"]), (layers[-1], kibibytes[-1]),
                          textcoords="offset points", xytext=(-4, 7), ha="right")
        label(axes, "layers of a model", "held by pattern caches, KiB", layers)
        axes.set_ylim(bottom=0)
        axes.margins(y=0.15)
        axes.legend(loc="upper left")

    return draw


def draw_contention(cases):
    def draw(axes):
        lookups = cases.starting_with("lookup/")
        threads = [int(re.search(r"contenders:(\d+)", what)[1]) for what in lookups]
        names = {"none": "no cache: made at each lookup", "local": "local (one per thread)",
                 "global": "global (shared by all)"}
        for policy, name in names.items():
            summaries = [case[policy] for case in lookups.values()]
            ranged_line(axes, threads, summaries, 1e9, marker="o", color=COLOURS[policy], label=name)
        label(axes, "threads that look patterns up at once", "wall time per lookup, ns", threads, None, "xy", 2)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)

    return draw


def store_text(file):
    store = file.data["pattern_store"]
    return paragraph(
        f"A pattern of {store['rows'] // 2**20} x 2^20 rows ({binary_bytes(store['pattern_bytes'])}) takes "
        f"{seconds(store['making_seconds']['median'])} to make and {seconds(store['loading_seconds']['median'])} to "
        "check and map, on one core with the file in the page cache."
    )


BLOCKS = {"pattern_store": store_text}


def sections(files, plots):
    [file] = files
    cases, settings = Cases(file), file.data["settings"]
    words = {what: verdict(case["local"], case["global"], "global") for what, case in cases.cases.items()}
    faster, slower = ([what for what in words if words[what] == f"global {word}"] for word in ("faster", "slower"))
    both = [
        (f"{what}/policy:{policy}".replace("cache:cold/", ""), case[policy], cases.cases[warm][policy])
        for what, case in cases.cases.items()
        if (warm := what.replace("cache:cold", "cache:warm")) != what and warm in cases.cases
        for policy in COLOURS
    ]

    def show(beginning, *arguments):
        """The plot of cases of which a filter may have left none."""
        return plots.show(*arguments) if cases.starting_with(beginning) else ""

    yield (
        f"`{settings['class']}`, batch 1, {settings['heads']} heads of {settings['head_dim']}, {branches(settings)}, "
        f"{counted(settings['threads'], 'thread')}. Three policies: one cache per object (local, the old way), one for "
        "the process (global, the new one), none. "
    ) + (f"FAILED: {'; '.join(file.failures())}.\n" if file.failures() else
         "All give the same bits; every timed output was compared.\n")
    yield "## What was expected\n"
    yield table(expectations(cases), ("expected", lambda row: row[0]), ("measured", lambda row: row[1]), left=2)
    yield (
        "Figures are medians with minimum and maximum. Two count as different if these ranges do not overlap and the "
        f"medians are further apart than either range is wide. Of {len(words)} cases global is faster than local in "
        f"{len(faster)} and slower in {len(slower)}{' (' + '; '.join(map(readable, slower)) + ')' if slower else ''}.\n"
    )
    yield "## Local (old) against global (new)\n"
    yield table(
        cases.cases.items(),
        ("case", lambda item: readable(item[0])),
        ("local (old)", lambda item: ranged(item[1]["local"], seconds)),
        ("global (new)", lambda item: ranged(item[1]["global"], seconds)),
        ("none", lambda item: ranged(item[1]["none"], seconds)),
        ("local / global", lambda item: significant(ratio(item[1]))),
        ("global against local", lambda item: words[item[0]]),
    )
    yield "## Forward passes, cold against warm\n"
    yield show("forward/", "forward", "Time of forward passes, cold and warm, by tokens", draw_forward(cases),
               len(cases.rings), (9, 3.8))
    yield table(
        both,
        ("case", lambda line: readable(line[0])),
        ("cold", lambda line: ranged(line[1], seconds)),
        ("warm", lambda line: ranged(line[2], seconds)),
        ("cold / warm", lambda line: significant(line[1]["median"] / line[2]["median"])),
        ("warm against cold", lambda line: verdict(line[1], line[2], "warm")),
    )
    yield "## Making patterns\n"
    yield show("patterns/", "patterns", "Time to get the patterns of a forward pass", draw_patterns(cases))
    yield "## Memory\n"
    yield plots.show("memory", "Bytes held by pattern caches against layers", draw_memory(cases))
    yield "Bytes held by pattern caches, and peak memory above the inputs; each case is a process of its own.\n"
    yield table(
        cases.memory_pairs(),
        ("case", lambda pair: f"{pair[0]['class']}, n = {pair[0]['n']:,}, ring size {pair[0]['ring_size']}"),
        ("layers", lambda pair: pair[0]["layers"]),
        ("heads", lambda pair: f"{pair[0]['heads']} x {pair[0]['head_dim']}"),
        ("local (old)", lambda pair: binary_bytes(pair[0]["cache_bytes"])),
        ("global (new)", lambda pair: binary_bytes(pair[1]["cache_bytes"])),
        ("local / global", lambda pair: significant(pair[0]["cache_bytes"] / pair[1]["cache_bytes"])),
        ("peak, local", lambda pair: binary_bytes(pair[0]["peak_minus_baseline_bytes"])),
        ("peak, global", lambda pair: binary_bytes(pair[1]["peak_minus_baseline_bytes"])),
    )
    yield "How often lookups hit, with these layers one after the other and every cache empty before:\n"
    yield hit_rate_table(cases)
    yield "## Contention\n"
    yield show("lookup/", "contention", "Time per lookup against threads", draw_contention(cases))
    if alone := cases.cases.get("lookup/contenders:1/cache:warm"):
        yield (
            f"A warm lookup by one thread takes {seconds(alone['global']['median'])} in the global cache, "
            f"{two_decimals(1 / ratio(alone))} times as long as in a local one. With several threads the wall time is "
            "divided by the lookups of all.\n"
        )
    yield "## Patterns on disk\n"
    store = cases.store
    yield (
        f"A pattern of {store['rows']:,} rows ({binary_bytes(store['pattern_bytes'])}) takes "
        f"{ranged(store['making_seconds'], seconds)} to make, {ranged(store['saving_seconds'], seconds)} to save, and "
        f"{ranged(store['loading_seconds'], seconds)} to check and map from a file in the page cache.\n"
    )


def figures(file):
    """(name, summary) of everything that --compare compares."""
    cases = Cases(file)
    for what, case in cases.cases.items():
        for policy in COLOURS:
            yield f"{readable(what)}, {policy}", case[policy]
    for line in cases.memory:
        name = ", ".join(str(line[key]) for key in ("class", "policy", "n", "ring_size", "layers", "heads", "head_dim"))
        yield f"bytes held, {name}", single(line["cache_bytes"])
    for what in ("making", "saving", "loading"):
        yield f"pattern store, {what}", cases.store[f"{what}_seconds"]
