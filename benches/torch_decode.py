"""A plain PyTorch MaskGIT to hold `mgnt bench decode` against: the same architecture, weights read from a model
directory of ours, scaled dot product attention, drawing on the device. Prints one JSON object.

    python3 benches/torch_decode.py --model DIR --batch 4 --steps 12 --repeat 3 [--device cuda --dtype bf16 --compile [MODE]]

Needs torch, safetensors and numpy.
"""

import argparse
import json
import math
import os
import statistics
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Dense(torch.nn.Module):
    def __init__(self, weights, name):
        super().__init__()
        # Ours are [in, out].
        self.weight = torch.nn.Parameter(weights[f"{name}.weight"].t().contiguous())
        self.bias = torch.nn.Parameter(weights[f"{name}.bias"])

    def forward(self, x):
        return F.linear(x, self.weight, self.bias.to(self.weight.dtype))


class Norm(torch.nn.Module):
    def __init__(self, weights, name):
        super().__init__()
        self.gamma = torch.nn.Parameter(weights[f"{name}.gamma"])
        self.beta = torch.nn.Parameter(weights[f"{name}.beta"])

    def forward(self, x):
        return F.layer_norm(x, self.gamma.shape, self.gamma.to(x.dtype), self.beta.to(x.dtype), 1e-12)


class Block(torch.nn.Module):
    def __init__(self, weights, name, heads):
        super().__init__()
        self.heads = heads
        parts = [f"{name}.attention.{part}" for part in ("query", "key", "value")]
        # One product for the three, as anyone would write it.
        joined = {
            "qkv.weight": torch.cat([weights[f"{part}.weight"] for part in parts], 1),
            "qkv.bias": torch.cat([weights[f"{part}.bias"] for part in parts]),
        }
        self.qkv = Dense(joined, "qkv")
        self.output = Dense(weights, f"{name}.attention.output")
        self.attention_norm = Norm(weights, f"{name}.attention_norm")
        self.up = Dense(weights, f"{name}.mlp.up")
        self.down = Dense(weights, f"{name}.mlp.down")
        self.mlp_norm = Norm(weights, f"{name}.mlp_norm")

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = self.attention_norm(x + self.output(mixed))
        return self.mlp_norm(x + self.down(F.gelu(self.up(x), approximate="tanh")))


class Transformer(torch.nn.Module):
    def __init__(self, weights, heads, codes):
        super().__init__()
        self.codes = codes
        self.tokens = torch.nn.Parameter(weights["embedding.tokens"])
        self.positions = torch.nn.Parameter(weights["embedding.positions"])
        self.norm = Norm(weights, "embedding.norm")
        layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self.blocks = torch.nn.ModuleList(Block(weights, f"blocks.{i}", heads) for i in range(layers))
        self.dense = Dense(weights, "head.dense")
        self.head_norm = Norm(weights, "head.norm")
        self.bias = torch.nn.Parameter(weights["head.bias"])

    def forward(self, tokens):
        x = self.norm(self.tokens[tokens] + self.positions[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        x = self.head_norm(F.gelu(self.dense(x[:, 1:]), approximate="tanh"))
        return F.linear(x, self.tokens[: self.codes]) + self.bias[: self.codes]


@torch.no_grad()
def decode(forward, classes, count, codes, mask, steps, choice_temperature):
    """MaskGIT's loop: cosine schedule, confidence with Gumbel noise; everything stays on the device."""
    device = classes.device
    tokens = torch.full((len(classes), count), mask, device=device)
    for step in range(steps):
        logits = forward(torch.cat([(codes + classes)[:, None], tokens], 1)).float()
        probabilities = logits.softmax(-1)
        # As multinomial draws, without its checks, which wait for the device.
        drawn = (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)
        unknown = tokens == mask
        drawn = torch.where(unknown, drawn, tokens)
        ratio = (step + 1) / steps
        left = min(max(int(math.cos(math.pi / 2 * ratio) * count), 0), count - 1) if step + 1 < steps else 0
        confidence = probabilities.gather(-1, drawn[..., None])[..., 0].clamp_min(1e-30).log()
        gumbel = -torch.empty_like(confidence).exponential_().log()
        confidence = confidence + choice_temperature * (1 - ratio) * gumbel
        confidence = confidence.masked_fill(~unknown, float("inf"))
        tokens = drawn
        if left:
            tokens = tokens.scatter(1, confidence.topk(left, 1, largest=False).indices, mask)
    return tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["f32", "tf32", "bf16", "f16"], default="f32")
    # What torch.compile is told: "reduce-overhead" records graphs.
    parser.add_argument("--compile", nargs="?", const="default", choices=["default", "reduce-overhead"])
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    dtype = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[arguments.dtype]
    weights = load_file(os.path.join(arguments.model, "model.safetensors"))
    model = Transformer(weights, arguments.heads, arguments.codes).eval().to(arguments.device, dtype)
    count = model.positions.shape[0] - 1
    mask = model.tokens.shape[0] - 1
    forward = torch.compile(model, mode=arguments.compile) if arguments.compile else model
    classes = torch.arange(arguments.batch, device=arguments.device) % arguments.classes
    seconds = []
    for round in range(arguments.repeat + 1):
        torch.manual_seed(round)
        start = time.perf_counter()
        tokens = decode(forward, classes, count, arguments.codes, mask, arguments.steps, 4.5)
        # Reading them waits for the device.
        assert int(tokens.max()) < arguments.codes
        if round:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(
        json.dumps(
            {
                "what": f"PyTorch {torch.__version__} on {arguments.device}, 1x{arguments.steps}, "
                + {None: "eager", "default": "compiled", "reduce-overhead": "compiled with graphs"}[arguments.compile],
                "device": arguments.device,
                "dtype": arguments.dtype,
                "threads": torch.get_num_threads(),
                "batch": arguments.batch,
                "milliseconds": 1e3 * median,
                "samples_per_second": arguments.batch / median,
            }
        )
    )


main()
