"""MoCo v2 on images: the keys of a slowly moving encoder, kept in a queue, are the negatives.

Command:  python -m hcl_jax.main --config=moco:digits --workdir=runs/moco
Arguments: digits, fashion_mnist, imagenet_v2
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet_v2 on 8 V100 GPUs.
Expected: see docs/results.md; imagenet_v2 as published: 67.5 +- 0.1 % linear top-1 after 200 epochs (53 h).
Source:   He et al. 2020, "Momentum contrast", arXiv 1911.05722; Chen et al. 2020, "Improved baselines with momentum
          contrastive learning", arXiv 2003.04297. Statistics of BatchNorm are of the whole batch of each encoder here;
          the authors shuffle the keys between GPUs with statistics of 32 rows instead.
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION, FASHION_ENCODER, FLIP, NORMALISE, crop, jitter, views


def method(c, encoder, projector, momentum, size, temperature, ops):
    """Queries of view a, keys of view b through the moving average, and a queue of that many earlier keys."""
    views(c, a=ops, b=ops)
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {"z": {"name": "projector", **projector}},
            "target": {"momentum": momentum, "schedule": "constant", "heads": ("z",)},
            "memory": {"queue": {"kind": "fifo", "reads": "b.target.z", "size": size}},
            "batching": "per_view",
        }
    }
    inputs = ("a.z", "b.target.z", "image.memory.queue")
    c.objectives = {"contrast": {"loss": "info_nce", "inputs": inputs, "temperature": temperature}}


def digits():
    """1,437 images of 8 x 8: minutes on a laptop. The queue holds two batches: a longer one knows every image."""
    c = _image.digits()
    method(c, DIGITS_ENCODER, {"hidden": 256, "features": 64}, 0.99, 512, 0.2, DIGITS)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files, a queue of 4,096."""
    c = _image.fashion_mnist()
    method(c, FASHION_ENCODER, {"hidden": 512, "features": 128}, 0.99, 4096, 0.2, FASHION)
    return c


def imagenet_v2():
    """MoCo v2: ResNet-50, batch 256, SGD 0.03 with a cosine, queue 65,536, momentum 0.999, temperature 0.2."""
    c = _image.imagenet(256, NORMALISE)
    ops = (
        crop(224, (0.2, 1.0)),
        jitter(0.4, 0.4, 0.4, 0.1),
        {"op": "grey", "p": 0.2},
        {"op": "blur", "p": 0.5},
        FLIP,
        NORMALISE,
    )
    # Two dense layers with a ReLU and no norm.
    projector = {"hidden": 2048, "features": 128, "batch_norm": False, "last_batch_norm": False, "last_bias": True}
    method(c, {"name": "resnet50"}, projector, 0.999, 65536, 0.2, ops)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "sgd", 0.03, 1e-4
    c.optimizer.exclude = ()  # the authors' code decays biases and norms too
    c.train.epochs = 200.0
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, imagenet_v2)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
