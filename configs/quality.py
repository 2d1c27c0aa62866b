"""Pairs weighted by their quality in four Siamese methods: two crops of an emoji, and a frozen judge of both.

Command:  python -m hcl_jax.main --config=quality:judge --config.data.dir=DIR --workdir=runs/judge
          python -m hcl_jax.main --config=quality:moco --config.data.dir=DIR --workdir=runs/quality
Arguments: judge (SimCLR on the same views: it trains the judge's encoder), moco, byol, simsiam, swav (weighted by what
          the encoder from init_from.path says of each pair)
Hardware: 2 CPU cores. Where runs share the cores, OPENBLAS_NUM_THREADS=1 keeps the judge's eigenvectors at 1 ms a step.
Expected: row_weights_std/match above 0; no published number.
Source:   Li et al. 2024, "GenView: enhancing view quality with pretrained generative model for self-supervised
          learning", arXiv 2403.12003, section 3.3 (there the judge is CLIP's ConvNeXt and gamma is 1); He et al. 2020,
          arXiv 1911.05722; Grill et al. 2020, arXiv 2006.07733; Chen and He 2021, arXiv 2011.10566; Caron et al. 2020,
          arXiv 2006.09882.

The plain method is --config.objectives.match.row_weights.gamma=0.0, the control with the same weights on other pairs
--config.objectives.match.row_weights.shift=1. False pairs, where b shows another emoji, are
--config.views.b.swapped=0.3 --config.views.qb.swapped=0.3: the judge sees what the method sees.
"""

from hcl_jax.config import choose, defaults

ENCODER = {"name": "convnet", "widths": (32, 64, 128)}  # 4 x 4 tokens of a drawing of 32 pixels
HIDDEN, FEATURES = 128, 64
PROJECTOR = {"name": "projector", "hidden": HIDDEN, "features": FEATURES}


def drawings():
    """Two crops of Google's drawing, a tower for both, and its evaluation."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.labels = "emoji", 256, ("category", "subcategory")
    crop = ({"op": "flatten_alpha"}, {"op": "random_resized_crop", "size": 32, "scale": (0.3, 1.0)})
    c.views = {name: {"kind": "image", "field": "google", "ops": crop} for name in ("a", "b")}
    c.towers = {"image": {"views": ("a", "b"), "encoder": ENCODER, "heads": {"z": PROJECTOR}}}
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 3.0
    c.train.epochs = 30.0
    still = ({"op": "flatten_alpha"}, {"op": "resize", "size": 32})
    c.evaluate.views = {"google": {"kind": "image", "field": "google", "ops": still, "tower": "image"}}
    c.evaluate.labels = "category"
    return c


def judge():
    """SimCLR: what the judge of the other arguments has learned."""
    c = drawings()
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.2}}
    return c


def weighted(c, loss, inputs, **arguments):
    """The method's objective, its rows weighted by a judge that sees the same pixels and does not train."""
    for name in ("a", "b"):
        c.views[f"q{name}"] = {**c.views[name].to_dict(), "draws": name}
    c.towers.judge = {"views": ("qa", "qb"), "encoder": ENCODER, "frozen": True}
    row_weights = {"weights": "pair_quality", "inputs": ("qa.tokens", "qb.tokens"), "gamma": 1.0, "shift": 0}
    c.objectives = {"match": {"loss": loss, "inputs": inputs, "row_weights": row_weights, **arguments}}
    c.init_from.path, c.init_from.include = "runs/judge", ("^judge/encoder/",)
    c.init_from.rename = (("^image/", "judge/"),)
    return c


def moco():
    """MoCo v2: keys of a moving average, and a queue of two batches."""
    c = drawings()
    c.towers.image.target = {"momentum": 0.99, "schedule": "constant", "heads": ("z",)}
    c.towers.image.memory = {"queue": {"kind": "fifo", "reads": "b.target.z", "size": 512}}
    c.towers.image.batching = "per_view"
    return weighted(c, "info_nce", ("a.z", "b.target.z", "image.memory.queue"), temperature=0.2)


def byol():
    """BYOL: a predictor and a moving average."""
    c = drawings()
    c.towers.image.heads.z = {**PROJECTOR, "last_batch_norm": False, "last_bias": True}
    c.towers.image.heads.p = {"name": "predictor", "reads": "z", "hidden": HIDDEN}
    c.towers.image.target = {"momentum": 0.99, "schedule": "cosine", "heads": ("z",)}
    return weighted(c, "byol", ("a.p", "b.target.z", "b.p", "a.target.z"))


def simsiam():
    """SimSiam: a predictor and a stopped gradient."""
    c = drawings()
    c.towers.image.heads.z = {**PROJECTOR, "last_affine": False}
    c.towers.image.heads.p = {"name": "predictor", "reads": "z", "hidden": FEATURES // 2}
    return weighted(c, "negative_cosine", ("a.p", "b.z", "b.p", "a.z"))


def swav():
    """SwAV: 60 prototypes, two crops."""
    c = drawings()
    c.towers.image.heads.z = {**PROJECTOR, "last_batch_norm": False, "last_bias": True}
    c.towers.image.heads.prototypes = {"name": "prototypes", "reads": "z", "features": 60}
    c.optimizer.unit_norm = ("heads/prototypes/kernel$",)
    return weighted(c, "swav", ("a.prototypes", "b.prototypes"), temperature=0.1, epsilon=0.05)


ARGUMENTS = {f.__name__: f for f in (judge, moco, byol, simsiam, swav)}


def get_config(argument="moco"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
