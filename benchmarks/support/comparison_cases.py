"""The problems of compare_pytorch.py and their inputs."""

import array
import dataclasses
import random
import sys

SCALARS = {"float32": "F32", "bfloat16": "BF16"}  # names as safetensors files spell them


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    tokens: int
    heads: int
    head_dim: int
    preset: str = "ring"
    segments: tuple = ()
    rates: tuple = (1,)
    backward: bool = False

    @property
    def shape(self):
        return (1, self.tokens, self.heads, self.head_dim)


def make_cases(quick):
    def dense(name, tokens, head_dim, backward=False):
        return Case(name, tokens, 8, head_dim, segments=(tokens,), backward=backward)

    rates = (1, 2, 4, 8, 16)
    longnet = Case(
        "longnet/d64/forward",
        4096 if quick else 16384,
        12,
        64,
        "longnet",
        (2048, 4096, 8192, 16384, 32768),
        rates,
    )
    gigapath = Case(
        "gigapath/d48/forward",
        2500 if quick else 10000,
        16,
        48,
        "torchscale",
        (1024, 5792, 32768, 185363, 1048576),
        rates,
    )
    return [
        dense("sdpa/d64/forward", 2048, 64),
        dense("sdpa/d128/forward", 2048, 128),
        dense("sdpa/d64/backward", 1024, 64, backward=True),
        longnet,
        gigapath,
    ]


def normal_numbers(count, scalar, seed):
    """Bytes of normal numbers: a block of a prime length, repeated, so that no two rows are alike."""
    source = random.Random(seed)
    block = array.array("f", (source.gauss(0, 1) for _ in range(262139)))
    if scalar == "bfloat16":
        block = array.array("H", block.tobytes())[1 if sys.byteorder == "little" else 0 :: 2]
    data = block.tobytes() * (count // len(block) + 1)
    return data[: count * block.itemsize]
