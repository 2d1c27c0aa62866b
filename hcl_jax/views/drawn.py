"""Rows of a view as one picture, in NumPy alone: a grid of pictures, or of series as lines."""

from collections.abc import Callable, Mapping

import numpy as np

ROWS, ACROSS = 16, 4  # rows of a grid at most, and how many stand beside each other
SIDE = 64  # pixels that a cell has at least; less than 4 SIDE
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))


def picture(image: np.ndarray) -> np.ndarray:
    """A view of a picture [H, W, C] as levels from 0 to 1, [H, W, 1] or [H, W, 3]."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:  # a normalised picture: shown over its own range
        image = (image - low) / max(high - low, 1e-6)
    return image if image.shape[-1] == 1 else image[..., :3]


def grid(view: Mapping[str, np.ndarray], there: np.ndarray | None = None) -> np.ndarray | None:
    """The first rows of a view as one picture; an absent row is an empty cell.

    Args:
      view: its arrays [n, ...]; `image` [n, H, W, C] and `series` [n, T] or [n, T, C] can be drawn.
      there: bool [n], which rows have the view; None: all.

    Returns:
      uint8 [height, width, 3]; None for a view of another kind.
    """
    field = next((f for f, ranks in RANKS.items() if f in view and np.ndim(view[f]) in ranks), "")
    if not field or not len(view[field]):
        return None
    values = np.asarray(view[field])[:ROWS]
    cells = [DRAW[field](value) for value in values]
    empty = np.full_like(cells[0], 200)
    cells = [cell if there is None or there[i] else empty for i, cell in enumerate(cells)]
    height, width = cells[0].shape[:2]
    down, across = -(-len(cells) // ACROSS), min(len(cells), ACROSS)
    sheet = np.full((down * (height + 2) + 2, across * (width + 2) + 2, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        y, x = (i // ACROSS) * (height + 2) + 2, (i % ACROSS) * (width + 2) + 2
        sheet[y : y + height, x : x + width] = cell
    return sheet


def _pixels(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: small pictures are enlarged by whole pixels, of large ones every k-th pixel is taken."""
    image = np.nan_to_num(np.asarray(image, np.float32), posinf=0.0, neginf=0.0)
    image = image[..., :1] if image.shape[-1] == 2 else image
    longest = max(image.shape[:2])
    image, times = (
        picture(image[:: max(1, longest // (2 * SIDE)), :: max(1, longest // (2 * SIDE))]),
        -(-SIDE // longest),
    )
    levels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(levels, (*levels.shape[:2], 3)).repeat(times, axis=0).repeat(times, axis=1)


def _lines(series: np.ndarray) -> np.ndarray:
    """uint8 [64, 128, 3]: a line for each of 6 channels over the range of all; a gap where a value is missing."""
    series = np.asarray(series, np.float64).reshape(len(series), -1)[:, : len(COLOURS)]
    finite = series[np.isfinite(series)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    cell = np.full((SIDE, 2 * SIDE, 3), 255, np.uint8)
    moments = np.linspace(0, len(series) - 1, cell.shape[1])
    for channel, colour in zip(series.T, COLOURS, strict=False):
        known = np.isfinite(channel)
        if not known.any():
            continue
        level = (np.interp(moments, np.flatnonzero(known), channel[known]) - low) / max(high - low, 1e-12)
        rows = (2 + (1 - level) * (SIDE - 5)).round().astype(int)
        for x in np.flatnonzero(known[moments.round().astype(int)]):
            top, bottom = sorted((rows[x], rows[max(x - 1, 0)]))
            cell[top : bottom + 1, x] = colour
    return cell


DRAW: dict[str, Callable[[np.ndarray], np.ndarray]] = {"image": _pixels, "series": _lines}
RANKS = {"image": (4,), "series": (2, 3)}
