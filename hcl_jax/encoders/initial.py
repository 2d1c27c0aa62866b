"""Initialisers by name. They draw in two axes and reshape: the same numbers, compiled ten times faster on XLA:CPU.

There, one random draw of a rank-4 convolution kernel takes 2 s to compile and a rank-2 one 0.2 s; a ResNet-50 has 53.
"""

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hcl_jax.encoders.inputs import choose

Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array
CUT = 0.87962566103423978  # the deviation of a normal number that is cut at -2 and 2


def normal(deviation: float) -> Initializer:
    """N(0, deviation^2)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        return jax.random.normal(key, (prod(shape[:-1]), shape[-1]), dtype).reshape(shape) * deviation

    return init


def scaled_normal(scale: float, mode: str) -> Initializer:
    """N(0, scale / fan) for kernels [..., C_in, C_out]; fan = window times C_in ("in") or C_out ("out").

    Reference: He et al. 2015, "Delving deep into rectifiers", equations 10 and 14 (scale 2).
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        return normal(sqrt(scale / _fan(shape, mode)))(key, shape, dtype)

    return init


def truncated_normal(scale: float) -> Initializer:
    """N(0, scale / fan_in), cut at two deviations and widened to have that variance: TensorFlow's variance scaling."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        two = (prod(shape[:-1]), shape[-1])
        # Rounded where flax rounds, so that its dense layers start with the same numbers.
        deviation = jnp.sqrt(jnp.asarray(scale / _fan(shape, "in"), dtype)) / jnp.asarray(CUT, dtype)
        return (jax.random.truncated_normal(key, -2, 2, two, dtype) * deviation).reshape(shape)

    return init


def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
    """Even in -1 / sqrt(fan_in) .. 1 / sqrt(fan_in): what a layer of torch starts with when nothing is said."""
    bound = 1 / sqrt(_fan(shape, "in"))
    return jax.random.uniform(key, (prod(shape[:-1]), shape[-1]), dtype, -bound, bound).reshape(shape)


def uniform_bias(fan_in: int) -> Initializer:
    """The bias beside `uniform`: as even, in the same bounds."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1 / sqrt(fan_in), 1 / sqrt(fan_in))

    return init


def _fan(shape: tuple[int, ...], mode: str) -> int:
    """Numbers that an output is made of ("in"), or outputs that a number enters ("out"): kernels [..., C_in, C_out]."""
    return prod(shape[:-2]) * shape[{"in": -2, "out": -1}[mode]]


# Of kernels. torchvision's ResNets have he_fan_out, Google's and flax lecun_normal, haiku's cut_normal, SimCLR's head
# normal_0.01, DINO's layers normal_0.02, and what torch is told nothing of has uniform (its bias too).
INITIALISERS: dict[str, Initializer] = {
    "lecun_normal": truncated_normal(1.0),
    "cut_normal": truncated_normal(CUT**2),  # cut at two deviations and not widened
    "he_fan_out": scaled_normal(2.0, "out"),
    "normal_0.01": normal(0.01),
    "normal_0.02": normal(0.02),
    "uniform": uniform,
    "xavier_uniform": nn.initializers.xavier_uniform(),
}


def of_layer(name: str, fan_in: int, where: str) -> dict[str, Any]:
    """The arguments `kernel_init` and `bias_init` of a layer of `fan_in` inputs, by the name of its initialiser.

    Raises:
      InputError: unknown name.
    """
    kernel = choose(INITIALISERS, name, where)
    bias = uniform_bias(fan_in) if name == "uniform" else nn.initializers.zeros
    return {"kernel_init": kernel, "bias_init": bias}
