"""The other side of `mgnt bench-evaluation`: one JSON line with the median time and the value that came out.

    python theirs.py features WEIGHTS DIMS BATCH THREADS REPEAT     pytorch-fid's network on a batch
    python theirs.py frechet FILE THREADS REPEAT                    pytorch-fid's distance (SciPy's sqrtm) of an npz

Needs `pip install pytorch-fid safetensors` (torch for CPU is enough).
"""

import json
import os
import statistics
import sys
import time

what, *rest = sys.argv[1:]
threads, repeat = int(rest[-2]), int(rest[-1])
for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
    os.environ[variable] = str(threads)

import numpy as np  # noqa: E402  (after the number of threads is set)


def features(weights, dims, batch):
    import torch

    from stand_in import network

    torch.set_num_threads(threads)
    model = network(weights, int(dims))
    # The same pictures as ours: byte i of picture n is 31 n + 7 i.
    count, values = int(batch), 299 * 299 * 3
    pictures = (np.arange(count)[:, None] * 31 + np.arange(values) * 7).astype(np.uint8)
    pictures = torch.from_numpy(pictures.reshape(count, 299, 299, 3)).permute(0, 3, 1, 2).float() / 255

    def work():
        with torch.no_grad():
            return model(pictures)[0].mean((2, 3))[0, 0].item()

    return work


def frechet(path):
    from pytorch_fid.fid_score import calculate_frechet_distance

    with np.load(path) as file:
        moments = [file[name] for name in ["mu_1", "sigma_1", "mu_2", "sigma_2"]]
    return lambda: float(calculate_frechet_distance(*moments))


work = {"features": features, "frechet": frechet}[what](*rest[:-2])
value, times = work(), []
for _ in range(repeat):
    start = time.perf_counter()
    value = work()
    times.append(time.perf_counter() - start)
print(json.dumps({"milliseconds": statistics.median(times) * 1e3, "value": value}))
