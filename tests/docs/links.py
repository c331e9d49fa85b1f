"""Links of a Markdown page to files of the project and to headings."""

import pathlib
import re


def slugs_of(text: str) -> set[str]:
    """The anchors that GitHub gives to headings; of several that are alike, the first one's."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?)\s*$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: pathlib.Path) -> list[str]:
    """Mistakes, each with its place. Links to other sites are not looked at."""
    text = page.read_text(encoding="utf-8")
    # Code is no link; its lines stay, so that they count.
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", lambda code: "\n" * code.group().count("\n"), text, flags=re.M | re.S)
    mistakes = []
    for link in re.finditer(r"\]\(([^)\s]+)\)", prose):
        target = link.group(1)
        if re.match(r"[a-z]+:", target):
            continue
        place = f"{page}:{prose.count(chr(10), 0, link.start()) + 1}"
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            mistakes.append(f"{place}: {target}: there is no such file")
        elif anchor and anchor not in slugs_of(file.read_text(encoding="utf-8")):
            mistakes.append(f"{place}: {target}: there is no such heading")
    return mistakes
