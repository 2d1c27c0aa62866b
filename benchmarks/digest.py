"""Whether two runs ended with the same bits: one digest of a saved state, read by Orbax alone.

python benchmarks/digest.py DIR [DIR ...]            the last saved step of each run, and its digest
"""

import hashlib
import os
import pathlib
import sys


def digest(folder: str | os.PathLike, step: int | None = None) -> tuple[int, str]:
    """A saved step and a sha256 over the names, dtypes, shapes and bytes of its leaves.

    Read as NumPy arrays, so that no code of the run says what it saved.

    Args:
      folder: a workdir.
      step: of the checkpoint; None: the newest.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager((pathlib.Path(folder) / "checkpoints").absolute(), item_handlers=handlers) as manager:
        step = manager.latest_step() if step is None else step
        found = manager.item_metadata(step)["state"]
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), getattr(found, "tree", found))
        wanted = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=plain))
        state = manager.restore(step, args=wanted)["state"]
    said = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_leaves_with_path(state):
        value = np.asarray(leaf)
        said.update(f"{jax.tree_util.keystr(name)} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return step, said.hexdigest()


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(path, *digest(path))
