"""Learning-rate schedules and optimizers: optax chains with masks by parameter path.

The chain of one update, in order (each part only where the config asks for it):

    clip by global norm -> optimizer with weight decay -> multiplier of `rules` -> unit columns -> weight average

Frozen parameters (multiplier 0) are outside of all but the last: no weight decay, no share in the clipped norm, and no
optimizer state, so that freezing a trunk also frees the memory of its moments.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcl_jax.errors import InputError, nearest
from hcl_jax.parallel.sharding import flat_paths, path_text

DEFAULT_EXCLUDE = ("bias$", "scale$", "(^|/)objectives/", "position", "(cls|register)$")

SCALINGS: dict[str, Callable[[float, int], float]] = {
    "none": lambda rate, batch_size: rate,
    "linear": lambda rate, batch_size: rate * batch_size / 256,
    "sqrt": lambda rate, batch_size: rate * batch_size**0.5,
}
SCHEDULES = ("cosine", "constant")

Mask = Callable[[Any], Any]


class Optimizer(NamedTuple):
    """An optax.GradientTransformation that says its rate.

    Attributes:
      init: params -> state.
      update: (gradient, state, params) -> (updates, state).
      learning_rate: state -> the rate [] of the next update, before the multipliers of `rules`. It follows the updates
        that were made: a skipped step leaves it where it is.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    learning_rate: Callable[[Any], jax.Array]


def warmup_length(optimizer_config: Mapping[str, Any], steps_per_epoch: float) -> int:
    """`warmup_steps`, or where that is 0, floor(`warmup_epochs` * steps_per_epoch) as in SimCLR."""
    given = int(optimizer_config.get("warmup_steps", 0))
    # N / B is a fraction: 10 epochs of 0.1 more steps must not lose one to rounding.
    return given or int(float(optimizer_config.get("warmup_epochs", 0.0)) * steps_per_epoch + 1e-6)


def make_schedule(
    optimizer_config: Mapping[str, Any], *, steps: int, batch_size: int, steps_per_epoch: float
) -> optax.Schedule:
    """The learning rate of update t = 0, 1, ..., steps - 1: linear warm-up from 0, then a half cosine to 0 or constant.

        peak = learning_rate * {none: 1, linear: B / 256, sqrt: sqrt(B)}
        lr(t) = peak * t / W                                              for t < W
        lr(t) = peak * (1 + cos(pi * min(t - W, T - W) / (T - W))) / 2    from W on (cosine)
        lr(t) = peak                                                      from W on (constant)

    The conventions are those of SimCLR's code and of big_vision: t counts updates done, so with a warm-up the first
    update has rate 0, update W has the peak, and rate 0 would be reached at t = T, one after the last update. SimCLR's
    two settings are learning_rate 0.3 with "linear" and 0.075 with "sqrt".

    Args:
      optimizer_config: `learning_rate`, `scaling`, `schedule`, `warmup_steps`, `warmup_epochs`.
      steps: T, updates of the whole run.
      batch_size: B, global, in examples.
      steps_per_epoch: N / B, a fraction where it is one; turns `warmup_epochs` into W.

    Returns:
      A function of the update number (int or int array []) to the rate (float []).

    Raises:
      InputError: naming the field of `optimizer`.

    Reference: Chen et al. 2020 (SimCLR, arXiv:2002.05709), section 2.2 and appendix B.1; `learning_rate_schedule` in
      its model_util.py.
    """
    c = optimizer_config
    scaling, schedule = c.get("scaling", "none"), c.get("schedule", "cosine")
    if scaling not in SCALINGS:
        raise InputError("config.optimizer.scaling", repr(scaling), ", ".join(SCALINGS))
    if schedule not in SCHEDULES:
        raise InputError("config.optimizer.schedule", repr(schedule), ", ".join(SCHEDULES))
    for field in ("learning_rate", "warmup_steps", "warmup_epochs"):
        _number(c, field, least=0.0)
    peak = SCALINGS[scaling](float(c["learning_rate"]), batch_size)
    warmup = warmup_length(c, steps_per_epoch)
    decay = max(1, steps - warmup)  # a run shorter than its warm-up (--steps=2) is all warm-up

    def rate(count: Any) -> jax.Array:
        t = jnp.asarray(count, jnp.result_type(float))
        after = jnp.full_like(t, peak)
        if schedule == "cosine":
            after = peak * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(t - warmup, 0, decay) / decay))
        return jnp.where(t < warmup, peak * t / max(1, warmup), after)

    return rate


def _number(
    c: Mapping[str, Any], field: str, least: float, below: float | None = None, most: float | None = None
) -> None:
    value = c.get(field, least)
    allowed = f"a number from {least:g}" + ("" if below is None else f", less than {below:g}")
    allowed += "" if most is None else f" to {most:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise InputError(f"config.optimizer.{field}", repr(value), allowed)
    if (below is not None and not value < below) or (most is not None and not value <= most):
        raise InputError(f"config.optimizer.{field}", repr(value), allowed)


