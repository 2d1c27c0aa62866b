"""The running average of a run's weights: kept in the optimizer's state, read by evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class WeightAverageState(NamedTuple):
    """The state of `weight_average`.

    Attributes:
      step: int32 [], updates done.
      average: like the parameters, float32 at least.
    """

    step: jax.Array
    average: Any


def weight_average(decay: float, first: bool = False) -> optax.GradientTransformation:
    """An exponential moving average of the parameters, kept in the optimizer's state; the updates pass unchanged.

        d(t) = min(decay, (1 + t) / (10 + t)) for decay < 1;   d(t) = 1 - 1 / t for decay = 1: the plain mean
        d(t) = 1 - 1 / (t + 1) for decay = 1 and `first`: of t + 1 members, the weights before the first update too
        average = d(t) average + (1 - d(t)) (params + update),   t = 1, 2, ...

    The smaller decay of early updates keeps the random start out of the average of a short run. It must be the last of
    a chain, where the update is what will be added.

    Args:
      decay: in [0, 1], such as 0.999.
      first: whether the plain mean counts the first weights; their share is 1 / (t + 1).

    Reference: Polyak and Juditsky 1992; d(t) as `num_updates` in tf.train.ExponentialMovingAverage; the plain mean as
      AveragedModel in torch.optim.swa_utils (Izmailov et al. 2018, arXiv:1803.05407), whose members are the weights at
      each call of `update_parameters`: TS2Vec's code calls it before the first update too.
    """

    def at_least_float32(p: jax.Array) -> Any:
        # In bfloat16 a step of (1 - 0.999) is lost in rounding.
        return jnp.promote_types(p.dtype, jnp.float32)

    def init(params: Any) -> WeightAverageState:
        # Copies: an average that shares the parameters' buffers could not be donated beside them.
        copies = jax.tree.map(lambda p: jnp.array(p, dtype=at_least_float32(p), copy=True), params)
        return WeightAverageState(jnp.zeros((), jnp.int32), copies)

    def update(updates: Any, state: WeightAverageState, params: Any = None) -> tuple[Any, WeightAverageState]:
        if params is None:
            raise ValueError("weight_average needs params in update(updates, state, params)")
        step = optax.safe_increment(state.step)
        t = step.astype(jnp.result_type(float))
        d = 1 - 1 / (t + first) if decay == 1 else jnp.minimum(decay, (1 + t) / (10 + t))

        def one(average: jax.Array, p: jax.Array, u: jax.Array) -> jax.Array:
            new = (p + u).astype(p.dtype).astype(average.dtype)  # as optax.apply_updates rounds it
            return average + (1 - d).astype(average.dtype) * (new - average)

        return updates, WeightAverageState(step, jax.tree.map(one, state.average, params, updates))

    return optax.GradientTransformation(init, update)


def restart_average(opt_state: Any, params: Any) -> Any:
    """The optimizer's state with the weight average, where there is one, at these parameters."""

    def one(s: Any) -> Any:
        if not isinstance(s, WeightAverageState):
            return s
        copies = jax.tree.map(lambda a, p: jax.device_put(p.astype(a.dtype).copy(), a.sharding), s.average, params)
        return s._replace(average=copies)

    return jax.tree.map(one, opt_state, is_leaf=lambda s: isinstance(s, WeightAverageState))


def average_of(opt_state: Any) -> Any:
    """The averaged parameters inside an optimizer's state, or None when the run keeps no average."""
    found = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, WeightAverageState))
    return next((s.average for s in found if isinstance(s, WeightAverageState)), None)
