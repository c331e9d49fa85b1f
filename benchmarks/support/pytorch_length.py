"""PyTorch's attention of one length in a process of its own, for compare_lengths.py: seconds of calls and peak memory.

usage: pytorch_length.py dense|dilated TOKENS HEADS HEAD_DIM THREADS SEGMENTS RATES LONG_CALL TOTAL
Prints one line of JSON; the last two are as in `attention_at_length --help`.
"""

import json
import pathlib
import sys
import time

sys.dont_write_bytecode = True
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import torch  # noqa: E402

from support.pytorch_attention import DilatedAttention, find_attention_with_lse  # noqa: E402


def peak_bytes():
    """Largest resident size since the last reset, or None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def reset_peak():
    """Importing PyTorch may have taken more for a moment than it holds."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


@torch.inference_mode()
def main():
    side, *numbers, segments, rates, long_call, total = sys.argv[1:]
    tokens, heads, head_dim, threads = map(int, numbers)
    torch.set_num_threads(threads)
    find_attention_with_lse()
    reset_peak()
    before = peak_bytes()
    torch.manual_seed(1)
    # As each likes it best.
    shape = (1, heads, tokens, head_dim) if side == "dense" else (1, tokens, heads, head_dim)
    q, k, v = (torch.empty(shape).uniform_(-1, 1) for _ in range(3))
    if side == "dense":

        def call():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    else:
        lists = ([int(word) for word in text.split(",")] for text in (segments, rates))
        dilated = DilatedAttention(tokens, heads, *lists, block_offsets=False, padding=False)

        def call():
            return dilated(q, k, v)

    def timed():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    seconds = [timed()]
    if seconds[0] < float(long_call):
        seconds = []
        while len(seconds) < 3 or (sum(seconds) < float(total) and len(seconds) < 9):
            seconds.append(timed())
    after = peak_bytes()
    about = {
        "seconds": seconds,
        "peak_minus_baseline_bytes": None if before is None else after - before,
        "tensor_bytes": 4 * 4 * tokens * heads * head_dim,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
