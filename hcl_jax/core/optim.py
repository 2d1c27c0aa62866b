"""Optimizers: optax chains with masks by parameter path.

The chain of one update, in order (each part only where the config asks for it):

    clip -> optimizer with weight decay, of each group of parameters -> multiplier of `rules` -> unit columns
         -> limits of learned numbers -> weight average

A group are the parameters that begin at the same update (`freeze_steps`, `freeze_epochs`) and follow the same rate
(`fixed_rate`); most runs have one. Parameters that `rules` freeze (multiplier 0) are outside of all but the last: no
weight decay, no share in the clipped norm, and no optimizer state, so that freezing a trunk also frees the memory of
its moments.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcl_jax.core.patterns import (
    Mask,
    check_pattern,
    checked_rules,
    factor,
    first,
    mask_of,
    matched_kernels,
    path_mask,
)
from hcl_jax.core.schedules import check_number, decay_schedule, in_steps, make_schedule, peak_rate
from hcl_jax.core.transforms import Limits, clip_each, held, larc_ratio, later, limited, multiply, unit_columns
from hcl_jax.core.weight_average import weight_average
from hcl_jax.errors import InputError, nearest
from hcl_jax.parallel.sharding import flat_paths

DEFAULT_EXCLUDE = ("bias$", "scale$", "(^|/)objectives/", "position", "(cls|register)$")

Decay = float | Callable[[Any], jax.Array]


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


def _sgd(c: Mapping[str, Any], rate: optax.Schedule, decay: Decay, mask: Mask) -> optax.GradientTransformation:
    """v = m v + (g + wd w); w -= lr v, or with Nesterov w -= lr (g + wd w + m v). Decay decoupled: w -= lr (v + wd w).

    momentum_form "rate_inside": v = m v + lr (g + wd w); w -= v.
    """
    momentum = _momentum(c) if c.get("momentum", 0.0) else optax.identity()
    by_rate = optax.scale_by_learning_rate(rate)
    if _form(c, "decay") == "decoupled":
        return optax.chain(momentum, _decay(decay, mask), by_rate)
    return optax.chain(_decay(decay, mask), *_in_order(c, by_rate, momentum))


def _adamw(c: Mapping[str, Any], rate: optax.Schedule, decay: Decay, mask: Mask) -> optax.GradientTransformation:
    """w -= lr (adam(g) + wd w): decay beside the gradient, times the rate (Loshchilov and Hutter, arXiv:1711.05101).

    decay "gradient": w -= lr adam(g + wd w), Adam with an L2 penalty, as torch.optim.Adam(weight_decay=wd).
    """
    by_rate = optax.scale_by_learning_rate(rate)
    if _form(c, "decay") == "gradient":
        return optax.chain(_decay(decay, mask), _adam(c, eps=1e-8), by_rate)
    return optax.chain(_adam(c, eps=1e-8), _decay(decay, mask), by_rate)


def _lars(c: Mapping[str, Any], rate: optax.Schedule, decay: Decay, mask: Mask) -> optax.GradientTransformation:
    """SimCLR's LARS: v = m v + lr r (g + wd w); w -= v, where r = eta |w| / |g + wd w| (1 where a norm is 0).

    Masked parameters have wd = 0 and r = 1. The rate is inside the momentum ("classic momentum"), so a lower rate acts
    on new gradients only. You et al., arXiv:1708.03888, with the order of SimCLR's lars_optimizer.py.

    momentum_form "rate_outside": v = m v + r (g + wd w); w -= lr v, as in the codes of BYOL, MoCo v3, Barlow Twins and
    VICReg ("popular momentum").
    """
    ratio = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=c.get("trust_coefficient", 1e-3)), mask)
    return optax.chain(_decay(decay, mask), ratio, *_in_order(c, optax.scale_by_learning_rate(rate), _momentum(c)))


def _larc(c: Mapping[str, Any], rate: optax.Schedule, decay: Decay, mask: Mask) -> optax.GradientTransformation:
    """SwAV's LARC: v = m v + r (g + wd w); w -= lr v, r = eta |w| / (|g| + wd |w| + eps) (`larc_ratio`).

    Masked parameters have wd = 0 and r = 1; SwAV masks none. momentum_form "rate_inside": as of lars.
    """
    trust, eps = c.get("trust_coefficient", 1e-3), c.get("eps", 0.0) or 1e-8
    ratio = optax.masked(larc_ratio(decay, trust, eps), mask)
    return optax.chain(ratio, *_in_order(c, optax.scale_by_learning_rate(rate), _momentum(c)))


def _lamb(c: Mapping[str, Any], rate: optax.Schedule, decay: Decay, mask: Mask) -> optax.GradientTransformation:
    """w -= lr r u, u = adam(g) + wd w, r = |w| / |u| (1 where a norm is 0); masked: wd 0, r 1 (arXiv:1904.00962)."""
    ratio = optax.masked(optax.scale_by_trust_ratio(), mask)
    return optax.chain(_adam(c, eps=1e-6), _decay(decay, mask), ratio, optax.scale_by_learning_rate(rate))


def _adam(c: Mapping[str, Any], eps: float) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=c.get("b1", 0.9), b2=c.get("b2", 0.999), eps=c.get("eps", 0.0) or eps)


def _momentum(c: Mapping[str, Any]) -> optax.GradientTransformation:
    return optax.trace(c.get("momentum", 0.9), nesterov=bool(c.get("nesterov", False)))


def _in_order(c: Mapping[str, Any], rate: Any, momentum: Any) -> tuple[Any, Any]:
    """The rate before the momentum ("inside" its buffer) or after it."""
    return (rate, momentum) if _form(c, "momentum_form") == "rate_inside" else (momentum, rate)


def _form(c: Mapping[str, Any], field: str) -> str:
    value = str(c.get(field, "own"))
    return FORMS[field].get(str(c.get("name", "adamw")), value) if value == "own" else value


def _decay(decay: Decay, mask: Mask) -> optax.GradientTransformation:
    return optax.add_decayed_weights(decay, mask) if callable(decay) or decay else optax.identity()


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw, "lars": _lars, "larc": _larc, "lamb": _lamb}
# What each optimizer's own form is, of those that know another one.
FORMS = {
    "momentum_form": {"sgd": "rate_outside", "lars": "rate_inside", "larc": "rate_outside"},
    "decay": {"sgd": "gradient", "adamw": "decoupled"},
}
FORM_NAMES = {"momentum_form": ("own", "rate_inside", "rate_outside"), "decay": ("own", "gradient", "decoupled")}
CLIPS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "global": optax.clip_by_global_norm,
    "parameter": clip_each,
}


def make_optimizer(
    optimizer_config: Mapping[str, Any],
    params_like: Any,
    *,
    steps: int,
    batch_size: int,
    steps_per_epoch: float,
    limits: Limits | None = None,
) -> Optimizer:
    """The optimizer of a run. Its state follows the parameters' dtype and sharding.

    Patterns are Python regular expressions, searched in the "/"-joined path of a parameter.

    Args:
      optimizer_config: `name` (sgd, adamw, lars, larc, lamb), `weight_decay`, `momentum`, `b1`, `b2`, what
        `make_schedule` and `decay_schedule` read, and
        `decay`: gradient or decoupled, own = as the optimizer has it (sgd in the gradient, adamw beside it);
        `momentum_form`: rate_inside or rate_outside, own = as the optimizer has it (lars inside, sgd and larc outside);
        `exclude`: patterns without weight decay and, in LARS, LARC and LAMB, without trust ratio;
        `clip`: largest norm of the gradient, 0 = off; `clip_by`: of all together (global) or of each parameter;
        `freeze_steps`, `freeze_epochs`: ((pattern, n), ...), the first match has no update before update n;
        `fixed_rate`: ((pattern, multiplier), ...), the first match has that part of the peak, without a schedule;
        `rules`: ((pattern, multiplier), ...), the first match scales the final update: 0 freezes, negative ascends;
        `unit_norm`: patterns of kernels whose columns have unit length after each update (see `unit_columns`);
        `average`: decay of the weight average, 0 = off; `average_first` (see `weight_average`);
        optional `nesterov` (False), `eps` (1e-8, LAMB 1e-6), `trust_coefficient` (LARS and LARC, 1e-3).
      params_like: pytree of arrays or ShapeDtypeStructs; only its paths are read.
      steps: updates of the whole run.
      batch_size: global, in examples.
      steps_per_epoch: N / B.
      limits: {path: (low, high)} of learned numbers (`objectives.limits`), held after each update.

    Returns:
      An optimizer whose `update` needs `params`.

    Raises:
      InputError: naming the field of `optimizer`; a pattern of `rules`, `freeze_steps`, `freeze_epochs` or `fixed_rate`
        that no parameter matches is one.
    """
    c = optimizer_config
    paths = list(flat_paths(params_like))
    _check(c)
    exclude = tuple(c.get("exclude", DEFAULT_EXCLUDE))
    for i, pattern in enumerate(exclude):
        check_pattern(pattern, f"config.optimizer.exclude[{i}]")
    rules = checked_rules(c.get("rules", ()), paths)

    rate = make_schedule(c, steps=steps, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    group_of = _groups(c, paths, steps_per_epoch)

    def of_group(group: "_Group") -> optax.GradientTransformation:
        own = rate if group.fixed is None else _constant(group.fixed * peak_rate(c, batch_size))
        decay = later(decay_schedule(c, steps=steps), group.begins)
        chain = OPTIMIZERS[c.get("name", "adamw")](c, later(own, group.begins), decay, path_mask(exclude))
        return held(chain, group.begins) if group.begins else chain

    def alone(group: "_Group") -> optax.GradientTransformation:
        return optax.masked(of_group(group), mask_of(lambda name: group_of(name) == group))

    others = sorted(set(map(group_of, paths)) - {_Group()}, key=lambda g: (g.begins, g.fixed is not None, g.fixed or 0))
    chain = optax.chain(*map(alone, (_Group(), *others))) if others else of_group(_Group())
    if c.get("clip", 0.0):
        chain = optax.chain(CLIPS[c.get("clip_by", "global")](c["clip"]), chain)
    if rules:
        chain = optax.chain(optax.masked(chain, mask_of(lambda name: factor(rules, name) != 0)), multiply(rules))
    if c.get("unit_norm", ()):
        chain = optax.chain(chain, unit_columns(matched_kernels(c["unit_norm"], params_like, "unit_norm"), rules))
    if limits:
        chain = limited(chain, limits, rules)
    if c.get("average", 0.0):
        chain = optax.chain(chain, weight_average(c["average"], first=bool(c.get("average_first", False))))
    return Optimizer(chain.init, chain.update, lambda state: rate(_updates_done(state)))


class _Group(NamedTuple):
    """Parameters that begin at one update and follow one rate: `fixed` parts of the peak, or None: the schedule."""

    begins: int = 0
    fixed: float | None = None


def _groups(c: Mapping[str, Any], paths: list[str], steps_per_epoch: float) -> Callable[[str], _Group]:
    """path -> its group. Raises InputError for a pattern that no parameter matches."""
    by_steps = checked_rules(c.get("freeze_steps", ()), paths, "freeze_steps", "updates")
    by_epochs = checked_rules(c.get("freeze_epochs", ()), paths, "freeze_epochs", "epochs")
    fixed = checked_rules(c.get("fixed_rate", ()), paths, "fixed_rate", "share of the peak")
    freeze = (*by_steps, *((pattern, in_steps(epochs, steps_per_epoch)) for pattern, epochs in by_epochs))
    return lambda name: _Group(int(first(freeze, name, 0)), first(fixed, name, None))


def _constant(rate: float) -> optax.Schedule:
    return lambda count: jnp.full(jnp.shape(count), rate, jnp.result_type(float))


def _updates_done(opt_state: Any) -> jax.Array:
    """The count that the schedule of a chain reads at its next update: that of the first group, which begins at 0."""
    parts = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, optax.ScaleByScheduleState))
    return next(s.count for s in parts if isinstance(s, optax.ScaleByScheduleState))


def _check(c: Mapping[str, Any]) -> None:
    """Raises InputError for a field that is out of its bounds, or says what another one denies."""
    name = c.get("name", "adamw")
    if name not in OPTIMIZERS:
        raise InputError("config.optimizer.name", repr(name), nearest(str(name), OPTIMIZERS))
    for field in ("weight_decay", "clip"):
        check_number(c, field, least=0.0)
    if c.get("weight_decay_end") is not None:
        check_number(c, "weight_decay_end", least=0.0)
    for field in ("momentum", "b1", "b2"):
        check_number(c, field, least=0.0, below=1.0)
    check_number(c, "average", least=0.0, most=1.0)
    for field, known in FORMS.items():
        value = c.get(field, "own")
        if value not in FORM_NAMES[field]:
            raise InputError(f"config.optimizer.{field}", repr(value), ", ".join(FORM_NAMES[field]))
        if value != "own" and name not in known:
            raise InputError(f"config.optimizer.{field}", repr(value), f"'own' where name is {name!r}")
    if name == "sgd" and _form(c, "decay") == "decoupled" and _form(c, "momentum_form") == "rate_inside":
        raise InputError("config.optimizer.momentum_form", "'rate_inside'", "'rate_outside' where decay is 'decoupled'")
    clip_by = c.get("clip_by", "global")
    if clip_by not in CLIPS:
        raise InputError("config.optimizer.clip_by", repr(clip_by), ", ".join(CLIPS))
    if clip_by != "global" and not c.get("clip", 0.0):
        raise InputError("config.optimizer.clip_by", repr(clip_by), "'global' where clip is 0")
    if c.get("average_first", False) and c.get("average", 0.0) != 1:
        raise InputError("config.optimizer.average_first", True, "false where average is not 1, the plain mean")
