"""What noise in pre-training does to a linear probe, in and out of distribution, and to the singular values."""

import jax
import numpy as np
from scipy import stats

from hcl_jax.analysis.spectrum import largest_singular_value_ratio, singular_value_entropy
from hcl_jax.claims.measures.reading import Arms, every, probe, split
from hcl_jax.errors import InputError
from hcl_jax.evaluators.linear import predict

MEASURED = {
    "sve": jax.jit(singular_value_entropy, static_argnames="centring"),
    "lsvr": jax.jit(largest_singular_value_ratio, static_argnames="centring"),
}


def noise(arms: Arms, seed: int, *, run: str, view: str, centring: str = "rows") -> dict[str, object]:
    """Linear probes of an arm that varies its noise, each value beside the first one.

    ID is the test split of `view`. OOD is the mean over all other views: by the same probe where they have only a test
    split (corruptions), by a probe of their own where they have a training split (another data set). SVE and LSVR are
    those of the test features of `view`.

    Returns:
      id_<value>, ood_<value>: accuracies; id_change_<value>, ood_change_<value>: less that of the first value;
      sve_<value>, lsvr_<value>; sve_rank, lsvr_rank: Spearman's correlation with the values; the curves.

    Reference: Chen et al. 2024, arXiv 2309.17002, sections 2.2 and 2.3.
    """
    readings = every(arms, run)
    if len(readings) < 3:
        raise InputError(f"runs.{run}", f"{len(readings)} values", "three or more, the first without noise")
    rows = []
    for reading in readings:
        fitted = probe(reading.views, view, seed)
        out = []
        for name, splits in reading.views.items():
            if name == view:
                continue
            if "train" in splits:
                out.append(probe(reading.views, name, seed).accuracy.value)
            else:
                test = split(reading.views, name, "test")
                known = test.labels >= 0
                out.append(float(np.mean(predict(fitted.probe, test.features[known]) == test.labels[known])))
        if not out:
            raise InputError("views", view, "beside it views that are out of distribution")
        features = jax.device_put(split(reading.views, view, "test").features)
        measured = {name: float(f(features, centring=centring)) for name, f in MEASURED.items()}
        rows.append({"id": fitted.accuracy.value, "ood": float(np.mean(out)), **measured})
    values = [r.value for r in readings]
    found: dict[str, object] = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        found |= {f"{name}_{v}": c for v, c in zip(values, column, strict=True)}
        found[name] = {"x": values, "y": column}
        if name in ("id", "ood"):
            found |= {f"{name}_change_{v}": c - column[0] for v, c in zip(values[1:], column[1:], strict=True)}
        found[f"{name}_rank"] = _rank(values, column)
    return found


def _rank(x: list[float], y: list[float]) -> float:
    """Spearman's correlation; 0 where y does not move."""
    return float(stats.spearmanr(x, y).statistic) if len(set(y)) > 1 else 0.0
