"""SimCLR with a view made offline: a picture and what a generator made of it, one tower, NT-Xent.

Command:  python -m hcl_jax.generate --config=simclr:digits --view=a --output=runs/digits_views
          python -m hcl_jax.main --config=generated_views:digits --config.data.generated=runs/digits_views --workdir=DIR
Arguments: digits, fashion_mnist (the first command then with simclr:fashion_mnist)
Hardware: 2 CPU cores.
Expected: see docs/results.md.
Source:   Li et al. 2024, "GenView: enhancing view quality with pretrained generative model for self-supervised
          learning", arXiv 2403.12003 (one of the two views comes from a generator that ran before). Here simclr's
          strong augmentation, drawn once for each example, stands in for the generator.
"""

from hcl_jax.config import choose

from . import _image


def pair(c, shape, ops):
    """Views a, the picture, and b, the generated one; both by the same light operations."""
    c.data.shape = shape
    c.views = {
        "a": {"kind": "image", "field": "image", "ops": ops},
        "b": {"kind": "image", "field": "generated", "ops": ops},
    }


def model(c, widths, hidden, features):
    """simclr's tower and objective."""
    projector = {"name": "projector", "hidden": hidden, "features": features}
    encoder = {"name": "convnet", "widths": widths}
    c.towers = {"image": {"views": ("a", "b"), "encoder": encoder, "heads": {"z": projector}}}
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.2}}


def digits():
    """1,437 images of 8 x 8."""
    c = _image.digits()
    pair(c, (8, 8, 1), ({"op": "noise", "std": 0.1},))
    model(c, (64, 128, 256), 256, 64)
    _image.evaluate(c)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = _image.fashion_mnist()
    pair(c, (28, 28, 1), ({"op": "pad_crop", "pad": 2},))
    model(c, (32, 128, 256), 512, 128)
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
