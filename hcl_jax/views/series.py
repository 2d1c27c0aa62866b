"""Changes of time series [n, T, C] in time and amplitude. NaN (a missing value) stays NaN unless an op says so."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number, span, whole
from hcl_jax.views.row_subset import sometimes


def steps(x: Any, op: str) -> Any:
    """Series as float32 [n, T, C]; [n, T] gets one channel; raises InputError for anything else."""
    if x.dtype == tf.string or x.shape.rank not in (2, 3) or None in x.shape[1:].as_list():
        raise InputError(op, f"{x.dtype.name} of shape {x.shape}", "series [n, T, C] of one known length")
    x = tf.cast(x, tf.float32)
    return x[:, :, None] if x.shape.rank == 2 else x


def jitter(x: Any, draws: Any, *, sigma: float = 0.1, p: float = 1.0) -> Any:
    """Adds Gaussian noise to every value: y = x + sigma e.

    Args:
      x: [n, T, C]; NaN stays.
      draws: "coin" [n], "noise" [n, T, C].
      sigma: in units of x; 0.8 in TS-TCC and CL-HAR, on normalised channels.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Um et al. 2017, section 3; Eldele et al. 2021 (TS-TCC), section 3.1.
    """
    x = steps(x, "jitter")
    sigma = number("jitter.sigma", sigma, 0.0)
    normal = draws.normal("noise", x.shape[1:].as_list())
    return sometimes(x, draws, "jitter", p, lambda x, numbers: x + sigma * tf.gather(normal, numbers))


def scale(x: Any, draws: Any, *, sigma: float = 0.1, mean: float = 1.0, p: float = 1.0) -> Any:
    """Multiplies each channel by one factor: y = f x, f ~ N(mean, sigma^2).

    Args:
      x: [n, T, C]; NaN stays.
      draws: "coin" [n], "factor" [n, C] (standard normal).
      sigma, mean: of the factor; the published codes of TS-TCC and CL-HAR have mean 2, sigma 1.1.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Um et al. 2017, section 3.
    """
    x = steps(x, "scale")
    factor = number("scale.mean", mean) + number("scale.sigma", sigma, 0.0) * draws.normal("factor", (x.shape[2],))
    return sometimes(x, draws, "scale", p, lambda x, numbers: x * tf.gather(factor, numbers)[:, None])


def negate(x: Any, draws: Any, *, p: float = 0.5) -> Any:
    """The sign of the whole series changes, y = -x: [n, T, C] -> float32 [n, T, C]; draws "coin" [n]."""
    return sometimes(steps(x, "negate"), draws, "negate", p, lambda x, numbers: -x)


def flip_time(x: Any, draws: Any, *, p: float = 0.5) -> Any:
    """Runs the series backwards, y_t = x_{T-1-t}: [n, T, C] -> float32 [n, T, C]; draws "coin" [n]."""
    return sometimes(steps(x, "flip_time"), draws, "flip_time", p, lambda x, numbers: tf.reverse(x, [1]))


def permute(x: Any, draws: Any, *, max_segments: int = 5, cuts: str = "equal", p: float = 1.0) -> Any:
    """Cuts the series into 1..max_segments pieces and shuffles them.

    Args:
      x: [n, T, C]; NaN moves with its step.
      draws: "coin" [n], "segments" [n] (0..1, over the numbers 1..max_segments), "order" [n, max_segments]
        (pieces sorted rising), and for random cuts "cuts" [n, max_segments - 1] (0..1, over the steps 1..T-1).
      max_segments: at most T; TS-TCC has 8, CL-HAR 10.
      cuts: "equal" (step t is in piece floor(t s / T)) or "random" (cuts may coincide: fewer pieces).
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Um et al. 2017, section 3.
    """
    x = steps(x, "permute")
    length = x.shape[1]
    most = whole("permute.max_segments", max_segments, 1)
    if most > length:
        raise InputError("permute.max_segments", most, f"1 to {length}, the steps")
    cuts = choice("permute.cuts", cuts, ("equal", "random"))
    count = tf.minimum(tf.cast(tf.floor(draws.uniform("segments") * most), tf.int32) + 1, most)
    time = tf.range(length)
    if cuts == "equal":
        piece = time * count[:, None] // length
    else:
        at = 1 + tf.cast(tf.floor(draws.uniform("cuts", (most - 1,)) * (length - 1)), tf.int32)
        at = tf.where(tf.range(most - 1) < count[:, None] - 1, at, length)
        piece = tf.reduce_sum(tf.cast(time[None, :, None] >= at[:, None, :], tf.int32), axis=2)
    rank = tf.argsort(tf.argsort(draws.uniform("order", (most,)), axis=1), axis=1)
    # Distinct integers: the sort needs no promise about ties.
    order = tf.argsort(tf.gather(rank, piece, batch_dims=1) * length + time, axis=1)
    return sometimes(x, draws, "permute", p, lambda x, numbers: tf.gather(x, tf.gather(order, numbers), batch_dims=1))


def curve(draws: Any, name: str, knots: int, sigma: float, length: int, channels: int = 0) -> Any:
    """Smooth random curves about 1: a cubic spline through 1 + sigma e at knots + 2 even times from 0 to T-1.

    Args:
      draws: `name` [n, knots + 2] or [n, channels, knots + 2] (standard normal).
      name: of the draw.
      knots: between the ends.
      sigma: of the values at the knots.
      length: T.
      channels: C, or 0 for one curve a row.

    Returns:
      float32 [n, T] or [n, T, C].
    """
    from scipy.interpolate import CubicSpline  # 0.3 s, only where a spline is asked for

    at = np.linspace(0.0, length - 1.0, knots + 2)
    # A spline is linear in its values: one constant matrix makes them all.
    basis = CubicSpline(at, np.eye(knots + 2))(np.arange(length)).astype(np.float32)
    shape = (channels, knots + 2) if channels else (knots + 2,)
    values = 1.0 + sigma * draws.normal(name, shape)
    out = tf.matmul(tf.reshape(values, [-1, knots + 2]), basis, transpose_b=True)
    return tf.transpose(tf.reshape(out, [-1, channels, length]), [0, 2, 1]) if channels else out


def sample(x: Any, times: Any) -> Any:
    """Linear interpolation in time: y_t = (1 - f) x_i + f x_{i+1}, i + f = times_t; NaN where a neighbour used is NaN.

    Args:
      x: float32 [n, T, C].
      times: float32 [n, L], from 0 to T-1.

    Returns:
      float32 [n, L, C].
    """
    last = x.shape[1] - 1
    low = tf.clip_by_value(tf.floor(times), 0.0, float(max(last - 1, 0)))
    part = tf.clip_by_value(times - low, 0.0, 1.0)[:, :, None]
    low = tf.cast(low, tf.int32)
    left = tf.gather(x, low, batch_dims=1)
    right = tf.gather(x, tf.minimum(low + 1, last), batch_dims=1)
    # The end with no weight must not bring its NaN: 0 * NaN is NaN.
    mixed = left + part * (right - left)
    return tf.where(part == 0.0, left, tf.where(part == 1.0, right, mixed))


def warp(x: Any, draws: Any, *, sigma: float = 0.2, knots: int = 4, p: float = 1.0) -> Any:
    """Time runs faster and slower along a smooth random curve; both ends stay.

    u_t = (T - 1) sum_{s<t} v_s / sum_{s<T-1} v_s,  v = max(curve, 0.05),  y_t = x(u_t)

    Args:
      x: [n, T, C], T >= 2; a step between a value and NaN is NaN.
      draws: "coin" [n], "speed" [n, knots + 2] (standard normal).
      sigma: of the speed at the knots.
      knots: between the ends.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Um et al. 2017, section 3; the floor 0.05 keeps time running forward.
    """
    x = steps(x, "warp")
    length = x.shape[1]
    if length < 2:
        raise InputError("warp", f"{length} step", "at least 2 steps")
    knots, sigma = whole("warp.knots", knots), number("warp.sigma", sigma, 0.0)
    speed = tf.maximum(curve(draws, "speed", knots, sigma, length), 0.05)
    passed = tf.cumsum(speed, axis=1, exclusive=True)
    times = passed * ((length - 1) / passed[:, -1:])
    return sometimes(x, draws, "warp", p, lambda x, numbers: sample(x, tf.gather(times, numbers)))


def magnitude_warp(x: Any, draws: Any, *, sigma: float = 0.2, knots: int = 4, p: float = 1.0) -> Any:
    """Multiplies each channel by its own smooth random curve about 1.

    Args:
      x: [n, T, C]; NaN stays.
      draws: "coin" [n], "curve" [n, C, knots + 2] (standard normal).
      sigma: of the curve at the knots.
      knots: between the ends.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Um et al. 2017, section 3.
    """
    x = steps(x, "magnitude_warp")
    knots, sigma = whole("magnitude_warp.knots", knots), number("magnitude_warp.sigma", sigma, 0.0)
    factor = curve(draws, "curve", knots, sigma, x.shape[1], x.shape[2])
    return sometimes(x, draws, "magnitude_warp", p, lambda x, numbers: x * tf.gather(factor, numbers))


def crop(x: Any, draws: Any, *, length: int, target: str = "") -> Any:
    """A random window of `length` steps.

    y_t = x_{t + start},  start ~ uniform on 0..T - length

    Args:
      x: [n, T, C].
      draws: "start" [n] (0..1); makes the target, int32 [n], when it has a name.
      length: steps of the window, 1 to T.
      target: name under which the view keeps the start; two views so overlap where start.. start + length do.

    Returns:
      float32 [n, length, C].

    Reference: Yue et al. 2022 (TS2Vec), section 3.2.
    """
    x = steps(x, "crop")
    free = x.shape[1] - whole("crop.length", length, 1)
    if free < 0:
        raise InputError("crop.length", length, f"1 to {x.shape[1]}, the steps")
    start = tf.minimum(tf.cast(tf.floor(draws.uniform("start") * (free + 1)), tf.int32), free)
    if target:
        draws.target(target, start)
    return tf.gather(x, start[:, None] + tf.range(length), batch_dims=1)


def overlapping_crops(
    x: Any, draws: Any, *, side: str, min_length: int = 2, centre: bool = True, target: str = "overlap"
) -> Any:
    """One of two random crops that overlap: a holds the overlap and what comes before it, b and what comes after.

    l ~ U{min_length..T},  s ~ U{0..T - l},  e = s + l,  s' ~ U{0..s},  e' ~ U{e..T},  o ~ U{-s'..T - e'} for each row
    a = x[o + s' : o + e],  b = x[o + s : o + e'],  overlap x[o + s : o + e]

    Both views need one salt (`draws`) and the same numbers here; only `side` differs. A crop lies at the front of a
    buffer of T steps, so that shapes are known; behind it are zeros.

    Args:
      x: [n, T, C]; NaN stays.
      draws: "length", "start", "before", "after" (0..1, one number shared by all rows of a step), "offset" [n] (0..1).
        Makes two targets: "inside" bool [n, T], the steps of the crop, and `target` int32 [n, 2], where the overlap
        starts in the buffer and how many steps it has.
      side: "a" or "b".
      min_length: fewest steps of the overlap; 2^(u + 1) for the temporal unit u.
      centre: first share the missing steps at the two ends of a row evenly between them (series of unequal length).
      target: name under which the view keeps the overlap.

    Returns:
      float32 [n, T, C].

    Reference: Yue et al. 2022 (TS2Vec), section 3.2, with the draws of their code, where only o differs between rows.
    """
    x = steps(x, "overlapping_crops")
    side = choice("overlapping_crops.side", side, ("a", "b"))
    least, total = whole("overlapping_crops.min_length", min_length, 1), x.shape[1]
    if least > total:
        raise InputError("overlapping_crops.min_length", least, f"1 to {total}, the steps")

    def among(drawn: Any, low: Any, high: Any) -> Any:
        """The whole number low..high that a uniform number picks."""
        count = high - low + 1
        return low + tf.minimum(tf.cast(tf.floor(drawn * tf.cast(count, tf.float32)), tf.int32), count - 1)

    length = among(draws.shared("length"), least, total)
    start = among(draws.shared("start"), 0, total - length)
    end = start + length
    first = among(draws.shared("before"), 0, start)
    last = among(draws.shared("after"), end, total)
    offset = among(draws.uniform("offset"), -first, total - last)
    begin, size = (first, end - first) if side == "a" else (start, last - start)
    place = tf.range(total)
    inside = place < size
    if centre:
        offset = offset + _uncentred(x)
    # Modulo: a centred row wraps, and what is not inside may point anywhere.
    taken = tf.gather(x, tf.math.floormod((offset + begin)[:, None] + place, total), batch_dims=1)
    overlap = tf.stack([start - begin, length])
    rows = tf.shape(x)[0]
    draws.target("inside", tf.ensure_shape(tf.repeat(inside[None], rows, axis=0), x.shape[:2]))
    draws.target(target, tf.ensure_shape(tf.repeat(overlap[None], rows, axis=0), [x.shape[0], 2]))
    return tf.where(inside[:, None], taken, 0.0)


def _uncentred(x: Any) -> Any:
    """Steps by which each row must move left for its values to lie in the middle: x [n, T, C] -> int32 [n]."""
    finite = tf.cast(tf.reduce_any(tf.math.is_finite(x), axis=2), tf.int32)
    before = tf.argmax(finite, axis=1, output_type=tf.int32)  # the first step with a value; 0 where there is none
    after = tf.argmax(tf.reverse(finite, [1]), axis=1, output_type=tf.int32)
    return before - (before + after) // 2


def crop_resize(x: Any, draws: Any, *, fraction: Sequence[float] = (0.5, 1.0), length: int = 0, p: float = 1.0) -> Any:
    """A random window of random length, stretched linearly to `length` steps.

    y_t = x(start + t w / (length - 1)),  w = f (T - 1),  f ~ U(fraction),  start ~ U(0, T - 1 - w)

    Args:
      x: [n, T, C], T >= 2; a step between a value and NaN is NaN.
      draws: "coin" [n], "fraction" [n], "start" [n] (0..1).
      fraction: range of the window's share of the time.
      length: steps to make; 0 is T.
      p: probability for each row; the others are stretched whole.

    Returns:
      float32 [n, length, C].
    """
    x = steps(x, "crop_resize")
    last = x.shape[1] - 1
    if last < 1:
        raise InputError("crop_resize", "1 step", "at least 2 steps")
    low, high = span("crop_resize.fraction", fraction, 1e-3, 1.0)
    length = whole("crop_resize.length", length) or x.shape[1]
    share = draws.uniform("fraction", (), low, high)
    share = tf.where(draws.coin("coin", number("crop_resize.p", p, 0.0, 1.0)), share, 1.0)
    start = draws.uniform("start") * (1.0 - share)
    where = tf.range(length, dtype=tf.float32) / max(length - 1, 1)
    return sample(x, tf.clip_by_value((start[:, None] + share[:, None] * where) * last, 0.0, float(last)))


def drop_channels(x: Any, draws: Any, *, p: float = 0.2, value: float = 0.0) -> Any:
    """Overwrites whole channels, each with probability p; when all would go, the one with the largest draw stays.

    Args:
      x: [n, T, C].
      draws: "drop" [n, C] (dropped below p).
      p: probability for each channel.
      value: what is written.

    Returns:
      float32 [n, T, C].
    """
    x = steps(x, "drop_channels")
    p, value = number("drop_channels.p", p, 0.0, 1.0), number("drop_channels.value", value)
    drawn = draws.uniform("drop", (x.shape[2],))
    keep_mask = (drawn >= p) | (drawn >= tf.reduce_max(drawn, axis=1, keepdims=True))
    return tf.where(keep_mask[:, None], x, value)


def shuffle_channels(x: Any, draws: Any, *, p: float = 0.5) -> Any:
    """Channels in a random order: [n, T, C] -> float32 [n, T, C]; draws "coin" [n], "order" [n, C] (sorted rising)."""
    x = steps(x, "shuffle_channels")
    order = tf.argsort(draws.uniform("order", (x.shape[2],)), axis=1)

    def change(x: Any, numbers: Any) -> Any:
        picked = tf.gather(order, numbers)
        return tf.transpose(tf.gather(tf.transpose(x, [0, 2, 1]), picked, batch_dims=1), [0, 2, 1])

    return sometimes(x, draws, "shuffle_channels", p, change)


def rotate_axes(x: Any, draws: Any, *, p: float = 0.5) -> Any:
    """Turns each sensor of three neighbouring channels in space, all sensors of a row by one random rotation.

    y = R x,  R from a unit quaternion e / |e|, e ~ N(0, I): uniform over rotations

    Args:
      x: [n, T, 3 k]; NaN in an axis makes the three axes NaN.
      draws: "coin" [n], "quaternion" [n, 4] (standard normal; w, x, y, z).
      p: probability for each row.

    Returns:
      float32 [n, T, 3 k].

    Reference: Shoemake 1992, equation 3 (uniform quaternions); Um et al. 2017, section 3.
    """
    x = steps(x, "rotate_axes")
    if x.shape[2] % 3:
        raise InputError("rotate_axes", f"{x.shape[2]} channels", "three for each sensor")
    q = draws.normal("quaternion", (4,))
    w, i, j, k = tf.unstack(q * tf.math.rsqrt(tf.maximum(tf.reduce_sum(q * q, axis=1, keepdims=True), 1e-12)), axis=1)
    turn = tf.reshape(
        tf.stack(
            [
                *(1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w)),
                *(2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w)),
                *(2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)),
            ],
            axis=1,
        ),
        [-1, 3, 3],
    )

    def change(x: Any, numbers: Any) -> Any:
        points = tf.reshape(x, [-1, x.shape[1] * x.shape[2] // 3, 3])
        turned = tf.matmul(points, tf.gather(turn, numbers), transpose_b=True)
        return tf.reshape(turned, [-1, *x.shape[1:]])

    return sometimes(x, draws, "rotate_axes", p, change)


def mask_time(x: Any, draws: Any, *, p: float = 0.15, span: int = 1, value: float = 0.0, target: bool = False) -> Any:
    """Overwrites all channels of random steps, in blocks of `span`.

    Args:
      x: [n, T, C]; NaN stays where not masked.
      draws: "mask" [n, ceil(T / span)] (masked below p).
      p: probability for each block.
      span: steps in a block.
      value: what is written.
      target: keep "mask" (bool [n, T], True = masked) and "clean" ([n, T, C], before masking) for a reconstruction.

    Returns:
      float32 [n, T, C].

    Reference: Yue et al. 2022 (TS2Vec), section 3.2; Zerveas et al. 2021, section 3.2 (blocks).
    """
    x = steps(x, "mask_time")
    length, block = x.shape[1], whole("mask_time.span", span, 1)
    p, value = number("mask_time.p", p, 0.0, 1.0), number("mask_time.value", value)
    masked = draws.uniform("mask", (-(-length // block),)) < p
    masked = tf.repeat(masked, block, axis=1)[:, :length]
    if target:
        draws.target("mask", masked)
        draws.target("clean", x)
    return tf.where(masked[:, :, None], value, x)


def z_normalise(x: Any, draws: Any, *, epsilon: float = 0.0) -> Any:
    """Mean 0 and variance 1 over time for each row and channel; missing values (NaN) stay and are not counted.

    y = (x - m) / sqrt(v + epsilon), at any amplitude from 1e-30 to 1e30; a constant series becomes 0.

    Args:
      x: [n, T, C].
      draws: not used.
      epsilon: added to the variance, in the square of the unit of x: series whose deviation is well below its root
        stay small.

    Returns:
      float32 [n, T, C].
    """
    del draws
    x = steps(x, "z_normalise")
    epsilon = number("z_normalise.epsilon", epsilon, 0.0)
    finite = tf.math.is_finite(x)
    count = tf.maximum(tf.reduce_sum(tf.cast(finite, tf.float32), axis=1, keepdims=True), 1.0)

    def largest(y: Any) -> Any:
        return tf.reduce_max(tf.where(finite, tf.abs(y), 0.0), axis=1, keepdims=True)

    def mean(y: Any) -> Any:
        return tf.reduce_sum(tf.where(finite, y, 0.0), axis=1, keepdims=True) / count

    # In units of the largest value, and then of the largest deviation: squares of others leave the numbers of float32.
    unit = largest(x)
    x = tf.where(finite, tf.math.divide_no_nan(x, unit), x)
    centred = x - mean(x)
    span = largest(centred)
    rounding = 8 * np.finfo(np.float32).eps  # what a constant series is off its own mean, where that is no float32
    centred = tf.where(span > rounding, tf.math.divide_no_nan(centred, span), 0.0)
    deviation = tf.sqrt(mean(centred * centred))
    # The root of the sum of squares in the unit of x, without the squares.
    root = tf.sqrt(tf.constant(epsilon, tf.float32)) / tf.maximum(unit * span, np.finfo(np.float32).tiny)
    return tf.where(finite, tf.math.divide_no_nan(centred, tf.sqrt(deviation**2 + root**2)), x)


def fill_missing(x: Any, draws: Any, *, value: float = 0.0, indicator: bool = False) -> Any:
    """Replaces NaN and infinities by `value`; with `indicator`, as many channels follow that are 1 where x was there.

    Args:
      x: [n, T, C].
      draws: not used.
      value: what is written.
      indicator: double the channels.

    Returns:
      float32 [n, T, C] or [n, T, 2 C].
    """
    del draws
    x = steps(x, "fill_missing")
    finite = tf.math.is_finite(x)
    filled = tf.where(finite, x, number("fill_missing.value", value))
    return tf.concat([filled, tf.cast(finite, tf.float32)], axis=2) if indicator else filled
