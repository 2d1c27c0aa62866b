"""Writes data/ from a folder of full twins: what a run reads, and a digest of each step in the place of its weights.

PYTHONPATH=. python tests/twins/make_data.py FOLDER [NAME ...]
"""

import pathlib
import sys

import jax
import numpy as np

from tests.twins import harness
from tests.twins.twins import TWINS, opened


def reduced(name: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a twin that its run reads; {"digest/PATH": [T, 4]} of the states, by our names."""
    twin = opened(name, folder)
    case = TWINS[name].say(twin)
    made: dict[str, np.ndarray] = {}
    if isinstance(case, harness.Run):
        assert twin.steps
        made = {f"digest/{path}": d for path, d in harness.digests(twin, case).items()}
    return {k: x for k, x in twin.arrays.items() if k in twin.used} | made


def main(arguments: list[str]) -> None:
    """One file a twin, all or those named."""
    folder, names = pathlib.Path(arguments[0]), arguments[1:] or list(TWINS)
    to = pathlib.Path(__file__).parent / "data"
    to.mkdir(exist_ok=True)
    for name in names:
        with jax.enable_x64(True):
            np.savez_compressed(to / f"{name}.npz", **reduced(name, folder))


if __name__ == "__main__":
    main(sys.argv[1:])
