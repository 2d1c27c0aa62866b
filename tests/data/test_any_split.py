"""R11, R14: the picture of a row has the same bits however many rows a process makes beside it."""

import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data

OPS = {
    "affine": {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12, "shear": 10.0},
    "crop": {"op": "random_resized_crop", "size": 8, "scale": (0.3, 1.0)},
    "resize": {"op": "resize", "size": 5},
    "blur": {"op": "blur", "p": 0.5, "kernel": 0.5},
    "crop_tensorflow": {"op": "random_resized_crop", "size": 8, "like": "tensorflow", "method": "bicubic"},
    "middle_torchvision": {"op": "centre_crop", "size": 5, "like": "torchvision"},
    "blur_batch": {"op": "blur", "p": 0.5, "kernel": 0.5, "like": "tensorflow", "sigma_for": "batch"},
    "blur_boxes": {"op": "blur", "p": 0.5, "like": "pillow"},
    "gamma": {"op": "gamma", "p": 0.9},
    "colours": {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8},
    "noise": {"op": "noise", "std": 0.1},
}


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("op", OPS)
def test_bits_do_not_depend_on_the_rows_beside(op):
    config = configs.load("simclr:digits")
    config.data.num_examples, config.views = 96, {"a": {"kind": "image", "field": "image", "ops": (OPS[op],)}}
    views = configs.complete(config).views
    source = data.open_source(config.data, "train")

    def made(rows):
        (batch,) = data.batches(source, views, seed=0, batch_size=32, rows=np.array(rows), start=1, stop=2)
        return batch["views"]["a"]["image"]

    whole = made(range(32))
    for rows in (range(16), range(8, 12), [3], [4], range(29, 32)):
        np.testing.assert_array_equal(made(rows).view(np.int32), whole[list(rows)].view(np.int32), err_msg=str(rows))
