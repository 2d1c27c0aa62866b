"""SwAV on images: each view predicts the balanced prototype assignments of the others; small crops are cheap views.

Command:  python -m hcl_jax.main --config=swav:digits --workdir=runs/swav
Arguments: digits (two views), fashion_mnist (2 x 28 + 4 x 16 pixels), imagenet (2 x 224 + 6 x 96), imagenet_256 (the
          same at batch 256, with a queue of 15 batches from epoch 15 on)
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet on 64 V100 GPUs, imagenet_256 on 4.
Expected: see docs/results.md; imagenet as published: 75.3 % linear top-1 after 800 epochs at batch 4096 (49 h);
          imagenet_256: 72.7 % after 200 epochs (by the README of the code).
Twins:    docs/twins.md, the authors' code beside these words, step by step: swav.
Source:   Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments", arXiv
          2006.09882, and its code (scripts/swav_800ep_pretrain.sh). If the loss stays at log(number of prototypes),
          the authors advise a smaller epsilon.
          Views of imagenet are those of src/multicropdataset.py, torchvision's on PIL images, without the rounding to 8
          bits between their operations, and with the deviation 0.229 of red for the 0.228 there, a slip. Prototypes
          start even over the sphere (there even in a cube, then put to unit length), and imagenet has statistics of
          BatchNorm of the whole batch (there of 8 GPUs: towers.image.bn_groups=8).
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION_ENCODER, FLIP, NORMALISE, PILLOW, crop, jitter, light, views


def method(c, encoder, hidden, features, prototypes, large, small=(), count=0, **start):
    """Two large and `count` small crops in one tower: those of one size go through the encoder together, and all of
    them through the heads, as in the authors' code."""
    names = ("a", "b", *(f"small{i}" for i in range(1, count + 1)))
    views(c, **{name: large if name in ("a", "b") else small for name in names})
    projector = {"name": "projector", "hidden": hidden, "features": features, "last_batch_norm": False, **start}
    c.towers = {
        "image": {
            "views": names,
            "encoder": encoder,
            "heads": {
                "z": {**projector, "last_bias": True},
                "prototypes": {"name": "prototypes", "reads": "z", "features": prototypes},
            },
            "heads_batching": "together",
        }
    }
    inputs = tuple(f"{name}.prototypes" for name in names)
    c.objectives = {"swap": {"loss": "swav", "inputs": inputs, "crops": 2, "temperature": 0.1, "epsilon": 0.05}}
    c.optimizer.unit_norm = ("heads/prototypes/kernel$",)


def digits():
    """1,437 images of 8 x 8, too small for small crops: minutes on a laptop."""
    c = _image.digits()
    method(c, DIGITS_ENCODER, 256, 64, 60, DIGITS)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files, 100 prototypes."""
    c = _image.fashion_mnist()
    large, small = ((crop(size, scale), FLIP, light(0.4)) for size, scale in ((28, (0.3, 1.0)), (16, (0.1, 0.3))))
    method(c, FASHION_ENCODER, 512, 128, 100, large, small, 4)
    return c


def imagenet():
    """The paper's run: ResNet-50, batch 4096, 3,000 prototypes, LARC 0.3 to 4.8 to 0.0048, 800 epochs."""
    c = _image.imagenet(4096, NORMALISE, **_image.TORCHVISION)
    change = (FLIP, jitter(0.8, 0.8, 0.8, 0.2, **PILLOW), _image.grey(**PILLOW), _image.blur(0.5, **PILLOW), NORMALISE)
    sizes = ((224, (0.14, 1.0)), (96, (0.05, 0.14)))
    large, small = ((crop(size, scale, **_image.TORCHVISION), *change) for size, scale in sizes)
    encoder = {"name": "resnet50", "zero_init_residual": False}
    method(c, encoder, 2048, 128, 3000, large, small, 6, kernel_init="uniform")
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "larc", 4.8, 1e-6
    c.optimizer.exclude, c.optimizer.warmup_epochs = (), 10.0  # the authors' code excludes nothing
    c.optimizer.warmup_start, c.optimizer.warmup_form, c.optimizer.end_rate = 0.3, "closed", 0.0048
    c.optimizer.freeze_steps = (("heads/prototypes/", 313),)
    c.train.epochs, c.train.compute_dtype = 800.0, "bfloat16"
    return c


def imagenet_256():
    """At batch 256: assignments over 3,840 earlier rows of each view too, from epoch 15 on; LARC 0.6, 200 epochs."""
    c = imagenet()
    c.data.batch_size = 256
    slot = {"kind": "fifo", "size": 3840, "initial": "zeros", "starts": 15 * (1281167 // 256)}
    c.towers.image.memory = {view: {**slot, "reads": f"{view}.z"} for view in ("a", "b")}
    c.objectives.swap.loss = "swav_queue"
    c.objectives.swap.inputs = (*(f"image.memory.{view}.prototypes" for view in ("a", "b")), *c.objectives.swap.inputs)
    del c.objectives.swap["crops"]  # two, as there are queues
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.end_rate = "larc", 0.6, 0.0006
    c.optimizer.warmup_epochs, c.optimizer.warmup_start, c.optimizer.warmup_form = 0.0, 0.0, "open"
    c.optimizer.freeze_steps = (("heads/prototypes/", 5005),)
    c.train.epochs = 200.0
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, imagenet, imagenet_256)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
