"""pytorch-fid's own network with weights from a file, which may end at any layer.

`pytorch_fid.inception.InceptionV3` downloads its weights when it is made; here it is given those of a safetensors file
(or a .pth) instead. Nothing else of it changes.
"""

from unittest import mock

import pytorch_fid.inception as fid
import torch
from pytorch_fid.inception import InceptionV3

BEHIND = {64: ("Conv2d_3", "Conv2d_4", "Mixed", "fc"), 192: ("Mixed", "fc"), 768: ("Mixed_7", "fc"), 2048: ("fc",)}


def tensors_of(path):
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def network(path, dims):
    """An InceptionV3 of pytorch-fid that gives the features of `dims` dimensions, with the weights of `path`."""
    given = tensors_of(path)

    def instead_of_download(*_, **__):
        own = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None).state_dict()
        unused = [*BEHIND[dims], "AuxLogits"]
        lacking = [name for name in own if name not in given and not name.startswith(tuple(unused))
                   and not name.endswith("num_batches_tracked")]
        assert not lacking, lacking
        return {**own, **given}

    with mock.patch.object(fid, "load_state_dict_from_url", instead_of_download):
        return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[dims]]).eval()
