"""Colours of pictures [n, H, W, C]: jitter, grey, solarise, transparency, normalisation. One channel is grey."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views.frameworks import settled
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number, numbers_of, span
from hcl_jax.views.resample import from_planes, pixels, pixelwise, planes_of, unit
from hcl_jax.views.row_subset import column, sometimes, sometimes_planes

LARGE = 128 * 128  # pixels from which on a picture alone keeps an operation busy
JITTERS = ("brightness", "contrast", "saturation", "hue")


def color_jitter(
    x: Any,
    draws: Any,
    *,
    brightness: float = 0.8,
    contrast: float = 0.8,
    saturation: float = 0.8,
    hue: float = 0.2,
    p: float = 0.8,
    strength: float = 1.0,
    order: str = "random",
    like: str | None = None,
    convention: str | None = None,
    contrast_about: str | None = None,
    saturate: str | None = None,
    luminance: Sequence[float] | None = None,
) -> Any:
    """Brightness, contrast, saturation and hue, each clipped to 0..1, in an order drawn for each row.

    brightness: f x, f ~ U(max(0, 1 - s b), 1 + s b)  ("add": x + f, f ~ U(-s b, s b)); contrast: f x + (1 - f) m, m the
    mean grey; saturation: f x + (1 - f) grey ("hsv": v - (v - x) min(f, v / c), v the largest channel, c that less the
    smallest: HSV's saturation times f); hue: turned by f ~ U(-s h, s h) circles; else f as for brightness.

    Args:
      x: [n, H, W, 3], or [n, H, W, 1] (brightness and contrast only).
      draws: "coin", "brightness", "contrast", "saturation", "hue" [n], "order" [n, 4] (sorted rising).
      brightness, contrast, saturation: half width of the factor's range.
      hue: half width in turns, at most 0.5 after strength.
      p: probability for each row.
      strength: multiplies the four; SimCLR has 1 for ImageNet, 0.5 for CIFAR-10.
      order: "random" or "fixed" (as listed).
      like: "tensorflow", "torchvision" or "pillow": the framework whose defaults the arguments below have where nothing
        else is given (docs/parts.md has the table); None is our own: "multiply", "grey", "grey", (0.299, 0.587, 0.114).
      convention: of brightness, "multiply" (torchvision, SimCLR v2) or "add" (tf.image, SimCLR v1).
      contrast_about: "grey" (the mean grey: torchvision), "rounded_grey" (that on 8 bits: Pillow), or "channels" (each
        channel's mean: tf.image).
      saturate: "grey" (torchvision, Pillow) or "hsv" (tf.image).
      luminance: weights of red, green and blue in grey.

    Returns:
      float32 [n, H, W, C] in 0..1.

    Reference: Chen et al. 2020 (SimCLR), appendix A; torchvision, transforms.ColorJitter; tf.image.adjust_contrast and
      adjust_saturation; Pillow, ImageEnhance, whose rounding to 8 bits after each change is left out.
    """
    op = "color_jitter"
    x = unit(x, op)
    height, width, channels = x.shape[1:]
    if channels not in (1, 3):
        raise InputError(op, f"{channels} channels", "1 or 3; flatten_alpha removes transparency")
    strength = number(f"{op}.strength", strength, 0.0)
    widths = {
        name: strength * number(f"{op}.{name}", value, 0.0)
        for name, value in zip(JITTERS, (brightness, contrast, saturation, hue), strict=True)
    }
    if widths["hue"] > 0.5:
        raise InputError(f"{op}.hue", f"{widths['hue']:g} after strength", "a number from 0 to 0.5")
    chosen = settled(op, like, locals())
    convention = choice(f"{op}.convention", chosen["convention"], ("multiply", "add"))
    about = choice(f"{op}.contrast_about", chosen["contrast_about"], tuple(CONTRASTS))
    saturate = choice(f"{op}.saturate", chosen["saturate"], ("grey", "hsv"))
    weights = _weights(f"{op}.luminance", chosen["luminance"])
    order = choice(f"{op}.order", order, ("random", "fixed"))

    factors = {}
    for name, half in widths.items():
        about_zero = name == "hue" or (name == "brightness" and convention == "add")
        factors[name] = draws.uniform(name, (), -half if about_zero else max(0.0, 1.0 - half), half + (not about_zero))
    place = draws.uniform("order", (len(JITTERS),))
    used = [k for k, name in enumerate(JITTERS) if widths[name] > 0.0 and (channels == 3 or k < 2)]
    if not used:
        return x
    place = tf.argsort(tf.gather(place, used, axis=1), axis=1)
    changes = {
        "brightness": tf.multiply if convention == "multiply" else tf.add,
        "contrast": lambda planes, f: f * planes + (1.0 - f) * CONTRASTS[about](planes, weights),
        "saturation": functools.partial(_blend, weights=weights) if saturate == "grey" else scale_saturation,
        "hue": turn_hue,
    }

    def jitter(x: Any, numbers: Any) -> Any:
        planes = tf.reshape(x, [-1, channels, height * width])
        turn = tf.gather(place, numbers)
        values = [tf.gather(factors[JITTERS[k]], numbers) for k in used]
        # Not about a rounded mean: of one row a graph's optimizer multiplies such numbers in another order.
        alone = height * width >= LARGE and channels == 3 and about != "rounded_grey"
        if order == "random" and len(used) > 1 and alone:
            done = _one_by_one([changes[JITTERS[k]] for k in used], planes, turn, tf.stack(values, axis=1))
            return tf.reshape(done, [-1, channels, height, width])
        for position in range(len(used)):
            if order == "fixed" or len(used) == 1:
                planes = _step(changes[JITTERS[used[position]]], planes, values[position])
                continue
            # Rows whose turn it is for the same change go through it together: four changes a row, not sixteen.
            which = turn[:, position]
            at = tf.dynamic_partition(tf.range(tf.shape(planes)[0]), which, len(used))
            parts = tf.dynamic_partition(planes, which, len(used))
            done = [_step(changes[JITTERS[used[k]]], parts[k], tf.gather(values[k], at[k])) for k in range(len(used))]
            planes = tf.ensure_shape(tf.dynamic_stitch(at, done), [None, channels, height * width])
        return tf.reshape(planes, [-1, channels, height, width])

    return sometimes_planes(x, draws, op, p, jitter)


def _one_by_one(changes: Sequence[Callable[[Any, Any], Any]], planes: Any, turn: Any, values: Any) -> Any:
    """The changes to each row of [k, C, P] in its own order, which stays in the cache: `turn` [k, changes] says which
    is the next, `values` [k, changes] has their factors."""

    def one(row: tuple[Any, Any, Any]) -> Any:
        planes, turn, values = row

        def change(at: Any, planes: Any) -> Any:
            ways = [functools.partial(_step, f, planes, values[k : k + 1]) for k, f in enumerate(changes)]
            return at + 1, tf.ensure_shape(tf.switch_case(turn[at], ways), planes.shape)

        start = 0, planes[None]
        return tf.while_loop(lambda at, _: at < len(changes), change, start, parallel_iterations=1)[1][0]

    spec = tf.TensorSpec(planes.shape[1:], tf.float32)
    return tf.map_fn(one, (planes, turn, values), fn_output_signature=spec, parallel_iterations=1)


def _step(change: Callable[[Any, Any], Any], planes: Any, factor: Any) -> Any:
    return tf.clip_by_value(change(planes, factor[:, None, None]), 0.0, 1.0)


def _weights(where: str, value: Any) -> list[float]:
    weights = numbers_of(where, value)
    if len(weights) != 3 or min(weights) < 0.0 or sum(weights) > 1.0 + 1e-6:
        raise InputError(where, repr(value), "three numbers from 0 on, of red, green and blue, with a sum of at most 1")
    return weights


def _grey_plane(planes: Any, weights: Sequence[float]) -> Any:
    """[n, C, P] -> luminance [n, 1, P]."""
    if planes.shape[1] == 1:
        return planes
    return sum(weight * planes[:, k : k + 1] for k, weight in enumerate(weights))


def _blend(planes: Any, factor: Any, weights: Sequence[float]) -> Any:
    return factor * planes + (1.0 - factor) * _grey_plane(planes, weights)


def _mean_grey(planes: Any, weights: Sequence[float]) -> Any:
    return _grey_plane(tf.reduce_mean(planes, axis=2, keepdims=True), weights)


# What contrast is about: planes [n, C, P], weights -> [n, 1 or C, 1].
CONTRASTS: dict[str, Callable[[Any, Sequence[float]], Any]] = {
    "grey": _mean_grey,
    "rounded_grey": lambda planes, weights: tf.floor(255.0 * _mean_grey(planes, weights) + 0.5) * (1.0 / 255.0),
    "channels": lambda planes, weights: tf.reduce_mean(planes, axis=2, keepdims=True),
}


def scale_saturation(planes: Any, factor: Any) -> Any:
    """HSV's saturation times a factor, at most 1, at equal hue and value.

    x' = v - (v - x) min(f, v / c),  v = max, c = max - min over the channels

    Args:
      planes: float32 [n, 3, P].
      factor: float32 [n, 1, 1], at least 0.

    Returns:
      float32 [n, 3, P].

    Reference: tf.image.adjust_saturation.
    """
    value = tf.reduce_max(planes, axis=1, keepdims=True)
    chroma = value - tf.reduce_min(planes, axis=1, keepdims=True)
    most = tf.maximum(value, 0.0) / tf.maximum(chroma, 1e-12)  # no chroma: nothing below changes
    return value - (value - planes) * tf.minimum(factor, most)


def turn_hue(planes: Any, turns: Any) -> Any:
    """Turns the hue at equal value and chroma.

    v = max, c = max - min, h in sixths of the circle; channel = v - c clip(min(k, 4 - k), 0, 1),
    k = (n + h + 6 turns) mod 6, n = 5, 3, 1 for red, green, blue.

    Args:
      planes: float32 [n, 3, P] in 0..1.
      turns: float32 [n, 1, 1], in circles.

    Returns:
      float32 [n, 3, P].

    Reference: Smith 1978, the hexcone model.
    """
    red, green, blue = planes[:, 0], planes[:, 1], planes[:, 2]
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    part = _reciprocal(tf.maximum(chroma, 1e-12))  # no chroma: every difference below is 0 too
    above = tf.where(green >= value, (blue - red) * part + 2.0, (red - green) * part + 4.0)
    hue = tf.where(red >= value, (green - blue) * part, above)
    hue = (hue + 6.0 * turns[:, 0]) * (1.0 / 6.0)

    def channel(n: float) -> Any:
        k = hue + n / 6.0
        k = 6.0 * (k - tf.floor(k))
        return value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0)

    return tf.stack([channel(5.0), channel(3.0), channel(1.0)], axis=1)


def _reciprocal(x: Any) -> Any:
    """1 / x of [n, P]. TensorFlow's kernel has other last bits in the rest of a vector behind its blocks of up to 16:
    with whole blocks a row does not depend on how many stand before it."""
    length = x.shape[1]
    whole = tf.pad(x, [[0, 0], [0, -length % 16]], constant_values=1.0)
    return (1.0 / whole)[:, :length]


def grey(
    x: Any, draws: Any, *, p: float = 0.2, like: str | None = None, luminance: Sequence[float] | None = None
) -> Any:
    """Replaces all three channels by their luminance; one channel stays as it is.

    y = 0.299 R + 0.587 G + 0.114 B

    Args:
      x: [n, H, W, 3] or [n, H, W, 1].
      draws: "coin" [n].
      p: probability for each row.
      like: "tensorflow" or "torchvision": 0.2989 R + 0.587 G + 0.114 B, so that white is 0.9999; "pillow" as above.
      luminance: the weights of red, green and blue themselves.

    Returns:
      float32 [n, H, W, C].
    """
    x = unit(x, "grey")
    if x.shape[-1] not in (1, 3):
        raise InputError("grey", f"{x.shape[-1]} channels", "1 or 3; flatten_alpha removes transparency")

    weights = _weights("grey.luminance", settled("grey", like, locals())["luminance"])

    def change(x: Any, numbers: Any) -> Any:
        del numbers
        if x.shape[-1] == 1:
            return x
        return tf.repeat(sum(weight * x[..., k : k + 1] for k, weight in enumerate(weights)), 3, axis=-1)

    def change_planes(x: Any, numbers: Any) -> Any:
        del numbers
        return x if x.shape[1] == 1 else tf.repeat(_grey_plane(x, weights), 3, axis=1)

    if planes_of(x) is not None:
        return sometimes_planes(x, draws, "grey", p, change_planes)
    return sometimes(x, draws, "grey", p, change)


def solarise(x: Any, draws: Any, *, p: float = 0.2, like: str | None = None, threshold: float | None = None) -> Any:
    """Inverts the bright pixels: y = 1 - x where x >= threshold.

    Args:
      x: [n, H, W, C], 0..1.
      draws: "coin" [n].
      p: probability for each row.
      like: "pillow" has the threshold 128/255, all others 0.5.
      threshold: from which brightness on.

    Returns:
      float32 [n, H, W, C].

    Reference: Grill et al. 2020 (BYOL), appendix B; Pillow, ImageOps.solarize.
    """
    threshold = number("solarise.threshold", settled("solarise", like, locals())["threshold"])

    def change(x: Any, numbers: Any) -> Any:
        del numbers
        return tf.where(x >= threshold, 1.0 - x, x)

    return pixelwise(lambda x: sometimes(x, draws, "solarise", p, change), unit(x, "solarise"))


def invert(x: Any, draws: Any, *, p: float = 0.5) -> Any:
    """The negative of a row with probability p, y = 1 - x: [n, H, W, C] -> float32 [n, H, W, C]; draws "coin" [n]."""
    return pixelwise(lambda x: sometimes(x, draws, "invert", p, lambda x, numbers: 1.0 - x), unit(x, "invert"))


def gamma(x: Any, draws: Any, *, p: float = 1.0, power: Sequence[float] = (0.7, 1.5)) -> Any:
    """A random power of the brightness: y = x^g, log g uniform.

    Args:
      x: [n, H, W, C], 0..1.
      draws: "coin" [n], "power" [n] (0..1, where in the range).
      p: probability for each row.
      power: range of g.

    Returns:
      float32 [n, H, W, C].
    """
    low, high = span("gamma.power", power, 1e-3, 1e3)
    # In float32 a power rounds by the length of the vector.
    drawn = tf.cast(low * (high / low) ** tf.cast(draws.uniform("power"), tf.float64), tf.float32)

    def change(x: Any, numbers: Any) -> Any:
        return tf.maximum(x, 0.0) ** column(drawn, numbers, 4)

    return sometimes(unit(x, "gamma"), draws, "gamma", p, change)


def clip(x: Any, draws: Any, *, low: float = 0.0, high: float = 1.0) -> Any:
    """Cuts what lies outside low..high, such as the overshoot that a crop with clip=False leaves.

    Args:
      x: [n, H, W, C].
      draws: not used.
      low, high: the range.

    Returns:
      float32 [n, H, W, C].
    """
    del draws
    low, high = span("clip.low, clip.high", (low, high))
    return pixelwise(lambda x: tf.clip_by_value(x, low, high), unit(x, "clip"))


def normalise(x: Any, draws: Any, *, mean: float | Sequence[float], std: float | Sequence[float]) -> Any:
    """Subtracts a mean and divides by a standard deviation, for each channel, in units of 0..1 brightness.

    Args:
      x: [n, H, W, C].
      draws: not used.
      mean, std: one number, or one for each channel.

    Returns:
      float32 [n, H, W, C].
    """
    del draws
    x = unit(x, "normalise")
    means, stds = numbers_of("normalise.mean", mean), numbers_of("normalise.std", std)
    for where, numbers in (("normalise.mean", means), ("normalise.std", stds)):
        if len(numbers) not in (1, x.shape[-1]):
            raise InputError(where, f"{len(numbers)} numbers", f"1 or {x.shape[-1]}, the channels")
    if min(stds) <= 0.0:
        raise InputError("normalise.std", repr(std), "numbers above 0")
    less, times = tf.constant(means), tf.constant([1.0 / s for s in stds])
    planes = planes_of(x)
    if planes is None:
        return (x - less) * times
    return from_planes((planes - less[:, None, None]) * times[:, None, None])


def flatten_alpha(x: Any, draws: Any, *, background: float | Sequence[float] = 1.0) -> Any:
    """Lays a transparent picture on one colour: y = a x + (1 - a) background; without transparency nothing changes.

    Do it before any resampling: colours under transparent pixels mean nothing and would bleed.

    Args:
      x: [n, H, W, 4 or 2] (the last channel is alpha), or [n, H, W, 3 or 1].
      draws: not used.
      background: one number 0..1, or red, green, blue.

    Returns:
      float32 [n, H, W, 3 or 1].

    Reference: Porter and Duff 1984, "over".
    """
    del draws
    shade = numbers_of("flatten_alpha.background", background, 0.0, 1.0)
    x = unit(x, "flatten_alpha")
    channels = x.shape[-1]
    if channels in (1, 3):
        return x
    if channels not in (2, 4):
        raise InputError("flatten_alpha", f"{channels} channels", "1 to 4")
    if len(shade) not in (1, channels - 1):
        raise InputError("flatten_alpha.background", repr(background), f"1 or {channels - 1} numbers")
    alpha = x[..., -1:]
    return x[..., :-1] * alpha + tf.constant(shade) * (1.0 - alpha)


def to_rgb(x: Any, draws: Any, *, background: float | Sequence[float] = 1.0) -> Any:
    """Three channels from any: grey is repeated, transparency is laid on the background.

    Args:
      x: [n, H, W, 1 to 4].
      draws: not used.
      background: as in flatten_alpha.

    Returns:
      [n, H, W, 3]; float32, or the same dtype where there was no transparency.
    """
    if pixels(x, "to_rgb").shape[-1] not in (1, 3):
        x = flatten_alpha(x, draws, background=background)
    return x if x.shape[-1] == 3 else tf.repeat(x, 3, axis=-1)
