"""Records and maps as inline pictures: PNG for pictures, SVG lines for series, circles for graphs, words for texts."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcl_jax import preview
from hcl_jax.report.html import Html, join, tag
from hcl_jax.views.drawn import picture

SIDE = 96  # pixels that a picture has at least and 2 SIDE at most, so that a page of many stays small
SHAPES, COLOURS, TURN = 6, 8, 24  # both change with each class; after TURN the pairs would come again
MOST_CLASSES = SHAPES * COLOURS  # that a map tells apart
MARKS = (
    '<circle id="m0" r="3.6"/>',
    '<rect id="m1" x="-3.2" y="-3.2" width="6.4" height="6.4"/>',
    '<path id="m2" d="M0-4.4L4 3H-4Z"/>',
    '<path id="m3" d="M0-4.6L4.6 0L0 4.6L-4.6 0Z"/>',
    '<path id="m4" d="M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z"/>',
    '<path id="m5" d="M0 4.4L4-3H-4Z"/>',
)
DEFINITIONS = Html(f'<svg class="marks" aria-hidden="true"><defs>{"".join(MARKS)}</defs></svg>')


def record(view: Mapping[str, np.ndarray] | None, label: str = "") -> Html:
    """One row of a view, as hcl_jax.preview would draw it.

    Args:
      view: the arrays of the row; None for an absent one.
      label: what a screen reader says.
    """
    if view is None:
        return tag("span", "absent", class_="absent")
    if "image" in view:
        return tag("img", src=_png(picture(view["image"])), alt=label or "picture")
    if "series" in view:
        return _lines(view["series"], label or "series")
    if "nodes" in view:
        return _graph(view, label or "graph") if view["nodes"].ndim > 1 else _lines(view["nodes"], label or "features")
    if "features" in view:
        return _lines(view["features"], label or "features")
    return tag("span", preview.text(np.asarray(next(iter(view.values())))), class_="words")


def _png(levels: np.ndarray) -> str:
    """A data URI of levels from 0 to 1, [H, W, 1 or 3]; small pictures are enlarged by whole pixels."""
    from PIL import Image

    pixels = (np.clip(np.nan_to_num(levels), 0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if max(image.size) < SIDE:
        times = -(-SIDE // max(image.size))
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((2 * SIDE, 2 * SIDE))
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _lines(values: np.ndarray, label: str) -> Html:
    """A series [T] or [T, C] as lines, 6 channels at most; a gap where a value is missing."""
    values = np.asarray(values, np.float64)
    values = values.reshape(len(values), -1)[:, :6]
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    across = np.linspace(2, 118, max(len(values), 2))
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), 240)).astype(int))
    parts = []
    for channel in range(values.shape[1]):
        path, pen = "", "M"
        for t in kept:
            if not np.isfinite(values[t, channel]):
                pen = "M"
                continue
            up = 62 - 60 * (values[t, channel] - low) / max(high - low, 1e-12)
            path, pen = f"{path}{pen}{across[t]:.1f} {up:.1f}", "L"
        parts.append(tag("path", d=path or "M0 0", class_=f"line thin s{channel}"))
    return tag("svg", *parts, viewBox="0 0 120 64", class_="record", role="img", aria_label=label)


def _graph(view: Mapping[str, np.ndarray], label: str) -> Html:
    place, edges, kinds = preview.circle(view)
    at = 50 + 44 * place
    there = np.flatnonzero(view["node_mask"])
    parts = [
        tag(
            "line",
            x1=f"{at[a, 0]:.1f}",
            y1=f"{at[a, 1]:.1f}",
            x2=f"{at[b, 0]:.1f}",
            y2=f"{at[b, 1]:.1f}",
            class_="edge",
        )
        for a, b in {(min(a, b), max(a, b)) for a, b in edges.tolist()}
    ]
    parts += [mark(int(kinds[n]), at[n, 0], at[n, 1]) for n in there]
    return tag("svg", *parts, viewBox="0 0 100 100", class_="record square", role="img", aria_label=label)


def mark(kind: int, x: float, y: float, title: str = "", **attributes: object) -> Html:
    """A point whose shape and colour say its class; grey for class -1 and for those past the last that can be told."""
    told = 0 <= kind < MOST_CLASSES
    shape, colour = (kind % SHAPES, f"c{(kind + kind // TURN) % COLOURS}") if told else (0, "other")
    return tag(
        "use", *([tag("title", title)] if title else []), href=f"#m{shape}", x=f"{x:.1f}", y=f"{y:.1f}",
        class_=f"mark {colour}", **attributes,
    )  # fmt: skip


def scatter(points: np.ndarray, kinds: np.ndarray, titles: Sequence[str], axes: tuple[str, str], label: str) -> Html:
    """A map of points [n, 2], whose classes are numbered from 0 (-1 = unknown)."""
    low, span = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    at = 16 + 408 * (points - low) / span
    order = np.random.default_rng(0).permutation(len(points))  # else the last class would lie over the others
    parts = [mark(int(kinds[i]), at[i, 0], 442 - 0.96 * at[i, 1], titles[i], data_k=int(kinds[i])) for i in order]
    parts.append(tag("text", axes[0], class_="label end", x=436, y=457))
    parts.append(tag("text", axes[1], class_="label", x=4, y=12))
    frame = tag("rect", class_="frame", x=2, y=18, width=436, height=424, rx=6)
    return tag("svg", frame, *parts, viewBox="0 0 440 462", role="img", aria_label=label, class_="map")


def legend(kinds: np.ndarray, name: Callable[[int], str]) -> Html:
    """A button for each class that is there: it leaves the points of that class alone bright."""
    there, counts = np.unique(kinds, return_counts=True)
    items = []
    for kind, count in zip(there.tolist(), counts.tolist(), strict=True):
        if kind >= MOST_CLASSES:
            continue
        key = tag("svg", mark(kind, 6, 6), viewBox="0 0 12 12", class_="dot", aria_hidden="true")
        text = name(kind) if kind >= 0 else "no class"
        items.append(
            tag("button", key, text, tag("small", str(count)), type="button", data_k=kind, aria_pressed="false")
        )
    rest = int(counts[there >= MOST_CLASSES].sum())
    more = tag("span", f"{rest} of other classes, grey") if rest else join()
    return tag("div", *items, more, class_="classes", role="group", aria_label="classes")
