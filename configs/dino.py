"""DINO on images: a student matches its moving average's centred and sharpened output on other views.

Command:  python -m hcl_jax.main --config=dino:digits --workdir=runs/dino
Arguments: digits and folder (two views), imagenet (ViT-S/16, 2 x 224 + 8 x 96 pixels)
Hardware: digits on 2 CPU cores; imagenet on 16 V100 GPUs.
Expected: see docs/results.md; imagenet as published: 73.3 % kNN and 76.0 % linear top-1 of the teacher after 300 epochs
          (README of the code; 2.6 days).
Twins:    docs/twins.md, the authors' code beside these words, step by step: dino, dino_vit.
Source:   Caron et al. 2021, "Emerging properties in self-supervised vision transformers", arXiv 2104.14294, and its
          code. digits evaluates the student; imagenet the teacher, kNN on h and the linear probe on the class tokens of
          the last four blocks. Views of imagenet are those of main_dino.py, torchvision's on PIL images, without
          the rounding to 8 bits between their operations. Query, key and value are clipped each by its own norm; they
          are one parameter there.
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FLIP, NORMALISE, PILLOW, TORCHVISION, blur, crop, grey, jitter, views

EPOCH = 1281167 // 1024  # steps


def method(c, encoder, projector, outputs, momentum, warmup, a, b, small=(), count=0):
    """Two large and `count` small crops; teachers of the large ones, and a running mean of what the teachers say."""
    ops = {"a": a, "b": b, **{f"small{i}": small for i in range(1, count + 1)}}
    views(c, **ops)
    teachers = ("a.target.prototypes", "b.target.prototypes")
    c.towers = {
        "image": {
            "views": tuple(ops),
            "encoder": encoder,
            "heads": {
                "z": {"name": "projector", "layers": 3, "last_batch_norm": False, "last_bias": True, **projector},
                "prototypes": {"name": "prototypes", "reads": "z", **outputs},
            },
            "target": {"momentum": momentum, "schedule": "cosine", "heads": ("prototypes",), "drop": False},
            "memory": {"centre": {"kind": "mean_ema", "reads": teachers, "momentum": 0.9}},
        }
    }
    c.objectives = {
        "match": {
            "loss": "dino",
            "inputs": ("image.memory.centre", *teachers, *(f"{name}.prototypes" for name in ops)),
            "student_temperature": 0.1,
            "teacher_temperature": {"schedule": "linear", "start": 0.04, "end": 0.07, "steps": warmup},
        }
    }


def digits():
    """1,437 images of 8 x 8, too small for small crops: minutes on a laptop."""
    c = _image.digits()
    projector, outputs = {"hidden": 256, "features": 64}, {"features": 256, "normalise": True}
    method(c, DIGITS_ENCODER, projector, outputs, 0.99, 100, DIGITS, DIGITS)
    return c


def folder():
    """A folder of pictures, --config.data.dir=PHOTOS, in two views; --config.data.size=96 is their size."""
    c = _image.folder()
    projector, outputs = {"hidden": 256, "features": 64}, {"features": 256, "normalise": True}
    method(c, _image.PHOTOS_ENCODER, projector, outputs, 0.99, 100, _image.PHOTOS, _image.PHOTOS)
    return c


def imagenet():
    """ViT-S/16, batch 1024, AdamW 5e-4 x B/256, 65,536 outputs, target momentum 0.996, 300 epochs."""
    bicubic = {**TORCHVISION, "method": "bicubic"}
    c = _image.imagenet(1024, NORMALISE, **bicubic)
    change = (FLIP, jitter(0.4, 0.4, 0.2, 0.1, **PILLOW), grey(**PILLOW))
    large, small = ((crop(size, scale, **bicubic), *change) for size, scale in ((224, (0.4, 1.0)), (96, (0.05, 0.4))))
    projector = {"hidden": 2048, "features": 256, "batch_norm": False, "activation": "gelu"}
    start = {"kernel_init": "normal_0.02", "patch_init": "uniform", "resize": "dino"}
    method(
        c,
        {"name": "vit", "variant": "s/16", "class_position": True, "drop_path": 0.1, **start},
        {**projector, "kernel_init": "normal_0.02"},
        {"features": 65536, "normalise": True, "lengths": True, "kernel_init": "uniform"},  # norm_last_layer false
        0.996,
        29 * EPOCH,
        (*large, blur(1.0, **PILLOW), NORMALISE),
        (*large, blur(0.1, **PILLOW), {"op": "solarise", "p": 0.2, **PILLOW}, NORMALISE),
        (*small, blur(0.5, **PILLOW), NORMALISE),
        8,
    )
    # A table of 30 epochs, its end included, read once an epoch.
    c.objectives.match.teacher_temperature.hold = EPOCH
    c.optimizer.learning_rate, c.optimizer.scaling, c.optimizer.end_rate = 5e-4, "linear", 1e-6
    c.optimizer.warmup_epochs, c.optimizer.warmup_form = 10.0, "closed"
    c.optimizer.weight_decay, c.optimizer.weight_decay_end = 0.04, 0.4
    c.optimizer.exclude = ("bias$", "scale$")  # positions and the class token are decayed there
    c.optimizer.clip, c.optimizer.clip_by = 3.0, "parameter"
    c.optimizer.freeze_epochs = (("heads/prototypes/", 1.0),)
    c.train.epochs, c.train.compute_dtype = 300.0, "bfloat16"
    c.evaluate.weights, c.evaluate.evaluators.linear = "target", {"views": ("image.cls4",)}
    return c


ARGUMENTS = {f.__name__: f for f in (digits, folder, imagenet)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
