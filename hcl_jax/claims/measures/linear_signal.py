"""Is the class a linear function of the representation, down to its means?"""

from hcl_jax.analysis.mean_classifier import CONVENTIONS, mean_classifier
from hcl_jax.claims.measures.reading import Arms, one, probe, split
from hcl_jax.errors import InputError


def linear_signal(arms: Arms, seed: int, *, run: str, view: str) -> dict[str, object]:
    """Accuracy of a trained linear probe less that of the classifier of class means, after and before training.

    Of the means there are two conventions: scores f . mu_c (`product`, the theory's), and the nearest mean (`nearest`).

    Returns:
      probe_trained, product_trained, product_gap_trained, nearest_trained, nearest_gap_trained, and the same of the
      untrained encoder.

    Reference: Arora et al. 2019, arXiv 1902.09229, section 4 and table 1 (mean classifier beside trained one).
    """
    reading = one(arms, run)
    if reading.untrained is None:
        raise InputError(f"runs.{run}", "no untrained features", "untrained = true")
    out: dict[str, object] = {}
    for name, views in (("trained", reading.views), ("untrained", reading.untrained)):
        train, test = (split(views, view, s) for s in ("train", "test"))
        fitted = probe(views, view, seed).accuracy.value
        out[f"probe_{name}"] = fitted
        for convention in CONVENTIONS:
            found = mean_classifier(
                train.features, train.labels, test.features, test.labels, convention=convention
            ).accuracy.value
            out |= {f"{convention}_{name}": found, f"{convention}_gap_{name}": fitted - found}
    return out
