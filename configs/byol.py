"""BYOL on images: a predictor on one view guesses a moving average's output on the other; no negatives.

Command:  python -m hcl_jax.main --config=byol:digits --workdir=runs/byol
Arguments: digits, fashion_mnist, folder, imagenet; digits_no_predictor and digits_no_stop_gradient leave out what keeps
          the method from a constant output: the first shrinks `spread` in metrics.jsonl, the second takes it to 0.
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet on 512 TPU v3 cores.
Expected: see docs/results.md; imagenet as published: 74.3 % linear top-1 after 1000 epochs at batch 4096 (8 h).
Twins:    docs/twins.md, the authors' code beside these words, step by step: byol.
Source:   Grill et al. 2020, "Bootstrap your own latent", arXiv 2006.07733, section 3.3 and appendix B, and its code;
          without predictor or stop-gradient: Chen and He 2021, "SimSiam", arXiv 2011.10566, sections 4.1 and 4.2.
          The towers are the code's: BatchNorm of each view, last layers without bias, haiku's padding and first
          weights. Otherwise than there: the target starts as a copy (there from weights of its own), and no classifier
          learns beside. Views of imagenet are the code's: one box by area and log ratio, cut to the picture, tf.image.
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION, FASHION_ENCODER, FLIP, NORMALISE, TENSORFLOW, crop, jitter, views

# tf.image.resize, clipped at once.
BICUBIC = {**TENSORFLOW, "method": "bicubic", "clip": True}


def method(c, encoder, hidden, features, momentum):
    """One tower with projector z, predictor p and a target of the projector; each view predicts the other. BatchNorm
    has statistics of each view, and no last layer has a bias, as in the authors' code."""
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {
                "z": {"name": "projector", "hidden": hidden, "features": features, "last_batch_norm": False},
                "p": {"name": "predictor", "reads": "z", "hidden": hidden, "last_bias": False},
            },
            "target": {"momentum": momentum, "schedule": "cosine", "heads": ("z",)},
            "batching": "per_view",
        }
    }
    c.objectives = {"match": {"loss": "byol", "inputs": ("a.p", "b.target.z", "b.p", "a.target.z")}}


def digits():
    """1,437 images of 8 x 8: minutes on a laptop."""
    c = _image.digits()
    views(c, a=DIGITS, b=DIGITS)
    method(c, DIGITS_ENCODER, 256, 64, 0.99)
    return c


def digits_no_predictor():
    """`digits` where the projector itself has to meet the target: its outputs shrink together, but not to a point."""
    c = digits()
    del c.towers.image.heads["p"]
    c.objectives.match.inputs = ("a.z", "b.target.z", "b.z", "a.target.z")
    return c


def digits_no_stop_gradient():
    """`digits` without predictor and target, both views trained towards each other: a constant is the easiest way."""
    c = digits_no_predictor()
    c.towers.image.target = None
    c.objectives = {"match": {"loss": "byol", "inputs": ("a.z", "b.z"), "stop_gradient": False}}
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = _image.fashion_mnist()
    views(c, a=FASHION, b=FASHION)
    method(c, FASHION_ENCODER, 512, 128, 0.99)
    return c


def folder():
    """A folder of pictures, --config.data.dir=PHOTOS, with or without classes; --config.data.size=96 is their size."""
    c = _image.folder()
    views(c, a=_image.PHOTOS, b=_image.PHOTOS)
    method(c, _image.PHOTOS_ENCODER, 256, 64, 0.99)
    return c


def imagenet():
    """The paper's run: ResNet-50, batch 4096, LARS 0.2 x B/256 = 3.2, target momentum 0.996, 1000 epochs."""
    c = _image.imagenet(4096, NORMALISE, rounding="down", **BICUBIC)
    by_area = {"distribution": "area", "attempts": 1, "fallback": "clamp", "min_object_covered": 0.0}
    part = crop(224, (0.08, 1.0), **by_area, **BICUBIC)
    shared = (part, FLIP, jitter(0.4, 0.4, 0.2, 0.1, **TENSORFLOW), _image.grey(**TENSORFLOW))
    a = (*shared, _image.blur(1.0, **TENSORFLOW), NORMALISE)
    b = (*shared, _image.blur(0.1, **TENSORFLOW), {"op": "solarise", "p": 0.2, **TENSORFLOW}, NORMALISE)
    views(c, a=a, b=b)
    same = {"padding": "same", "pool_padding": "same", "kernel_init": "cut_normal"}
    method(c, {"name": "resnet50", **same}, 4096, 256, 0.996)
    for head in c.towers.image.heads.values():
        head["kernel_init"] = "cut_normal"
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "lars", 0.2, "linear"
    c.optimizer.weight_decay, c.optimizer.warmup_epochs = 1.5e-6, 10.0
    c.optimizer.momentum_form = "rate_outside"
    c.train.epochs, c.train.compute_dtype = 1000.0, "bfloat16"
    return c


ARGUMENTS = {
    f.__name__: f for f in (digits, digits_no_predictor, digits_no_stop_gradient, fashion_mnist, folder, imagenet)
}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
