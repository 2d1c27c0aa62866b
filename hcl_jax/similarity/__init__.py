"""Sums over all pairs of rows, and the engines that compute them: whole, tile by tile, or around a ring of devices."""

from hcl_jax.similarity.engines import (
    DEFAULT,
    ENGINES,
    IGNORED,
    Auto,
    Dense,
    Engine,
    Nearest,
    Over,
    SoftmaxRows,
    auto,
    dense,
    gathered,
    ring,
    streamed,
)

__all__ = [
    "DEFAULT",
    "ENGINES",
    "IGNORED",
    "Auto",
    "Dense",
    "Engine",
    "Nearest",
    "Over",
    "SoftmaxRows",
    "auto",
    "dense",
    "gathered",
    "ring",
    "streamed",
]
