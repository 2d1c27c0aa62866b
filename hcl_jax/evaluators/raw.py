"""The raw input as features: the baseline that an encoder has to beat."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hcl_jax.errors import InputError


def _flat(x: np.ndarray, axes: tuple[int, ...], limit: int) -> np.ndarray:
    """Means over blocks along `axes`, of the smallest whole factor that leaves `limit` values a row or fewer, flat."""
    factor = 1
    while np.prod([n // factor if i in axes else n for i, n in enumerate(x.shape) if i]) > limit:
        if factor >= min(x.shape[i] for i in axes):
            break
        factor += 1
    for axis in axes if factor > 1 else ():
        kept = x.shape[axis] // factor
        x = np.take(x, np.arange(kept * factor), axis=axis)
        x = x.reshape(*x.shape[:axis], kept, factor, *x.shape[axis + 1 :]).mean(axis=axis + 1)
    return x.reshape(len(x), -1)


def raw_features(view: Mapping[str, Any], *, limit: int = 4096, buckets: int = 4096) -> np.ndarray:
    """A view as plain features.

    Images, series and features are flattened (missing values of a series are 0). Above `limit` values a row images are
    first averaged over square blocks and series over runs of steps, of the smallest whole factor that fits, since a
    probe on 150,528 pixels is out of reach of two cores. Tokens become counts: f[t] = #{l : token_l = t}, padding (0)
    not counted, ids from `buckets` on folded by t mod `buckets`. Nodes stay; those of many small graphs are summed
    graph by graph.

    Args:
      view: {"image": [n, H, W, C]}, {"series": [n, T, C]}, {"tokens": int [n, L]}, {"features": [n, D]},
        {"nodes": [n, F]}, or {"nodes": [n, V, F], "node_mask": [n, V]}; other fields are not read.
      limit: largest number of pixels or steps times channels.
      buckets: dimensions of the token counts.

    Returns:
      float32 [n, d]; d follows from the shapes alone, so batches can be put together.

    Raises:
      InputError: none of these fields.
    """
    if "image" in view:
        return _flat(np.asarray(view["image"], np.float32), (1, 2), limit)
    if "series" in view:
        return _flat(np.nan_to_num(np.asarray(view["series"], np.float32)), (1,), limit)
    if "features" in view:
        return np.asarray(view["features"], np.float32)
    if "nodes" in view:
        nodes = np.asarray(view["nodes"], np.float32)
        return nodes if nodes.ndim == 2 else (nodes * np.asarray(view["node_mask"])[..., None]).sum(axis=1)
    if "tokens" in view:
        tokens = np.asarray(view["tokens"])
        cell = np.arange(len(tokens))[:, None] * buckets + tokens % buckets
        counts = np.bincount(cell.ravel(), (tokens != 0).ravel(), len(tokens) * buckets)
        return counts.reshape(len(tokens), buckets).astype(np.float32)
    raise InputError(
        "raw features",
        f"a view of {', '.join(map(str, view)) or 'nothing'}",
        "image, series, tokens, features or nodes",
    )
