"""Time of `train.seeds=8` against eight runs, and whether each seed has the numbers of its own run.

python benchmarks/seeds.py                            simclr:digits, 8 seeds, from start to card
python benchmarks/seeds.py --epochs=5 --seeds=2       a quick look
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time


def run(recipe: str, folder: pathlib.Path, seed: int, seeds: int, epochs: float) -> tuple[float, list[dict]]:
    """One process from start to card: seconds, and the lines of its metrics.jsonl."""
    flags = [f"--config={recipe}", f"--workdir={folder}", f"--config.seed={seed}", f"--config.train.seeds={seeds}"]
    flags += [f"--config.train.epochs={epochs}"] if epochs else []
    began = time.monotonic()
    flags.append("--config.evaluate.every=0")  # the first line is that of step 1
    subprocess.run([sys.executable, "-m", "hcl_jax.main", *flags], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    return seconds, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    """Runs both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="simclr:digits")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=0.0, help="0 = the recipe's own")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        together, lines = run(known.config, root / "together", 0, known.seeds, known.epochs)
        alone = [run(known.config, root / str(s), s, 1, known.epochs) for s in range(known.seeds)]
    seconds = [t for t, _ in alone]
    print(f"{known.config}, {known.seeds} seeds, from the start of the process to the card")
    print(f"together {together:.0f} s; one by one {sum(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f} each)")
    print(f"ratio {together / sum(seconds):.2f}")
    print("seed  first loss: together, alone   last loss: together, alone   linear accuracy: together, alone")
    metric = next((k for k in alone[0][1][-1] if k.endswith("/linear_accuracy") and k.count("/") == 2), "")
    for s, (_, own) in enumerate(alone):
        pairs = [(lines[i][f"seed{s}/loss"], own[i]["loss"]) for i in (0, -1)]
        last = (lines[-1][f"seed{s}/{metric}"], own[-1][metric]) if metric else (float("nan"), float("nan"))
        cells = [f"{a:.6f}  {b:.6f}" for a, b in pairs] + [f"{last[0]:.4f}  {last[1]:.4f}"]
        print(f"{s:>4}  " + "          ".join(cells))


if __name__ == "__main__":
    main()
