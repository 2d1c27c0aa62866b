"""Evaluators: pure functions of (features, labels), one a file; `run` is their thin caller."""
