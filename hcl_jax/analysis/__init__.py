"""Measures of a feature space: pure functions of features and labels."""

from hcl_jax.analysis.block import BlockLoss, block_loss
from hcl_jax.analysis.geometry import alignment, deviations, spread, tolerance, uniformity
from hcl_jax.analysis.latent_class import LatentClass, latent_class_report
from hcl_jax.analysis.mean_classifier import MeanClassifier, mean_classifier
from hcl_jax.analysis.spectrum import (
    effective_rank,
    largest_singular_value_ratio,
    singular_value_entropy,
    singular_values,
)
from hcl_jax.analysis.two_sided import TwoSided, gaps, two_sided_bound

__all__ = [
    "BlockLoss",
    "LatentClass",
    "MeanClassifier",
    "TwoSided",
    "alignment",
    "block_loss",
    "deviations",
    "effective_rank",
    "gaps",
    "largest_singular_value_ratio",
    "latent_class_report",
    "mean_classifier",
    "singular_value_entropy",
    "singular_values",
    "spread",
    "tolerance",
    "two_sided_bound",
    "uniformity",
]
