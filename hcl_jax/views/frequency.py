"""Changes of time series [n, T, C] in their spectrum (real FFT over time). NaN spreads over its channel: fill first."""

from collections.abc import Sequence
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number, span
from hcl_jax.views.row_subset import column, sometimes
from hcl_jax.views.series import steps


def band_limit(x: Any, draws: Any, *, keep: str = "low", cut: Sequence[float] = (0.3, 0.7), p: float = 0.5) -> Any:
    """Keeps the frequencies below ("low") or from ("high") a random cut, as a share of the highest.

    Y_k = X_k if k < c (K - 1) else 0  (high: the rest; k = 0, the mean, always stays),  c ~ U(cut)

    Args:
      x: [n, T, C].
      draws: "coin" [n], "cut" [n].
      keep: "low" or "high".
      cut: range of the share.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Qian et al. 2022 (CL-HAR), table of augmentations, lfc and hfc.
    """
    x = steps(x, "band_limit")
    low, high = span("band_limit.cut", cut, 0.0, 1.0)
    keep = choice("band_limit.keep", keep, ("low", "high"))
    share = draws.uniform("cut", (), low, high)

    def change(x: Any, numbers: Any) -> Any:
        bins = tf.range(x.shape[1] // 2 + 1, dtype=tf.float32)
        below = bins < column(share, numbers, 2) * (x.shape[1] // 2)
        band = (below if keep == "low" else ~below) | (bins == 0.0)
        return _back(_spectrum(x) * tf.cast(band[:, None], tf.complex64), x)

    return sometimes(x, draws, "band_limit", p, change)


def shift_phase(x: Any, draws: Any, *, most: float = 3.141592653589793, p: float = 0.5) -> Any:
    """Adds one random angle to the phase of every frequency (but the mean): Y_k = X_k e^{i a}, a ~ U(-most, most).

    Args:
      x: [n, T, C].
      draws: "coin" [n], "angle" [n], radians.
      most: largest angle either way.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Qian et al. 2022 (CL-HAR), table of augmentations, p_shift.
    """
    x = steps(x, "shift_phase")
    most = number("shift_phase.most", most, 0.0)
    angle = draws.uniform("angle", (), -most, most)

    def change(x: Any, numbers: Any) -> Any:
        bins = tf.range(x.shape[1] // 2 + 1)
        turned = tf.where(bins == 0, 0.0, column(angle, numbers, 3))
        return _back(_spectrum(x) * tf.complex(tf.cos(turned), tf.sin(turned)), x)

    return sometimes(x, draws, "shift_phase", p, change)


def scale_spectrum(x: Any, draws: Any, *, sigma: float = 0.2, share: float = 0.5, p: float = 0.5) -> Any:
    """Multiplies a random share of the frequencies' amplitudes: Y_k = X_k max(1 + sigma e_k, 0) for chosen k.

    Args:
      x: [n, T, C].
      draws: "coin" [n], "factor" [n, T//2+1] (standard normal), "chosen" [n, T//2+1] (chosen below share).
      sigma: of the factor.
      share: of the frequencies.
      p: probability for each row.

    Returns:
      float32 [n, T, C].

    Reference: Qian et al. 2022 (CL-HAR), table of augmentations, ap_p and ap_f (here the amplitude only).
    """
    x = steps(x, "scale_spectrum")
    sigma, share = number("scale_spectrum.sigma", sigma, 0.0), number("scale_spectrum.share", share, 0.0, 1.0)
    bins = x.shape[1] // 2 + 1
    factor = tf.maximum(1.0 + sigma * draws.normal("factor", (bins,)), 0.0)
    factor = tf.where(draws.uniform("chosen", (bins,)) < share, factor, 1.0)

    def change(x: Any, numbers: Any) -> Any:
        return _back(_spectrum(x) * tf.cast(tf.gather(factor, numbers)[:, None], tf.complex64), x)

    return sometimes(x, draws, "scale_spectrum", p, change)


def spectrum(x: Any, draws: Any) -> Any:
    """The amplitudes of the real FFT, a view of its own: |X_k|, k = 0..T//2.

    Args:
      x: [n, T, C].
      draws: not used.

    Returns:
      float32 [n, T//2+1, C].

    Reference: Zhang et al. 2022 (TF-C), section 3.2.
    """
    del draws
    x = steps(x, "spectrum")
    if x.shape[1] < 2:
        raise InputError("spectrum", "1 step", "at least 2 steps")
    return tf.transpose(tf.abs(_spectrum(x)), [0, 2, 1])


def _spectrum(x: Any) -> Any:
    """float32 [n, T, C] -> complex64 [n, C, T//2+1]."""
    return tf.signal.rfft(tf.transpose(x, [0, 2, 1]))


def _back(y: Any, x: Any) -> Any:
    return tf.transpose(tf.signal.irfft(y, [x.shape[1]]), [0, 2, 1])
