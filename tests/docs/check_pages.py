#!/usr/bin/env python3
"""Compiles and runs the code blocks of the pages, and follows their links.

Complete programs are compiled as they stand; fragments stand in a function behind prelude.inl; cmake blocks become
a project that is configured and built; sh blocks run in a folder that looks like the source tree, where the cmake and
g++ of shell/ answer from the build at hand; python runs in a process of its own; json is parsed. Programs must end
with status 0, and a text block under a line that ends in "prints" must be what the code above it printed. The only way
around is <!-- not run: REASON --> directly above a block; what is not run is still checked for its syntax. Links within
the project must lead somewhere. Status 0: all pages are right.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True  # into the source tree

from fences import Fence, read_fences  # noqa: E402
from links import broken_links  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# The precompiled header would hide a program's missing include; these are the names that pages use.
HEADERS = {
    "algorithm": "max min sort", "array": "array", "chrono": "chrono", "cmath": "cos exp fabs fmax log sin sqrt",
    "cstddef": "byte size_t", "cstdint": "int64_t uint64_t", "cstdio": "printf puts", "exception": "exception",
    "filesystem": "filesystem", "memory": "make_shared make_unique shared_ptr unique_ptr", "optional": "optional",
    "span": "span", "stdexcept": "invalid_argument runtime_error", "string": "string to_string", "thread": "thread",
    "utility": "move pair", "vector": "vector",
}
PROVIDED_BY_LIBRARY = {"int64_t", "string", "vector", "size_t"}  # its interface is made of them


class Checker:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.scratch = pathlib.Path(arguments.scratch).resolve()
        self.compiler = shlex.split(arguments.compiler)
        self.include = []  # reads the precompiled header
        self.failures: list[str] = []
        self.exemptions: list[str] = []
        self.printed: dict[int, str] = {}  # by id of the fence
        self.checked = 0

    def fail(self, message: str):
        print(message, flush=True)
        self.failures.append(message)

    def run(self, fence: Fence, command: list[str], doing: str, **options) -> subprocess.CompletedProcess | None:
        """None where the command failed, which is then told."""
        time_limit = 300
        try:
            done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=time_limit, **options)
        except subprocess.TimeoutExpired:
            self.fail(f"{fence.place()}: {doing} took more than {time_limit} s")
            return None
        if done.returncode != 0:
            print(done.stdout + done.stderr, end="")
            self.fail(f"{fence.place()}: {doing} ended with status {done.returncode}")
            return None
        return done

    # C++

    def precompile(self):
        header = self.scratch / "precompiled.hpp"
        header.write_text(f'#include "{HERE / "precompiled.hpp"}"\n')
        subprocess.run([*self.compiler, "-x", "c++-header", str(header), "-o", f"{header}.gch"], check=True)
        self.include = ["-include", str(header)]

    def build(self, fence: Fence, source: pathlib.Path, extra: list[str]) -> pathlib.Path | None:
        program = source.with_suffix("")
        command = [*self.compiler, *self.include, *WARNINGS, str(source), "-o", str(program), *extra,
                   *self.arguments.link]
        return program if self.run(fence, command, "compiling") else None

    def mpi_flags(self, fence: Fence) -> list[str] | None:
        """Flags of a program; None where it needs MPI and there is none."""
        if not uses_mpi(fence):
            return []
        if not self.arguments.mpi_flags:
            print(f"{fence.place()}: skipped, it needs MPI")
            return None
        return shlex.split(self.arguments.mpi_flags)

    def check_program(self, fence: Fence):
        for name in sorted(set(re.findall(r"\bstd::(\w+)", fence.text)) - PROVIDED_BY_LIBRARY):
            header = next((header for header, names in HEADERS.items() if name in names.split()), None)
            if header is None:
                self.fail(f"{fence.place()}: tests/docs/check_pages.py does not know the header of std::{name}")
            elif f"#include <{header}>" not in fence.text:
                self.fail(f"{fence.place()}: std::{name} without #include <{header}>")
        if re.search(r"\bra::|\bring_attention::", fence.text) and "#include <ring_attention/" not in fence.text:
            self.fail(f"{fence.place()}: the program does not include the library")
        flags = self.mpi_flags(fence)
        if flags is None:
            return
        source = self.scratch / f"{stem(fence)}.cpp"
        source.write_text(f'#line {fence.line} "{fence.page}"\n{fence.text}')
        program = self.build(fence, source, flags)
        if program:
            done = self.run(fence, [str(program)], "the program", cwd=self.scratch)
            self.printed[id(fence)] = done.stdout if done else ""

    def check_fragments(self, fences: list[Fence], name: str):
        """One unit for all; each runs in a process of its own."""
        if not fences:
            return
        flags = self.mpi_flags(fences[0])
        if flags is None:
            return
        source = self.scratch / f"{name}.cpp"
        source.write_text(unit_of(fences, self.arguments.prelude))
        program = self.build(fences[0], source, [*flags, "-Wno-unused-variable", "-Wno-unused-but-set-variable"])
        if not program:
            return
        for index, fence in enumerate(fences):
            done = self.run(fence, [str(program), str(index)], "the fragment", cwd=self.scratch)
            self.printed[id(fence)] = done.stdout if done else ""

    # Other languages

    def check_cmake(self, fence: Fence):
        if "ring_attention::mpi" in fence.text and not self.arguments.mpi_flags:
            print(f"{fence.place()}: skipped, it needs MPI")
            return
        folder = self.scratch / stem(fence)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "ring_attention").symlink_to(self.arguments.source)  # where add_subdirectory finds it
        (folder / "main.cpp").write_text("#include <ring_attention/config.hpp>\n"
                                         "int main() { ring_attention::AttentionConfig{}; }\n")
        frame = "cmake_minimum_required(VERSION 3.22)\nproject(page LANGUAGES CXX)\n" \
                "add_executable(your_program main.cpp)\n"
        (folder / "CMakeLists.txt").write_text((fence.text if "project(" in fence.text else frame + fence.text))
        configure = [self.arguments.cmake, "-S", str(folder), "-B", str(folder / "build"),
                     f"-DCMAKE_CXX_COMPILER={self.compiler[0]}", f"-DCMAKE_PREFIX_PATH={self.arguments.prefix}",
                     f"-DFETCHCONTENT_SOURCE_DIR_RING_ATTENTION={self.arguments.source}"]
        if self.run(fence, configure, "configuring") and \
                self.run(fence, [self.arguments.cmake, "--build", str(folder / "build")], "building"):
            self.run(fence, [str(folder / "build" / "your_program")], "the program")

    def check_shell(self, fence: Fence, folder: pathlib.Path):
        if not folder.exists():
            folder.mkdir()
            for entry in pathlib.Path(self.arguments.source).iterdir():
                if not entry.name.startswith((".", "build")):
                    (folder / entry.name).symlink_to(entry)
        environment = {**os.environ, "PATH": f"{HERE / 'shell'}:{os.environ['PATH']}",
                       "PAGES_BUILD": self.arguments.build, "PAGES_CMAKE": self.arguments.cmake,
                       "PAGES_COMPILER": shlex.join([*self.compiler, *self.include]),
                       "PAGES_LINK": shlex.join(self.arguments.link)}
        done = self.run(fence, ["bash", "-euo", "pipefail", "-c", fence.text], "the shell", cwd=folder, env=environment)
        self.printed[id(fence)] = done.stdout if done else ""

    def check_python(self, fence: Fence):
        source = self.scratch / f"{stem(fence)}.py"
        source.write_text(fence.text)
        done = self.run(fence, [sys.executable, str(source)], "the script", cwd=self.scratch)
        self.printed[id(fence)] = done.stdout if done else ""

    def check_syntax(self, fence: Fence):
        if fence.language == "sh":
            self.run(fence, ["bash", "-n", "-c", fence.text], "reading the shell's lines")
        elif fence.language == "python":
            try:
                compile("\n" * (fence.line - 1) + fence.text, str(fence.page), "exec")
            except SyntaxError as error:
                self.fail(f"{fence.page}:{error.lineno}: {error.msg}")
        elif fence.language == "json":
            try:
                json.loads(fence.text)
            except ValueError as error:
                self.fail(f"{fence.place()}: {error}")

    # Pages

    def check(self, pages: list[pathlib.Path]):
        fences: list[Fence] = []
        for page in pages:
            of_page, mistakes = read_fences(page)
            fences += of_page
            for mistake in mistakes + broken_links(page):
                self.fail(mistake)
            if "/docs/classes/" in str(page) and not any(fence.is_program() for fence in of_page):
                self.fail(f"{page}: the page of a class has no complete program")
        if self.failures:
            return  # what a broken page holds cannot be told
        to_run = []
        for fence in fences:
            self.checked += 1
            self.check_syntax(fence)
            if fence.exemption:
                self.exemptions.append(f"{fence.place()}: {fence.exemption}")
            else:
                to_run.append(fence)
        if self.arguments.link:
            self.precompile()
        fragments = [fence for fence in to_run if fence.language == "cpp" and not fence.is_program()]
        self.check_fragments([fence for fence in fragments if not uses_mpi(fence)], "fragments")
        self.check_fragments([fence for fence in fragments if uses_mpi(fence)], "mpi_fragments")
        for fence in to_run:
            if fence.is_program():
                self.check_program(fence)
            elif fence.language == "cmake":
                self.check_cmake(fence)
            elif fence.language == "sh":
                self.check_shell(fence, self.scratch / f"shell_{fence.page.stem}")
            elif fence.language == "python":
                self.check_python(fence)
        self.check_outputs(fences)

    def check_outputs(self, fences: list[Fence]):
        """Every fence that the page calls an output is one."""
        for before, fence in zip([None, *fences], fences):
            if not fence.is_output() or fence.exemption:
                continue
            if before is None or before.page != fence.page or before.language not in ("cpp", "sh", "python"):
                self.fail(f"{fence.place()}: no code above it prints this")
            elif before.exemption:
                self.fail(f"{fence.place()}: the code above is not run, so nobody knows that it prints this")
            elif id(before) in self.printed and self.printed[id(before)] != fence.text:
                self.fail(f"{fence.place()}: the code above prints something else:\n{self.printed[id(before)]}")


def uses_mpi(fence: Fence) -> bool:
    return re.search(r"\bMPI_|MpiCommunicator|ring_attention/mpi\.hpp", fence.text) is not None


def stem(fence: Fence) -> str:
    return f"{fence.page.stem}_{fence.line}"


def unit_of(fences: list[Fence], prelude: str) -> str:
    """A program whose n-th function is the n-th fragment. Includes move to its beginning."""
    includes = ""
    functions = ""
    mpi = uses_mpi(fences[0])
    for index, fence in enumerate(fences):
        lines = fence.text.splitlines()
        for number, line in enumerate(lines):
            if line.startswith("#include"):
                includes += f'#line {fence.line + number} "{fence.page}"\n{line}\n'
                lines[number] = ""
        body = "\n".join(lines)
        functions += f'void fragment_{index}() {{\n#include "{prelude}"\n{{\n#line {fence.line} "{fence.page}"\n' \
                     f"{body}\n}}\n}}\n"
    calls = ", ".join(f"fragment_{index}" for index in range(len(fences)))
    begin, end = "", ""
    if mpi:
        begin = "int provided;\n  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);"
        end = "MPI_Finalize();"
    return f"""#include <cstdio>
