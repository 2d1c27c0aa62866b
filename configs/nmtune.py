"""NMTune: features of a model that is given are reshaped by a residual MLP before a linear classifier reads them.

Command:  python -m hcl_jax.embed --workdir=runs/noisy --output=runs/noisy_h
          python -m hcl_jax.main --config=nmtune:code --config.data.dir=runs/noisy_h --workdir=runs/nmtune
Arguments: linear (a linear classifier alone), mlp (an MLP before it), paper (a residual MLP, and every regulariser with
           weight 0.01), code (the same with the weights and the reductions of the authors' code)
Hardware: 1 CPU core, a minute for 2,000 rows of 512 features.
Expected: top1 labels, and eval/z (tuned) beside eval/h (features): see docs/claims.md. Published: NMTune above
          MLP tuning (about a point) above a linear classifier, in and out of domain.
Twins:    docs/twins.md, the authors' code beside these words, step by step: nmtune.
Source:   Chen et al. 2024, arXiv 2309.17002 and 2403.06869, section 3; weights, ratio and learning rates from
          github.com/Hhhhhhao/Noisy-Model-Learning (src/models/nml_tune.py).

Features are made once: the weak and the strong view of the code, two draws of one pipeline there, are one here, which
the covariance of `code` counts twice (at batch size 64). There both are drawn to the features of the weak one.
data.dir holds train.npz and test.npz with the keys features [N, D] and label. There are 10 classes; C classes are
--config.data.num_classes=C --config.towers.head.heads.y.features=C, another label is --config.data.labels=NAME
--config.objectives.labels.inputs="('features.y','labels.NAME')" --config.evaluate.labels=NAME.
"""

from hcl_jax.config import choose, defaults

CLASSES = 10
ROWS = 64


def on_features(tuned=None):
    """Features from .npz files, the head z where features are tuned, and a linear classifier y on it."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.num_classes = "npz", ROWS, CLASSES
    view = {"kind": "features", "field": "features", "ops": ()}
    c.views = {"features": view}
    heads = {"z": tuned} if tuned else {}
    read = "z" if tuned else "h"
    heads["y"] = {"name": "linear", "features": CLASSES, "reads": read}
    c.towers = {"head": {"views": ("features",), "encoder": {"name": "identity"}, "heads": heads}}
    c.objectives = {"labels": {"loss": "cross_entropy", "inputs": ("features.y", "labels.label")}}
    c.optimizer.learning_rate, c.optimizer.weight_decay = (1e-3 if tuned else 1e-2), 1e-4
    c.train.epochs, c.log.every = 30.0, 50
    c.evaluate.evaluators.objectives = {}  # top-1 of the classifier itself
    # The features as they are and as they were tuned, by the same evaluators.
    c.evaluate.views = {output: {**view, "tower": "head", "output": output} for output in sorted({"h", read})}
    c.evaluate.baselines, c.evaluate.evaluators.few_labels = False, {"per_class": (1, 10)}
    return c


# Weak and strong rows go through the code's MLP together, 2B of them, and its covariance is divided by 2B - 1. With two
# equal copies every other term is that of one, and the squared covariances are this part of those over B - 1.
TWICE = ((2 * ROWS - 2) / (2 * ROWS - 1)) ** 2


def regularised(reduction, top, weights):
    """z = s * MLP(h) + h beside which the features' direction, their covariance and their spectrum count."""
    c = on_features({"name": "residual"})
    consistency, covariance, dominant = weights
    c.objectives.consistency = {
        "loss": "consistency",
        "inputs": ("features.z", "features.h"),
        "reduction": reduction,
        "weight": consistency,
    }
    c.objectives.covariance = {"loss": "covariance", "inputs": ("features.z",), "weight": covariance}
    c.objectives.dominant = {
        "loss": "dominant_singular_value",
        "inputs": ("features.z",),
        "top": top,
        "weight": dominant,
    }
    return c


def linear():
    """A linear classifier on the features."""
    return on_features()


def mlp():
    """The MLP of NMTune without s, without the features beside it and without regularisers."""
    return on_features({"name": "residual", "skip": False})


def paper():
    """Cross entropy + 0.01 (consistency + covariance + dominant singular value)."""
    return regularised("row", 1, (0.01, 0.01, 0.01))


def code():
    """Cross entropy + consistency + 0.04 covariance + 0.001 dominant singular values, the mean of five."""
    c = regularised("entry", 5, (1.0, 0.04 * TWICE, 0.001))
    c.optimizer.exclude = ()  # torch's AdamW decays every parameter
    return c


ARGUMENTS = {f.__name__: f for f in (linear, mlp, paper, code)}


def get_config(argument="code"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
