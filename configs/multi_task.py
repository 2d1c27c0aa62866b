"""Several tasks on one tower: supervised contrast and classes where a label is known, rotation everywhere.

Command:  python -m hcl_jax.main --config=multi_task:fixed --workdir=runs/tasks
Arguments: fixed (weights 1, 1 and 0.5), uncertainty (the weight of each task is learned)
Hardware: 2 CPU cores.
Expected: see docs/results.md. A tenth of the training images keeps its label; `top1/classes` and `top1/rotation` are
          logged.
Source:   Khosla et al. 2020, "Supervised contrastive learning", arXiv 2004.11362; Gidaris et al. 2018, "Predicting
          image rotations", arXiv 1803.07728; Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty",
          arXiv 1705.07115.
"""

from hcl_jax.config import choose

from . import _image
from ._image import DIGITS, DIGITS_ENCODER, views


def fixed():
    """1,437 images of 8 x 8, every tenth with a label."""
    c = _image.digits()
    c.data.labelled = 0.1
    del c.evaluate.evaluators["few_labels"]
    views(c, a=DIGITS, b=DIGITS, turned=(*DIGITS, {"op": "rotate90"}))
    c.towers = {
        "image": {
            "views": ("a", "b", "turned"),
            "encoder": DIGITS_ENCODER,
            "heads": {
                "z": {"name": "projector", "hidden": 256, "features": 64},
                "y": {"name": "linear", "features": 10},
                "rotation": {"name": "linear", "features": 4},
            },
        }
    }
    c.objectives = {
        # Rows without a label have the id -1 and enter neither of the first two.
        "contrast": {"loss": "sup_con", "inputs": ("a.z", "b.z"), "pairs": "labels.label", "temperature": 0.1},
        "classes": {"loss": "cross_entropy", "inputs": ("a.y", "labels.label")},
        "rotation": {
            "loss": "cross_entropy",
            "inputs": ("turned.rotation", "views.turned.rotation"),
            "weight": 0.5,
        },
    }
    return c


def uncertainty():
    """`fixed` with exp(-s) L + s for each task, s learned."""
    c = fixed()
    for objective in c.objectives.values():
        with objective.ignore_type():
            objective.weight = {"learn": "linear", "init": 0.0}
    return c


ARGUMENTS = {f.__name__: f for f in (fixed, uncertainty)}


def get_config(argument="fixed"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
