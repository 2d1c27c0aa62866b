"""What follows the number of updates: the learning rate with its warm-up, and the weight decay."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcl_jax.errors import InputError

SCALINGS: dict[str, Callable[[float, int], float]] = {
    "none": lambda rate, batch_size: rate,
    "linear": lambda rate, batch_size: rate * batch_size / 256,
    "sqrt": lambda rate, batch_size: rate * batch_size**0.5,
}
SCHEDULES = ("cosine", "constant", "multistep")
# (t, W) -> numerator and denominator of the warm-up's share.
WARMUPS: dict[str, Callable[[Any, int], tuple[Any, int]]] = {
    "open": lambda t, w: (t, w),
    "closed": lambda t, w: (t, w - 1),
    "ahead": lambda t, w: (t + 1, w),
}
UNITS = ("step", "epoch", "epoch_end")
SPANS = ("rest", "run")


def warmup_length(optimizer_config: Mapping[str, Any], steps_per_epoch: float) -> int:
    """`warmup_steps`, or where that is 0, floor(`warmup_epochs` * steps_per_epoch) as in SimCLR."""
    given = int(optimizer_config.get("warmup_steps", 0))
    return given or in_steps(float(optimizer_config.get("warmup_epochs", 0.0)), steps_per_epoch)


def in_steps(epochs: float, steps_per_epoch: float) -> int:
    """floor(epochs * N / B): 10 epochs of 0.1 more steps must not lose one to rounding."""
    return int(epochs * steps_per_epoch + 1e-6)


def peak_rate(optimizer_config: Mapping[str, Any], batch_size: int) -> float:
    """The rate after the warm-up: learning_rate * {none: 1, linear: B / 256, sqrt: sqrt(B)}."""
    c = optimizer_config
    return SCALINGS[c.get("scaling", "none")](float(c["learning_rate"]), batch_size)


def make_schedule(
    optimizer_config: Mapping[str, Any], *, steps: int, batch_size: int, steps_per_epoch: float
) -> optax.Schedule:
    """The learning rate of update t = 0, 1, ..., steps - 1: linear warm-up, then a half cosine, steps or constant.

        peak = learning_rate * {none: 1, linear: B / 256, sqrt: sqrt(B)};  end = end_rate or end_share * peak
        lr(t) = start + (peak - start) * t / W                                        for t < W
        lr(t) = end + (peak - end) * (1 + cos(pi * min(t - W, T - W) / (T - W))) / 2  from W on (cosine)
        lr(t) = peak * gamma ** (number of milestones m with t >= m N / B)            from W on (multistep)
        lr(t) = peak                                                                  from W on (constant)

    With the defaults, start 0 and end 0, these are the conventions of SimCLR's code and of big_vision: t counts updates
    done, so with a warm-up the first update has rate 0, update W has the peak, and rate 0 would be reached at t = T,
    one after the last update. SimCLR's two settings are learning_rate 0.3 with "linear" and 0.075 with "sqrt".

    `warmup_form` says where the warm-up ends: `open` is t / W; `closed` is t / (W - 1), so that update W - 1 has the
    peak, as numpy.linspace in the codes of DINO and SwAV; `ahead` is (t + 1) / W, so that the first update has a W-th
    of it, as in open_clip. With `schedule_by` "epoch" the t of the cosine is that of the epoch's beginning, e N / B,
    as in the codes of MoCo and SimSiam; with "epoch_end" it is (e + 1) N / B, as in SupContrast's, which counts epochs
    from 1. A warm-up moves by the step. With `cosine_over` "run" the cosine is that of a run without a warm-up, which
    hides its beginning: t / T in the place of (t - W) / (T - W) (SupContrast). `schedule_stretch` s puts s T in the
    place of T, so that the run ends before its schedule does, and `schedule_ahead` n puts t + n in the place of t: 1.25
    and 1 are I-JEPA's, whose code moves the schedule before each update. `milestones` are epochs of the run, whose
    first updates have the lower rate: 120 and 160 of 200 in MoCo v1.

    Args:
      optimizer_config: `learning_rate`, `scaling`, `schedule`, `milestones`, `gamma`, `warmup_steps`, `warmup_epochs`,
        `warmup_start`, `warmup_form`, `end_rate`, `end_share`, `schedule_by`, `cosine_over`, `schedule_stretch`,
        `schedule_ahead`.
      steps: T, updates of the whole run.
      batch_size: B, global, in examples.
      steps_per_epoch: N / B, a fraction where it is one; turns `warmup_epochs` into W.

    Returns:
      A function of the update number (int or int array []) to the rate (float []).

    Raises:
      InputError: naming the field of `optimizer`.

    Reference: Chen et al. 2020 (SimCLR, arXiv:2002.05709), section 2.2 and appendix B.1; `learning_rate_schedule` in
      its model_util.py. `cosine_scheduler` in DINO's utils.py, `cosine_lr` in open_clip's scheduler.py,
      `adjust_learning_rate` in the main_*.py of MoCo, SimSiam and Barlow Twins (which ends at 0.001 of the peak).
    """
    c = optimizer_config
    schedule, form = c.get("schedule", "cosine"), c.get("warmup_form", "open")
    _check_rate(c)
    peak = peak_rate(c, batch_size)
    start, end = float(c.get("warmup_start", 0.0)), float(c.get("end_rate", 0.0) or c.get("end_share", 0.0) * peak)
    warmup = warmup_length(c, steps_per_epoch)
    ahead, length = _course(c, steps)
    begin = 0 if c.get("cosine_over", "rest") == "run" else warmup
    decay = max(1.0, length - begin)  # a run shorter than its warm-up (--steps=2) is all warm-up
    by = c.get("schedule_by", "step")
    held = None if by == "step" else epoch_starts(steps + ahead, steps_per_epoch)
    drops = [first_update(epoch, steps_per_epoch) for epoch in c.get("milestones", ())]
    drops = [drop for drop in drops if drop < steps + ahead]  # a later one may lie past any int32

    def rate(count: Any) -> jax.Array:
        count = count + ahead if ahead else count
        t = jnp.asarray(count, jnp.result_type(float))
        after = jnp.full_like(t, peak)
        if schedule == "cosine":
            done = t if held is None else held(count)
            done = done + steps_per_epoch if by == "epoch_end" else done
            after = (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done - begin, 0, decay) / decay))
            after = after + end if end else after
        elif schedule == "multistep":
            for drop in drops:
                after = jnp.where(t < drop, after, after * c.get("gamma", 0.1))
        above, below = WARMUPS[form](t, warmup)
        rising = (peak - start) * above / max(1, below)
        rising = rising + start if start else rising
        return jnp.where(t < warmup, rising, after)

    return rate


def first_update(epoch: float, steps_per_epoch: float) -> int:
    """ceil(epoch * N / B), the first update at or after that epoch's beginning."""
    return math.ceil(epoch * steps_per_epoch - 1e-6)


