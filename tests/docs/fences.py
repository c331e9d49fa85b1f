"""The code blocks (fences) of a Markdown page, and what is wrong with how they are written."""

import dataclasses
import pathlib
import re

LANGUAGES = ("cpp", "cmake", "sh", "python", "json", "text")
EXEMPTION = re.compile(r"^<!--\s*not run:(.*)-->\s*$")


@dataclasses.dataclass
class Fence:
    page: pathlib.Path
    line: int  # of its first line of text
    language: str
    text: str
    exemption: str  # why it is not run; empty: it is
    above: str  # the last line above it that is not empty

    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def is_program(self) -> bool:
        return self.language == "cpp" and re.search(r"^int main\(", self.text, re.M) is not None

    def is_output(self) -> bool:
        """Whether the page says that the code before prints this."""
        return self.language == "text" and re.search(r"\bprints:?$", self.above) is not None


def read_fences(page: pathlib.Path) -> tuple[list[Fence], list[str]]:
    """The fences of a page, in order, and its mistakes, each with its place."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fences: list[Fence] = []
    mistakes: list[str] = []
    opened = None  # line number of the fence that is open
    exempted = set()  # lines of exemptions that belong to a fence
    for number, line in enumerate(lines, 1):
        if opened is not None:
            if line.rstrip() == "```":
                fence = make_fence(page, lines, opened, number)
                fences.append(fence)
                mistakes += mistakes_of(fence)
                if opened > 1 and EXEMPTION.match(lines[opened - 2]):
                    exempted.add(opened - 1)
                opened = None
            elif line.startswith("```"):
                mistakes.append(f"{page}:{number}: a fence begins inside the one of line {opened}")
        elif line.startswith("```"):
            opened = number
        elif re.match(r"^\s+```|^\s*~~~", line):
            mistakes.append(f"{page}:{number}: a fence must start with ``` at the beginning of a line")
        elif re.search(r"<(pre|code)\b", line) or (re.match(r"^(    |\t)", line) and not lines[number - 2].strip()):
            mistakes.append(f"{page}:{number}: code must stand in a fence")
    if opened is not None:
        mistakes.append(f"{page}:{opened}: the fence is not closed")
    for number, line in enumerate(lines, 1):
        match = EXEMPTION.match(line)
        if match and not match.group(1).strip():
            mistakes.append(f"{page}:{number}: the exemption gives no reason")
        elif line.startswith("<!-- not run") and number not in exempted:
            mistakes.append(f"{page}:{number}: the exemption has no fence directly below it")
    return fences, mistakes


def make_fence(page: pathlib.Path, lines: list[str], opened: int, closed: int) -> Fence:
    before = lines[opened - 2] if opened > 1 else ""
    match = EXEMPTION.match(before)
    above = next((line for line in reversed(lines[: opened - 1]) if line.strip()), "")
    return Fence(page=page, line=opened + 1, language=lines[opened - 1][3:].strip(),
                 text="".join(line + "\n" for line in lines[opened:closed - 1]),
                 exemption=match.group(1).strip() if match else "", above=above.strip())


def mistakes_of(fence: Fence) -> list[str]:
    if not fence.language:
        return [f"{fence.place()}: the fence names no language"]
    if fence.language not in LANGUAGES:
        return [f"{fence.place()}: no rule says how to test a fence of language \"{fence.language}\""]
    if not fence.text.strip():
        return [f"{fence.place()}: the fence is empty"]
    if fence.language == "text" and re.search(r"#include|\bra::", fence.text):
        return [f"{fence.place()}: text that looks like C++; such a fence must be cpp"]
    return []
