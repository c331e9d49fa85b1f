#!/usr/bin/env python3
"""check_pages.py refuses broken pages, and says where they are broken; a page without mistakes passes.

Its programs and fragments do not use the library, so that compiling them takes no time.
"""

import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

GOOD = """# Page

A [link](#page), [another](page.md#page) and `no[t](one)`.

```cpp
#include <cstdio>

int main() { std::printf("printed\\n"); }
```

prints

```text
printed
```

```cpp
if (answer != 42) std::abort();
```

<!-- not run: it would take a day -->
```sh
sleep 86400
```

```sh
test -f CMakeLists.txt
```

```python
print(6 * 7)
```

It prints

```text
42
```

<!-- not run: the module is not everywhere -->
```python
import no_such_module
```

prints

<!-- not run: nor is its program -->
```text
something
```

```json
{"key": 1}
```
"""

# What is broken: the page, the line that the message must name, and what it must say.
BROKEN = {
    "a fence that is not closed": ("text\n\n```cpp\nint i;\n", 3, "not closed"),
    "a fence inside a fence": ("```text\nhere\n```cpp\nint i;\n```\n", 3, "begins inside"),
    "a fence without language": ("```\ntext\n```\n", 2, "names no language"),
    "a language without a rule": ("```rust\nfn f() {}\n```\n", 2, "no rule"),
    "a fence of tildes": ("~~~cpp\nint i;\n~~~\n", 1, "must start with ```"),
    "an indented fence": ("- item\n\n  ```cpp\n  int i;\n  ```\n", 3, "must start with ```"),
    "code by indentation": ("Text.\n\n    int i;\n", 3, "must stand in a fence"),
    "code by a tag": ("<pre>\nint i;\n</pre>\n", 1, "must stand in a fence"),
    "an empty fence": ("```cpp\n\n```\n", 2, "is empty"),
    "C++ that is called text": ("```text\n#include <cstdio>\n```\n", 2, "must be cpp"),
    "an exemption without a reason": ("<!-- not run: -->\n```sh\nfalse\n```\n", 1, "gives no reason"),
    "an exemption above no fence": ("<!-- not run: slow -->\n\n```sh\nfalse\n```\n", 1, "no fence directly below"),
    "a program that fails": ("```cpp\nint main() { return 3; }\n```\n", 2, "the program ended with status 3"),
    "a program that does not compile": ("```cpp\nint main() { return missing; }\n```\n", 2, "compiling ended"),
    "a program that lacks an include": ('```cpp\nint main() { std::puts(""); }\n```\n', 2, "without #include <cstdio>"),
    "a program without the library": ("```cpp\nint main() { ra::ring_preset(); }\n```\n", 2, "does not include"),
    "a program that warns": ("```cpp\nint main() { int unused; }\n```\n", 2, "compiling ended"),
    "another output than shown": ('```cpp\n#include <cstdio>\n\nint main() { std::puts("yes"); }\n```\nprints\n'
                                  "```text\nno\n```\n", 8, "prints something else"),
    "output of nothing": ("This prints\n\n```text\nno\n```\n", 4, "no code above"),
    "a fragment that does not compile": ("Text.\n\n```cpp\nint i = 1;\nint j = missing;\n```\n", 5, "missing"),
    "a fragment that fails": ("```cpp\nif (answer == 42) std::abort();\n```\n", 2, "the fragment ended"),
    "a command that fails": ("```sh\nfalse\ntrue\n```\n", 2, "the shell ended with status 1"),
    "a command with a wrong option": ("```sh\ncmake -S . -B build -DNO_OPTION=1\n```\n", 2, "no option NO_OPTION"),
    "a target that does not exist": ("```sh\ncmake -S . -B build\ncmake --build build --target nothing\n```\n", 2,
                                     "no target nothing"),
    "lines that are not shell": ("<!-- not run: slow -->\n```sh\nif true\n```\n", 3, "reading the shell's lines"),
    "a project that cannot be configured": ("```cmake\nfind_package(no_such_package REQUIRED)\n```\n", 2,
                                            "configuring ended"),
    "python that cannot be read": ("```python\nx = 1\ndef f(:\n```\n", 3, "syntax"),
    "python that fails": ("```python\nraise SystemExit(3)\n```\n", 2, "the script ended with status 3"),
    "python that prints something else": ('```python\nprint("yes")\n```\nprints\n```text\nno\n```\n', 6,
                                          "prints something else"),
    "output of what is not run": ("<!-- not run: slow -->\n```sh\nsleep 1\n```\nprints\n```text\nno\n```\n", 7,
                                  "the code above is not run"),
    "json that cannot be read": ("```json\n{]\n```\n", 2, "property name"),
    "a link to no file": ("Text, and\n[a link](nowhere.md).\n", 2, "there is no such file"),
    "a link to no heading": ("# Page\n\n[A link](#another-page).\n", 3, "there is no such heading"),
    "a class without a program": ("# Class\n", None, "has no complete program"),
}


def check(arguments: argparse.Namespace, folder: pathlib.Path, text: str) -> tuple[int, str, pathlib.Path]:
    classes = folder / "docs" / "classes"  # a page of a class in one case, and no matter in the others
    page = (classes if text == "# Class\n" else folder) / "page.md"
    classes.mkdir(parents=True)
    page.write_text(text)
    build = folder / "a_build"
    build.mkdir()
    (build / "CMakeCache.txt").write_text("AN_OPTION:BOOL=ON\n")
    (folder / "CMakeLists.txt").write_text("")
    done = subprocess.run(
        [sys.executable, str(HERE / "check_pages.py"), "--source", str(folder), "--scratch", str(folder / "scratch"),
         f"--compiler={arguments.compiler}", "--prelude", str(folder.parent / "prelude.inl"), "--build", str(build),
         "--", str(page)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout, page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", required=True, help="a folder that is emptied")
    parser.add_argument("--compiler", required=True, help="compiler and its flags")
    arguments = parser.parse_args()
    scratch = pathlib.Path(arguments.scratch).resolve()
    subprocess.run(["rm", "-rf", str(scratch)], check=True)
    scratch.mkdir(parents=True)
    (scratch / "prelude.inl").write_text("[[maybe_unused]] const int answer = 42;\n")

    failures = 0
    status, output, _ = check(arguments, scratch / "good", GOOD)
    if status != 0 or "not run:" not in output or "it would take a day" not in output or "10 fences" not in output:
        failures += 1
        print(f"a good page: status {status}\n{output}")
    for number, (name, (text, line, message)) in enumerate(BROKEN.items()):
        status, output, page = check(arguments, scratch / f"broken_{number}", text)
        place = str(page) if line is None else f"{page}:{line}:"
        told = any(place in printed for printed in output.splitlines()) and message in output
        if status != 1 or not told:
            failures += 1
            print(f"{name}: status {status}, and {place} with \"{message}\" is {'' if told else 'not '}told\n{output}")
    print(f"{len(BROKEN) + 1} pages, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
