"""The same attention in plain PyTorch. Tensors are [batch, tokens, heads, dim]."""

import math
import typing

import torch
import torch.nn.functional as F

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
SCORES_AT_A_TIME = 1 << 26


def tensor_of(entry):
    """A tensor that shares the memory of an entry of a safetensors file."""
    dtype, shape, data = entry
    return torch.frombuffer(data, dtype=DTYPES[dtype]).view(shape)


def heads_first(x):
    """[batch, heads, tokens, dim] in memory, as PyTorch's attention likes it best."""
    return x.transpose(1, 2).contiguous()


def flash_attention(q, k, v):
    """Output and log-sum-exp of [B, h, n, d], as F.scaled_dot_product_attention computes them and gives only one."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)


def flash_attention_on_gpu(q, k, v):
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    return out, lse[..., : q.size(2)]


def explicit_attention(q, k, v, dtype=torch.float32, causal=False):
    """The same where PyTorch has no such operator: scores of a block of queries at a time, in `dtype`."""
    out, lse = [], []
    keys = k.size(2)
    block = min(512, max(1, SCORES_AT_A_TIME // (q.size(0) * q.size(1) * keys)))
    for first in range(0, q.size(2), block):
        scores = q[:, :, first : first + block].to(dtype) @ k.to(dtype).mT / math.sqrt(q.size(-1))
        if causal:
            places = torch.arange(first, first + scores.size(2), device=q.device)
            scores.masked_fill_(torch.arange(keys, device=q.device) > places.unsqueeze(-1), -torch.inf)
        lse.append(scores.logsumexp(-1))
        out.append((scores - lse[-1].unsqueeze(-1)).exp_().to(v.dtype) @ v)
    return torch.cat(out, 2), torch.cat(lse, 2)


def find_attention_with_lse():
    """Attention that also gives the log-sum-exp, and its name."""
    try:
        x = torch.zeros(1, 1, 2, 8)
        flash_attention(x, x, x)
        return flash_attention, "aten._scaled_dot_product_flash_attention_for_cpu"
    except (AttributeError, RuntimeError, TypeError):
        return explicit_attention, "scores, logsumexp, exp and a product, 512 queries at a time"


class HeadGrid(typing.NamedTuple):
    """Some of the heads as a matrix, in one direction of which they differ in their offsets and in the other do not."""

    heads: slice
    shape: tuple
    axis: int  # along which offsets differ
    offsets: slice

    def heads_of(self, x, dim):
        """View of the heads in the dimension `dim` of a tensor, which becomes two."""
        return x[(slice(None),) * dim + (self.heads,)].unflatten(dim, self.shape)


def head_grids(heads, rate, block_offsets):
    """All heads, in one grid if the rate divides their number, or a second with what is left over."""
    if block_offsets:
        block = -(-heads // rate)
        offsets = heads // block
        grids = [HeadGrid(slice(0, offsets * block), (offsets, block), 0, slice(0, offsets))]
        if rest := heads % block:
            grids.append(HeadGrid(slice(heads - rest, heads), (1, rest), 0, slice(offsets, offsets + 1)))
        return grids
    whole, rest = heads // rate, heads % rate
    grids = [HeadGrid(slice(0, whole * rate), (whole, rate), 1, slice(0, rate))] if whole else []
    if rest:
        grids.append(HeadGrid(slice(heads - rest, heads), (1, rest), 1, slice(0, rest)))
    return grids


class DilatedAttention:
    """Every head runs every branch: gather the kept rows, attend, scatter, and mix by the log-sum-exps.

    Leaner than torchscale, which pads for each branch and mixes whole tensors: rows are padded once, and a branch
    adds to the rows that it keeps. `padding` says whether zero keys fill up the segments, as torchscale has it;
    otherwise they must be full. `block_offsets`: heads of an offset are neighbours (torchscale), or it alternates.
    `attend` gives output and log-sum-exp of [B, h, n, d]; None: what is best on the CPU.
    """

    def __init__(self, tokens, heads, segments, rates, block_offsets, padding, attend=None):
        self.tokens = tokens
        self.attend = attend or find_attention_with_lse()[0]
        self.every_row_has_keys = 1 in rates
        self.branches = []  # (segments, rows of each, rate, grids of heads)
        for width, rate in zip(segments, rates):
            width = min(width, tokens)
            count = -(-tokens // width)
            padded = -(-width // rate) * rate
            if count > 1 and padded != width:
                raise ValueError(f"rate {rate} must divide the segment length {width}")
            if not padding and count * padded != tokens:
                raise ValueError(f"segments of {width} at rate {rate} must be full at {tokens} tokens")
            self.branches.append((count, padded // rate, rate, head_grids(heads, rate, block_offsets)))
        self.capacity = max(count * rows * rate for count, rows, rate, _ in self.branches)

    @staticmethod
    def kept(x, branch, grid):
        """View of the rows that a grid of heads keeps: [batch, segments, *grid, rows, dim]."""
        count, rows, rate, _ = branch
        x = grid.heads_of(x[:, : count * rows * rate], 2).unflatten(1, (count, rows, rate))
        x = x[:, :, :, grid.offsets].diagonal(dim1=3, dim2=4 + grid.axis)
        return x.permute(0, 1, 5, 3, 2, 4) if grid.axis == 0 else x.permute(0, 1, 3, 5, 2, 4)

    def gather(self, x, branch):
        count, rows, _, grids = branch
        result = x.new_empty(x.size(0), count, x.size(2), rows, x.size(3))
        for grid in grids:
            grid.heads_of(result, 2).copy_(self.kept(x, branch, grid))
        return result.flatten(0, 1)

    def __call__(self, q, k, v):
        """Output, and log-sum-exp over the branches [batch, tokens, heads]."""
        if self.capacity > self.tokens:
            q, k, v = (F.pad(x, (0, 0, 0, 0, 0, self.capacity - self.tokens)) for x in (q, k, v))
        batch, _, heads, _ = q.shape
        parts = []
        lses = q.new_full(
            (len(self.branches), batch, self.capacity, heads, 1), -torch.inf,
            dtype=torch.promote_types(q.dtype, torch.float32),
        )
        for branch, lse in zip(self.branches, lses):
            part, part_lse = self.attend(*(self.gather(x, branch) for x in (q, k, v)))
            part, part_lse = (x.unflatten(0, (batch, branch[0])) for x in (part, part_lse.unsqueeze(-1)))
            parts.append(part)
            for grid in branch[3]:
                self.kept(lse, branch, grid).copy_(grid.heads_of(part_lse, 2))
        total = lses.logsumexp(0)
        weights = (lses - total).exp_().to(q.dtype)
        if not self.every_row_has_keys:
            weights.nan_to_num_(nan=0.0)
        out = torch.zeros_like(q)
        for branch, part, weight in zip(self.branches, parts, weights):
            for grid in branch[3]:
                self.kept(out, branch, grid).addcmul_(grid.heads_of(part, 2), self.kept(weight, branch, grid))
        return out[:, : self.tokens], total[:, : self.tokens, :, 0]
