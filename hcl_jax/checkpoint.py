"""Checkpoints of the state through Orbax: asynchronous, sharded, restored onto any mesh."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from hcl_jax.errors import InputError
from hcl_jax.state import LAYOUT, TrainState


class Checkpoints:
    """The `checkpoints/` folder of a workdir; a host object that never enters jitted code.

    Args:
      workdir: the run's folder.
      keep: how many of the newest steps to keep.
      meta: what a resumed run must agree with ({"seed": ..., "batch_size": ..., "fingerprint": ...}); saved with
        each step and compared on restore.
      read_only: saves nothing, and leaves alone what another process is writing.
    """

    def __init__(self, workdir: str | pathlib.Path, *, keep: int, meta: dict[str, Any], read_only: bool = False):
        self.folder = (
            pathlib.Path(workdir).absolute() / "checkpoints"
        )  # Orbax refuses relative paths, at the first save
        self.meta = {**meta, "layout": LAYOUT}
        self._keep, self._read_only = keep, read_only
        # The folder is made at the first save: until then a run may still be refused, and must leave nothing.
        self._manager = self._open() if self.folder.is_dir() else None

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder,
            # Named here, so that the metadata of a step can be read before anything of it is restored.
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if self._read_only else self._keep,
                cleanup_tmp_directories=not self._read_only,
                create=not self._read_only,
                enable_async_checkpointing=True,
            ),
        )

    def latest(self) -> int | None:
        """The newest step on disk, or None."""
        return self._manager.latest_step() if self._manager else None

    def save(self, step: int, state: TrainState) -> None:
        """Starts a save; the arrays are copied before it returns, the writing goes on behind."""
        if self._read_only or step == self.latest():
            return
        self._manager = self._manager or self._open()
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(self.meta)),
        )

    def restore(self, like: Any, shardings: Any, step: int | None = None) -> TrainState:
        """The state of `step` (default: the newest), leaf by leaf onto the given shardings.

        Args:
          like: abstract state (jax.eval_shape); shapes and dtypes must be those on disk.
          shardings: the same tree of shardings, of whatever mesh this run has.

        Raises:
          InputError: there is no such checkpoint, or it is of another run or another model.
        """
        steps = sorted(self._manager.all_steps()) if self._manager else []
        step = step if step is not None or not steps else steps[-1]
        where = f"{self.folder}/{step}"
        if self._manager is None or step not in steps:
            raise InputError(where, "no finished checkpoint", f"the steps {', '.join(map(str, steps)) or 'of a run'}")
        saved = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        for name, value in self.meta.items():
            if saved.get(name) != value:
                raise InputError(where, f"{name} {saved.get(name)!r}", f"{value!r}, as this run has it")
        metadata = self._manager.item_metadata(step)["state"]
        _same_leaves(where, getattr(metadata, "tree", metadata), like._asdict())
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract._asdict()))
        )
        return TrainState(**restored["state"])

    def wait(self) -> None:
        """Until every started save is on disk; raises what a save raised."""
        if self._manager:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        if self._manager:
            self._manager.wait_until_finished()
            self._manager.close()


def _same_leaves(where: str, saved: Any, like: Any) -> None:
    """Orbax casts a dtype without a word, so shapes and dtypes are compared first."""
    flat = {
        jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in jax.tree_util.tree_leaves_with_path(saved)
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        found = flat.get(name)
        if found is None:
            raise InputError(where, f"no leaf {name}", "a checkpoint of this model")
        if tuple(found.shape) != tuple(leaf.shape) or found.dtype != leaf.dtype:
            raise InputError(where, f"{name} {found.dtype}{tuple(found.shape)}", f"{leaf.dtype}{tuple(leaf.shape)}")
