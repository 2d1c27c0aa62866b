"""TS2Vec: two crops of a series agree at every step and time scale of their overlap; a dilated convolution tower.

Command:  python -m hcl_jax.main --config=ts2vec:BasicMotions --workdir=runs/ts2vec
Arguments: any series set that aeon carries: BasicMotions, ArrowHead, GunPoint, ItalyPowerDemand, OSULeaf, ...
Needs:    pip install -e '.[series]'
Hardware: 2 CPU cores.
Expected: see docs/results.md.
Twins:    docs/twins.md, the authors' code beside these words, step by step: ts2vec.
Source:   Yue et al. 2022, "TS2Vec", arXiv 2106.10466, section 4.1 and appendix, and scripts/ of their code.
"""

from hcl_jax.config import defaults

# Whose values the published loaders scale over the training set; the others come normalised.
STANDARDISED = ("BasicMotions", "JapaneseVowels", "PickupGestureWiimoteZ")
# More than 100,000 training values: 600 iterations in place of 200.
LONG = ("ACSF1",)


def get_config(argument="BasicMotions"):
    """TS2Vec on the series set that `argument` names."""
    c = defaults()
    c.data.name, c.data.batch_size = argument, 8
    c.data.standardise = argument in STANDARDISED
    c.views = {
        side: {
            "kind": "series",
            "field": "series",
            "draws": "crop",
            "ops": ({"op": "overlapping_crops", "side": side},),
        }
        for side in ("a", "b")
    }
    encoder = {
        "name": "tcn",
        "features": 320,
        "hidden": 64,
        "depth": 10,
        "mask": 0.5,
        "dropout": 0.1,
        "initial": "uniform",
    }
    c.towers = {"series": {"views": ("a", "b"), "encoder": encoder}}
    c.objectives = {
        "contrast": {
            "loss": "ts2vec",
            "inputs": ("a.tokens", "b.tokens", "views.a.overlap", "views.b.overlap"),
            "alpha": 0.5,
        }
    }
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.schedule = 1e-3, 0.01, "constant"
    c.optimizer.exclude = ()  # torch's AdamW decays every parameter
    c.optimizer.average, c.optimizer.average_first = 1.0, True  # AveragedModel is called before the first update too
    c.train.steps = 600 if argument in LONG else 200
    c.evaluate.batch_size = 64
    # h is the maximum over the steps of the whole series.
    c.evaluate.views = {"series": {"kind": "series", "field": "series", "ops": (), "tower": "series"}}
    c.evaluate.evaluators.knn.k = 5
    c.evaluate.evaluators.svm, c.evaluate.evaluators.one_nn = {}, {}
    return c
