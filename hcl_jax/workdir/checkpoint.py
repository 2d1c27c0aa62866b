"""Checkpoints of the state: Orbax writes them, asynchronous and sharded; a manifest verifies them.

A step becomes visible with its manifest, in one rename (gs:// has none: there the manifest is written last). What is
read has been verified byte by byte; a damaged step is moved aside, and the newest intact one before it is used.
"""

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from hcl_jax.core.state import LAYOUT, TrainState
from hcl_jax.errors import CorruptState, InputError
from hcl_jax.parallel import replicas
from hcl_jax.parallel.sharding import flat_paths
from hcl_jax.runtime import processes
from hcl_jax.workdir import files, layouts, manifest
from hcl_jax.workdir.checkpoint_commit import TEMPORARY, with_manifest
from hcl_jax.workdir.checkpoint_steps import Steps

YOUNGER = ("tokenizers",)  # of the meta, which earlier checkpoints lack


class Checkpoints:
    """The `checkpoints/` folder of a workdir; a host object that never enters jitted code.

    Args:
      workdir: the run's folder, on a disk or on gs://.
      keep: how many of the newest steps to keep.
      keep_best, best_mode: also keep this many steps with the best scores, "max" or "min".
      keep_every: also keep every step that is a multiple of this, permanently; 0 = none.
      meta: what a resumed run must agree with ({"seed": ..., "batch_size": ..., "fingerprint": ...}); saved with
        each step and compared on restore.
      record: what else is saved with each step; `recorded` reads it.
      read_only: saves nothing, moves nothing, and does not touch what another process is writing.
      check_replicas: whether a save is refused when devices disagree on what they share.
      on_error: what a failed save does to the run: "stop", or "go_on" to the next one.
      seconds: how long a process waits for the others.
      scores: {step: its number}, for keep_best; it is read at each save, so the caller adds to it.
      say: where a line about the checkpoints goes.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        keep: int,
        meta: dict[str, Any],
        keep_best: int = 0,
        best_mode: str = "max",
        keep_every: int = 0,
        record: dict[str, Any] | None = None,
        read_only: bool = False,
        check_replicas: bool = False,
        on_error: str = "stop",
        seconds: float = 600.0,
        scores: dict[int, float] | None = None,
        say: Callable[[str], None] = print,
    ):
        # Orbax refuses relative paths, at the first save.
        path = files.path(workdir)
        self.folder = epath.Path(path.absolute() if files.is_disk(path) else path) / "checkpoints"
        self.meta = {**meta, "layout": LAYOUT}
        self.scores = {} if scores is None else scores
        self._record, self._read_only, self._on_error = record or {}, read_only, on_error
        self._check_replicas, self._seconds, self._say = check_replicas, seconds, say
        kept = [policies.LatestN(keep), _Best(keep_best, best_mode, self.scores)]
        self._kept = policies.AnyPreservationPolicy(kept + [policies.EveryNSteps(keep_every)] if keep_every else kept)
        self._open: ocp.CheckpointManager | None = None
        self._steps = Steps(self.folder, read_only)

    @property
    def _manager(self) -> ocp.CheckpointManager:
        """Opened when first needed: a run may be refused up to its first save, and must leave nothing then."""
        if self._open is None:
            saving = {} if self._read_only else {"temporary_path_class": with_manifest(self.folder)}
            self._open = ocp.CheckpointManager(
                self.folder,
                # Named here, so that the metadata of a step can be read before anything of it is restored.
                item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.LatestN(None) if self._read_only else self._kept,
                    cleanup_tmp_directories=not self._read_only,
                    create=not self._read_only,
                    enable_async_checkpointing=True,
                    **saving,
                ),
            )
        return self._open

    def latest(self) -> int | None:
        """The newest step that has been saved or is being saved, verified or not."""
        return self._manager.latest_step() if self._open is not None else max(self._steps.finished(), default=None)

    def newest(self) -> int | None:
        """The newest intact step, None if nothing was saved; newer, damaged ones are moved to `quarantine/`.

        The first process looks, the others receive its result.

        Raises:
          InputError: there are checkpoints, and none is intact; nothing has been moved then.
        """
        return processes.broadcast_from_first("checkpoint", lambda: self._steps.newest(self._say), self._seconds)

    def save(self, step: int, state: TrainState) -> None:
        """Starts a save; the arrays are copied before it returns, the writing continues in the background.

        Raises:
          InputError: this save or the one before failed, and on_error is "stop".
        """
        with self._noticed():
            if self._read_only or step == self.latest():
                return
            if self._check_replicas and (found := replicas.differing(state)):
                # Neither saved nor continued: the steps since the last save may be wrong too.
                raise CorruptState(f"step {step}: {'; '.join(found)}; step {self.latest()} is the last one saved")
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()),
                    meta=ocp.args.JsonSave({**self.meta, "record": self._record}),
                ),
            )

    def poll(self) -> None:
        """Raises, or reports, the error of a save in the background."""
        if self._open is not None:
            with self._noticed():
                self._open.check_for_errors()

    def wait(self) -> None:
        """Waits until every started save is on disk with its manifest; raises what a save raised."""
        if self._open is not None:
            with self._noticed():
                self._open.wait_until_finished()

    def finish(self, step: int) -> None:
        """Waits until `step`, the last one, is saved.

        Raises:
          InputError: it is not, whatever on_error says: there is no next save.
        """
        self.wait()
        if not self._read_only and step and step not in self._steps.finished():
            raise InputError(f"{self.folder}/{step}", "a last save that failed", "room for it; --workdir goes on")

    def close(self) -> None:
        """Waits, and closes the folder."""
        self.wait()
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextlib.contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except CorruptState:
            raise
        except Exception as error:  # Orbax, TensorStore and the disk raise kinds of their own
            if processes.is_of_a_peer(error):  # at a barrier of the save, or in the comparison of replicas
                raise
            whole = self._forget()
            goes_on = f"step {whole} is whole" if whole is not None else "no step is saved yet"
            lines = str(error).partition(" [tensorstore_spec=")[0].strip().splitlines()
            found = f"a save that failed ({lines[0] if lines else type(error).__name__})"
            if self._on_error == "stop":
                raise InputError(
                    str(self.folder), found, f"a folder with room that can be written; {goes_on}"
                ) from error
            self._say(f"{self.folder}: {found}; {goes_on}; the run goes on to its next save")

    def _forget(self) -> int | None:
        """Discards what a failed save left on the disk and in Orbax's list. Returns the newest finished step."""
        if self._open is not None:
            with contextlib.suppress(Exception):  # of the failure that is being reported
                self._open.close()
            self._open = None
        if processes.index() == 0 and files.is_disk(self.folder) and self.folder.is_dir():
            for _ in range(5):  # threads that are still writing create it again
                for path in self.folder.glob(f"*{TEMPORARY}*"):
                    shutil.rmtree(path, ignore_errors=True)
                time.sleep(0.2)
        return max(self._steps.finished(), default=None)

    def recorded(self, step: int) -> dict[str, Any]:
        """The record saved with a step; {} in checkpoints older than records."""
        return self._read_meta(step).get("record", {})

    def _read_meta(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, like: Any, shardings: Any, step: int | None = None) -> TrainState:
        """The state of `step` (default: the newest intact one), leaf by leaf onto the given shardings.

        Args:
          like: abstract state (jax.eval_shape); shapes and dtypes must be those on disk.
          shardings: the same tree of shardings, of whatever mesh this run has.

        Raises:
          InputError: there is no such checkpoint, it is damaged, or it is of another run or another model.
        """
        step = processes.broadcast_from_first("restore", lambda: self._steps.choose(step, self._say), self._seconds)
        where = f"{self.folder}/{step}"
        with self._readable(step):
            saved = self._read_meta(step)
        layout: Any = saved.get("layout")
        if not layouts.known(layout):
            raise InputError(where, f"a state of layout {layout!r}", f"at most {LAYOUT}, that of this release")
        for name, value in self.meta.items():
            if name in YOUNGER and name not in saved:
                continue
            if name != "layout" and saved.get(name) != value:
                raise InputError(where, f"{name} {saved.get(name)!r}", f"{value!r}, as this run has it")
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings)
        today = abstract._asdict()
        wanted = layouts.before(layout, today)
        with self._readable(step):
            metadata = self._manager.item_metadata(step)["state"]
            _same_leaves(where, getattr(metadata, "tree", metadata), wanted)
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)))
        state = TrainState(**layouts.after(layout, restored["state"], today))
        if int(jnp.max(state.step)) != step:
            raise InputError(where, f"the state of step {int(jnp.max(state.step))}", f"that of step {step}")
        return state

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        """Damage to a step without a manifest shows when it is read; with one it is intact, and errors are others."""
        folder = self.folder / str(step)
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # of Orbax, TensorStore, JSON
            if manifest.exists(folder):
                raise
            text = str(error).partition(" [tensorstore_spec=")[0]
            found = f"what cannot be read ({type(error).__name__}: {text})"
            raise InputError(str(folder), found, "a whole checkpoint") from error


@dataclasses.dataclass
class _Best:
    """Keeps the n steps with the best scores: Orbax's own policy needs the score at the save, before the evaluation."""

    n: int
    mode: str
    scores: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        known = [c.step for c in checkpoints if math.isfinite(self.scores.get(c.step, math.nan))]
        best = sorted(known, key=lambda s: self.scores[s], reverse=self.mode == "max")[: self.n]
        return [c.step in best for c in checkpoints]


def _same_leaves(where: str, saved: Any, like: Any) -> None:
    """Orbax casts dtypes silently, so shapes and dtypes are compared first."""
    flat, wanted = flat_paths(saved), flat_paths(like)
    for name, leaf in wanted.items():
        found = flat.get(name)
        if found is None:
            raise InputError(where, f"no leaf {name}", "a checkpoint of this model")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        if tuple(found.shape) != tuple(leaf.shape) or found.dtype != leaf.dtype:
            raise InputError(where, f"{name} {found.dtype}{tuple(found.shape)}", f"{leaf.dtype}{tuple(leaf.shape)}")
    for name in flat:
        if name not in wanted:
            raise InputError(where, f"a leaf {name}", "a checkpoint of this model, which has none")