def path_mask(patterns: tuple[str, ...]) -> Mask:
    """A function of a parameter tree: True where no pattern is found in the "/"-joined path."""

    def mask(params: Any) -> Any:
        def keep(path: Any, leaf: Any) -> bool:
            return not any(re.search(pattern, path_text(path)) for pattern in patterns)

        return jax.tree_util.tree_map_with_path(keep, params)

    return mask


def _sgd(c: Mapping[str, Any], rate: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """v = m v + (g + wd w); w -= lr v, or with Nesterov w -= lr (g + wd w + m v). Weight decay is in the gradient."""
    momentum = c.get("momentum", 0.0)
    trace = optax.trace(momentum, nesterov=bool(c.get("nesterov", False))) if momentum else optax.identity()
    return optax.chain(_decay(c, mask), trace, optax.scale_by_learning_rate(rate))


def _adamw(c: Mapping[str, Any], rate: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """w -= lr (adam(g) + wd w): decay beside the gradient, times the rate (Loshchilov and Hutter, arXiv:1711.05101)."""
    return optax.chain(_adam(c, eps=1e-8), _decay(c, mask), optax.scale_by_learning_rate(rate))


def _lars(c: Mapping[str, Any], rate: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """SimCLR's LARS: v = m v + lr r (g + wd w); w -= v, where r = eta |w| / |g + wd w| (1 where a norm is 0).

    Masked parameters have wd = 0 and r = 1. The rate is inside the momentum ("classic momentum"), so a lower rate acts
    on new gradients only. You et al., arXiv:1708.03888, with the order of SimCLR's lars_optimizer.py.
    """
    return optax.chain(
        _decay(c, mask),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=c.get("trust_coefficient", 1e-3)), mask),
        optax.scale_by_learning_rate(rate),
        optax.trace(c.get("momentum", 0.9), nesterov=bool(c.get("nesterov", False))),
    )


def _lamb(c: Mapping[str, Any], rate: optax.Schedule, mask: Mask) -> optax.GradientTransformation:
    """w -= lr r u, u = adam(g) + wd w, r = |w| / |u| (1 where a norm is 0); masked: wd 0, r 1 (arXiv:1904.00962)."""
    ratio = optax.masked(optax.scale_by_trust_ratio(), mask)
    return optax.chain(_adam(c, eps=1e-6), _decay(c, mask), ratio, optax.scale_by_learning_rate(rate))


def _adam(c: Mapping[str, Any], eps: float) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=c.get("b1", 0.9), b2=c.get("b2", 0.999), eps=c.get("eps", 0.0) or eps)


def _decay(c: Mapping[str, Any], mask: Mask) -> optax.GradientTransformation:
    weight_decay = c.get("weight_decay", 0.0)
    return optax.add_decayed_weights(weight_decay, mask) if weight_decay else optax.identity()


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw, "lars": _lars, "lamb": _lamb}


def make_optimizer(
    optimizer_config: Mapping[str, Any], params_like: Any, *, steps: int, batch_size: int, steps_per_epoch: float
) -> Optimizer:
    """The optimizer of a run. Its state follows the parameters' dtype and sharding.

    Patterns are Python regular expressions, searched in the "/"-joined path of a parameter.

    Args:
      optimizer_config: `name` (sgd, adamw, lars, lamb), `weight_decay`, `momentum`, `b1`, `b2`, what `make_schedule`
        reads, and
        `exclude`: patterns without weight decay and, in LARS and LAMB, without trust ratio;
        `clip`: largest global norm of the gradient, 0 = off;
        `rules`: ((pattern, multiplier), ...), the first match scales the final update: 0 freezes, negative ascends;
        `unit_norm`: patterns of kernels whose columns have unit length after each update (see `unit_columns`);
        `average`: decay of the weight average, 0 = off (see `weight_average`);
        optional `nesterov` (False), `eps` (1e-8, LAMB 1e-6), `trust_coefficient` (LARS, 1e-3).
      params_like: pytree of arrays or ShapeDtypeStructs; only its paths are read.
      steps: updates of the whole run.
      batch_size: global, in examples.
      steps_per_epoch: N / B.

    Returns:
      An optimizer whose `update` needs `params`.

    Raises:
      InputError: naming the field of `optimizer`; a pattern of `rules` that no parameter matches is one.
    """
    c = optimizer_config
    name = c.get("name", "adamw")
    if name not in OPTIMIZERS:
        raise InputError("config.optimizer.name", repr(name), nearest(str(name), OPTIMIZERS))
    for field in ("weight_decay", "clip"):
        _number(c, field, least=0.0)
    for field in ("momentum", "b1", "b2"):
        _number(c, field, least=0.0, below=1.0)
    _number(c, "average", least=0.0, most=1.0)
    exclude = tuple(c.get("exclude", DEFAULT_EXCLUDE))
    for i, pattern in enumerate(exclude):
        _check_pattern(pattern, f"config.optimizer.exclude[{i}]")
    rules = _checked_rules(c.get("rules", ()), list(flat_paths(params_like)))

    rate = make_schedule(c, steps=steps, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    chain = OPTIMIZERS[name](c, rate, path_mask(exclude))
    if c.get("clip", 0.0):
        chain = optax.chain(optax.clip_by_global_norm(c["clip"]), chain)
    if rules:
        chain = optax.chain(optax.masked(chain, _trained(rules)), _multiply(rules))
    if c.get("unit_norm", ()):
        chain = optax.chain(chain, unit_columns(_matched(c["unit_norm"], params_like), rules))
    if c.get("average", 0.0):
        chain = optax.chain(chain, weight_average(c["average"]))
    return Optimizer(chain.init, chain.update, lambda state: rate(_updates_done(state)))


def _updates_done(opt_state: Any) -> jax.Array:
    """The count that the schedule of a chain reads at its next update."""
    parts = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, optax.ScaleByScheduleState))
    return next(s.count for s in parts if isinstance(s, optax.ScaleByScheduleState))


