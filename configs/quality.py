"""Pairs weighted by their quality in four Siamese methods: two views of a picture, and a frozen judge of both.

Command:  python -m hcl_jax.main --config=quality:judge_digits --workdir=runs/judge
          python -m hcl_jax.main --config=quality:moco_digits --workdir=runs/quality
          python -m hcl_jax.main --config=quality:judge --config.data.dir=DIR --workdir=runs/judge
Arguments: judge (SimCLR on the same views: it trains the judge's encoder), moco, byol, simsiam, swav (weighted by what
          the encoder from init_from.path says of each pair), on emoji; the same with _digits behind, on digits
Hardware: 2 CPU cores. Where runs share the cores, OPENBLAS_NUM_THREADS=1 keeps the judge's eigenvectors at 1 ms a step.
Expected: row_weights_std/match above 0; what it does to false pairs on digits is in docs/claims.md.
Twins:    docs/twins.md, the authors' code beside these words, step by step: genview_simsiam.
Source:   Li et al. 2024, "GenView: enhancing view quality with pretrained generative model for self-supervised
          learning", arXiv 2403.12003, section 3.3 (there the judge is CLIP's ConvNeXt and gamma is 1); He et al. 2020,
          arXiv 1911.05722; Grill et al. 2020, arXiv 2006.07733; Chen and He 2021, arXiv 2011.10566; Caron et al. 2020,
          arXiv 2006.09882.

The plain method is --config.objectives.match.row_weights.gamma=0.0, the control with the same weights on other pairs
--config.objectives.match.row_weights.shift=1. False pairs, where b shows another emoji, are
--config.views.b.swapped=0.3 --config.views.qb.swapped=0.3: the judge sees what the method sees.
"""

from hcl_jax.config import choose, defaults

from ._image import DIGITS, crop

HIDDEN, FEATURES = 128, 64
PROJECTOR = {"name": "projector", "hidden": HIDDEN, "features": FEATURES}


def pictures(ops, still, field, widths):
    """Two views of a picture, a tower for both, and its evaluation."""
    c = defaults()
    c.data.batch_size = 256
    c.views = {name: {"kind": "image", "field": field, "ops": ops} for name in ("a", "b")}
    encoder = {"name": "convnet", "widths": widths}
    c.towers = {"image": {"views": ("a", "b"), "encoder": encoder, "heads": {"z": PROJECTOR}}}
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 3.0
    c.train.epochs = 30.0
    c.evaluate.views = {"picture": {"kind": "image", "field": field, "ops": still, "tower": "image"}}
    return c


def emoji():
    """Two crops of Google's drawing; 4 x 4 tokens of 32 pixels."""
    white = {"op": "flatten_alpha"}
    c = pictures((white, crop(32, (0.3, 1.0))), (white, {"op": "resize", "size": 32}), "google", (32, 64, 128))
    c.data.name, c.data.labels, c.evaluate.labels = "emoji", ("category", "subcategory"), "category"
    return c


def digits():
    """A digit moved and lit, then made larger: 4 x 4 tokens of 16 pixels."""
    c = pictures((), ({"op": "resize", "size": 16},), "image", (32, 64))
    for view in c.views.values():
        view.ops = (*DIGITS, {"op": "resize", "size": 16})
    c.data.name = "digits"
    return c


def judge(c):
    """SimCLR: what the judge of the other arguments has learned."""
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.2}}
    return c


def weighted(c, loss, inputs, **arguments):
    """The method's objective, its rows weighted by a judge that sees the same pixels and does not train."""
    for name in ("a", "b"):
        c.views[f"q{name}"] = {**c.views[name].to_dict(), "draws": name}
    c.towers.judge = {"views": ("qa", "qb"), "encoder": c.towers.image.encoder.to_dict(), "frozen": True}
    row_weights = {"weights": "pair_quality", "inputs": ("qa.tokens", "qb.tokens"), "gamma": 1.0, "shift": 0}
    c.objectives = {"match": {"loss": loss, "inputs": inputs, "row_weights": row_weights, **arguments}}
    c.init_from.path, c.init_from.include = "runs/judge", ("^judge/encoder/",)
    c.init_from.rename = (("^image/", "judge/"),)
    return c


def moco(c):
    """MoCo v2: keys of a moving average, and a queue of two batches."""
    c.towers.image.target = {"momentum": 0.99, "schedule": "constant", "heads": ("z",)}
    c.towers.image.memory = {"queue": {"kind": "fifo", "reads": "b.target.z", "size": 512}}
    c.towers.image.batching = "per_view"
    return weighted(c, "info_nce", ("a.z", "b.target.z", "image.memory.queue"), temperature=0.2)


def byol(c):
    """BYOL: a predictor and a moving average; one BatchNorm for both views and last biases, as the claim has them."""
    c.towers.image.heads.z = {**PROJECTOR, "last_batch_norm": False, "last_bias": True}
    c.towers.image.heads.p = {"name": "predictor", "reads": "z", "hidden": HIDDEN}
    c.towers.image.target = {"momentum": 0.99, "schedule": "cosine", "heads": ("z",)}
    return weighted(c, "byol", ("a.p", "b.target.z", "b.p", "a.target.z"))


def simsiam(c):
    """SimSiam: a predictor and a stopped gradient."""
    c.towers.image.heads.z = {**PROJECTOR, "last_affine": False}
    c.towers.image.heads.p = {"name": "predictor", "reads": "z", "hidden": FEATURES // 2}
    return weighted(c, "negative_cosine", ("a.p", "b.z", "b.p", "a.z"))


def swav(c):
    """SwAV: 60 prototypes, two crops."""
    c.towers.image.heads.z = {**PROJECTOR, "last_batch_norm": False, "last_bias": True}
    c.towers.image.heads.prototypes = {"name": "prototypes", "reads": "z", "features": 60}
    c.optimizer.unit_norm = ("heads/prototypes/kernel$",)
    return weighted(c, "swav", ("a.prototypes", "b.prototypes"), temperature=0.1, epsilon=0.05)


METHODS = {f.__name__: f for f in (judge, moco, byol, simsiam, swav)}
ARGUMENTS = {f"{m}{end}": (m, d) for m in METHODS for end, d in (("", emoji), ("_digits", digits))}


def get_config(argument="moco_digits"):
    """The run that `argument` names."""
    method, data = choose(argument, ARGUMENTS)
    return METHODS[method](data())
