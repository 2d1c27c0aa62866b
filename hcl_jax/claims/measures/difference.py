"""One arm less another."""

from hcl_jax.claims.measures.reading import Arms, one, probe


def difference(arms: Arms, seed: int, *, first: str, second: str, view: str) -> dict[str, object]:
    """Linear probes of two arms.

    Returns:
      first, second: top-1; difference = first - second.

    Reference: Chen et al. 2020, arXiv 2002.05709, section 2.3 (linear evaluation).
    """
    found = {
        role: probe(one(arms, name).views, view, seed).accuracy.value
        for role, name in (("first", first), ("second", second))
    }
    return {**found, "difference": found["first"] - found["second"]}
