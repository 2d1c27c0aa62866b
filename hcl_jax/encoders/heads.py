"""Heads: what maps a representation to the space of a loss.

Names: projector and predictor `dense{1..}/kernel|bias`, `norm{1..}/scale|bias`; linear `dense/kernel|bias`;
prototypes `kernel` [D, features], one prototype a column, and `length` [features]; residual `mlp/` as a projector,
`scale` [D].
Biases: a dense layer before a norm has none (the norm would remove it); a hidden one without a norm has one; the last
one without a norm has one only with `last_bias`. Codes that give a dense layer before a norm a bias (BYOL, SimSiam,
SwAV) compute the same: the norm takes it away, and it has no gradient.

Forms of the authors' codes, as arguments of `projector` (P) and `predictor` (Q); what is not said is the default:
SimCLR P layers 3 (2 in the paper); BYOL P last_batch_norm False, Q last_bias False; SimSiam P layers 3, last_affine
False, Q; MoCo v2 P batch_norm and last_batch_norm False, last_bias True; MoCo v3 P layers 2 (ResNet) or 3 (ViT),
last_affine False, Q last_bias False (ResNet) or last_batch_norm True, last_affine False (ViT); SwAV P last_batch_norm
False, last_bias True; DINO P layers 3, batch_norm and last_batch_norm False, last_bias True, activation gelu.
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.initial import of_layer, uniform
from hcl_jax.encoders.inputs import Rows, choose
from hcl_jax.errors import InputError

ACTIVATIONS = {"relu": nn.relu, "elu": nn.elu, "gelu": partial(nn.gelu, approximate=False)}
# use_scale, use_bias
AFFINE = {"scale": (True, False), True: (True, True), False: (False, False)}


class Projector(nn.Module):
    """z = norm(W_k f(norm(... f(norm(W_1 x))))), f = relu.

    Args:
      features: width of z; 0 is that of x.
      hidden: width of the layers before the last; 0 is that of x.
      layers: number of dense layers (SimCLR 2, SimCLR v2 and most later methods 3).
      batch_norm: a norm after each layer but the last.
      last_batch_norm: a norm after the last.
      last_affine: what the last norm learns: "scale" (SimCLR), True (scale and bias) or False (SimSiam, MoCo v3).
      last_bias: a bias in the last dense layer where no norm follows it.
      activation: f, "relu", "elu" (GRACE) or "gelu".
      kernel_init: of all dense layers: "lecun_normal", "normal_0.01" (SimCLR), "normal_0.02" (DINO), "uniform" (of
        torch: SimSiam, MoCo, SwAV; biases too), "he_fan_out" or "xavier_uniform" (GraphCL).

    Reference: Chen et al. 2020, "A simple framework for contrastive learning" (SimCLR), section 2.1.
    """

    zero_has_a_meaning: ClassVar[tuple[str, ...]] = ("features", "hidden")  # sizes, of which 0 is usually refused
    features: int = 128
    hidden: int = 0
    layers: int = 2
    batch_norm: bool = True
    last_batch_norm: bool = True
    last_affine: bool | str = "scale"
    last_bias: bool = False
    activation: str = "relu"
    kernel_init: str = "lecun_normal"
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, " n *positions d"], rows: Rows) -> Float[Array, " n *positions features"]:
        """x [n, D] -> [n, features].

        Raises:
          InputError: unknown last_affine, activation or kernel_init.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        scale, bias = choose(AFFINE, self.last_affine, "head.last_affine")
        activation = choose(ACTIVATIONS, self.activation, "head.activation")
        width = x.shape[-1]
        for i in range(1, self.layers):
            x = self._dense(x, self.hidden or width, i, not self.batch_norm)
            if self.batch_norm:
                x = BatchNorm(name=f"norm{i}", **types)(x, rows)
            x = activation(x)
        x = self._dense(x, self.features or width, self.layers, self.last_bias and not self.last_batch_norm)
        if self.last_batch_norm:
            x = BatchNorm(use_scale=scale, use_bias=bias, name=f"norm{self.layers}", **types)(x, rows)
        return x

    def _dense(self, x: jax.Array, features: int, number: int, use_bias: bool) -> jax.Array:
        start = of_layer(self.kernel_init, x.shape[-1], "head.kernel_init")
        return nn.Dense(features, use_bias, self.dtype, self.param_dtype, name=f"dense{number}", **start)(x)


