"""What is measured on the runs of a claim: pure functions of features, labels and a seed.

Each takes {arm: [Reading of each value]}, the seed, and the claim's `arguments`, and gives {quantity: number}. A
quantity that is {"x": [...], "y": [...]} is a curve: it is drawn, and no statement may be about it.
"""

from collections.abc import Callable
from typing import Any

from hcl_jax.claims.measures.bound import bound
from hcl_jax.claims.measures.difference import difference
from hcl_jax.claims.measures.fewer_labels import fewer_labels
from hcl_jax.claims.measures.fusion import fusion
from hcl_jax.claims.measures.linear_signal import linear_signal
from hcl_jax.claims.measures.noise import noise
from hcl_jax.claims.measures.recovery import recovery
from hcl_jax.claims.measures.tuning import tuning

MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "difference": difference,
    "fewer_labels": fewer_labels,
    "linear_signal": linear_signal,
    "bound": bound,
    "noise": noise,
    "tuning": tuning,
    "recovery": recovery,
    "fusion": fusion,
}
