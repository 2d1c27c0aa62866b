"""Heterogeneous contrastive learning: views x towers x objectives on a mesh. Names below are imported at first use."""

import importlib
import importlib.metadata
from typing import Any

from hcl_jax.compat import modules

modules.install()

# A config error must not wait for JAX and Flax, so the public names are looked up when they are asked for.
_WHERE = {
    "ENCODERS": "hcl_jax.encoders",
    "EVALUATORS": "hcl_jax.evaluators",
    "HEADS": "hcl_jax.encoders",
    "LOSSES": "hcl_jax.losses",
    "SOURCES": "hcl_jax.data",
    "VIEWS": "hcl_jax.views",
    "InputError": "hcl_jax.errors",
    "defaults": "hcl_jax.config",
    "load": "hcl_jax.config",
    "open": "hcl_jax.trained",
    "train_and_evaluate": "hcl_jax.train",
}
__all__ = sorted(_WHERE.keys() - {"open"})  # `from hcl_jax import *` leaves Python's own


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("hcl_jax")
    if name not in _WHERE:
        raise AttributeError(f"module 'hcl_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, "__version__"})
