"""Calls of the shared library from Python as benchmarks make them. With queries and keys of 0, attention is the mean of
the values that a row meets.

usage: c_library_test.py PROJECT LIBRARY
"""

import ctypes
import math
import pathlib
import sys

sys.dont_write_bytecode = True
project, path = map(pathlib.Path, sys.argv[1:])
sys.path[:0] = [str(project / "benchmarks"), str(project / "tests" / "benchmarks")]

from checks import check, finish  # noqa: E402
from support.c_library import SCALARS, Context, Lengths, Library, LibraryError, Tensor  # noqa: E402

TOKENS, HEADS, DIM = 12, 2, 4


class Rows:
    """What the library needs of a tensor: float, rows `step` apart."""

    def __init__(self, *shape, step=1):
        self.shape, self._step = shape, step
        self.values = (ctypes.c_float * (shape[1] * step * shape[2] * shape[3]))()

    def data_ptr(self):
        return ctypes.addressof(self.values)

    def stride(self):
        _, tokens, heads, dim = self.shape
        return tokens * self._step * heads * dim, self._step * heads * dim, dim, 1

    def at(self, token, head):
        return (token * self._step * self.shape[2] + head) * self.shape[3]


def main():
    library = Library(path)
    shape = (1, TOKENS, HEADS, DIM)
    q, v, out = Rows(*shape), Rows(*shape, step=2), Rows(*shape, step=3)
    lse = Rows(1, HEADS, TOKENS, 1)
    for token in range(TOKENS):
        for head in range(HEADS):
            v.values[v.at(token, head)] = token
    # Segments of 6 tokens; head 0 keeps 0, 2 and 4 of each, head 1 the others.
    config = library.config("longnet", (6,), (2,))
    tensors = [ctypes.byref(Tensor.of(x)) for x in (q, q, v, out, lse)]
    scalar = ctypes.c_int(SCALARS["float32"])
    library.call("ring_attention_forward", ctypes.byref(config), scalar, *tensors, Lengths(), ctypes.c_int32(1))
    for token in range(TOKENS):
        for head in range(HEADS):
            kept = token % 2 == head
            mean = token // 6 * 6 + 2 + head if kept else 0
            check(f"out of token {token}, head {head}", abs(out.values[out.at(token, head)] - mean) < 1e-5)
            sums = lse.values[head * TOKENS + token]
            check(f"lse of token {token}, head {head}", abs(sums - math.log(3)) < 1e-5 if kept else sums == -math.inf)
    for call, text in (
        (lambda: library.config("gpt", (6,), (2,)), 'name = "gpt"'),
        (lambda: library.set_kernel("gpt"), 'kernel = "gpt"' if library.has_cuda() else "without CUDA"),
    ):
        try:
            call()
            check(f"{text} is refused", False)
        except LibraryError as error:
            check(f"{text}: {error}", text in str(error))
    try:
        names = library.kernels(0)
        Context(library, 0)  # a GPU is there
        check(f"kernels: {names}", "generic" in names)
    except LibraryError as error:
        print(f"no calls on a GPU: {error}")
    finish()


main()
