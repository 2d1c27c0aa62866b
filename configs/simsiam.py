"""SimSiam on images: a predictor on one view guesses the projection of the other, which takes no gradient.

Command:  python -m hcl_jax.main --config=simsiam:digits --workdir=runs/simsiam
Arguments: digits, fashion_mnist, imagenet
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet on 8 GPUs.
Expected: digits, seed 0: linear top-1 98.9 %, spread of h 0.80 (0 would be collapse); imagenet as published: 68.1 %
          linear top-1 after 100 epochs, 70.0 % after 200 (table 4; the code's README has 68.3 % at batch 256 and 68.1 %
          at its default of 512 after 100).
Twins:    docs/twins.md, the authors' code beside these words, step by step: simsiam.
Source:   Chen and He 2021, "Exploring simple siamese representation learning", arXiv 2011.10566, section 3,
          and its code, with the predictor's rate fixed (its README's --fix-pred-lr). Views of imagenet are those of
          main_simsiam.py, torchvision's on PIL images, without the rounding to 8 bits between their operations.
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION, FASHION_ENCODER, FLIP, NORMALISE, PILLOW, crop, jitter, views


def method(c, encoder, width, hidden, layers, ops, **start):
    """One tower with a projector z, whose last norm learns nothing, and a predictor p, a bottleneck."""
    views(c, a=ops, b=ops)
    projector = {"name": "projector", "hidden": width, "features": width, "layers": layers, "last_affine": False}
    predictor = {"name": "predictor", "reads": "z", "hidden": hidden}
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {"z": {**projector, **start}, "p": {**predictor, **start}},
            "batching": "per_view",
        }
    }
    c.objectives = {"match": {"loss": "negative_cosine", "inputs": ("a.p", "b.z", "b.p", "a.z")}}


def digits():
    """1,437 images of 8 x 8: minutes on a laptop."""
    c = _image.digits()
    method(c, DIGITS_ENCODER, 256, 64, 2, DIGITS)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = _image.fashion_mnist()
    method(c, FASHION_ENCODER, 512, 128, 2, FASHION)
    return c


def imagenet():
    """The paper's run: ResNet-50, projector 3 x 2048, predictor 512, SGD 0.05 x B/256, batch 256, 100 epochs."""
    c = _image.imagenet(256, NORMALISE, **_image.TORCHVISION)
    ops = (
        crop(224, (0.2, 1.0), **_image.TORCHVISION),
        jitter(0.4, 0.4, 0.4, 0.1, **PILLOW),
        _image.grey(**PILLOW),
        _image.blur(0.5, **PILLOW),
        FLIP,
        NORMALISE,
    )
    method(c, {"name": "resnet50"}, 2048, 512, 3, ops, kernel_init="uniform")
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "sgd", 0.05, "linear"
    c.optimizer.weight_decay, c.optimizer.exclude = 1e-4, ()  # the authors' code decays biases and norms too
    c.optimizer.schedule_by, c.optimizer.fixed_rate = "epoch", (("heads/p/", 1.0),)
    c.train.epochs = 100.0
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, imagenet)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
