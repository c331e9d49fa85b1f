"""PyTorch's side of a comparison; as a program, one length of compare_lengths.py in a process of its own.

usage: pytorch_peer.py pytorch_dense|pytorch_dilated TOKENS HEADS HEAD_DIM
Prints a line of JSON when it is ready and one for each number of threads that it reads, as attention_for_comparison.
"""

import functools
import json
import pathlib
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from support import safetensors_file  # noqa: E402
from support.comparison import RATES, SEGMENTS  # noqa: E402
from support.pytorch_attention import (  # noqa: E402
    DilatedAttention, find_attention_with_lse, heads_first, tensor_of,
)

TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 2.5e-2}
LSE_TOLERANCE = 2e-5


def read_tensors(path):
    """The tensors of a safetensors file by name."""
    return {name: tensor_of(entry) for name, entry in safetensors_file.read(path).items()}


class PytorchPeer:
    """call() is what is timed, outputs() what the library's outputs must be. `inputs`: tensors by name. `attend` gives
    output and log-sum-exp of [B, h, n, d] in place of what PyTorch chooses."""

    def __init__(self, case, inputs, attend=None):
        self._case = case
        q, k, v = (inputs[name] for name in "qkv")
        if case.preset != "ring":
            torchscale = case.preset == "torchscale"
            dilated = DilatedAttention(
                case.tokens, case.heads, case.segments, case.rates, torchscale, padding=torchscale, attend=attend
            )
            self.call = lambda: dilated(q, k, v)
            return
        q, k, v = (heads_first(x) for x in (q, k, v))
        if attend:
            self.call = lambda: [x.transpose(1, 2) for x in attend(q, k, v)]
            return
        attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=case.causal)
        if case.backward:
            grad_out = heads_first(inputs["grad_out"])
            leaves = [x.requires_grad_() for x in (q, k, v)]
            out = attend(*leaves)
            self.call = lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)
        else:
            self.call = lambda: attend(q, k, v)

    def outputs(self):
        """Shaped as the library's, by name."""
        results = self.call()
        if self._case.backward:
            return {name: x.transpose(1, 2) for name, x in zip(("dq", "dk", "dv"), results)}
        if isinstance(results, torch.Tensor):
            return {"out": results.transpose(1, 2)}
        out, lse = results
        return {"out": out, "lse": lse.transpose(1, 2).unsqueeze(-1)}

    def seconds(self, threads):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start


def worst_error(case, scalar, reference, outputs):
    """Largest difference of tensors by name in units of the tolerance, huge for NaN, and where it was found."""
    worst = (0.0, "")
    for name, expected in reference.items():
        actual, expected = outputs[name].double(), expected.double()
        tolerance = LSE_TOLERANCE if name == "lse" else TOLERANCES[scalar] * (5 if case.backward else 1)
        unit = min(1.0, expected.abs().max().item())
        errors = (actual - expected).abs() / (tolerance * expected.abs().clamp(min=unit))
        errors.masked_fill_(actual == expected, 0.0)  # infinite log-sum-exps of rows without keys
        worst = max(worst, (errors.nan_to_num(nan=torch.finfo(errors.dtype).max).max().item(), name))
    return worst


def rms_error(values, reference):
    return (values.double() - reference).square().mean().sqrt().item()


def error_ratios(case, tensors):
    """Root-mean-square errors against float64 of the library's outputs, and of gradients if there are any, over those
    of PyTorch's, by name."""
    backward = "grad_out" in tensors
    inputs = [heads_first(tensors[name]) for name in ("q", "k", "v", "grad_out")[: 4 if backward else 3]]

    def run(dtype):
        leaves = [x.to(dtype).requires_grad_(backward) for x in inputs[:3]]
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=case.causal)
        return [out.detach(), *(torch.autograd.grad(out, leaves, inputs[3].to(dtype)) if backward else ())]

    results = zip(("out", "dq", "dk", "dv"), run(torch.float64), run(inputs[0].dtype))
    return {
        name: rms_error(heads_first(tensors[name]), exact) / rms_error(theirs, exact) for name, exact, theirs in results
    }


def peak_bytes():
    """Largest resident size since the last reset; 0 if the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


@torch.inference_mode()
def main():
    side, *numbers = sys.argv[1:]
    tokens, heads, head_dim = map(int, numbers)
    find_attention_with_lse()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # importing PyTorch may have taken more for a moment than it holds
    except OSError:
        pass
    about = {"bytes_before": peak_bytes(), "tensor_bytes": 4 * 4 * tokens * heads * head_dim}
    torch.manual_seed(1)
    dense = side == "pytorch_dense"
    # As each likes it best.
    shape = (1, heads, tokens, head_dim) if dense else (1, tokens, heads, head_dim)
    q, k, v = (torch.empty(shape).uniform_(-1, 1) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    if not dense:
        attend = DilatedAttention(tokens, heads, SEGMENTS, RATES, block_offsets=False, padding=False)

    def timed():
        start = time.perf_counter()
        attend(q, k, v)
        return time.perf_counter() - start

    print(json.dumps(about | {"first_seconds": timed(), "peak_bytes": peak_bytes()}), flush=True)
    for line in sys.stdin:
        torch.set_num_threads(int(line))
        print(json.dumps({"seconds": timed(), "peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
