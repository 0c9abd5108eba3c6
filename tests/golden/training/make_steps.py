"""Writes steps.safetensors: twenty training steps of a tiny nested transformer in PyTorch, in f64.

Weights before the first step (`weights/...`), every step's masked batch (`batch/...`), the losses of every step
(`losses` [20, 4]: total, then the cross-entropy of p = 1, 2, 4), gradient norms (`norms` [20]) and the averaged
weights after the last (`average/...`). No dropout. Run in this folder with torch and safetensors installed:

    python make_steps.py
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(here.parents[2] / "benches" / "torch"))
from nested import Nested, decay_groups, initial, learning_rate, nested_loss  # noqa: E402

CONFIG = dict(layers=2, width=32, heads=4, hidden=64, tokens=16, codes=24, classes=5)
FACTORS = [1, 2, 4]
BATCH, STEPS, WARM_UP, PEAK = 4, 20, 5, 3e-3
SMOOTHING, CLIP, DECAY, EMA = 0.1, 1.0, 0.045, 0.9

torch.manual_seed(0)
null, mask = CONFIG["codes"] + CONFIG["classes"], CONFIG["codes"] + CONFIG["classes"] + 1
# Larger than at a true start, so that sub-models differ from the first step on.
start = {n: w * (4 if w.dim() == 2 else 1) for n, w in initial(CONFIG, seed=1).items()}
out = {f"weights/{n}": w.clone() for n, w in start.items()}
weights = {n: w.double().requires_grad_() for n, w in start.items()}
average = {n: w.detach().clone() for n, w in weights.items()}
optimizer = torch.optim.AdamW(decay_groups(weights, DECAY), lr=PEAK, betas=(0.9, 0.96), eps=1e-8)
model = Nested(weights, CONFIG)

losses, norms = [], []
for step in range(STEPS):
    # Rows of one of four patterns, so that there is something to learn.
    kinds = torch.randint(0, 4, (BATCH,))
    codes = (torch.arange(CONFIG["tokens"])[None] * (kinds[:, None] + 1) + 3 * kinds[:, None]) % CONFIG["codes"]
    head = torch.where(torch.rand(BATCH) < 0.1, null, CONFIG["codes"] + kinds)
    tokens = torch.cat([head[:, None], codes], 1)
    rows, targets, share = [], [], []
    for b in range(BATCH):
        places = torch.randperm(CONFIG["tokens"])[: int(torch.randint(1, CONFIG["tokens"] + 1, ()))].sort().values
        for place in places.tolist():
            rows.append(b * (1 + CONFIG["tokens"]) + 1 + place)
            targets.append(int(codes[b, place]))
            share.append(1.0 / (BATCH * len(places)))
            tokens[b, 1 + place] = mask
    batch = dict(
        tokens=tokens, rows=torch.tensor(rows), targets=torch.tensor(targets), weights=torch.tensor(share).double()
    )
    for name, tensor in batch.items():
        kind = torch.float32 if name == "weights" else torch.int32
        out[f"batch/{step:02}/{name}"] = tensor.to(kind).contiguous()

    lam = 1.0 - step / (STEPS - 1)
    optimizer.zero_grad()
    total, truth = nested_loss(model, batch, FACTORS, lam, SMOOTHING)
    total.backward()
    norms.append(torch.nn.utils.clip_grad_norm_(list(weights.values()), CLIP).item())
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, STEPS, PEAK, WARM_UP)
    optimizer.step()
    losses.append([total.item()] + [t.item() for t in truth])
    decay = min(EMA, (1 + step) / (10 + step))
    for n, w in weights.items():
        average[n] = decay * average[n] + (1 - decay) * w.detach()

out["losses"] = torch.tensor(losses, dtype=torch.float64)
out["norms"] = torch.tensor(norms, dtype=torch.float64)
out |= {f"average/{n}": w.float().contiguous() for n, w in average.items()}
save_file(out, here / "steps.safetensors")
(here / "steps.safetensors").chmod(0o644)
print(out["losses"])
print(out["norms"])