def _check_pattern(pattern: Any, where: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(where, f"{pattern!r} ({error})", "a Python regular expression") from None


def _checked_rules(rules: Any, paths: list[str]) -> tuple[tuple[str, float], ...]:
    for i, rule in enumerate(rules):
        where = f"config.optimizer.rules[{i}]"
        if not isinstance(rule, list | tuple) or len(rule) != 2:
            raise InputError(where, repr(rule), "a pair (regex, multiplier)")
        pattern, factor = rule
        _check_pattern(pattern, where)
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise InputError(where, repr(factor), "a number: 0 freezes, negative ascends")
        # Silence here would train what was meant to be frozen.
        if not any(re.search(pattern, path) for path in paths):
            raise InputError(where, f"{pattern!r}, which no parameter matches", f"nearest {nearest(pattern, paths)}")
    return tuple((pattern, float(factor)) for pattern, factor in rules)


def _factor(rules: tuple[tuple[str, float], ...], path: str) -> float:
    return next((factor for pattern, factor in rules if re.search(pattern, path)), 1.0)


def _trained(rules: tuple[tuple[str, float], ...]) -> Mask:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _factor(rules, path_text(path)) != 0, params)

    return mask


def _multiply(rules: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    """Scales each update by its rule's multiplier. Frozen ones are zeros, also where the gradient is not finite."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def one(path: Any, update: jax.Array) -> jax.Array:
            factor = _factor(rules, path_text(path))
            return jnp.zeros_like(update) if factor == 0 else update if factor == 1 else update * factor

        return jax.tree_util.tree_map_with_path(one, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _matched(patterns: Any, params_like: Any) -> tuple[str, ...]:
    leaves = flat_paths(params_like)
    for i, pattern in enumerate(patterns):
        where = f"config.optimizer.unit_norm[{i}]"
        _check_pattern(pattern, where)
        found = [path for path in leaves if re.search(pattern, path)]
        if not found:
            raise InputError(where, f"{pattern!r}, which no parameter matches", f"nearest {nearest(pattern, leaves)}")
        for path in found:
            if len(leaves[path].shape) != 2:
                raise InputError(where, f"{pattern!r}: {path} {leaves[path].shape}", "kernels [D, K] only")
    return tuple(patterns)


def unit_columns(patterns: tuple[str, ...], rules: tuple[tuple[str, float], ...] = ()) -> optax.GradientTransformation:
    """Changes the update so that the new columns of the matching kernels [D, K] have length 1; not of frozen ones.

    u' = (w + u) / |w + u| - w, column by column. It must come after all that changes an update.

    Reference: Caron et al. 2020 (SwAV, arXiv:2006.09882): its code normalises the prototypes in each iteration.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("unit_columns needs params in update(updates, state, params)")

        def one(path: Any, u: jax.Array, p: jax.Array) -> jax.Array:
            name = path_text(path)
            if not any(re.search(pattern, name) for pattern in patterns) or _factor(rules, name) == 0:
                return u
            new = (p + u).astype(jnp.promote_types(p.dtype, jnp.float32))
            square = jnp.sum(new * new, axis=0, keepdims=True)
            return (new * jax.lax.rsqrt(jnp.maximum(square, 1e-12)) - p).astype(u.dtype)

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class WeightAverageState(NamedTuple):
    """The state of `weight_average`.

    Attributes:
      step: int32 [], updates done.
      average: like the parameters, float32 at least.
    """

    step: jax.Array
    average: Any


def weight_average(decay: float) -> optax.GradientTransformation:
    """An exponential moving average of the parameters, kept in the optimizer's state; the updates pass unchanged.

        d(t) = min(decay, (1 + t) / (10 + t)) for decay < 1;   d(t) = 1 - 1 / t for decay = 1: the plain mean
        average = d(t) average + (1 - d(t)) (params + update),   t = 1, 2, ...

    The smaller decay of early updates keeps the random start out of the average of a short run. It must be the last of
    a chain, where the update is what will be added.

    Args:
      decay: in [0, 1], such as 0.999.

    Reference: Polyak and Juditsky 1992; d(t) as `num_updates` in tf.train.ExponentialMovingAverage; the plain mean as
      AveragedModel in torch.optim.swa_utils (Izmailov et al. 2018, arXiv:1803.05407).
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
        d = 1 - 1 / t if decay == 1 else jnp.minimum(decay, (1 + t) / (10 + t))

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
