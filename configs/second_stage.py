"""A second stage: heads on features that are given, or on an encoder that another run trained and that stays as it is.

Command:  python -m hcl_jax.embed --workdir=runs/digits --output=runs/digits_h
          python -m hcl_jax.main --config=second_stage:linear --config.data.dir=runs/digits_h --workdir=runs/second
          python -m hcl_jax.main --config=second_stage:frozen_tower --config.init_from.path=runs/digits --workdir=DIR
Arguments: linear, mlp (a head with cross entropy), contrast (a projector with supervised contrast), frozen_tower
           (digits: encoder from init_from.path, in evaluation mode, and a linear head)
Hardware: 1 CPU core, a minute.
Expected: eval/y (the head's output) beside eval/h (the features): see docs/results.md.
Source:   Chen et al. 2020, arXiv 2002.05709, section 4.2 (linear and MLP heads on frozen features); Khosla et al. 2020,
          arXiv 2004.11362 (supervised contrast).

data.dir holds train.npz and test.npz with the keys features [N, D] and label. There are 10 classes; C classes are
--config.data.num_classes=C --config.towers.head.heads.y.features=C, another label is --config.data.labels=NAME
--config.objectives.labels.inputs="('features.y','labels.NAME')" --config.evaluate.labels=NAME.
"""

from hcl_jax.config import choose, defaults

CLASSES = 10


def on_features(head):
    """Features from .npz files, the identity for an encoder, and the head y."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.num_classes = "npz", 256, CLASSES
    view = {"kind": "features", "field": "features", "ops": ()}
    c.views = {"features": view}
    c.towers = {"head": {"views": ("features",), "encoder": {"name": "identity"}, "heads": {"y": head}}}
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-2, 1e-4
    c.train.epochs, c.log.every = 30.0, 50
    c.evaluate.evaluators.objectives = {}  # top-1 of the head itself
    # The features and what the head makes of them, by the same evaluators. Raw input and untrained encoder are h.
    c.evaluate.views = {output: {**view, "tower": "head", "output": output} for output in ("h", "y")}
    c.evaluate.baselines, c.evaluate.evaluators.few_labels = False, {"per_class": (1, 10)}
    return c


def cross_entropy(c, view):
    """The objective: the head's output are the logits of the label."""
    c.objectives = {"labels": {"loss": "cross_entropy", "inputs": (f"{view}.y", "labels.label")}}


def linear():
    """A linear classifier."""
    c = on_features({"name": "linear", "features": CLASSES})
    cross_entropy(c, "features")
    return c


def mlp():
    """A classifier with one hidden layer."""
    head = {"name": "projector", "hidden": 256, "features": CLASSES, "last_batch_norm": False, "last_bias": True}
    c = on_features(head)
    cross_entropy(c, "features")
    c.optimizer.learning_rate = 2e-3
    return c


def contrast():
    """A projector whose rows of one class are each other's positives."""
    c = on_features({"name": "projector", "hidden": 256, "features": 64})
    c.objectives = {
        "contrast": {"loss": "sup_con", "inputs": ("features.y",), "pairs": "labels.label", "temperature": 0.1}
    }
    c.optimizer.learning_rate = 2e-3
    return c


def frozen_tower():
    """simclr:digits' encoder, of which nothing changes, and a linear classifier on pictures as they are."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.num_classes = "digits", 256, CLASSES
    view = {"kind": "image", "field": "image", "ops": ()}
    c.views = {"a": view}
    c.towers = {
        "image": {
            "views": ("a",),
            "encoder": {"name": "convnet", "widths": (64, 128, 256)},
            "heads": {"y": {"name": "linear", "features": CLASSES}},
            "frozen": True,
        }
    }
    cross_entropy(c, "a")
    c.init_from.path, c.init_from.include = "runs/digits", ("^image/encoder/",)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-2, 1e-4
    c.train.epochs, c.log.every = 30.0, 50
    c.evaluate.views = {output: {**view, "tower": "image", "output": output} for output in ("h", "y")}
    c.evaluate.baselines, c.evaluate.evaluators.few_labels = False, {"per_class": (1, 10)}
    return c


ARGUMENTS = {f.__name__: f for f in (linear, mlp, contrast, frozen_tower)}


def get_config(argument="linear"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
