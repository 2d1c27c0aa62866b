"""How much of what damaged data cost a remedy gets back."""

from hcl_jax.claims.measures.reading import Arms, one, probe


def recovery(
    arms: Arms, seed: int, *, clean: str, damaged: str, remedy: str, control: str, view: str
) -> dict[str, object]:
    """Linear probes of four arms: clean data, damaged data, damaged with a remedy, damaged with its control.

    Returns:
      accuracy_<arm>; lost = clean - damaged; recovered = remedy - damaged; over_control = remedy - control.

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, section 3.3 (the remedy: pairs weighted by quality).
    """
    names = {"clean": clean, "damaged": damaged, "remedy": remedy, "control": control}
    accuracy = {role: probe(one(arms, name).views, view, seed).accuracy.value for role, name in names.items()}
    return {
        **{f"accuracy_{role}": a for role, a in accuracy.items()},
        "lost": accuracy["clean"] - accuracy["damaged"],
        "recovered": accuracy["remedy"] - accuracy["damaged"],
        "over_control": accuracy["remedy"] - accuracy["control"],
    }
