"""Prov-GigaPath's slide encoder in plain PyTorch, as a process that encodes when it is told to.

usage: pytorch_slide_encoder.py WEIGHTS TILES SCALAR
Writes a line of JSON when it is ready and one for each number of threads that it reads from standard input.
"""

import json
import math
import pathlib
import resource
import sys
import time

import torch
import torch.nn.functional as F

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from support import safetensors_file  # noqa: E402
from support.pytorch_attention import DilatedAttention, find_attention_with_lse, tensor_of  # noqa: E402


def peak_mebibytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def positions(coords, config):
    """What the fixed table of slide_ngrids^2 + 1 positions holds for these coordinates."""
    quarter = config["embed"] // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    cells = (coords.double() / config["tile_size"]).floor()
    parts = []
    for axis in (1, 0):
        angles = cells[:, axis, None] * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, 1)


class SlideEncoder:
    def __init__(self, weights, config, tiles, dtype):
        self.config = config
        self.weights = {name: tensor_of(entry).to(dtype) for name, entry in weights.items()}
        self.attention = DilatedAttention(
            tiles + 1,
            config["heads"],
            config["segment_lengths"],
            config["dilation_rates"],
            block_offsets=True,
            padding=True,
        )

    def linear(self, name, x):
        return F.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def layer_norm(self, name, x, epsilon="layernorm_eps"):
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config[epsilon])

    def layer(self, name, x):
        heads = (x.size(0), x.size(1), self.config["heads"], -1)
        y = self.layer_norm(name + "self_attn_layer_norm", x)
        qkv = [self.linear(f"{name}self_attn.{part}_proj", y).view(heads) for part in "qkv"]
        y = self.attention(*qkv)[0].flatten(2)
        y = self.layer_norm(name + "self_attn.inner_attn_ln", y)
        x = x + self.linear(name + "self_attn.out_proj", y)
        y = self.layer_norm(name + "final_layer_norm", x)
        y = F.gelu(self.linear(name + "ffn.fc1", y))
        y = self.layer_norm(name + "ffn.ffn_layernorm", y)
        return x + self.linear(name + "ffn.fc2", y)

    def __call__(self, tiles, coords):
        """The embedding, from the class token."""
        x = self.linear("patch_embed.proj", tiles)
        x = x + positions(coords, self.config).to(x.dtype)
        x = torch.cat([self.weights["cls_token"], x.unsqueeze(0)], 1)
        for index in range(self.config["layers"]):
            x = self.layer(f"encoder.layers.{index}.", x)
        x = self.layer_norm("encoder.layer_norm", x)
        return self.layer_norm("norm", x[:, 0], "norm_eps")[0]


@torch.inference_mode()
def main():
    weights_path, tiles_path, scalar = sys.argv[1:]
    about = {
        "version": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "attention_with_lse": find_attention_with_lse()[1],
        "mebibytes_before_loading": peak_mebibytes(),
    }
    dtype = {"float": torch.float32, "bfloat16": torch.bfloat16}[scalar]
    config = {key: json.loads(value) for key, value in safetensors_file.read_metadata(weights_path).items()}
    tiles = safetensors_file.read(tiles_path)
    x, coords = (tensor_of(tiles[name]) for name in ("x", "coords"))
    encoder = SlideEncoder(safetensors_file.read(weights_path), config, x.size(0), dtype)
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        torch.set_num_threads(int(line))
        start = time.perf_counter()
        embedding = encoder(x.to(dtype), coords)
        seconds = time.perf_counter() - start
        assert math.isfinite(embedding.float().sum().item())
        answer = {"seconds": seconds, "mebibytes": peak_mebibytes(), "embedding": embedding.tolist()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
