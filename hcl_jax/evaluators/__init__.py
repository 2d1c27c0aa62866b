"""Evaluators: pure functions of (features, labels), one a file; `hcl_jax.evaluation` is their thin caller."""
