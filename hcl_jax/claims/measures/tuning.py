"""Heads tuned on frozen features, in and out of distribution."""

import numpy as np

from hcl_jax.claims.measures.reading import Arms, Split, one, split, top1
from hcl_jax.errors import InputError


def tuning(arms: Arms, seed: int, *, method: str, others: list[str], view: str, domain: str) -> dict[str, object]:
    """Top-1 of one tuning method less that of others, on the first domain (ID) and the mean of the rest (OOD).

    Args:
      arms: runs on features; `view` is the head's output, `domain` the same rows, whose label is the number of their
        domain (0 is in distribution).
      method: arm of the method; others: arms that it is compared with.

    Returns:
      id_<arm>, ood_<arm> of each; id_over_<other>, ood_over_<other>.

    Reference: Chen et al. 2024, arXiv 2309.17002, section 3.
    """
    del seed
    if not isinstance(others, list) or not others:
        raise InputError("arguments: others", repr(others), "a list of arms")
    found: dict[str, object] = {}
    scores = {}
    for name in (method, *others):
        reading = one(arms, name)
        rows, of = split(reading.views, view, "test"), split(reading.views, domain, "test").labels
        domains = np.unique(of)
        if len(domains) < 2 or len(of) != len(rows.labels):
            raise InputError(f"views.{domain}", f"{len(domains)} domains of {len(of)} rows", "ID rows and OOD rows")
        each = [top1(Split(rows.features[of == d], rows.labels[of == d], rows.present[of == d])) for d in domains]
        scores[name] = each[0], float(np.mean(each[1:]))
        found |= {f"id_{name}": scores[name][0], f"ood_{name}": scores[name][1]}
    for other in others:
        found[f"id_over_{other}"] = scores[method][0] - scores[other][0]
        found[f"ood_over_{other}"] = scores[method][1] - scores[other][1]
    return found
