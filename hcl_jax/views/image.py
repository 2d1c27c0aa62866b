"""Geometry and texture of pictures [n, H, W, C]: flips, turns, affine maps, blur, noise."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views.frameworks import settled
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number, span, whole
from hcl_jax.views.resample import never_alone, pixels, planes_of, unit
from hcl_jax.views.row_subset import column, sometimes, sometimes_planes


def flip(x: Any, draws: Any, *, p: float = 0.5, axis: str = "horizontal") -> Any:
    """Mirrors left-right ("horizontal") or up-down ("vertical").

    Args:
      x: [n, H, W, C].
      draws: "coin" [n].
      p: probability for each row.
      axis: "horizontal" or "vertical".

    Returns:
      [n, H, W, C] of the same dtype.
    """
    turned = 2 if choice("flip.axis", axis, ("horizontal", "vertical")) == "horizontal" else 1
    # tf.reverse, not x[:, :, ::-1]: four times faster.
    if planes_of(pixels(x, "flip")) is not None:
        return sometimes_planes(x, draws, "flip", p, lambda x, numbers: tf.reverse(x, [turned + 1]))
    return sometimes(x, draws, "flip", p, lambda x, numbers: tf.reverse(x, [turned]))


def rotate90(x: Any, draws: Any, *, target: str = "rotation") -> Any:
    """Turns by 0, 90, 180 or 270 degrees counter-clockwise, and hands the quarter turns 0..3 to a head.

    Args:
      x: [n, H, H, C].
      draws: "turns" [n]; makes the target, int32 [n].
      target: the target's name in the view; "" makes none.

    Returns:
      [n, H, H, C] of the same dtype.

    Reference: Gidaris et al. 2018, section 2.1.
    """
    height, width, channels = pixels(x, "rotate90").shape[1:]
    if height != width:
        raise InputError("rotate90", f"pictures of {height} x {width}", "square pictures")
    turns = tf.minimum(tf.cast(tf.floor(4.0 * draws.uniform("turns")), tf.int32), 3)
    if target:
        draws.target(target, turns)
    at = tf.dynamic_partition(tf.range(tf.shape(x)[0]), turns, 4)
    parts = tf.dynamic_partition(x, turns, 4)
    turned = [
        parts[0],
        tf.reverse(tf.transpose(parts[1], [0, 2, 1, 3]), [1]),
        tf.reverse(parts[2], [1, 2]),
        tf.reverse(tf.transpose(parts[3], [0, 2, 1, 3]), [2]),
    ]
    return tf.ensure_shape(tf.dynamic_stitch(at, turned), x.shape)


def random_affine(
    x: Any,
    draws: Any,
    *,
    rotation: float = 15.0,
    scale: Sequence[float] = (0.9, 1.1),
    translation: float = 0.1,
    shear: float = 0.0,
    p: float = 1.0,
    edges: str = "constant",
    value: float = 0.0,
) -> Any:
    """Turns, scales, shears and shifts about the centre, bilinear: for digits, letters, pictures without an upright.

    q = c + M (r - c) + t,  M = s R(angle) [[1, tan(shear)], [0, 1]]: the pixel at r goes to q, (x right, y down).

    Args:
      x: [n, H, W, C].
      draws: "coin" [n], "angle" [n] (radians, positive is clockwise on the screen), "scale" [n], "shift" [n, 2]
        (down, right, as fractions), "shear" [n] (radians).
      rotation: largest angle either way, degrees.
      scale: range of s; its log is uniform, "scale" is 0..1.
      translation: largest shift either way, as a fraction of the side.
      shear: largest shear angle either way, degrees, below 80.
      p: probability for each row.
      edges: what lies outside: "constant", "nearest" or "reflect".
      value: the constant.

    Returns:
      float32 [n, H, W, C].
    """
    op = "random_affine"
    x = unit(x, op)
    height, width = x.shape[1:3]
    rotation = math.radians(number(f"{op}.rotation", rotation, 0.0, 360.0))
    tilt = math.radians(number(f"{op}.shear", shear, 0.0, 80.0))
    low, high = span(f"{op}.scale", scale, 1e-2, 1e2)
    translation = number(f"{op}.translation", translation, 0.0, 1.0)
    edges = choice(f"{op}.edges", edges, ("constant", "nearest", "reflect"))
    value = number(f"{op}.value", value)

    # In float32 cos, tan and powers round by the length of the vector: another split of the rows, another last bit.
    angle = tf.cast(draws.uniform("angle", (), -rotation, rotation), tf.float64)
    size = low * (high / low) ** tf.cast(draws.uniform("scale"), tf.float64)
    shift = tf.cast(draws.uniform("shift", (2,), -translation, translation), tf.float64)
    slant = tf.tan(tf.cast(draws.uniform("shear", (), -tilt, tilt), tf.float64))
    # The op wants the map from made pixels back to given ones: M^-1 = [[1, -slant], [0, 1]] R(-angle) / s.
    cos, sin = tf.cos(angle) / size, tf.sin(angle) / size
    a, b, c, d = cos + slant * sin, sin - slant * cos, -sin, cos
    middle_x, middle_y = (width - 1) / 2.0, (height - 1) / 2.0
    move_x, move_y = middle_x + shift[:, 1] * width, middle_y + shift[:, 0] * height
    zero = tf.zeros_like(a)
    back = tf.stack(
        [a, b, middle_x - a * move_x - b * move_y, c, d, middle_y - c * move_x - d * move_y, zero, zero], axis=1
    )

    back = tf.cast(back, tf.float32)

    def change(x: Any, numbers: Any) -> Any:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=x,
            transforms=tf.gather(back, numbers),
            output_shape=[height, width],
            fill_value=value,
            interpolation="BILINEAR",
            fill_mode=edges.upper(),
        )

    return tf.ensure_shape(sometimes(x, draws, op, p, change), x.shape)


def blur(
    x: Any,
    draws: Any,
    *,
    p: float = 0.5,
    sigma: Sequence[float] = (0.1, 2.0),
    kernel: float = 0.1,
    like: str | None = None,
    filter: str | None = None,
    edges: str | None = None,
    sigma_for: str | None = None,
) -> Any:
    """Gaussian blur, each row with its own sigma; edges reflect.

    w_j = exp(-j^2 / (2 sigma^2)) / sum,  |j| <= r = max(1, floor(kernel min(H, W) / 2)), along both axes
    "boxes": three passes along each axis of w_j = 1, |j| <= l; a, |j| = l + 1; over their sum 2 (l + a) + 1,
    l = floor((sqrt(4 sigma^2 + 1) - 1) / 2),  a = (2 l + 1) (l (l + 1) - sigma^2) / (2 sigma^2 - 6 (l + 1)^2)

    Args:
      x: [n, H, W, C].
      draws: "coin" [n], "sigma" [n], in pixels; 0..1, the same for all rows, with sigma_for="batch".
      p: probability for each row.
      sigma: range in pixels.
      kernel: width of the Gaussian filter as a fraction of the shorter side.
      like: "tensorflow", "torchvision" or "pillow": the framework whose defaults the arguments below have where nothing
        else is given (docs/parts.md has the table); None is our own: "gaussian", "reflect", "row".
      filter: "gaussian", or "boxes" (Pillow's GaussianBlur, but for its rounding to 8 bits after each pass).
      edges: "reflect", "zero" or "nearest".
      sigma_for: "row", or "batch": one sigma for the view's rows of a step, on all processes (Google's SimCLR has one
        for those of a core).

    Returns:
      float32 [n, H, W, C].

    Reference: Chen et al. 2020 (SimCLR), appendix A (there the edges are black); Gwosdek et al. 2011, equations 7, 11
      and 14, and Pillow, BoxBlur.c ("boxes").
    """
    x = unit(x, "blur")
    height, width, channels = x.shape[1:]
    low, high = span("blur.sigma", sigma, 1e-3, 1e3)
    chosen = settled("blur", like, locals())
    boxes = choice("blur.filter", chosen["filter"], ("gaussian", "boxes")) == "boxes"
    edges = choice("blur.edges", chosen["edges"], tuple(EDGES))
    for_row = choice("blur.sigma_for", chosen["sigma_for"], ("row", "batch")) == "row"
    radius = max(1, int(number("blur.kernel", kernel, 0.0, 1.0) * min(height, width) / 2))
    if boxes:
        radius = int((math.sqrt(4.0 * high**2 + 1.0) - 1.0) / 2.0) + 1
    if radius >= min(height, width) and edges == "reflect":
        raise InputError("blur", f"pictures of {height} x {width}", f"sides of at least {radius + 1} pixels")
    if for_row:
        drawn = draws.uniform("sigma", (), low, high)
    else:
        drawn = tf.fill([tf.shape(x)[0]], low + (high - low) * draws.shared("sigma"))

    def change(x: Any, numbers: Any) -> Any:
        sigma = tf.cast(column(drawn, numbers, 2), tf.float64)  # of float32, exp rounds by the number of rows
        taps = _box_taps(sigma, radius) if boxes else _gaussian_taps(sigma, radius)
        passes = 3 if boxes else 1
        x = _smooth(tf.reshape(x, [-1, channels * height, width]), taps, edges, passes)
        if width % 4:  # which lines stand at the end, where a product may round otherwise, stays as it is
            x = tf.transpose(tf.reshape(x, [-1, channels, height, width]), [0, 1, 3, 2])
            x = _smooth(tf.reshape(x, [-1, channels * width, height]), taps, edges, passes)
            return tf.transpose(tf.reshape(x, [-1, channels, width, height]), [0, 1, 3, 2])
        # Lines of all channels beside each other: a transposition of three axes takes half the time of one of four.
        x = _smooth(tf.reshape(tf.transpose(x, [0, 2, 1]), [-1, width * channels, height]), taps, edges, passes)
        x = tf.transpose(tf.reshape(x, [-1, width, channels * height]), [0, 2, 1])
        return tf.reshape(x, [-1, channels, height, width])

    return sometimes_planes(x, draws, "blur", p, change)


def _gaussian_taps(sigma: Any, radius: int) -> Any:
    """float64 [n, 1] -> float32 [n, 2 radius + 1]."""
    taps = tf.exp(-0.5 * (tf.range(-radius, radius + 1, dtype=tf.float64) / sigma) ** 2)
    return tf.cast(taps / tf.reduce_sum(taps, axis=1, keepdims=True), tf.float32)


def _box_taps(sigma: Any, radius: int) -> Any:
    """A box whose three passes have the variance sigma^2: float64 [n, 1] -> float32 [n, 2 radius + 1]."""
    square = sigma**2
    whole = tf.floor((tf.sqrt(4.0 * square + 1.0) - 1.0) / 2.0)
    part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - square) / (2.0 * square - 6.0 * (whole + 1.0) ** 2)
    away = tf.abs(tf.range(-radius, radius + 1, dtype=tf.float64))
    taps = tf.where(away <= whole, tf.ones_like(part), tf.where(away <= whole + 1.0, part, tf.zeros_like(part)))
    return tf.cast(taps / (2.0 * (whole + part) + 1.0), tf.float32)


# What lies before and after the lines [n, R, L], `radius` pixels each.
EDGES: dict[str, Callable[[Any, int, int], tuple[Any, Any]]] = {
    # Not tf.pad(mode="REFLECT"): it refuses no rows.
    "reflect": lambda x, radius, length: (
        tf.reverse(x[:, :, 1 : radius + 1], [2]),
        tf.reverse(x[:, :, length - radius - 1 : length - 1], [2]),
    ),
    "zero": lambda x, radius, length: (tf.zeros([tf.shape(x)[0], x.shape[1], radius]),) * 2,
    "nearest": lambda x, radius, length: (
        tf.repeat(x[:, :, :1], radius, axis=2),
        tf.repeat(x[:, :, length - 1 :], radius, axis=2),
    ),
}


def _smooth(x: Any, taps: Any, edges: str, passes: int) -> Any:
    """Correlates the last axis of [n, R, L] with `taps` [n, K] `passes` times, as products with banded matrices, tile
    by tile."""
    length, kernel = x.shape[2], taps.shape[1]
    radius = kernel // 2
    tile = min(length, max(32, kernel))
    tiles = -(-length // tile)
    # band[p, i] = taps[p - i]: weight of padded pixel p in the made pixel i, the same in every tile.
    offset = tf.range(tile + kernel - 1)[:, None] - tf.range(tile)[None, :]
    offset = tf.where((offset >= 0) & (offset < kernel), offset, kernel)
    band = tf.gather(tf.pad(taps, [[0, 0], [0, 1]]), offset, axis=1)

    def made(x: Any, band: Any) -> Any:
        fill = tf.zeros([tf.shape(x)[0], x.shape[1], tiles * tile - length])
        for _ in range(passes):
            before, after = EDGES[edges](x, radius, length)
            x = tf.concat([before, x, after, fill], axis=2)
            parts = [tf.matmul(x[:, :, k * tile : (k + 1) * tile + kernel - 1], band) for k in range(tiles)]
            x = (tf.concat(parts, axis=2) if tiles > 1 else parts[0])[:, :, :length]
        return x

    return never_alone(made, x, band)


def noise(x: Any, draws: Any, *, std: float = 0.1, p: float = 1.0) -> Any:
    """Adds Gaussian noise: y = clip(x + std e, 0, 1), e ~ N(0, 1).

    Args:
      x: [n, H, W, C], 0..1.
      draws: "coin" [n], "noise" [n, H, W, C].
      std: of the noise, in brightness.
      p: probability for each row.

    Returns:
      float32 [n, H, W, C].
    """
    x = unit(x, "noise")
    std = number("noise.std", std, 0.0)
    normal = draws.normal("noise", x.shape[1:].as_list())

    def change(x: Any, numbers: Any) -> Any:
        return tf.clip_by_value(x + std * tf.gather(normal, numbers), 0.0, 1.0)

    return sometimes(x, draws, "noise", p, change)


def shuffle_patches(x: Any, draws: Any, *, grid: int = 3, target: str = "jigsaw") -> Any:
    """Cuts the picture into grid x grid patches and shuffles them: the jigsaw task.

    made patch k = given patch order[k]

    Args:
      x: [n, H, W, C], sides divisible by `grid`.
      draws: "order" [n, grid^2] (sorted rising); makes the target, int32 [n, grid^2].
      grid: patches along a side, at most 8.
      target: the target's name in the view; "" makes none.

    Returns:
      [n, H, W, C] of the same dtype.

    Reference: Noroozi and Favaro 2016; Misra and van der Maaten 2020 (PIRL), section 3.
    """
    height, width, channels = pixels(x, "shuffle_patches").shape[1:]
    grid = whole("shuffle_patches.grid", grid, 1)
    if grid > 8 or height % grid or width % grid:
        raise InputError("shuffle_patches.grid", grid, f"at most 8, and a divisor of {height} and {width}")
    order = tf.argsort(draws.uniform("order", (grid * grid,)), axis=1)
    if target:
        draws.target(target, order)
    tall, wide = height // grid, width // grid
    x = tf.transpose(tf.reshape(x, [-1, grid, tall, grid, wide, channels]), [0, 1, 3, 2, 4, 5])
    x = tf.gather(tf.reshape(x, [-1, grid * grid, tall, wide, channels]), order, batch_dims=1)
    x = tf.transpose(tf.reshape(x, [-1, grid, grid, tall, wide, channels]), [0, 1, 3, 2, 4, 5])
    return tf.reshape(x, [-1, height, width, channels])
