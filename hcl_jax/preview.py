"""Writes a picture of the views that a recipe's training batches hold: one row an example, one column a view.

python -m hcl_jax.preview --config=simclr:digits --output=views.png
"""

import argparse
import pathlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from hcl_jax import config as configs
from hcl_jax.cli import read_config, recipe_parser, with_overrides
from hcl_jax.errors import InputError
from hcl_jax.views.drawn import picture


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags and the overrides; exits with 0 on --help and 2 on a fault."""
    parser = recipe_parser("preview", __doc__)
    parser.add_argument("--output", metavar="FILE", default="views.png", help="a .png, .pdf or .svg file")
    parser.add_argument("--rows", type=int, default=8, help="examples to show")
    parser.add_argument("--step", type=int, default=0, help="the training step whose batch is shown")
    known, overrides = with_overrides(parser, arguments)
    if known.rows < 1 or known.step < 0:
        parser.error("--rows from 1 and --step from 0 are allowed")
    if (
        not known.output.lower().endswith((".png", ".pdf", ".svg"))
        or not pathlib.Path(known.output).absolute().parent.is_dir()
    ):
        parser.error(f"--output={known.output} is no .png, .pdf or .svg in a folder that exists")
    return known, overrides


def draw(views: Mapping[str, Mapping[str, Any]], present: Mapping[str, Any], rows: int, output: str) -> None:
    """Draws `rows` rows of a batch's views into a file; an absent view stays empty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = min(rows, *(len(next(iter(v.values()))) for v in views.values()))
    figure, axes = pyplot.subplots(rows, len(views), squeeze=False, figsize=(2.0 * len(views), 1.6 * rows))
    for column, (name, view) in enumerate(views.items()):
        axes[0][column].set_title(name)
        for row in range(rows):
            here = name not in present or present[name][row]
            draw_one(axes[row][column], {k: np.asarray(v[row]) for k, v in view.items()} if here else None)
    save(figure, output)


def save(figure: Any, output: str) -> None:
    """Writes a figure of matplotlib and closes it."""
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for a character of few fonts
        figure.tight_layout()
        # Square pictures move their titles after the layout is made: past the edge, where there is one row.
        figure.savefig(output, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def draw_one(cell: Any, view: Mapping[str, np.ndarray] | None) -> None:
    """Draws one row of a view into axes of matplotlib; None is an absent one."""
    cell.axis("off")
    if view is None:
        cell.text(0.5, 0.5, "absent", ha="center", va="center")
    elif "image" in view:
        _image(cell, view["image"])
    elif "series" in view:
        cell.plot(view["series"], linewidth=0.8)
    elif "nodes" in view:
        _graph(cell, view)
    elif "features" in view:
        cell.plot(view["features"], linewidth=0.8)
    else:
        cell.text(
            0.5, 0.5, text(next(iter(view.values()))), ha="center", va="center", fontsize=7, wrap=True, parse_math=False
        )


def _image(cell: Any, image: np.ndarray) -> None:
    shown = picture(image)
    cell.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)


def _graph(cell: Any, view: Mapping[str, np.ndarray]) -> None:
    """A row of many graphs: its nodes on a circle and its edges. A node of one graph: its features."""
    if view["nodes"].ndim == 1:
        cell.plot(view["nodes"], linewidth=0.5)
        return
    place, edges, kinds = circle(view)
    for edge in edges:
        cell.plot(*place[edge].T, color="grey", linewidth=0.6)
    there = np.flatnonzero(view["node_mask"])
    cell.scatter(*place[there].T, s=8, c=kinds[there], cmap="tab10", zorder=2)


def circle(view: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A graph drawn on a circle: places [n, 2] from -1 to 1, edges [e, 2] between nodes, kinds int [n] of nodes."""
    there = np.flatnonzero(view["node_mask"])
    angle = 2 * np.pi * np.arange(len(view["nodes"])) / max(len(there), 1)
    place = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return place, view["edges"][view["edge_mask"]], view["nodes"].argmax(axis=1)


def text(tokens: np.ndarray) -> str:
    """Bytes as text where the ids are those of the byte tokenizer; else the ids."""
    ids = [int(t) for t in tokens if t > 2]
    if ids and max(ids) < 259:
        decoded = bytes(i - 3 for i in ids).decode("utf-8", "replace")
        if decoded.isprintable():
            return decoded
    return " ".join(map(str, tokens[tokens > 0][:24]))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    known, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config = configs.complete(read_config(known, overrides))
        from hcl_jax import data
        from hcl_jax.config import validate
        from hcl_jax.encoders import ENCODERS, HEADS
        from hcl_jax.losses import LOSSES
        from hcl_jax.views import VIEWS

        validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
        source = data.open_source(config.data, config.data.train_split)
        size = config.data.batch_size
        rows = np.arange(min(known.rows, size))
        steps = {"start": known.step, "stop": known.step + 1, "order": config.data.order}
        steps |= data.noise_fields(config.data)
        batch = next(data.batches(source, config.views, seed=config.seed, batch_size=size, rows=rows, **steps))
        draw(batch["views"], batch["present"], known.rows, known.output)
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    print(f"{known.output}: {min(known.rows, size)} rows of step {known.step}, views {', '.join(batch['views'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