def epoch_starts(steps: int, steps_per_epoch: float) -> Callable[[Any], jax.Array]:
    """t -> e N / B, the beginning of the epoch e that update t lies in (float, like t).

    The first update of each epoch is in a table: a division on the device may round an epoch's first update down.
    """
    epochs = np.arange(max(1, math.ceil(steps / steps_per_epoch)) + 1)
    table = jnp.asarray(np.ceil(epochs * steps_per_epoch - 1e-6), jnp.int32)

    def begin(count: Any) -> jax.Array:
        epoch = jnp.searchsorted(table, jnp.asarray(count, jnp.int32), side="right") - 1
        return epoch.astype(jnp.result_type(float)) * steps_per_epoch

    return begin


def decay_schedule(optimizer_config: Mapping[str, Any], *, steps: int) -> float | optax.Schedule:
    """The weight decay: a number, or a function of the update t from `weight_decay` to `weight_decay_end` by a cosine.

        wd(t) = end + (start - end) * (1 + cos(pi * min(t, T) / T)) / 2

    It has no warm-up: `wd_schedule` of main_dino.py (Caron et al. 2021, arXiv:2104.14294), 0.04 to 0.4. T and t are
    stretched and ahead as those of the rate.
    """
    start, end = optimizer_config.get("weight_decay", 0.0), optimizer_config.get("weight_decay_end")
    if end is None:
        return start

    ahead, length = _course(optimizer_config, steps)

    def decay(count: Any) -> jax.Array:
        t = jnp.asarray(count, jnp.result_type(float)) + ahead
        return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(t, 0, length) / max(1.0, length)))

    return decay


