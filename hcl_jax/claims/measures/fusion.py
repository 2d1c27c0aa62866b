"""Several views of an example, some missing: fused by the mean of what is there, or with zeros in the gaps."""

from collections.abc import Mapping, Sequence

import numpy as np

from hcl_jax.claims.measures.reading import Arms, one, split
from hcl_jax.errors import InputError
from hcl_jax.evaluators.linear import held_out_fifth, linear_probe
from hcl_jax.evaluators.neighbours import unit_rows


def fusion(arms: Arms, seed: int, *, runs: Mapping[str, float], views: list[str]) -> dict[str, object]:
    """Probes of one view and of all, while a share of the views is missing at test time.

    Views share an output space (contrast put them there). `mean` is the mean of the unit outputs that are present, and
    its probe knows no gap; `zeros` is their concatenation with zeros where one is missing. Both are fitted on whole
    training rows. An example keeps at least one view.

    Args:
      arms: the runs.
      seed: of the gaps, the same for every method.
      runs: {arm: share of views missing in its training and at test time}; the first has 0.
      views: names, with output in one space.

    Returns:
      for each share: fused_<share>, and of the view that is best on held-out training rows single_<share> (over all
      rows, zeros where it is missing) and single_there_<share> (over those that have it); over_single_<share> and
      over_single_there_<share>, by how much `fused` is above on the same rows; drop_mean_<share>, drop_zeros_<share>
      (accuracy on whole rows less that with gaps, of one model), drop_excess_<share> = drop_mean - drop_zeros / 2.

    Reference: Tian et al. 2020, "Contrastive multiview coding", arXiv 1906.05849, section 3 (views in one space).
    """
    if not isinstance(views, list) or len(views) < 2:
        raise InputError("arguments: views", repr(views), "a list of two or more")
    if not isinstance(runs, Mapping) or len(set(runs.values())) < len(runs):
        raise InputError("arguments: runs", repr(runs), "{ arm = share, ... }, another share for each")
    found: dict[str, object] = {}
    for name, missing in runs.items():
        if not isinstance(missing, int | float) or not 0 <= missing < 1:
            raise InputError(f"arguments: runs.{name}", missing, "0 to below 1, a share")
        read = one(arms, name).views
        for v in views:
            split(read, v, "train"), split(read, v, "test")
        train, test = ([read[v][s] for v in views] for s in ("train", "test"))
        whole = np.all([s.present for s in train], axis=0), np.all([s.present for s in test], axis=0)
        x, z = ([unit_rows(s.features[rows]) for s in splits] for splits, rows in ((train, whole[0]), (test, whole[1])))
        y, t = train[0].labels[whole[0]], test[0].labels[whole[1]]
        gaps = kept(len(t), len(views), missing, seed)
        best = max(range(len(views)), key=lambda i: _validated(x[i], y, seed))
        alone = linear_probe(x[best], y, z[best] * gaps[:, [best]], t, seed=seed).correct
        single = {"single": float(alone.mean()), "single_there": float(alone[gaps[:, best]].mean())}
        drops = {}
        for how in ("mean", "zeros"):
            full = np.ones_like(gaps)
            fit = fuse(x, np.ones((len(y), len(views)), bool), how)
            with_all = linear_probe(fit, y, fuse(z, full, how), t, seed=seed).accuracy.value
            right = linear_probe(fit, y, fuse(z, gaps, how), t, seed=seed).correct
            drops[how] = with_all - float(right.mean())
            if how == "mean":
                fused = {"single": float(right.mean()), "single_there": float(right[gaps[:, best]].mean())}
                found[f"fused_{missing}"] = fused["single"]
                found |= {f"{k}_{missing}": v for k, v in single.items()}
                found |= {f"over_{k}_{missing}": fused[k] - v for k, v in single.items()}
        if missing:
            found |= {f"drop_{how}_{missing}": drop for how, drop in drops.items()}
            found[f"drop_excess_{missing}"] = drops["mean"] - drops["zeros"] / 2
    return found


def kept(rows: int, views: int, missing: float, seed: int) -> np.ndarray:
    """bool [rows, views]: each view is missing with this probability, and one at random stays in any case."""
    rng = np.random.default_rng((seed, 11))
    there = rng.random((rows, views)) >= missing
    stays = rng.integers(0, views, rows)
    there[np.arange(rows), stays] |= ~there.any(axis=1)
    return there


def fuse(outputs: Sequence[np.ndarray], there: np.ndarray, how: str) -> np.ndarray:
    """By "mean" of the outputs that are there, or by "zeros", their concatenation with zeros for the others."""
    gated = [out * there[:, [i]] for i, out in enumerate(outputs)]
    if how == "zeros":
        return np.concatenate(gated, axis=1)
    return np.sum(gated, axis=0) / there.sum(axis=1, keepdims=True)


def _validated(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    held = held_out_fifth(y, seed)
    return linear_probe(x[~held], y[~held], x[held], y[held], seed=seed).accuracy.value
