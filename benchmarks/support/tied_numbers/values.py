"""Values in a result file by short expressions.

results[scalar=float,tiles=10000].seconds.median        the one element of a list with these members
max(results[*].ratio.median)                            over all elements; also min, sum, count
pattern_store.making_seconds.median * 1000              + - * / with numbers and paths, from left to right
"""

import math
import re

_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[([^\]]*)\])?")
_OPERATOR = re.compile(r"\s+([-+*/])\s+")
_OVER_ALL = re.compile(r"(max|min|sum|count)\((.*)\)")


class ValueMissing(Exception):
    """An expression has no value in a file; the text says why."""


def _matches(element, conditions):
    for condition in conditions.split(","):
        key, found, wanted = condition.partition("=")
        contains = key.endswith("~")  # key~=text: the member contains it
        actual = str(element.get(key.rstrip("~")))
        if not found or not (wanted in actual if contains else wanted == actual):
            return False
    return True


def follow(data, path):
    """All values that a path names."""
    found, rest = [data], path
    while rest:
        step = _STEP.match(rest)
        if not step:
            raise ValueMissing(f"{path}: cannot be read at {rest}")
        name, selection = step.groups()
        rest = rest[step.end() :]
        if rest and not rest.startswith("."):
            raise ValueMissing(f"{path}: cannot be read at {rest}")
        rest = rest.removeprefix(".")
        following = []
        for value in found:
            if not isinstance(value, dict) or name not in value:
                continue
            value = value[name]
            if selection is None:
                following.append(value)
            elif selection == "*":
                following += value
            elif selection.isdigit():
                following += value[int(selection) : int(selection) + 1]
            else:
                following += [element for element in value if _matches(element, selection)]
        found = following
    return found


def _term(data, text):
    over_all = _OVER_ALL.fullmatch(text)
    if over_all:
        found = follow(data, over_all[2])
        if not found:
            raise ValueMissing(f"{text}: nothing there")
        return {"max": max, "min": min, "sum": math.fsum, "count": len}[over_all[1]](found)
    try:
        return float(text)
    except ValueError:
        pass
    found = follow(data, text)
    if len(found) != 1 or not isinstance(found[0], (int, float)):
        raise ValueMissing(f"{text}: {len(found)} values, one number was expected")
    return found[0]


def evaluate(data, expression):
    first, *rest = _OPERATOR.split(expression.strip())
    value = _term(data, first)
    for operator, text in zip(rest[::2], rest[1::2]):
        other = _term(data, text)
        value = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "/": lambda a, b: a / b,
        }[operator](value, other)
    return value