def _course(c: Mapping[str, Any], steps: int) -> tuple[int, float]:
    """How many updates ahead the schedules are read, and how many they are cut for: a whole number past any int32."""
    return int(c.get("schedule_ahead", 0)), float(int(steps * c.get("schedule_stretch", 1.0)))


def check_number(
    c: Mapping[str, Any], field: str, least: float, below: float | None = None, most: float | None = None
) -> None:
    """Raises InputError for a field of `optimizer` that is out of its bounds."""
    value = c.get(field, least)
    allowed = f"a number from {least:g}" + ("" if below is None else f", less than {below:g}")
    allowed += "" if most is None else f" to {most:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise InputError(f"config.optimizer.{field}", repr(value), allowed)
    if (below is not None and not value < below) or (most is not None and not value <= most):
        raise InputError(f"config.optimizer.{field}", repr(value), allowed)


def _check_rate(c: Mapping[str, Any]) -> None:
    tables = {"scaling": SCALINGS, "schedule": SCHEDULES, "warmup_form": WARMUPS}
    tables |= {"schedule_by": UNITS, "cosine_over": SPANS}
    for field, known in tables.items():
        if (value := c.get(field, next(iter(known)))) not in known:
            raise InputError(f"config.optimizer.{field}", repr(value), ", ".join(known))
    numbers = ("learning_rate", "warmup_steps", "warmup_epochs", "warmup_start", "end_rate", "end_share")
    for field in (*numbers, "schedule_ahead"):
        check_number(c, field, least=0.0)
    check_number(c, "schedule_stretch", least=1.0)
    if c.get("end_rate") and c.get("end_share"):
        raise InputError("config.optimizer.end_share", c["end_share"], f"0 where end_rate is {c['end_rate']:g}")
    schedule = c.get("schedule", "cosine")
    for field, off in (("end_rate", 0.0), ("end_share", 0.0), ("schedule_by", "step"), ("cosine_over", "rest")):
        if schedule != "cosine" and c.get(field, off) != off:
            raise InputError(f"config.optimizer.{field}", repr(c[field]), f"{off!r} where schedule is {schedule!r}")
    if schedule != "multistep" and c.get("gamma", 0.1) != 0.1:
        raise InputError("config.optimizer.gamma", repr(c["gamma"]), f"0.1 where schedule is {schedule!r}")
    if schedule == "multistep" and c.get("schedule_stretch", 1.0) != 1.0 and c.get("weight_decay_end") is None:
        allowed = "1.0 where schedule is 'multistep' and there is no weight_decay_end"
        raise InputError("config.optimizer.schedule_stretch", repr(c["schedule_stretch"]), allowed)
    if (schedule == "multistep") != bool(found := tuple(c.get("milestones", ()))):
        allowed = "one epoch or more where schedule is 'multistep', and none elsewhere"
        raise InputError("config.optimizer.milestones", repr(found), allowed)
    if any(later <= epoch for epoch, later in itertools.pairwise(found)):
        raise InputError("config.optimizer.milestones", repr(found), "rising epochs")
    warm = c.get("warmup_steps") or c.get("warmup_epochs")
    for field, other in (("warmup_start", 0.0), ("warmup_form", "open")):
        if not warm and c.get(field, other) != other:
            raise InputError(f"config.optimizer.{field}", repr(c[field]), f"{other!r} where there is no warm-up")
