"""Supervised training from labels: an encoder and a linear head, cross entropy. What self-supervision is held against.

Command:  python -m hcl_jax.main --config=supervised:digits --workdir=runs/supervised
          ... --config.data.sample=100 --config.train.steps=336   from scratch on 100 labels, as many steps as with all
          ... --config.data.flipped=0.2                           a fifth of the labels are wrong
Arguments: digits, fashion_mnist, emoji (data.dir is the folder or zip), or a series set: ACSF1, ArrowHead,
           BasicMotions, GunPoint, ItalyPowerDemand, JapaneseVowels, OSULeaf, PickupGestureWiimoteZ
Needs:    for series, pip install -e '.[series]'
Hardware: 2 CPU cores.
Expected: digits, 336 steps in 2 minutes, seed 0: eval/top1/classes 94.2 %, eval/image/knn_accuracy 98.9 +- 0.6 %. The
          first is the head's, on test images augmented as in training; --config.views.a.ops=() makes it one of plain
          images. kNN and linear probe read all training labels, clean ones, whatever data.sample and data.flipped are.
Source:   Chen et al. 2020, arXiv 2002.05709, section 3.2 and table 1 (supervised training with SimCLR's augmentations);
          Wang, Yan and Oates 2017, "Time series classification from scratch with deep neural networks", arXiv
          1611.06455; encoder of series of Yue et al. 2022, arXiv 2106.10466.
"""

from hcl_jax.config import choose, defaults

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION, FASHION_ENCODER, crop

# Series set -> classes: the head has as many outputs.
SERIES = {
    "ACSF1": 10,
    "ArrowHead": 3,
    "BasicMotions": 4,
    "GunPoint": 2,
    "ItalyPowerDemand": 2,
    "JapaneseVowels": 9,
    "OSULeaf": 6,
    "PickupGestureWiimoteZ": 10,
}


def supervised(c, view, tower, encoder, label, classes):
    """View a through one tower to the logits y of a label; evaluation as for the self-supervised recipes."""
    c.data.labels, c.data.num_classes, c.evaluate.labels = (label,), classes, label
    c.views = {"a": view}
    head = {"name": "linear", "features": classes}
    c.towers = {tower: {"views": ("a",), "encoder": encoder, "heads": {"y": head}}}
    c.objectives = {"classes": {"loss": "cross_entropy", "inputs": ("a.y", f"labels.{label}")}}
    c.evaluate.evaluators.objectives = {}


def digits():
    """1,437 images of 8 x 8, augmented as for simclr:digits."""
    c = _image.digits()
    supervised(c, {"kind": "image", "field": "image", "ops": DIGITS}, "image", DIGITS_ENCODER, "label", 10)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files: crops, flips and light."""
    c = _image.fashion_mnist()
    supervised(c, {"kind": "image", "field": "image", "ops": FASHION}, "image", FASHION_ENCODER, "label", 10)
    return c


def emoji():
    """1,517 emoji as Google draws them, and their 10 categories."""
    c = defaults()
    c.data.name, c.data.batch_size = "emoji", 256
    white = {"op": "flatten_alpha"}
    view = {"kind": "image", "field": "google", "ops": (white, crop(32, (0.6, 1.0)))}
    supervised(c, view, "image", DIGITS_ENCODER, "category", 10)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 1e-3, 5.0
    c.train.epochs = 60.0
    c.evaluate.views = {"image": {**view, "ops": (white, {"op": "resize", "size": 32}), "tower": "image"}}
    return c


def series(name):
    """A series set, windows of it as for simclr_series."""
    c = defaults()
    c.data.name, c.data.batch_size = name, 32
    normal, part = {"op": "z_normalise"}, {"op": "crop_resize", "fraction": (0.5, 1.0)}
    ops = (normal, part, {"op": "scale", "sigma": 0.3}, {"op": "jitter", "sigma": 0.2})
    encoder = {"name": "tcn", "features": 128, "hidden": 64, "depth": 5, "dropout": 0.1}
    supervised(c, {"kind": "series", "field": "series", "ops": ops}, "series", encoder, "label", SERIES[name])
    c.optimizer.learning_rate = 1e-3
    c.train.steps = 600
    c.evaluate.views = {"series": {"kind": "series", "field": "series", "ops": (normal,), "tower": "series"}}
    c.evaluate.batch_size = 64
    c.evaluate.evaluators.knn.k, c.evaluate.evaluators.one_nn = 5, {}
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, emoji)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    make = choose(argument, {**ARGUMENTS, **dict.fromkeys(SERIES, series)})
    return make(argument) if argument in SERIES else make()
