"""The same attention in plain PyTorch. Tensors are [batch, tokens, heads, dim]."""

import math

import torch
import torch.nn.functional as F

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


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


def explicit_attention(q, k, v, block=512):
    """The same where PyTorch has no such operator: scores of a block of queries at a time."""
    out, lse = [], []
    for rows in q.split(block, dim=2):
        scores = rows.float() @ k.float().mT / math.sqrt(q.size(-1))
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


class DilatedAttention:
    """Every head runs every branch: gather the kept rows, attend, scatter, and mix by the log-sum-exps.

    Leaner than torchscale, which pads for each branch and mixes whole tensors: rows are padded once, and a branch
    adds to the rows that it keeps. `padding` says whether zero keys fill up the segments, as torchscale has it;
    otherwise they must be full. `block_offsets`: heads of an offset are neighbours (torchscale), or it alternates.
    """

    def __init__(self, tokens, heads, segments, rates, block_offsets, padding):
        if 1 not in rates:
            raise ValueError("a branch of rate 1 is needed, or rows may be without keys")
        self.tokens = tokens
        self.attend, _ = find_attention_with_lse()
        self.branches = []  # (segments, rows of each, rate, heads with the offsets 0, 1, ... as slices)
        for width, rate in zip(segments, rates):
            width = min(width, tokens)
            count = -(-tokens // width)
            padded = -(-width // rate) * rate
            if count > 1 and padded != width:
                raise ValueError(f"rate {rate} must divide the segment length {width}")
            if not padding and count * padded != tokens:
                raise ValueError(f"segments of {width} at rate {rate} must be full at {tokens} tokens")
            block = -(-heads // rate)
            if block_offsets:
                groups = [slice(first, None, block) for first in range(block)]
            else:
                groups = [slice(first, first + rate) for first in range(0, heads, rate)]
            self.branches.append((count, padded // rate, rate, groups))
        self.capacity = max(count * rows * rate for count, rows, rate, _ in self.branches)

    @staticmethod
    def kept(x, branch, group):
        """View of the rows that a group of heads keeps: [batch, segments, heads, rows, dim]."""
        count, rows, rate, _ = branch
        x = x[:, : count * rows * rate, group].unflatten(1, (count, rows, rate))
        return x[:, :, :, : x.size(4)].diagonal(dim1=3, dim2=4).movedim(-1, 2)

    def gather(self, x, branch):
        count, rows, _, groups = branch
        result = x.new_empty(x.size(0), count, x.size(2), rows, x.size(3))
        for group in groups:
            result[:, :, group] = self.kept(x, branch, group)
        return result.flatten(0, 1)

    def __call__(self, q, k, v):
        """Output, and log-sum-exp over the branches [batch, tokens, heads]."""
        if self.capacity > self.tokens:
            q, k, v = (F.pad(x, (0, 0, 0, 0, 0, self.capacity - self.tokens)) for x in (q, k, v))
        batch, _, heads, _ = q.shape
        parts = []
        lses = torch.full((len(self.branches), batch, self.capacity, heads, 1), -torch.inf)
        for branch, lse in zip(self.branches, lses):
            count, rows, _, groups = branch
            part, part_lse = self.attend(*(self.gather(x, branch) for x in (q, k, v)))
            parts.append(part.unflatten(0, (batch, count)))
            part_lse = part_lse.view(batch, count, heads, rows, 1)
            for group in groups:
                self.kept(lse, branch, group).copy_(part_lse[:, :, group])
        total = lses.logsumexp(0)
        weights = (lses - total).exp_().to(q.dtype)
        out = torch.zeros_like(q)
        for branch, part, weight in zip(self.branches, parts, weights):
            for group in branch[3]:
                self.kept(out, branch, group).addcmul_(part[:, :, group], self.kept(weight, branch, group))
        return out[:, : self.tokens], total[:, : self.tokens, :, 0]
