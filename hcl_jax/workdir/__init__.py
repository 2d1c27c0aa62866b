"""A run is its folder: config.json, metrics.jsonl, checkpoints/, card.json, and the lock that guards them."""

from hcl_jax.workdir.folder import allowed, check, freeze, has_run, resume_config, write_arrays

__all__ = ["allowed", "check", "freeze", "has_run", "resume_config", "write_arrays"]
