#!/usr/bin/env python3
"""Checks that every measured number in README.md and docs is the one in a file of docs/benchmarks."""

import argparse
import json
import pathlib
import re
import sys

sys.dont_write_bytecode = True

from support.tied_numbers.pages import measures, pages, pattern_of  # noqa: E402
from support.tied_numbers.values import ValueMissing, evaluate  # noqa: E402
from support.report import index  # noqa: E402
from support.report.reports import BLOCKS, REPORTS, shortened_by  # noqa: E402
from support.report.results_files import ReportError, ResultsFile, kept_files  # noqa: E402

PROJECT = pathlib.Path(__file__).resolve().parent.parent

EPILOG = """\
docs/benchmarks/numbers.json says where numbers come from:
  sources   names of result files of full runs in docs/benchmarks, each with its kind; null where none was published
  blocks    the source of a generated part of a text, between <!-- measured: NAME --> and <!-- end of measured -->
  numbers   page, a text in which {} stands for each number, and for each the source, an expression (see
            support/tied_numbers/values.py) and Python's format of the number
  stated    page, a text with a number that was not measured, and why it may stand there
Every other number with a unit of time, speed, memory or proportion is an error, as are a text that is not found, a
number that differs and a file that is missing.
"""


class Numbers:
    def __init__(self, project):
        self.project = project
        self.kept = project / "docs" / "benchmarks"
        self.path = self.kept / "numbers.json"
        self.rules = json.loads(self.path.read_text(encoding="utf-8"))
        self.pages = {page.name: page for page in pages(project)}
        self.errors = []
        self.notes = []
        self.files = {}
        for name, source in self.rules["sources"].items():
            if source["file"] is None:
                continue  # nothing was published yet: blocks are empty
            try:
                self.files[name] = ResultsFile(self.kept / source["file"])
            except ReportError as error:
                self.errors.append(f"numbers.json: source {name}: {error}")

    def check_sources(self):
        """No text tells the numbers of a quick or partial run."""
        for name, file in self.files.items():
            if shortened := shortened_by(file):
                self.errors.append(
                    f"numbers.json: source {name}: {file.path.name} is not of a full run: {', '.join(shortened)}"
                )

    def take_newest(self):
        """Sources become the newest files of their kind that have every number asked of them."""
        for name, source in self.rules["sources"].items():
            for file in kept_files(self.kept):
                if file.kind == source["kind"] and self.serves(name, file):
                    if file.path.name != source["file"]:
                        print(f"{name}: {file.path.name}, was {source['file']}")
                    source["file"], self.files[name] = file.path.name, file
                    self.errors = [
                        error
                        for error in self.errors
                        if not error.startswith(f"numbers.json: source {name}:")
                    ]
                    break

    def serves(self, name, file):
        if shortened_by(file):
            return False
        try:
            for rule in self.rules["numbers"]:
                for source, expression, _ in rule["values"]:
                    if source == name:
                        evaluate(file.data, expression)
        except ValueMissing:
            return False
        return True

    def expected(self, rule):
        """The numbers of a rule as they must be written; None where that cannot be told."""
        written = []
        for source, expression, form in rule["values"]:
            if source not in self.files:
                if source not in self.rules["sources"]:
                    self.errors.append(f"numbers.json: no source is called {source}")
                elif self.rules["sources"][source]["file"] is None:
                    self.errors.append(f"{rule['page']}: {source} was not published yet: {rule['text']}")
                return None
            try:
                written.append(format(evaluate(self.files[source].data, expression), form))
            except (ValueMissing, ZeroDivisionError, ValueError) as error:
                self.errors.append(f"numbers.json: {self.files[source].path.name}: {error}")
                return None
        return written

    def find(self, rule):
        """The one place of a rule's text; None, with an error, where there is not exactly one."""
        page = self.pages.get(rule["page"])
        found = list(pattern_of(rule["text"]).finditer(page.text)) if page else []
        if len(found) == 1:
            return page, found[0]
        times = "not found" if not found else f"found {len(found)} times"
        self.errors.append(f"{rule['page']}: {times}: {rule['text']}")
        return None

    def check_numbers(self, update):
        for rule in self.rules["numbers"]:
            written, place = self.expected(rule), self.find(rule)
            if written is None or place is None:
                continue
            page, match = place
            if len(match.groups()) != len(written):
                self.errors.append(f"numbers.json: {len(written)} values for: {rule['text']}")
                continue
            for i in reversed(range(len(written))):
                if match[i + 1] == written[i]:
                    continue
                where = f"{page.name}:{page.line(match.start(i + 1))}"
                source, expression, _ = rule["values"][i]
                if update:
                    print(f"{where}: {match[i + 1]} becomes {written[i]}")
                    begin, end = match.span(i + 1)
                    page.text = page.text[:begin] + written[i] + page.text[end:]
                else:
                    self.errors.append(
                        f"{where}: {match[i + 1]} is written, {written[i]} is in "
                        f"{self.files[source].path.name} ({expression})"
                    )

    def check_blocks(self, update):
        for page in self.pages.values():
            for match in reversed(page.blocks()):
                name = match["name"]
                source = self.rules["blocks"].get(name)
                if name not in BLOCKS or source is None:
                    self.errors.append(f"{page.name}:{page.line(match.start())}: no block is called {name}")
                    continue
                unpublished = self.rules["sources"][source]["file"] is None
                if source not in self.files and not unpublished:
                    continue
                text = "" if unpublished else BLOCKS[name](self.files[source])
                for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
                    if not (page.path.parent / picture).exists():
                        self.errors.append(f"{page.name}:{page.line(match.start())}: {picture} is not there")
                if match["text"] == text:
                    continue
                where = f"{page.name}:{page.line(match.start())}"
                if update:
                    print(f"{where}: {name} made anew")
                    begin, end = match.span("text")
                    page.text = page.text[:begin] + text + page.text[end:]
                else:
                    self.errors.append(
                        f"{where}: {name} is not what {self.rules['sources'][source]['file']} gives (--update)"
                    )

    def check_others(self):
        """Numbers with units that nothing vouches for."""
        allowed = {name: page.generated() for name, page in self.pages.items()}
        for rule in self.rules["numbers"]:
            if place := self.find_quietly(rule):
                allowed[rule["page"]].append(place.span())
        for rule in self.rules["stated"]:
            if not rule.get("why"):
                self.errors.append(f"numbers.json: no reason for: {rule['text']}")
            if place := self.find(rule):
                allowed[rule["page"]].append(place[1].span())
        for page in self.pages.values():
            for match in measures(page):
                if not any(
                    begin <= match.start() and match.end() <= end for begin, end in allowed[page.name]
                ):
                    begin, end = max(0, match.start() - 60), match.end() + 30
                    around = " ".join(page.text[begin:end].split())
                    self.errors.append(
                        f"{page.name}:{page.line(match.start())}: no source for {match[0]!r} in: {around}"
                    )

    def check_list(self, update):
        """The list of reports names those that are there."""
        path, text = self.kept / "README.md", index.render(self.kept, REPORTS)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return
        if update:
            path.write_text(text, encoding="utf-8")
        else:
            self.errors.append("docs/benchmarks/README.md does not list what is there (--update)")

    def find_quietly(self, rule):
        page = self.pages.get(rule["page"])
        return pattern_of(rule["text"]).search(page.text) if page else None

    def note_newer(self):
        for name, source in self.rules["sources"].items():
            newest = next(
                (
                    file
                    for file in kept_files(self.kept)
                    if file.kind == source["kind"] and self.serves(name, file)
                ),
                None,
            )
            if newest and newest.path.name != source["file"]:
                self.notes.append(
                    f"{newest.path.name} is newer than {source['file']}: --update takes its numbers"
                )

    def save(self):
        for page in self.pages.values():
            page.path.write_text(page.text, encoding="utf-8")
        self.path.write_text(json.dumps(self.rules, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def show(self):
        for rule in self.rules["numbers"]:
            for source, expression, form in rule["values"]:
                value = (
                    format(evaluate(self.files[source].data, expression), form)
                    if source in self.files
                    else "?"
                )
                print(f"{rule['page']}: {value}: {self.rules['sources'][source]['file']}: {expression}")
        for page in self.pages.values():
            for match in page.blocks():
                source = self.rules["blocks"].get(match["name"])
                print(
                    f"{page.name}: block {match['name']}: {self.rules['sources'].get(source, {}).get('file')}"
                )
        for rule in self.rules["stated"]:
            print(f"{rule['page']}: stated: {rule['text']}: {rule.get('why')}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--update", action="store_true", help="write the numbers of the newest files into the texts"
    )
    what.add_argument("--list", action="store_true", help="print every number, its file and its expression")
    parser.add_argument(
        "--project", type=pathlib.Path, default=PROJECT, help="another copy of README.md and docs"
    )
    options = parser.parse_args()
    numbers = Numbers(options.project.resolve())
    if options.list:
        numbers.show()
        return
    if options.update:
        numbers.take_newest()
    numbers.check_sources()
    numbers.check_blocks(options.update)
    numbers.check_numbers(options.update)
    numbers.check_others()
    numbers.check_list(options.update)
    if options.update:
        numbers.save()
    else:
        numbers.note_newer()
    for note in numbers.notes:
        print(note)
    for error in numbers.errors:
        print(f"FAIL  {error}")
    count = sum(len(rule["values"]) for rule in numbers.rules["numbers"])
    print(f"{count} numbers, {len(numbers.rules['stated'])} stated texts, {len(numbers.errors)} failures")
    sys.exit(1 if numbers.errors else 0)


if __name__ == "__main__":
    main()
