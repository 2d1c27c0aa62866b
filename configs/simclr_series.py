"""SimCLR on time series: two augmented windows of a series, a dilated convolution tower, NT-Xent.

Command:  python -m hcl_jax.main --config=simclr_series:BasicMotions --workdir=runs/motions
          python -m hcl_jax.main --config=simclr_series:csv --config.data.dir=SERIES.csv --workdir=runs/series
Arguments: csv (your own, by a table with the columns id, time, channels and perhaps label), or any series set that aeon
          carries: BasicMotions, ArrowHead, GunPoint, ItalyPowerDemand, OSULeaf, ...
Needs:    pip install -e '.[series]' for aeon's
Hardware: 2 CPU cores.
Expected: see docs/results.md.
Source:   Chen et al. 2020, arXiv 2002.05709; encoder of Yue et al. 2022, "TS2Vec", arXiv 2106.10466;
          augmentations of Qian et al. 2022, "CL-HAR", arXiv 2202.05998.
"""

from hcl_jax.config import defaults


def get_config(argument="BasicMotions"):
    """SimCLR on the series set that `argument` names."""
    c = defaults()
    c.data.name, c.data.batch_size = argument, 32
    if argument == "csv":
        c.data.name, c.data.held_out, c.data.shape = "series_csv", 0.2, (128, 3)
    ops = (
        {"op": "z_normalise"},
        {"op": "crop_resize", "fraction": (0.5, 1.0)},
        {"op": "scale", "sigma": 0.3},
        {"op": "jitter", "sigma": 0.2},
    )
    c.views = {name: {"kind": "series", "field": "series", "ops": ops} for name in ("a", "b")}
    c.towers = {
        "series": {
            "views": ("a", "b"),
            "encoder": {"name": "tcn", "features": 128, "hidden": 64, "depth": 5, "dropout": 0.1},
            "heads": {"z": {"name": "projector", "hidden": 128, "features": 64}},
        }
    }
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.2}}
    c.optimizer.learning_rate = 1e-3
    c.train.steps = 600
    c.evaluate.batch_size = 64
    c.evaluate.views = {
        "series": {"kind": "series", "field": "series", "ops": ({"op": "z_normalise"},), "tower": "series"}
    }
    c.evaluate.evaluators.knn.k, c.evaluate.evaluators.one_nn = 5, {}
    return c