class Linear(nn.Module):
    """y = W x + b.

    Args:
      features: width of y.
      use_bias: whether there is a b (CLIP's projections have none).
    """

    features: int = 128
    use_bias: bool = True
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, " n *positions d"], rows: Rows) -> Float[Array, " n *positions features"]:
        """x [n, D] -> [n, features]."""
        del rows
        return nn.Dense(self.features, self.use_bias, self.dtype, self.param_dtype, name="dense")(x)


class Residual(nn.Module):
    """z = s * MLP(x) + x, s a learned number a channel; MLP(x) = W_2 relu(norm(W_1 x)) + b, as wide as x.

    Args:
      ratio: width of the hidden layer by that of x.
      scale: s at the start.
      skip: whether there is s and x; without, z = MLP(x).

    Reference: Chen et al. 2024, NMTune, arXiv 2309.17002, section 3; scale, ratio and norm are the authors' code's.
    """

    ratio: int = 4
    scale: float = 1.0
    skip: bool = True
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, " n *positions d"], rows: Rows) -> Float[Array, " n *positions d"]:
        """x [n, D] -> z [n, D].

        Raises:
          InputError: a ratio below 1.
        """
        if self.ratio < 1:
            raise InputError("head.ratio", self.ratio, ">= 1")
        width, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = self.ratio * width
        mlp = Projector(width, hidden, last_batch_norm=False, last_bias=True, name="mlp", **types)
        z = mlp(x, rows)
        if not self.skip:
            return z
        s = self.param("scale", nn.initializers.constant(self.scale), (width,), self.param_dtype)
        return s.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (width,)) * z + x.astype(self.dtype)


class Prototypes(nn.Module):
    """Scores of a normalised row against learned prototypes: s_k = c_k . x / |x|, no bias; c_k starts at unit length.

    Args:
      features: number of prototypes.
      normalise: c_k / |c_k| in place of c_k, so that scores are cosines: weight normalisation with a length of 1
        (DINO with norm_last_layer). SwAV instead rescales them after each step (optimizer.unit_norm).
      lengths: with normalise, g_k c_k / |c_k| with a learned g_k, 1 at the start (DINO without norm_last_layer).
      kernel_init: "unit_columns", even over the sphere; or "uniform" (of torch: DINO), whose columns are not of length
        1, which with normalise decides how far a step turns them.
      epsilon: |x|^2 is at least this.

    Reference: Caron et al. 2020, "Unsupervised learning of visual features" (SwAV), section 3.1; Salimans and Kingma
    2016, "Weight normalization", equation 2; DINOHead of facebookresearch/dino, vision_transformer.py.
    """

    features: int = 3000
    normalise: bool = False
    lengths: bool = False
    kernel_init: str = "unit_columns"
    epsilon: float = 1e-12
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, " n *positions d"], rows: Rows) -> Float[Array, " n *positions features"]:
        """x [n, D] -> scores [n, features].

        Raises:
          InputError: unknown kernel_init; lengths without normalise.
        """
        del rows
        if self.lengths and not self.normalise:
            raise InputError("head.lengths", "true without normalise", "false, or normalise too")
        start = choose(STARTS, self.kernel_init, "head.kernel_init")
        kernel = self.param("kernel", start, (x.shape[-1], self.features), self.param_dtype)
        if self.normalise:
            kernel = _normalised(kernel, 0, self.epsilon)
        if self.lengths:
            length = self.param("length", nn.initializers.ones, (self.features,), self.param_dtype)
            kernel = kernel * length.astype(kernel.dtype)[None]
        return _normalised(x, -1, self.epsilon).astype(self.dtype) @ kernel.astype(self.dtype)


class Identity(nn.Module):
    """y = x."""

    @nn.compact
    def __call__(self, x: Float[Array, " n *positions d"], rows: Rows) -> Float[Array, " n *positions d"]:
        """x [n, D] -> x."""
        del rows
        return x


def _unit_columns(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Columns even over the sphere."""
    return _normalised(jax.random.normal(key, shape, dtype), 0, 0.0).astype(dtype)


STARTS = {"unit_columns": _unit_columns, "uniform": uniform}


def _normalised(x: jax.Array, axis: int, epsilon: float) -> jax.Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), epsilon))
