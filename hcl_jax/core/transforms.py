"""Pieces of an optimizer's chain that optax has not: what changes an update beside the optimizer itself."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcl_jax.core.patterns import Rules, factor
from hcl_jax.parallel.sharding import path_text

Limits = Mapping[str, tuple[float, float]]


def _norm(x: jax.Array) -> jax.Array:
    """The norm of an array, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(x * x))


def clip_each(largest: float) -> optax.GradientTransformation:
    """Each parameter's gradient by its own norm: g min(1, c / (|g| + 1e-6)).

    Reference: `clip_gradients` in DINO's utils.py (Caron et al. 2021, arXiv:2104.14294).
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        clipped = jax.tree.map(lambda g: (g * jnp.minimum(1.0, largest / (_norm(g) + 1e-6))).astype(g.dtype), updates)
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class LarcState(NamedTuple):
    """The state of `larc_ratio` whose decay moves: int32 [], updates done."""

    done: jax.Array


def larc_ratio(weight_decay: float | optax.Schedule, trust: float, eps: float) -> optax.GradientTransformation:
    """u = r (g + wd w), r = eta |w| / (|g| + wd |w| + eps); u = g, without decay, where a norm is 0.

    Not LARS' ratio, which is of |g + wd w|, and smaller where g and w point one way.

    Reference: LARC with clip=False in NVIDIA's apex (apex/parallel/LARC.py), as SwAV uses it; You et al. 2017,
      "Large batch training of convolutional networks", arXiv:1708.03888, equation 6.
    """

    def init(params: Any) -> Any:
        del params
        return LarcState(jnp.zeros((), jnp.int32)) if callable(weight_decay) else optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("larc_ratio needs params in update(updates, state, params)")
        decay: Any = weight_decay
        if callable(weight_decay):
            decay, state = weight_decay(state.done), LarcState(optax.safe_increment(state.done))

        def one(g: jax.Array, w: jax.Array) -> jax.Array:
            of_gradient, of_weights = _norm(g), _norm(w)
            ratio = trust * of_weights / (of_gradient + decay * of_weights + eps)
            adapted = (ratio * (g + decay * w)).astype(g.dtype)
            return jnp.where((of_gradient > 0) & (of_weights > 0), adapted, g)

        return jax.tree.map(one, updates, params), state

    return optax.GradientTransformation(init, update)


class HeldState(NamedTuple):
    """The state of `held`.

    Attributes:
      done: int32 [], updates done, of the run.
      inner: the state of what it holds, which has seen done - n of them.
    """

    done: jax.Array
    inner: Any


def held(inner: optax.GradientTransformation, updates: int) -> optax.GradientTransformation:
    """No update, no decay, no momentum and no moments in the first n updates; then `inner`, which begins there.

    So it is with a gradient of None in torch: the parameter is passed over, and Adam counts its own updates only.
    """

    def init(params: Any) -> HeldState:
        return HeldState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(gradient: Any, state: HeldState, params: Any = None) -> tuple[Any, HeldState]:
        new, moved = inner.update(gradient, state.inner, params)
        active = state.done >= updates
        new = jax.tree.map(lambda u: jnp.where(active, u, 0).astype(u.dtype), new)
        kept = jax.tree.map(lambda n, o: jnp.where(active, n, o), moved, state.inner)
        return new, HeldState(optax.safe_increment(state.done), kept)

    return optax.GradientTransformation(init, update)


def later(schedule: Any, updates: int) -> Any:
    """A schedule read from update n on, for what begins there; a number as it is."""
    if not callable(schedule) or not updates:
        return schedule
    return lambda count: schedule(count + updates)


def multiply(rules: Rules) -> optax.GradientTransformation:
    """Scales each update by its rule's multiplier. Frozen ones are zeros, also where the gradient is not finite."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def one(path: Any, update: jax.Array) -> jax.Array:
            by = factor(rules, path_text(path))
            return jnp.zeros_like(update) if by == 0 else update if by == 1 else update * by

        return jax.tree_util.tree_map_with_path(one, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def unit_columns(patterns: tuple[str, ...], rules: Rules = ()) -> optax.GradientTransformation:
    """Changes the update so that the new columns of the matching kernels [D, K] have length 1; not of frozen ones.

    u' = (w + u) / |w + u| - w, column by column. It must come after all that changes an update.

    Reference: Caron et al. 2020 (SwAV, arXiv:2006.09882): its code normalises the prototypes in each iteration.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("unit_columns needs params in update(updates, state, params)")

        def one(path: Any, u: jax.Array, p: jax.Array) -> jax.Array:
            name = path_text(path)
            if not any(re.search(pattern, name) for pattern in patterns) or factor(rules, name) == 0:
                return u
            new = (p + u).astype(jnp.promote_types(p.dtype, jnp.float32))
            square = jnp.sum(new * new, axis=0, keepdims=True)
            return (new * jax.lax.rsqrt(jnp.maximum(square, 1e-12)) - p).astype(u.dtype)

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def limited(inner: Any, limits: Limits, rules: Rules = ()) -> optax.GradientTransformation:
    """`inner`, with updates after which the named parameters lie within their limits; not of frozen ones.

    u' = min(max(w + u, low), high) - w. Its state is that of `inner`. The momentum still points outwards, but a
    gradient that turns brings the number back at once.

    Args:
      inner: a transformation.
      limits: {path: (low, high)}, of the parameter itself: log 100 of a scale exp(p) that ends at 100.
      rules: those with multiplier 0 freeze.

    Reference: `logit_scale.clamp_(0, log 100)` after each update in open_clip's train.py; the paper clips the scale at
      100 (Radford et al. 2021, arXiv:2103.00020, section 2.5).
    """

    def one(path: Any, u: jax.Array, p: jax.Array) -> jax.Array:
        name = path_text(path)
        if name not in limits or factor(rules, name) == 0:
            return u
        return (jnp.clip(p + u, *limits[name]) - p).astype(u.dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("limited needs params in update(updates, state, params)")
        updates, state = inner.update(updates, state, params)
        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(inner.init, update)
