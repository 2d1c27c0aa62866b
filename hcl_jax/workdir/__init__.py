"""A run is its folder: config.json, metrics.jsonl, checkpoints/, card.json, and the lock that guards them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcl_jax.workdir.folder import (
        CLASSIFIERS,
        DATA,
        PARAMETERS,
        allowed,
        as_begun,
        check,
        config_of,
        freeze,
        has_run,
        resume_config,
        write_arrays,
    )

__all__ = [
    "CLASSIFIERS",
    "DATA",
    "PARAMETERS",
    "allowed",
    "as_begun",
    "check",
    "config_of",
    "freeze",
    "has_run",
    "resume_config",
    "write_arrays",
]


def __getattr__(name: str) -> Any:
    # Looked up at first use: the launchers read a run's lines without NumPy and the config.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hcl_jax.workdir import folder

    return getattr(folder, name)
