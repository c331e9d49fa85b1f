#!/usr/bin/env python3
"""Reads the machine code of the kernels' products: their innermost loops multiply, add up, load, and nothing else that
takes a multiply-add's place. A number that is added to zeros before it is broadcast looks harmless in the source
(`Lanes{} + x`), must be kept by a compiler (0 + -0 is +0), costs nothing on one maker's processors and half the speed on
another's.

usage: inner_loops_test.py "OBJECT;..." COMPILER [COMPILER_ARGUMENT...]
"""
import collections
import platform
import re
import shutil
import subprocess
import sys
import tempfile

MULTIPLY = re.compile(r"v?fn?m(add|sub)\d*p[sd]|v?mulp[sd]|vdpbf16ps|fmla")
SCALAR_ADD = re.compile(r"v?(add|sub)s[sd]$|f(add|sub)$")
# From a register it is a shuffle, which has few ports; from memory it is a load.
BROADCAST_OF_REGISTER = re.compile(r"vp?broadcast(s[sd]|[dq])\s+%xmm")
EXPONENTIAL = re.compile(r"vscalefp[sd]|v?psll[dq]|v?cvt|vpslld|ushll|shl$")
PRODUCTS = ("multiply", "dot_products", "multiply_rows", "attend_tile", "accumulate_tile", "write_probabilities")
FEWEST_MULTIPLIES = 4
PINNED_VERSIONS = ("12", "14")  # of g++ and clang++


def functions(path, group_of):
    """(name, group, [(address, operation, operands)]) of the functions of an object file that have a group."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], check=True, capture_output=True,
                          text=True).stdout
    for function in text.split("\n\n"):
        head = re.match(r"\s*[0-9a-f]+ <(.*)>:\n", function)
        if head and (group := group_of(head[1])):
            code = re.findall(r"^\s+([0-9a-f]+):\t(\S+) *(.*)$", function, re.MULTILINE)
            yield head[1], group, [(int(address, 16), operation, operands) for address, operation, operands in code]


def innermost_loops(code):
    """The instructions between a jump back and where it leads, of jumps that enclose no other."""
    position = {address: i for i, (address, _, _) in enumerate(code)}
    spans = []
    for i, (address, operation, operands) in enumerate(code):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        if target and re.match(r"j|b\.|cb|tb|b$", operation) and int(target[1], 16) <= address:
            if (begin := position.get(int(target[1], 16))) is not None:
                spans.append((begin, i))
    for begin, end in spans:
        if not any(b >= begin and e <= end and (b, e) != (begin, end) for b, e in spans):
            yield code[begin : end + 1]


def faults(loop, refuse_shuffles):
    """What a loop of products must not hold; None if it is no such loop."""
    operations = [operation for _, operation, _ in loop]
    if sum(bool(MULTIPLY.match(o)) for o in operations) < FEWEST_MULTIPLIES:
        return None
    if any(EXPONENTIAL.match(o) for o in operations):
        return None
    found = [f"{o} {operands}" for _, o, operands in loop if SCALAR_ADD.match(o)]
    if refuse_shuffles:
        lines = [f"{o} {operands}" for _, o, operands in loop]
        found += [line for line in lines if BROADCAST_OF_REGISTER.match(line)]
    return found


def examine(paths, group_of, refuse_shuffles=True):
    """Loops of products by group, and complaints."""
    count, complaints = collections.Counter(), []
    for path in paths:
        for name, group, code in functions(path, group_of):
            for loop in innermost_loops(code):
                if (found := faults(loop, refuse_shuffles)) is None:
                    continue
                count[group] += 1
                if found:
                    complaints.append(f"{name}: {'; '.join(found[:4])}")
    return count, complaints


def instruction_set_of(name):
    """That of a mangled name, if it is one of a product."""
    scope = re.search(r"6engine\d+(generic|avx2|avx512|avx512_bf16)(?=[I\d])(.*)", name)
    return scope[1] if scope and any(function in scope[2] for function in PRODUCTS) else None


SAMPLE = """
typedef float Lanes __attribute__((vector_size(16)));
struct Sums { Lanes of[8]; };
Sums multiply(const float* a, const Lanes* b, long depth) {
  Sums sums = {};
  for (long k = 0; k < depth; ++k, a += 8)
    for (int p = 0; p < 8; ++p) sums.of[p] += (BROADCAST) * b[k];
  return sums;
}
"""


def main():
    objects = [path for path in sys.argv[1].split(";") if path.endswith(".o")]  # a precompiled header is none
    compiler = sys.argv[2:]
    if platform.machine() not in ("x86_64", "aarch64") or not shutil.which("objdump"):
        print("skipped: no objdump, or instructions that this test does not know")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        for broadcast, expected in (("Lanes{} + a[p]", True), ("a[p] - Lanes{}", False)):
            source, made = f"{scratch}/sample.cpp", f"{scratch}/sample.o"
            with open(source, "w", encoding="utf-8") as file:
                file.write(SAMPLE)
            subprocess.run([*compiler, "-O3", f"-DBROADCAST={broadcast}", "-c", source, "-o", made], check=True)
            count, complaints = examine([made], lambda name: "sample" if "multiply" in name else None)
            if not count or bool(complaints) != expected:
                print(f"the search is wrong about {broadcast}: {dict(count)} loops, {complaints}")
                return 1
    # Of others g++ 13 is known to load numbers apart from their broadcasts in backward's products for AVX2.
    version = subprocess.run([*compiler, "-dumpversion"], check=True, capture_output=True, text=True).stdout
    count, complaints = examine(objects, instruction_set_of, version.split(".")[0].strip() in PINNED_VERSIONS)
    print("loops of products:", dict(count))
    if not count:
        print("found none: are these the objects of the engine?")
        return 1
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
