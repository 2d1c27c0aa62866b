"""Is the class a linear function of the representation, down to its means?"""

from hcl_jax.analysis.mean_classifier import mean_classifier
from hcl_jax.claims.measures.reading import Arms, one, probe, split
from hcl_jax.errors import InputError


def linear_signal(arms: Arms, seed: int, *, run: str, view: str) -> dict[str, object]:
    """Accuracy of a trained linear probe less that of the classifier of class means, after and before training.

    Returns:
      probe_trained, mean_trained, gap_trained, and the same of the untrained encoder.

    Reference: Arora et al. 2019, arXiv 1902.09229, section 4 and table 1 (mean classifier beside trained one).
    """
    reading = one(arms, run)
    if reading.untrained is None:
        raise InputError(f"runs.{run}", "no untrained features", "untrained = true")
    out: dict[str, object] = {}
    for name, views in (("trained", reading.views), ("untrained", reading.untrained)):
        train, test = (split(views, view, s) for s in ("train", "test"))
        fitted = probe(views, view, seed).accuracy.value
        means = mean_classifier(train.features, train.labels, test.features, test.labels).accuracy.value
        out |= {f"probe_{name}": fitted, f"mean_{name}": means, f"gap_{name}": fitted - means}
    return out
