"""SimCLR on images: two augmented views, one tower, NT-Xent.

Command:  python -m hcl_jax.main --config=simclr:digits --workdir=runs/digits
          python -m hcl_jax.main --config=simclr:folder --config.data.dir=PHOTOS --workdir=runs/photos
Arguments: digits, fashion_mnist, cifar10, folder (your own pictures), cifar10_paper, imagenet (as the paper says: decay
          1e-6, a head of 2 layers), imagenet_code (as the README of the authors' code runs it: decay 1e-4, a head of 3
          layers, twice the loss)
Hardware: digits, fashion_mnist, cifar10 and folder on 2 CPU cores; imagenet and imagenet_code on 128 TPU v3 cores.
Expected: see the table in README.md; imagenet as published: 64.6 % linear top-1 after 100 epochs at batch 4096
          (Table B.1), 69.3 % after 1000 (section 6; 1.5 h for 100 epochs on 128 TPU v3 cores); imagenet_code: 64.5 %.
Twins:    docs/twins.md, the authors' code beside these words, step by step: simclr.
Source:   Chen et al. 2020, "A simple framework for contrastive learning of visual representations", arXiv 2002.05709.
          Views of cifar10_paper and imagenet* are those of google-research/simclr, data_util.py; brightness is added
          as in the paper and the code's first version, in imagenet_code multiplied as in the code since 244e712.
          Otherwise than there: one sigma of the blur for the whole batch (there for the rows of a core), and a JPEG's
          window is decoded alone (levels differ at its edge).
"""

from hcl_jax.config import choose, defaults

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, FASHION, FASHION_ENCODER, FLIP, TENSORFLOW, crop, evaluate, jitter, views

# Google's: where its max pool pads, and what its kernels start with.
RESNET50 = {"name": "resnet50", "kernel_init": "lecun_normal", "pool_padding": "same"}
BLUR = _image.blur(0.5, sigma_for="batch", **TENSORFLOW)


def colour(strength):
    """SimCLR's colour distortion: jitter 0.8 S, 0.8 S, 0.8 S, 0.2 S with p 0.8, then grey with p 0.2 (appendix A)."""
    return ({**jitter(0.8, 0.8, 0.8, 0.2), "strength": strength}, {"op": "grey", "p": 0.2})


def google(c, size, strength, *more, convention="add"):
    """Views as the authors' code makes them; `more` is the blur, which CIFAR-10 has not."""
    change = jitter(0.8, 0.8, 0.8, 0.2, strength=strength, convention=convention, **TENSORFLOW)
    # What bicubic overshoots is cut after the colours there.
    part, clip = crop(size, (0.08, 1.0), **_image.TENSORFLOW_1), {"op": "clip"}
    ops = (part, FLIP, change, _image.grey(**TENSORFLOW), clip, *more)
    views(c, a=ops, b=ops)


def towers(c, encoder, hidden, features, **projector):
    """One tower for both views: encoder and a two-layer projector."""
    projector = {"name": "projector", "hidden": hidden, "features": features, **projector}
    c.towers = {"image": {"views": ("a", "b"), "encoder": encoder, "heads": {"z": projector}}}


def nt_xent(c, temperature):
    """The objective: NT-Xent over both views of the batch."""
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": temperature}}


def digits():
    """1,437 images of 8 x 8: minutes on a laptop."""
    c = _image.digits()
    views(c, a=DIGITS, b=DIGITS)
    towers(c, DIGITS_ENCODER, 256, 64)
    nt_xent(c, 0.2)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = _image.fashion_mnist()
    views(c, a=FASHION, b=FASHION)
    towers(c, FASHION_ENCODER, 512, 128)
    nt_xent(c, 0.2)
    return c


def cifar10():
    """50,000 images of 32 x 32; --config.data.name=folder --config.data.dir=DIR reads an image folder, not TFDS."""
    c = defaults()
    c.data.name, c.data.batch_size = "cifar10", 512
    ops = (crop(32, (0.08, 1.0)), FLIP, *colour(0.5))
    views(c, a=ops, b=ops)
    towers(c, {"name": "convnet", "widths": (32, 128, 256)}, 512, 128)
    nt_xent(c, 0.2)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 5.0, 100
    evaluate(c, ({"op": "resize", "size": 32},))  # changes nothing here, and lets a folder hold other sizes
    return c


def cifar10_paper():
    """The paper's CIFAR-10 run (appendix B.9): ResNet-50, batch 1024, learning rate 1.0, 1000 epochs; 94.0 % linear."""
    c = cifar10()
    google(c, 32, 0.5)
    c.data.batch_size = 1024
    towers(c, {**RESNET50, "stem": "small"}, 2048, 128, kernel_init="normal_0.01")
    nt_xent(c, 0.5)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "lars", 1.0, 1e-6
    c.optimizer.scaling, c.optimizer.warmup_epochs, c.train.epochs = "none", 10.0, 1000.0
    return c


def folder():
    """A folder of pictures, --config.data.dir=PHOTOS, with or without classes; --config.data.size=96 is their size."""
    c = _image.folder()
    views(c, a=_image.PHOTOS, b=_image.PHOTOS)
    towers(c, _image.PHOTOS_ENCODER, 256, 128)
    nt_xent(c, 0.2)
    return c


def imagenet():
    """The paper's default: ResNet-50, batch 4096, LARS 0.3 x B/256 = 4.8, 10 epochs of warm-up, temperature 0.1."""
    c = _image.imagenet(4096, {"op": "clip"}, **_image.TENSORFLOW_1)
    google(c, 224, 1.0, BLUR)
    towers(c, RESNET50, 2048, 128, kernel_init="normal_0.01")
    nt_xent(c, 0.1)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "lars", 0.3, "linear"
    c.optimizer.weight_decay, c.optimizer.warmup_epochs = 1e-6, 10.0
    c.train.epochs, c.train.compute_dtype, c.train.similarity_mib = 100.0, "bfloat16", 1024  # dense up to 65,536 on 256
    return c


def imagenet_code():
    """`imagenet` as google-research/simclr's README runs it: LARS 0.075 x sqrt(B) = 4.8, weight decay 1e-4, 3 layers.

    Its loss is the sum of the two views' means, twice the paper's equation 1. LARS does not see a factor in the
    gradient of a kernel, but scales and biases, which it leaves alone, move twice as far, and the decay of a kernel
    counts half as much beside its gradient. One difference is left in this part: the code trains for
    N E // B + 1 = 31,279 steps, this for N E // B.
    """
    c = imagenet()
    google(c, 224, 1.0, BLUR, convention="multiply")
    c.towers.image.heads.z.layers = 3
    c.objectives.contrast.convention = "sum_of_halves"
    c.optimizer.learning_rate, c.optimizer.scaling, c.optimizer.weight_decay = 0.075, "sqrt", 1e-4
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, cifar10, folder, cifar10_paper, imagenet, imagenet_code)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
