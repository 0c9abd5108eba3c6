"""Training steps of one model in PyTorch beside ours, turn and turn about, with random weights and tokens.

    python benches/torch/compare_steps.py --mgnt target/release/mgnt --config configs/image/debug.ron \
        --layers 4 --width 128 --heads 8 --hidden 512 --batch 16 --rounds 4

The sizes must be those of the recipe, whose dropout is left out on both sides. Our side is `mgnt bench train`; each round runs
both. On CUDA `--device cuda`, and `--bf16` where the recipe's precision is that. `--json` prints a list of rows.
"""

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

import torch
from nested import Nested, decay_groups, initial, nested_loss

parser = argparse.ArgumentParser()
parser.add_argument("--mgnt", required=True)
parser.add_argument("--config", required=True)
for name in ("layers", "width", "heads", "hidden", "batch", "rounds"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--device", default="cpu")
parser.add_argument("--bf16", action="store_true", help="products in bf16, weights in f32 (autocast)")
parser.add_argument("--json", action="store_true")
args = parser.parse_args()
torch.set_num_threads(args.threads)
if args.device != "cpu":
    torch.set_float32_matmul_precision("high")
torch.set_default_device(args.device)

# The sizes of ImageNet 256, as `mgnt bench train` takes them.
config = dict(
    layers=args.layers, width=args.width, heads=args.heads, hidden=args.hidden, tokens=256, codes=1024, classes=1000
)


def step(model, weights, optimizer, factors):
    tokens, codes = config["tokens"], config["codes"]
    sequence = torch.randint(0, codes, (args.batch, 1 + tokens))
    sequence[:, 0] = codes + torch.randint(0, config["classes"], (args.batch,))
    hidden = torch.rand(args.batch, tokens) < torch.cos(torch.rand(args.batch, 1) * torch.pi / 2)
    hidden[:, 0] = True
    targets = sequence[:, 1:][hidden]
    share = (hidden / hidden.sum(1, keepdim=True) / args.batch)[hidden]
    places = torch.nn.functional.pad(hidden, (1, 0))
    rows = places.reshape(-1).nonzero()[:, 0]
    sequence[places] = codes + config["classes"] + 1
    batch = dict(tokens=sequence, rows=rows, targets=targets, weights=share)
    optimizer.zero_grad()
    with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
        total, _ = nested_loss(model, batch, factors, 0.5, 0.1)
    total.backward()
    torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
    optimizer.step()
    return total.item()


def theirs(factors, steps=4):
    """Milliseconds of steps after one to warm up."""
    with torch.device("cpu"):
        weights = initial(config, 1)
    weights = {n: w.to(args.device).requires_grad_() for n, w in weights.items()}
    groups = decay_groups(weights, 0.045)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.96), fused=args.device != "cpu")
    model = Nested(weights, config)
    times = []
    for _ in range(steps + 1):
        clock = time.perf_counter()
        step(model, weights, optimizer, factors)
        if args.device != "cpu":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - clock))
    return times[1:]


def ours(recipe):
    line = [args.mgnt, "--threads", str(args.threads), "bench", "train", "--config", recipe]
    line += ["--batch", str(args.batch), "--repeat", "2", "--device", args.device, "--json"]
    report = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)
    return {row["name"]: row["milliseconds"] for row in report["rows"]}


torch_plain, torch_nested, our_plain, our_nested = [], [], [], []
with tempfile.TemporaryDirectory() as folder, open(args.config) as file:
    recipe = os.path.join(folder, "recipe.ron")
    with open(recipe, "w") as without:
        without.write(re.sub(r"\bdropout: *[0-9.eE+-]+", "dropout: 0.0", file.read()))
    for _ in range(args.rounds):
        torch_plain += theirs([1])
        torch_nested += theirs([1, 2, 4, 8])
        if args.device != "cpu":
            # What PyTorch keeps is not there for others.
            gc.collect()
            torch.cuda.empty_cache()
        rows = ours(recipe)
        our_plain.append(rows["step, full model"])
        our_nested.append(rows["step, nested"])
tokens = args.batch * config["tokens"]
report = []
for name, theirs_ms, ours_ms in (("plain", torch_plain, our_plain), ("nested", torch_nested, our_nested)):
    a, b = statistics.median(theirs_ms), statistics.median(ours_ms)
    report.append(dict(name=name, batch=args.batch, torch_milliseconds=a, milliseconds=b, times_torch=a / b))
    if args.json:
        continue
    print(
        f"{name:7} torch {a:8.1f} ms {1e3 * tokens / a:8.0f} tokens/s   "
        f"mgnt {b:8.1f} ms {1e3 * tokens / b:8.0f} tokens/s   mgnt / torch {a / b:.2f}x"
    )
if args.json:
    print(json.dumps(report))
