"""How many labels a linear probe needs, beside training from scratch on the same rows."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hcl_jax.claims.measures.reading import Arms, Reading, Split, every, one, split, top1
from hcl_jax.data.noise import sampled_rows
from hcl_jax.errors import InputError
from hcl_jax.evaluators.label_efficiency import labels_needed
from hcl_jax.evaluators.linear import linear_probe
from hcl_jax.evaluators.softmax import standardiser


def fewer_labels(
    arms: Arms, seed: int, *, ssl: str, scratch: str, view: str, head: str, share: float = 0.9
) -> dict[str, object]:
    """Labels needed for a share of the full probe's accuracy: by the trained encoder, the untrained one, from scratch.

    An arm `scratch` varies data.sample, and its runs are trained on the labels of those rows alone; the probes of n
    labels are fitted on the very same rows. The target is share x the accuracy of the trained encoder's probe on all
    labels. An arm that never reaches it counts with all its labels, which makes the ratios larger, not smaller.

    Returns:
      full, needed_ssl, needed_untrained, needed_scratch; log_ratio_scratch = log(needed_ssl / needed_scratch) and
      log_ratio_untrained (a mean of ratios would lean to the large ones), ratio_scratch, ratio_untrained; the curves.

    Reference: Saunshi 2022, "Towards understanding self-supervised representation learning"; Henaff et al. 2019, arXiv
    1905.09272, section 4.
    """
    if not 0 < share <= 1:
        raise InputError("arguments: share", share, "above 0, at most 1")
    trained = one(arms, ssl)
    if trained.untrained is None:
        raise InputError(f"runs.{ssl}", "no untrained features", "untrained = true")
    counts = [_count(r) for r in every(arms, scratch)]
    curves = {
        "ssl": _curve(trained.views, view, counts, seed),
        "untrained": _curve(trained.untrained, view, counts, seed),
        "scratch": {c: top1(split(r.views, head, "test")) for c, r in zip(counts, every(arms, scratch), strict=True)},
    }
    full = curves["ssl"][max(counts)]
    needed = {name: min(labels_needed(curve, share * full), float(max(counts))) for name, curve in curves.items()}
    return {
        "full": full,
        **{f"needed_{name}": n for name, n in needed.items()},
        **{f"log_ratio_{name}": math.log(needed["ssl"] / needed[name]) for name in ("scratch", "untrained")},
        **{f"ratio_{name}": needed["ssl"] / needed[name] for name in ("scratch", "untrained")},
        **{name: {"x": list(c), "y": list(c.values())} for name, c in curves.items()},
    }


def _count(reading: Reading) -> int:
    if isinstance(reading.value, bool) or not isinstance(reading.value, int) or reading.value < 2:
        raise InputError("arguments: scratch", f"an arm of value {reading.value!r}", "an arm that varies data.sample")
    return reading.value


def _curve(views: Mapping[str, Mapping[str, Split]], view: str, counts: Sequence[int], seed: int) -> dict[int, float]:
    train, test = (split(views, view, s) for s in ("train", "test"))
    # No label is needed for the mean and deviation, and few rows have none worth using.
    mean, scale = standardiser(train.features)
    x, z = ((rows.features - mean[None, :]) / scale[None, :] for rows in (train, test))
    out = {}
    for count in counts:
        rows = sampled_rows(len(x), count, seed)
        rows = rows[train.labels[rows] >= 0]
        if not len(rows):
            raise InputError(f"data.sample {count}", "no row with a label", "labelled rows")
        if len(np.unique(train.labels[rows])) < 2:
            # One class is all it can say.
            out[count] = float(np.mean(test.labels[test.labels >= 0] == train.labels[rows[0]]))
        else:
            out[count] = linear_probe(x[rows], train.labels[rows], z, test.labels, seed=seed).accuracy.value
    return out
