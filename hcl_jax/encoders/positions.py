"""Positions on a grid: fixed tables, and learned ones brought to another grid in the ways of the authors' codes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hcl_jax.errors import InputError


def sincos2d(grid: tuple[int, int], width: int, base: float = 10000.0, rows_first: bool = False) -> np.ndarray:
    """Fixed positions: [sin(x w), cos(x w), sin(y w), cos(y w)], w_k = base^(-4k/width), k < width/4.

    x counts columns and y rows, as in MAE's table; with `rows_first` x counts rows and y columns, as in MoCo v3's. On a
    square grid one is the other transposed: it matters for imported weights only.

    Args:
      grid: (rows, columns).
      width: a multiple of 4.
      base: of the geometric progression of wave lengths.
      rows_first: the first half of the features tells the row.

    Returns:
      float64 [1, rows columns, width].

    Raises:
      InputError: width is no multiple of 4.

    Reference: Chen et al. 2021, "An empirical study of training self-supervised vision transformers" (MoCo v3), section
    4 and vits.py of facebookresearch/moco-v3; util/pos_embed.py of facebookresearch/mae.
    """
    if width % 4:
        raise InputError("vit.width", width, "a multiple of 4 with position sincos2d")
    wave = base ** (-np.arange(width // 4) / (width // 4))
    y, x = (np.outer(axis.ravel(), wave) for axis in np.mgrid[: grid[0], : grid[1]])
    x, y = (y, x) if rows_first else (x, y)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[None]


def antialiased(table: Float[Array, "1 h w d"], grid: tuple[int, int]) -> Float[Array, "1 h2 w2 d"]:
    """Bicubic with a = -1/2, its kernel widened when it shrinks: jax.image.resize, and torch's with antialias=True, as
    timm and open_clip resize positions.

    Args:
      table: [1, rows, columns, D].
      grid: (rows, columns) wanted.
    """
    return jax.image.resize(table, (1, *grid, table.shape[-1]), "bicubic")


def torch(table: Float[Array, "1 h w d"], grid: tuple[int, int]) -> Float[Array, "1 h2 w2 d"]:
    """Bicubic with a = -3/4 over 4 x 4 entries whatever the size: torch's interpolate(size=grid, mode="bicubic").

    The entry i of n made of N lies at (i + 1/2) N / n - 1/2; entries beyond an edge are those of the edge.

    Args:
      table: [1, rows, columns, D].
      grid: (rows, columns) wanted.

    Reference: Keys 1981, "Cubic convolution interpolation", equation 4 with a = -1/2 there.
    """
    return _weighted(table, grid, extra=0.0)


def dino(table: Float[Array, "1 h w d"], grid: tuple[int, int]) -> Float[Array, "1 h2 w2 d"]:
    """As `torch`, at a scale of (n + 0.1) / N: the entry i lies at (i + 1/2) N / (n + 0.1) - 1/2.

    Args:
      table: [1, rows, columns, D].
      grid: (rows, columns) wanted.

    Reference: interpolate_pos_encoding in vision_transformer.py of facebookresearch/dino.
    """
    return _weighted(table, grid, extra=0.1)


RESIZES = {"antialiased": antialiased, "torch": torch, "dino": dino}


def _weighted(table: jax.Array, grid: tuple[int, int], extra: float) -> jax.Array:
    rows, columns = (_weights(old, new, extra) for old, new in zip(table.shape[1:3], grid, strict=True))
    weights = (jnp.asarray(w, table.dtype) for w in (rows, columns))
    return jnp.einsum("ih,jw,nhwd->nijd", *weights, table, precision="highest")


def _weights(old: int, new: int, extra: float) -> np.ndarray:
    """[new, old], float64: what each wanted place takes of each stored one along an axis."""
    at = (np.arange(new) + 0.5) * old / (new + extra) - 0.5
    found = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(at) + tap
        index = np.clip(place, 0, old - 1).astype(int)
        np.add.at(found, (np.arange(new), index), _cubic(np.abs(at - place), -0.75))
    return found


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
