"""The contrastive loss with blocks of positives and of negatives in place of single rows."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Integer, Num

from hcl_jax.analysis.latent_class import LOSSES
from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import draws_error
from hcl_jax.evaluators.rows import labelled


class BlockLoss(NamedTuple):
    """An estimate of the loss with blocks.

    Attributes:
      unsupervised: L_block.
      standard_error: of it, over draws.
      bound: (L_block - tau) / (1 - tau).
    """

    unsupervised: float
    standard_error: float
    bound: float


def block_loss(
    features: Num[ArrayLike, "n d"],
    labels: Integer[ArrayLike, " n"],
    *,
    block: int,
    loss: str = "logistic",
    draws: int = 100,
    seed: int = 0,
) -> BlockLoss:
    """L_block = E loss(f(x) . (mean_{i <= b} f(x+_i) - mean_{i <= b} f(x-_i))), the x-_i of one class.

    The world of `latent_class_report`. By Jensen's inequality L_block is at most L_un, and its bound lies between the
    loss of the mean classifier and the bound of single rows: both meet it as b grows.

    Args:
      features: [N, D], as they are.
      labels: int [N]; -1 = left out.
      block: b; one is an estimate of L_un.
      loss: "hinge" or "logistic", as in `latent_class_report`.
      draws: of both blocks for each row, at least 2; time is N draws b.
      seed: of the draws; they are a function of (seed, row).

    Returns:
      BlockLoss.

    Raises:
      InputError: shapes or values that do not fit, fewer than two classes, an unknown loss, block below 1, draws
        below 2.

    Example:
      >>> block_loss(np.ones((2, 2)), np.array([0, 1]), block=3, draws=2).unsupervised  # log2(1 + 1): margins of 0
      1.0

    Reference: Arora et al. 2019, arXiv 1902.09229, section 6.3.
    """
    if loss not in LOSSES:
        raise InputError("loss", repr(loss), ", ".join(map(repr, LOSSES)))
    for name, value, least in (("block", block, 1), ("draws", draws, 2)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(name, repr(value), f"a whole number from {least}")
    rows = labelled(features, labels, "block")
    known, y, counts = np.unique(rows.labels, return_inverse=True, return_counts=True)
    if len(known) < 2:
        raise InputError("block labels", f"only class {known[0]}", "at least two classes")
    order = np.argsort(y, kind="stable")
    x, y, first = rows.features[order].astype(np.float64), y[order], np.cumsum(counts) - counts
    margins = np.empty((len(x), draws))
    for i, c in enumerate(y):
        rng = np.random.default_rng((seed, i))
        s = x @ x[i]
        other = y[rng.integers(len(x), size=draws)]  # the class of a row drawn at random is a class drawn by rho
        positives = first[c] + rng.integers(counts[c], size=(draws, block))
        negatives = first[other][:, None] + rng.integers(counts[other][:, None], size=(draws, block))
        margins[i] = s[positives].mean(axis=1) - s[negatives].mean(axis=1)
    by_draw = np.asarray(LOSSES[loss](margins), np.float64).mean(axis=0)
    tau = float(np.sum((counts / counts.sum()) ** 2))
    mean = float(by_draw.mean())
    return BlockLoss(mean, draws_error(by_draw), (mean - tau) / (1 - tau))
