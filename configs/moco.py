"""MoCo on images: v1 and v2 with a queue of keys of a slowly moving encoder, v3 with the keys of the batch.

Command:  python -m hcl_jax.main --config=moco:digits --workdir=runs/moco
Arguments: digits, fashion_mnist (v2), imagenet_v1, imagenet_v2, imagenet_v3_r50, imagenet_v3_vit
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet_v1 and v2 on 8 V100 GPUs, v3 on 16 (ResNet) and 32 (ViT).
Expected: see docs/results.md; as published, linear top-1: imagenet_v1 60.8 +- 0.2 % and imagenet_v2 67.5 +- 0.1 %
          after 200 epochs (53 h); imagenet_v3_r50 68.9 % after 100 epochs, 72.8 % after 300 with learning rate 0.3,
          74.6 % after 1000 with 0.3, weight decay 1.5e-6 and momentum 0.996; imagenet_v3_vit (ViT-S/16) 73.2 % after
          300 (CONFIG.md of the code).
Twins:    docs/twins.md, the authors' code beside these words, step by step: moco_v2, moco_v3_resnet.
Source:   He et al. 2020, "Momentum contrast", arXiv 1911.05722; Chen et al. 2020, "Improved baselines with momentum
          contrastive learning", arXiv 2003.04297; Chen, Xie and He 2021, "An empirical study of training
          self-supervised vision transformers", arXiv 2104.02057; their codes. Otherwise than there, v1 and v2:
          statistics of BatchNorm are of the whole batch of each encoder; the authors shuffle the keys between GPUs with
          statistics of 32 rows. Views for ImageNet are torchvision's on PIL images, without the rounding to 8 bits
          between their operations.
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION, FASHION_ENCODER, FLIP, NORMALISE, PILLOW, crop, jitter, views

RESNET50 = {"name": "resnet50", "zero_init_residual": False}  # torchvision's, as it is


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
    c = _image.imagenet(256, NORMALISE, **_image.TORCHVISION)
    ops = (
        crop(224, (0.2, 1.0), **_image.TORCHVISION),
        jitter(0.4, 0.4, 0.4, 0.1, **PILLOW),
        _image.grey(**PILLOW),
        _image.blur(0.5, **PILLOW),
        FLIP,
        NORMALISE,
    )
    # Two dense layers with a ReLU and no norm.
    projector = {"hidden": 2048, "features": 128, "batch_norm": False, "last_batch_norm": False, "last_bias": True}
    method(c, RESNET50, {**projector, "kernel_init": "uniform"}, 0.999, 65536, 0.2, ops)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "sgd", 0.03, 1e-4
    c.optimizer.exclude = ()  # the authors' code decays biases and norms too
    c.optimizer.schedule_by = "epoch"
    c.train.epochs = 200.0
    return c


def imagenet_v1():
    """MoCo v1: one dense layer, temperature 0.07, no blur, stronger colours, a tenth of the rate from epoch 120."""
    c = imagenet_v2()
    colours = {**jitter(0.4, 0.4, 0.4, 0.4, **PILLOW), "p": 1.0}
    ops = (crop(224, (0.2, 1.0), **_image.TORCHVISION), _image.grey(**PILLOW), colours, FLIP, NORMALISE)
    projector = {"layers": 1, "features": 128, "last_batch_norm": False, "last_bias": True, "kernel_init": "uniform"}
    method(c, RESNET50, projector, 0.999, 65536, 0.07, ops)
    c.optimizer.schedule, c.optimizer.schedule_by, c.optimizer.milestones = "multistep", "step", (120.0, 160.0)
    return c


def method_v3(c, encoder, projector, predictor, temperature, area):
    """The prediction of each view finds the key of the other among those of the batch; BYOL's views."""
    ops = (crop(224, area, **_image.TORCHVISION), jitter(0.4, 0.4, 0.2, 0.1, **PILLOW), _image.grey(**PILLOW))
    solarise = {"op": "solarise", "p": 0.2, **PILLOW}
    views(c, a=(*ops, _image.blur(1.0, **PILLOW), FLIP, NORMALISE),
          b=(*ops, _image.blur(0.1, **PILLOW), solarise, FLIP, NORMALISE))  # fmt: skip
    head = {"hidden": 4096, "last_affine": False, "kernel_init": "uniform"}
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {
                "z": {"name": "projector", "features": 256, **head, **projector},
                "p": {"name": "predictor", "reads": "z", "last_bias": False, **head, **predictor},
            },
            # The code moves the keys' encoder ahead of the forward pass.
            "target": {"momentum": 0.99, "schedule": "cosine", "heads": ("z",), "moves": "before"},
            "batching": "per_view",
        }
    }
    inputs = ("a.p", "b.target.z", "b.p", "a.target.z")
    c.objectives = {"contrast": {"loss": "moco_v3", "inputs": inputs, "temperature": temperature}}


def imagenet_v3_r50():
    """MoCo v3: ResNet-50, batch 4096, LARS 0.6 x B/256, decay 1e-6, momentum 0.99 to 1, temperature 1, 100 epochs."""
    c = _image.imagenet(4096, NORMALISE, **_image.TORCHVISION)
    method_v3(c, {"name": "resnet50"}, {}, {}, 1.0, (0.2, 1.0))
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "lars", 0.6, "linear"
    c.optimizer.momentum_form, c.optimizer.weight_decay, c.optimizer.warmup_epochs = "rate_outside", 1e-6, 10.0
    c.train.epochs, c.train.compute_dtype = 100.0, "bfloat16"
    return c


def imagenet_v3_vit():
    """MoCo v3: ViT-S/16 of 12 heads, batch 4096, AdamW 1.5e-4 x B/256, decay 0.1, temperature 0.2, 300 epochs."""
    c = _image.imagenet(4096, NORMALISE, **_image.TORCHVISION)
    encoder = {"name": "vit", "variant": "s/16", "heads": 12, "position": "sincos2d_rows_first", "token_std": 1e-6}
    last = {"last_batch_norm": True}
    method_v3(c, {**encoder, "freeze_patch": True}, {"layers": 3}, last, 0.2, (0.08, 1.0))
    c.optimizer.learning_rate, c.optimizer.scaling, c.optimizer.weight_decay = 1.5e-4, "linear", 0.1
    c.optimizer.exclude = ()  # the code decays biases and norms too
    c.optimizer.rules = (("encoder/patch/", 0.0),)  # neither update nor decay
    c.optimizer.warmup_epochs = 40.0
    c.train.epochs, c.train.compute_dtype = 300.0, "bfloat16"
    return c


RECIPES = (digits, fashion_mnist, imagenet_v1, imagenet_v2, imagenet_v3_r50, imagenet_v3_vit)
ARGUMENTS = {f.__name__: f for f in RECIPES}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
