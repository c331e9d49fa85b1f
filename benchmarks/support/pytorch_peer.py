"""PyTorch's side of a comparison."""

import time

import torch

from support import pytorch_attention


class PytorchPeer:
    """call() is what is timed, outputs() what the library's outputs must be."""

    def __init__(self, case, inputs):
        self._case = case
        q, k, v = (pytorch_attention.tensor_of(inputs[name]) for name in "qkv")
        if case.preset != "ring":
            dilated = pytorch_attention.DilatedAttention(
                case.tokens,
                case.heads,
                case.segments,
                case.rates,
                block_offsets=case.preset == "torchscale",
                padding=case.preset == "torchscale",
            )
            self.call = lambda: dilated(q, k, v)
            return
        q, k, v = (pytorch_attention.heads_first(x) for x in (q, k, v))
        attend = torch.nn.functional.scaled_dot_product_attention
        if case.backward:
            grad_out = pytorch_attention.heads_first(pytorch_attention.tensor_of(inputs["grad_out"]))
            leaves = [x.requires_grad_() for x in (q, k, v)]
            out = attend(*leaves)
            self.call = lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)
        else:
            self.call = lambda: attend(q, k, v)

    def outputs(self):
        """Shaped as the library's, by name."""
        results = self.call()
        if self._case.preset != "ring":
            out, lse = results
            return {"out": out, "lse": lse.transpose(1, 2).unsqueeze(-1)}
        if self._case.backward:
            return {name: x.transpose(1, 2) for name, x in zip(("dq", "dk", "dv"), results)}
        return {"out": results.transpose(1, 2)}

    def seconds(self, threads):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start
