"""Goldens of the tokenizer's losses: case.safetensors beside this file, and the numbers of `similarity.rs` on the screen.

    pip install torch numpy safetensors scikit-image
    python make.py

LPIPS is written out here after its paper and the published package (version 0.1): VGG-16 of torchvision's layout, maps
after the last ReLU of each block, unit vectors of channels, squared differences weighted by channel, means over places,
the sum over blocks. The weights are those of the formula in `formula`, which the test computes as well.
"""

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

BLOCKS = [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]
SHIFT, SCALE = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]


def formula(name, shape):
    """Evenly spread values of -1 to 1 that depend on the name and the place alone (FNV-1a, then SplitMix64)."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        i = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
        z = np.uint64(h) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (2.0 * (z >> np.uint64(40)).astype(np.float64) / 2**24 - 1.0).reshape(shape)


def weight(name, shape):
    s = formula(name, shape)
    if name.startswith("lin"):
        value = np.abs(s)
    elif name.endswith("weight"):
        value = s * np.sqrt(6.0 / np.prod(shape[1:]))
    else:
        value = 0.1 * s
    return torch.from_numpy(value.astype(np.float32))


def maps(x):
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
    x = ((2 * x - 1) - shift) / scale
    inputs, number, out = 3, 0, []
    for block, widths in enumerate(BLOCKS):
        if block > 0:
            x = F.max_pool2d(x, 2)
        for outputs in widths:
            w = weight(f"features.{number}.weight", (outputs, inputs, 3, 3))
            b = weight(f"features.{number}.bias", (outputs,))
            x = F.relu(F.conv2d(x, w, b, padding=1))
            inputs, number = outputs, number + 2
        number += 1
        out.append(x)
    return out


def distance(a, b, weighted):
    unit = lambda x: x / (torch.sqrt((x**2).sum(1, keepdim=True)) + 1e-10)
    total = 0.0
    for tap, (x, y) in enumerate(zip(maps(a), maps(b))):
        d = (unit(x) - unit(y)) ** 2
        if weighted:
            d = d * weight(f"lin{tap}.model.1.weight", (1, x.shape[1], 1, 1))
        total = total + d.sum(1).mean(dim=(1, 2)).mean()
    return total


def lpips():
    pictures = (formula("pictures", (2, 3, 32, 32)) * 0.5 + 0.5).astype(np.float32)
    targets = np.clip(pictures + 0.2 * formula("noise", (2, 3, 32, 32)), 0, 1).astype(np.float32)
    case = {"pictures": pictures, "targets": targets}
    for name, weighted in [("lpips", True), ("unweighted", False)]:
        a = torch.from_numpy(pictures).requires_grad_()
        d = distance(a, torch.from_numpy(targets), weighted)
        d.backward()
        case[name] = d.detach().numpy().reshape(1)
        case[f"{name}_gradient"] = a.grad.numpy()
    return case


def similarity():
    i = np.arange(24 * 16 * 3, dtype=np.int64)
    a = ((i * i // 7) % 256).astype(np.uint8)
    b = np.minimum(a.astype(int) + (i * 13) % 41, 255).astype(np.uint8)
    a, b = a.reshape(16, 24, 3), b.reshape(16, 24, 3)
    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2)
    print("psnr", peak_signal_noise_ratio(a, b, data_range=255))
    print("ssim", structural_similarity(a, b, **window))
    print("ssim, upside down", structural_similarity(a, a[::-1], **window))


if __name__ == "__main__":
    similarity()
    case = lpips()
    save_file(case, __file__.replace("make.py", "case.safetensors"))
    print({name: value for name, value in case.items() if value.size == 1})
