"""The nested transformer and its training step in plain PyTorch: the reference for speed and for the first steps.

Own work, from the same description as the crates: post-norm blocks, tanh gelu, LayerNorm epsilon 1e-12, sub-model p
uses the first heads and hidden units. Weights are named and laid out as in our model directories (`[in, out]`).
"""

import math

import torch
import torch.nn.functional as F

# Parameters without weight decay: biases, LayerNorm, the embedding.
NO_DECAY = ("bias", "gamma", "beta")


class Nested:
    """`weights`: name -> tensor with requires_grad; `config`: layers, width, heads, codes."""

    def __init__(self, weights, config):
        self.w = weights
        self.c = config

    def norm(self, x, name):
        return F.layer_norm(x, (self.c["width"],), self.w[name + ".gamma"], self.w[name + ".beta"], eps=1e-12)

    def dense(self, x, name, outputs):
        weight, bias = self.w[name + ".weight"], self.w[name + ".bias"]
        # With the bias in the product: beside one of halves it would make the sum one of f32.
        return F.linear(x, weight[: x.shape[-1], :outputs].t(), bias[:outputs])

    def hidden(self, tokens, p):
        width, heads = self.c["width"], self.c["heads"]
        batch, length = tokens.shape
        x = self.w["embedding.tokens"][tokens] + self.w["embedding.positions"][:length]
        x = self.norm(x, "embedding.norm")
        for i in range(self.c["layers"]):
            block = f"blocks.{i}"
            split = lambda t: t.view(batch, length, heads // p, width // heads).transpose(1, 2)
            q, k, v = (split(self.dense(x, f"{block}.attention.{n}", width // p)) for n in ("query", "key", "value"))
            mixed = F.scaled_dot_product_attention(q, k, v)
            mixed = mixed.transpose(1, 2).reshape(batch, length, width // p)
            x = self.norm(x + self.dense(mixed, f"{block}.attention.output", width), f"{block}.attention_norm")
            up = F.gelu(self.dense(x, f"{block}.mlp.up", self.c["hidden"] // p), approximate="tanh")
            x = self.norm(x + self.dense(up, f"{block}.mlp.down", width), f"{block}.mlp_norm")
        return x

    def code_logits(self, rows):
        x = F.gelu(self.dense(rows, "head.dense", self.c["width"]), approximate="tanh")
        x = self.norm(x, "head.norm")
        codes = self.c["codes"]
        return F.linear(x, self.w["embedding.tokens"][:codes], self.w["head.bias"][:codes])


def nested_loss(model, batch, factors, lam, smoothing):
    """The chained objective; returns the total and each sub-model's cross-entropy with the truth."""
    total, truth, teacher = 0.0, [], None
    for p in factors:
        hidden = model.hidden(batch["tokens"], p)
        logits = model.code_logits(hidden.reshape(-1, hidden.shape[-1])[batch["rows"]])
        logp = F.log_softmax(logits, dim=1)
        smooth = (1 - smoothing) * logp.gather(1, batch["targets"][:, None])[:, 0] + smoothing * logp.mean(1)
        with_truth = -(smooth * batch["weights"]).sum()
        truth.append(with_truth)
        if teacher is None or lam >= 1.0:
            total = total + with_truth
        else:
            with_teacher = -((teacher * logp).sum(1) * batch["weights"]).sum()
            total = total + lam * with_truth + (1 - lam) * with_teacher
        teacher = logp.detach().exp()
    return total, truth


def learning_rate(step, steps, peak, warm_up):
    """Linear warm-up, then a cosine down to zero; `step` is 0-based."""
    if step + 1 < warm_up:
        return peak * (step + 1) / warm_up
    share = min(max((step - warm_up) / max(steps - warm_up, 1), 0), 1)
    return peak * 0.5 * (1 + math.cos(math.pi * share))


def decay_groups(weights, decay):
    """Parameter groups for AdamW: decay on matrices and kernels only."""
    plain = lambda name: name.startswith("embedding.") or name.endswith(NO_DECAY)
    return [
        {"params": [w for n, w in weights.items() if not plain(n)], "weight_decay": decay},
        {"params": [w for n, w in weights.items() if plain(n)], "weight_decay": 0.0},
    ]


def initial(config, seed, dtype=torch.float32):
    """Weights as at the start of a training: 0.02 x normal truncated at two sigma, biases 0."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        out = torch.empty(shape, dtype=torch.float32)
        torch.nn.init.trunc_normal_(out, std=0.02, a=-0.04, b=0.04, generator=g)
        return out

    d, f, v = config["width"], config["hidden"], config["codes"] + config["classes"] + 2
    w = {"embedding.tokens": normal(v, d), "embedding.positions": normal(1 + config["tokens"], d)}

    def dense(name, i, o):
        w[name + ".weight"], w[name + ".bias"] = normal(i, o), torch.zeros(o)

    def norm(name):
        w[name + ".gamma"], w[name + ".beta"] = torch.ones(d), torch.zeros(d)

    norm("embedding.norm")
    for i in range(config["layers"]):
        for n in ("query", "key", "value", "output"):
            dense(f"blocks.{i}.attention.{n}", d, d)
        norm(f"blocks.{i}.attention_norm")
        dense(f"blocks.{i}.mlp.up", d, f)
        dense(f"blocks.{i}.mlp.down", f, d)
        norm(f"blocks.{i}.mlp_norm")
    dense("head.dense", d, d)
    norm("head.norm")
    w["head.bias"] = torch.zeros(v)
    return {n: t.to(dtype) for n, t in w.items()}
