"""What changed between two result files of one benchmark."""

from .text import significant, system_version


def differ(a, b):
    """As support/statistics.hpp has it: ranges without a common value, and medians further apart than either is wide.
    Single values differ where they are not equal."""
    if a["repetitions"] == b["repetitions"] == 1:
        return a["median"] != b["median"]
    widest = max(a["maximum"] - a["minimum"], b["maximum"] - b["minimum"])
    apart = a["maximum"] < b["minimum"] or b["maximum"] < a["minimum"]
    return min(a["repetitions"], b["repetitions"]) >= 3 and apart and abs(a["median"] - b["median"]) > widest


def about_part(file, part):
    about = dict(file.about.get(part) or {})
    if "kernel" in about:
        about["kernel"] = system_version(about["kernel"])
    return about


def settings_changed(old, new):
    """Lines that say what else is not the same: machine, compiler, flags, settings."""
    for part in ("machine", "build", "settings", "pytorch"):
        before, after = (about_part(file, part) for file in (old, new))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield f"{part} {key}: {before.get(key)} before, {after.get(key)} now"


def print_changes(figures, old, new):
    """`figures(file)` gives (name, summary, form). Prints a line for each figure that differs and counts the rest."""
    print(f"{new.path.name} against {old.path.name}")
    for line in settings_changed(old, new):
        print(f"  {line}")
    before = {name: (summary, form) for name, summary, form in figures(old)}
    after = {name: (summary, form) for name, summary, form in figures(new)}
    same = 0
    for name, (summary, form) in after.items():
        if name not in before:
            continue
        previous = before[name][0]
        if not differ(previous, summary):
            same += 1
            continue
        ratio = (
            f"{significant(summary['median'] / previous['median'])} of it"
            if previous["median"]
            else "from zero"
        )
        print(f"  {name}: {form(previous['median'])} before, {form(summary['median'])} now, {ratio}")
    print(
        f"  {same} of {len(before.keys() & after.keys())} figures in both do not differ beyond their ranges"
    )
    for names, where in (
        (after.keys() - before.keys(), "new"),
        (before.keys() - after.keys(), "no longer there"),
    ):
        for name in sorted(names):
            print(f"  {where}: {name}")