#include <cstdlib>
#include <exception>
{"#include <mpi.h>" if mpi else ""}
{includes}
{functions}
int main(int, char** arguments) {{
  void (*const fragments[])() = {{{calls}}};
  {begin}
  try {{
    fragments[std::atoi(arguments[1])]();
  }} catch (const std::exception& error) {{
    std::fprintf(stderr, "%s\\n", error.what());
    return 1;
  }}
  {end}
}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="the source tree")
    parser.add_argument("--scratch", required=True, help="a folder to work in; it is emptied")
    parser.add_argument("--compiler", required=True, help="compiler and its flags")
    parser.add_argument("--link", nargs="*", default=[], help="the compiled engine; without it nothing is precompiled")
    parser.add_argument("--prelude", default=str(HERE / "prelude.inl"), help="what stands before fragments")
    parser.add_argument("--mpi-flags", default="", help="of programs that use MPI; without it they are left out")
    parser.add_argument("--cmake", default="cmake")
    parser.add_argument("--build", default="", help="the build that sh blocks find their programs in")
    parser.add_argument("--prefix", default="", help="where the library is installed")
    parser.add_argument("pages", nargs="*", help="default: README.md and every page below docs")
    arguments = parser.parse_args()
    source = pathlib.Path(arguments.source).resolve()
    pages = [pathlib.Path(page) for page in arguments.pages] or \
        [source / "README.md", *sorted((source / "docs").rglob("*.md"))]

    checker = Checker(arguments)
    shutil.rmtree(checker.scratch, ignore_errors=True)
    checker.scratch.mkdir(parents=True)
    checker.check(pages)
    for exemption in checker.exemptions:
        print(f"not run: {exemption}")
    print(f"{len(pages)} pages, {checker.checked} fences, {len(checker.exemptions)} of them not run, "
          f"{len(checker.failures)} mistakes")
    return 1 if checker.failures or checker.checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
