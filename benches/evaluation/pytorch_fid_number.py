"""pytorch-fid's own number for two folders of pictures, with weights from a file.

    python benches/evaluation/pytorch_fid_number.py WEIGHTS DIMS REAL FAKE

Needs `pip install pytorch-fid safetensors` (torch for CPU is enough). Its dataset, its network's blocks and its
distance run as they are published; only the weights come from WEIGHTS instead of a download.
"""

import sys

from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path

from stand_in import network

weights, dims, real, fake = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
model = network(weights, dims)
real, fake = (compute_statistics_of_path(path, model, 50, dims, "cpu", 1) for path in (real, fake))
print(f"{calculate_frechet_distance(*real, *fake):.10f}")
