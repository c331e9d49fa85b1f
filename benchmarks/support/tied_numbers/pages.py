"""The texts whose numbers are checked, and what in them is found where."""

import re

NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
_PLAIN = r"\d+(?:,\d+)*(?:\.\d+)?"
_RANGE = rf"(?:{_PLAIN}\s?[-–]\s?)?{_PLAIN}"  # 2-3 is one
_TIME = (
    r"ns|µs|us|ms|s|min|h|nsec|µsec|usec|msec|sec|(?:nano|micro|milli)?seconds?|minutes?|hours?|days?|cycles"
)
_SIZE = r"(?:[KkMGT]i?|kilo|mega|giga|tera|kibi|mebi|gibi|tebi)(?:B|bytes?|b|bits?)"
_UNITS = rf"{_TIME}|{_SIZE}(?:/s|ps)?|times|fold|%|percent|per\s+cent|[kKMGTP](?:FLOP|flop|Flop)(?:/s|S|s|ps)?"
_FACTOR = r"(?:factors?|speed-?ups?|ratios?)\s+of\s+(?:about\s+|up\s+to\s+|at\s+least\s+|at\s+most\s+)?"
_WORDS = "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|fifty|hundred"
MEASURE = re.compile(
    rf"(?<![\w.,/-])(?:"
    rf"{_RANGE}(?:\s|-)?(?:{_UNITS})(?!\w)(?:/[a-zµ]+)?"  # 7 ms, 7 ms/token, 12 MiB/s, 1.5-fold
    rf"|{_RANGE}\s?[a-z-]+(?:/s(?!\w)|\s+(?:per|a|each)\s+(?:second|minute|hour|day)\b)"  # tokens/s, tokens per second
    rf"|{_RANGE}x\b(?!\s?\d)"  # 3x, but not 4x64
    rf"|{_RANGE}\s?×(?!\s?\d)"
    rf"|{_RANGE}\s[x×](?=\s+(?:as|faster|slower|less|more|smaller|larger|speed)\b)"
    rf"|(?i:{_FACTOR}){_RANGE}"
    rf"|(?i:twice|(?:{_WORDS})\s+times)\s+(?:as\s+(?:fast|slow|long|quick|much|little)|faster|slower|the\s+speed)\b"
    rf"|[Hh]alf\s+(?:the|its|their)\s+(?:time|memory)\b"
    rf")"
)
_BLOCK = re.compile(
    r"^<!-- measured: (?P<name>[a-z_]+) -->\n(?P<text>.*?)^<!-- end of measured -->$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_MODELLED = re.compile(
    r"^<!-- scaling_table -->\n.*?^<!-- end of scaling_table -->$", re.MULTILINE | re.DOTALL
)


class Page:
    """`name` is its path in the project."""

    def __init__(self, path, name):
        self.path, self.name = path, name
        self.text = path.read_text(encoding="utf-8")

    def line(self, position):
        return self.text.count("\n", 0, position) + 1

    def blocks(self):
        return list(_BLOCK.finditer(self.text))

    def generated(self):
        """Spans that a program wrote: those that are checked as a whole, and the model's table, which a test of its own
        checks."""
        return [match.span() for pattern in (_BLOCK, _MODELLED) for match in pattern.finditer(self.text)]


def pages(project):
    """README.md and docs/**/*.md, but for the generated pages of docs/benchmarks."""
    kept = project / "docs" / "benchmarks"
    paths = [project / "README.md", *sorted((project / "docs").rglob("*.md"))]
    return [Page(path, str(path.relative_to(project))) for path in paths if kept not in path.parents]


def pattern_of(template):
    """A regular expression for a text in which {} stands for a number and white space for any."""
    parts = []
    for part in re.split(r"(\{\}|\s+)", template):
        if part == "{}":
            parts.append(f"({NUMBER})")
        elif part.isspace():
            parts.append(r"\s+")
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def measures(page):
    """Numbers with a unit outside of generated spans and of comments, which nobody sees."""
    spans = page.generated() + [match.span() for match in _COMMENT.finditer(page.text)]
    for match in MEASURE.finditer(page.text):
        if not any(begin <= match.start() < end for begin, end in spans):
            yield match
