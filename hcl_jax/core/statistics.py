"""BatchNorm statistics made for given weights: the exact mean of those of batches, in training mode.

Running statistics lag behind the weights of the last steps. Other weights, such as an average, have seen no batch, so
they are shown some: mean_b(mean of batch b), mean_b(variance of batch b), as torch.optim.swa_utils.update_bn does.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hcl_jax.core import towers
from hcl_jax.core.grad_cache import Chunks
from hcl_jax.core.model import Model, row_keys


def moving(tower: towers.Tower, stats: Any) -> bool:
    """Whether a training pass over a tower moves running statistics; those of a frozen encoder stay."""
    return bool(jax.tree.leaves((stats["heads"], () if tower.frozen else stats["encoder"])))


def init(model: Model) -> dict[str, dict[str, jax.Array]]:
    """How many passes the statistics of each tower are a mean of, those of its heads apart: none yet, so the first
    replaces what is there."""
    none = jnp.zeros((), jnp.result_type(float))
    return {name: {"encoder": none, "heads": none} for name in model.towers}


def add(model: Model, params: Any, made: tuple[Any, Any], batch: Mapping[str, Any], key: jax.Array) -> tuple[Any, Any]:
    """Takes one more training batch into the statistics.

        s <- (c s + s_batch) / (c + 1),  c <- c + 1

    A pass is what has batch statistics of its own in training: the views of a tower that go through it together, of
    each of the batches of `train.accumulate`. On a mesh its statistics are of all devices, and `bn_groups` and
    `train.cache` mean what they mean in a step.

    Args:
      model: the static parts.
      params: the weights.
      made: (running statistics as in TrainState.model_state, passes they are a mean of as `init` has them).
      batch: as of a step.
      key: of dropout.

    Returns:
      The same two.
    """
    keys, k = row_keys(key, model, batch), model.accumulate
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, k, *x.shape[1:]), 1, 0), (batch, keys))

    def body(made: Any, part: Any) -> tuple[Any, None]:
        stats, counts = dict(made[0]), dict(made[1])
        for name, tower in model.towers.items():
            if moving(tower, stats[name]):
                one = (stats[name], counts[name])
                stats[name], counts[name] = _of_tower(model, tower, params[name], one, *part)
        return (stats, counts), None

    return jax.lax.scan(body, (dict(made[0]), dict(made[1])), split)[0]


def _of_tower(model: Model, tower: towers.Tower, params: Any, made: Any, batch: Any, keys: Any) -> Any:
    chunks = Chunks(model.cache, tower.bn_groups)
    groups = towers.groups(tower, batch["views"])
    passes = [(group, ("encoder",) if tower.heads_together else ("encoder", "heads")) for group in groups]
    if tower.heads_together:
        passes.append(([v for group in groups for v in group], ("heads",)))
    for group, parts in passes:
        part = tower._replace(views=tuple(group), bn_groups=tower.bn_groups // model.cache)
        rows = {"views": batch["views"], "present": batch["present"], "keys": keys}
        rows = {kind: {v: x[v] for v in group if v in x} for kind, x in rows.items()}

        def one(
            made: Any, j: jax.Array, part: Any = part, rows: Any = rows, parts: tuple[str, ...] = parts
        ) -> tuple[Any, None]:
            stats, counts = made
            rows, count = chunks.gather(rows, j) if model.cache > 1 else rows, counts[parts[-1]]
            _, new = towers.apply(part, params, stats, **rows, train=True, momentum=count / (count + 1))
            # Without a present row a pass leaves the statistics as they are.
            masks = [rows["present"][v].any() for v in part.views if v in rows["present"]]
            counted = jnp.asarray(len(masks) < len(part.views)) | jnp.any(jnp.array(masks, bool))
            return ({**stats, **{p: new[p] for p in parts}}, {**counts, **{p: count + counted for p in parts}}), None

        made = jax.lax.scan(one, made, jnp.arange(model.cache))[0]
    return made
