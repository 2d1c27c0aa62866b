"""Draws the curves of finished runs into one picture.

  python benchmarks/curves.py runs/fashion_mnist-* --output=docs/fashion_mnist.png

One line a run: the loss, and the contrastive top-1, over steps.
"""

import argparse
import json
import pathlib
import sys


def read(folder: pathlib.Path) -> list[dict]:
    """The lines of a run's metrics.jsonl that a training step wrote."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def main() -> int:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", default="curves.png")
    known = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    for folder in known.runs:
        lines = read(folder)
        minutes = json.loads((folder / "card.json").read_text(encoding="utf-8"))["minutes"]
        steps = [line["step"] for line in lines]
        left.plot(steps, [line["loss"] for line in lines], linewidth=1, label=f"{folder.name}, {minutes:.0f} min")
        for name in (k for k in lines[0] if k.startswith("contrastive_top1/")):
            right.plot(steps, [line[name] for line in lines], linewidth=1)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="contrastive top-1")
    left.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(known.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
