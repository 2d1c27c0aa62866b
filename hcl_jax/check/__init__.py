"""A look at data before a run: a page of what a source holds, what is odd in it, and what each evaluator will use."""

from hcl_jax.check.before_run import as_files, look_before_run
from hcl_jax.check.look import Page, look

__all__ = ["Page", "as_files", "look", "look_before_run"]
