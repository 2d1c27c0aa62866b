"""Batch normalisation over the rows that are present, in contiguous groups; statistics are global under jit.

Names: params `scale`, `bias`; collection "batch_stats" `mean`, `var`.
Two passes (mean, then mean of squared deviations): one pass with E[x^2] - E[x]^2 loses all digits when |mean| >> std.
Inputs narrower than float32 have lost those digits already, so they get one pass, about the running mean: on a mesh
mean and mean square travel in one message, forward and backward, and a compiler can take them while a convolution
writes x. On 256 TPU v5e SimCLR's step takes 24 ms for 34 so, by the compiler's estimate (docs/plan.md).
"""

from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hcl_jax.encoders.inputs import Rows
from hcl_jax.errors import InputError


class BatchNorm(nn.Module):
    """Normalises each channel with the statistics of its group of rows.

        mean_g = sum_{i in g} m_i x_i / (S sum_{i in g} m_i),   var_g = sum_{i in g} m_i (x_i - mean_g)^2 / (S sum m_i)
            or, in one pass, mean_g((x - r)^2) - mean_g(x - r)^2 with r the running mean
        y_i = scale (x_i - mean_g(i)) / sqrt(var_g(i) + epsilon) + bias

    with m = rows.present, S positions a row (sums run over positions too), g the contiguous groups of rows. Running
    statistics move by 1 - momentum towards the mean over groups of mean_g and of var_g (biased, as in flax; groups
    without a present row are passed over). Arithmetic in float32 at least, in float64 for float64.

    Args:
      momentum: share of the running statistics that a training pass keeps, where the rows do not say another.
      epsilon: added to the variance, in squared units of x.
      use_scale, use_bias: whether there is a learned scale, a learned bias.
      one_pass: None takes one pass for inputs narrower than float32.
      scale_init: initialiser of the scale (zeros for the last of a residual branch).

    Reference: Ioffe & Szegedy 2015, "Batch normalization", algorithm 1.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    one_pass: bool | None = None
    scale_init: Any = nn.initializers.ones
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, " n *positions c"], rows: Rows) -> Float[Array, " n *positions c"]:
        """x [n, ..., C] -> the same shape in `dtype`.

        Raises:
          InputError: n is no multiple of rows.bn_groups.
        """
        shape, channels = x.shape, x.shape[-1]
        wide, stats_dtype = (jnp.promote_types(t, jnp.float32) for t in (x.dtype, self.param_dtype))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), stats_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), stats_dtype)
        # One group costs nothing: a leading axis of 1 is a bitcast and keeps the rows' sharding.
        groups = rows.bn_groups if rows.train else 1
        one_pass = jnp.finfo(x.dtype).bits < 32 if self.one_pass is None else self.one_pass
        if groups < 1 or shape[0] % groups:
            raise InputError("bn_groups", groups, f"a divisor of {shape[0]}, the rows that go through together")
        x = x.reshape(groups, shape[0] // groups, *shape[1:]).astype(wide)
        line = (1,) * (x.ndim - 1) + (channels,)
        about = jnp.zeros((), wide)
        if one_pass:
            about = jax.lax.stop_gradient(running_mean.value.astype(wide)).reshape(line)
            x = x - about
        if rows.train:
            mean, var, counted = (_moments_at_once if one_pass else _moments)(x, rows.present)
            if not self.is_initializing():
                # Weights of groups; all zero when no row is present, and then the running statistics stay.
                share = counted / jnp.maximum(counted.sum(), 1)
                momentum = self.momentum if rows.momentum is None else rows.momentum
                stay = 1 - (1 - momentum) * share.sum()
                for running, new in ((running_mean, mean + about), (running_var, var)):
                    new = (share[:, None] * new.reshape(groups, channels)).sum(0)
                    running.value = (stay * running.value + (1 - momentum) * new).astype(stats_dtype)
        else:
            mean, var = (s.value.astype(wide).reshape(line) for s in (running_mean, running_var))
            mean = mean - about
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
            factor = factor * scale.astype(wide).reshape(line)
        bias = jnp.zeros((), wide)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype).astype(wide).reshape(line)
        # Of one pass a product and a sum an element, and backward two sums a channel.
        y = x * factor + (bias - mean * factor) if one_pass else (x - mean) * factor + bias
        return y.astype(self.dtype).reshape(shape)


def _moments(x: jax.Array, present: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and variance [G, 1, ..., 1, C] of x [G, n/G, ..., C], and which groups have a row, as 0 or 1 [G]."""
    axes = tuple(range(1, x.ndim - 1))
    if present is None:
        mean = x.mean(axes, keepdims=True)
        return mean, jnp.square(x - mean).mean(axes, keepdims=True), jnp.ones(x.shape[0], x.dtype)
    present = present.reshape(x.shape[:2] + (1,) * (x.ndim - 2))
    count = present.sum(1, keepdims=True).astype(x.dtype) * prod(x.shape[2:-1])
    scale = 1 / jnp.maximum(count, 1)
    mean = jnp.where(present, x, 0).sum(axes, keepdims=True) * scale
    var = jnp.square(jnp.where(present, x - mean, 0)).sum(axes, keepdims=True) * scale
    return mean, var, (count.reshape(-1) > 0).astype(x.dtype)


def _moments_at_once(x: jax.Array, present: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`_moments` in one pass, E[x^2] - E[x]^2, of x less something near its mean; clipped at 0 from below."""
    axes = tuple(range(1, x.ndim - 1))
    count = jnp.full((x.shape[0],) + (1,) * (x.ndim - 1), float(prod(x.shape[1:-1])), x.dtype)
    if present is not None:
        present = present.reshape(x.shape[:2] + (1,) * (x.ndim - 2))
        count = present.sum(1, keepdims=True).astype(x.dtype) * prod(x.shape[2:-1])
        x = jnp.where(present, x, 0)
    scale = 1 / jnp.maximum(count, 1)
    mean, square = x.sum(axes, keepdims=True) * scale, jnp.square(x).sum(axes, keepdims=True) * scale
    return mean, jnp.maximum(square - jnp.square(mean), 0), (count.reshape(-1) > 0).astype(x.dtype)
