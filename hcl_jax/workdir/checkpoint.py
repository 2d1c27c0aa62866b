"""Checkpoints of the state: Orbax writes them, asynchronous and sharded; a seal says that they are whole.

A step becomes visible with its seal, in one rename (on gs://, where there is none, the seal is written last). What is
read has been checked byte by byte; a damaged step is moved aside and the newest whole one before it is taken.
"""

import contextlib
import dataclasses
import json
import math
import os
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

TEMPORARY = ocp.path.atomicity.TMP_DIR_SUFFIX
UNSEALED_LAYOUT = 1  # of checkpoints from before there were seals


class Checkpoints:
    """The `checkpoints/` folder of a workdir; a host object that never enters jitted code.

    Args:
      workdir: the run's folder, on a disk or on gs://.
      keep: how many of the newest steps to keep.
      keep_best, best_mode: so many steps with the best scores besides, "max" or "min".
      keep_every: every step that is a multiple of this besides, for ever; 0 = none.
      meta: what a resumed run must agree with ({"seed": ..., "batch_size": ..., "fingerprint": ...}); saved with
        each step and compared on restore.
      record: what else is saved with each step, to be read by `recorded`.
      read_only: saves nothing, moves nothing, and leaves alone what another process is writing.
      check_replicas: whether a save is refused when devices disagree on what they share.
      on_error: what a save that failed does to the run: "stop", or "go_on" with the next one.
      seconds: how long a process waits for the others.
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
        say: Callable[[str], None] = print,
    ):
        # Orbax refuses relative paths, at the first save.
        path = files.path(workdir)
        self.folder = epath.Path(path.absolute() if files.is_disk(path) else path) / "checkpoints"
        self.meta = {**meta, "layout": LAYOUT}
        self.scores: dict[int, float] = {}  # step -> its number, for keep_best
        self._record, self._read_only, self._on_error = record or {}, read_only, on_error
        self._check_replicas, self._seconds, self.say = check_replicas, seconds, say
        kept = [policies.LatestN(keep), _Best(keep_best, best_mode, self.scores)]
        self._kept = policies.AnyPreservationPolicy(kept + [policies.EveryNSteps(keep_every)] if keep_every else kept)
        self._open: ocp.CheckpointManager | None = None
        self._whole: set[int] = set()  # steps that have been checked

    @property
    def _manager(self) -> ocp.CheckpointManager:
        """Opened when it is first needed: until a save a run may be refused, and must leave nothing."""
        if self._open is None:
            saving = {} if self._read_only else {"temporary_path_class": _sealing(self.folder)}
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
        """The newest step that has been saved or is being saved, checked or not."""
        return self._manager.latest_step() if self._open is not None else max(self._steps(), default=None)

    def newest(self) -> int | None:
        """The newest whole step; what is damaged and newer is moved to `quarantine/`. None where nothing was saved.

        The first process looks, the others hear what it found.

        Raises:
          InputError: there are checkpoints, and none is whole; nothing has been moved then.
        """
        return processes.from_first("checkpoint", self._newest, self._seconds)

    def _newest(self) -> int | None:
        faults: dict[int, str] = {}
        for step in reversed(self._steps()):
            found = self._fault(step)
            if found is None:
                for bad, why in faults.items():
                    self._aside(bad, why)
                return step
            faults[step] = found
        if faults:
            newest = max(faults)
            others = f", and {len(faults) - 1} older ones" if len(faults) > 1 else ""
            raise InputError(f"{self.folder}/{newest}", f"{faults[newest]}{others}", "a whole checkpoint")
        return None

    def _steps(self) -> list[int]:
        """The steps on disk that are finished."""
        if not self.folder.is_dir():
            return []
        steps = sorted(int(p.name) for p in self.folder.iterdir() if _is_step(p.name) and p.is_dir())
        # Without a rename a step is seen while it is written: unsealed there is unfinished, not damaged.
        return steps if files.is_disk(self.folder) else [s for s in steps if manifest.is_sealed(self.folder / str(s))]

    def _fault(self, step: int) -> str | None:
        """What is wrong with a step, or None; each is read through once."""
        if step in self._whole:
            return None
        folder = self.folder / str(step)
        found = self._seal_fault(folder, step)
        if found is None:
            self._whole.add(step)
        return found

    def _seal_fault(self, folder: epath.Path, step: int) -> str | None:
        found = manifest.fault(folder)
        if found is None:
            sealed = manifest.note(folder).get("step")
            return None if sealed == step else f"the seal of step {sealed}"
        if found == f"no {manifest.MANIFEST}" and _layout(folder) == UNSEALED_LAYOUT:
            self.say(f"{folder}: written before checkpoints were sealed, so its bytes cannot be checked")
            return None
        return found

    def _aside(self, step: int, why: str) -> None:
        if self._read_only:
            self.say(f"{self.folder}/{step}: {why}; passed over")
            return
        # Where `checkpoints` is a link to another disk, on that disk: a move between two would be a copy.
        real = epath.Path(os.path.realpath(self.folder)) if files.is_disk(self.folder) else self.folder
        place = real.parent / "quarantine"
        taken = {p.name for p in files.listed(place)} if place.is_dir() else set()
        name = next(n for i in range(len(taken) + 1) if (n := f"{step}-{i}" if i else str(step)) not in taken)
        try:
            files.move(real / str(step), place / name)
        except OSError as error:
            allowed = f"a folder {place} that damaged checkpoints can be moved to"
            raise InputError(f"{self.folder}/{step}", f"{why}, and it stays ({error.strerror})", allowed) from None
        self.say(f"{self.folder}/{step}: {why}; moved to {place / name}")

    def save(self, step: int, state: TrainState) -> None:
        """Starts a save; the arrays are copied before it returns, the writing goes on behind.

        Raises:
          InputError: this save or the one before failed, and the run is to stop.
        """
        with self._noticed():
            if self._read_only or step == self.latest():
                return
            if self._check_replicas and (found := replicas.differing(state)):
                # Not saved and not gone on with: the steps since the last save may be wrong too.
                raise CorruptState(f"step {step}: {'; '.join(found)}; step {self.latest()} is the last one saved")
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()),
                    meta=ocp.args.JsonSave({**self.meta, "record": self._record}),
                ),
            )

    def poll(self) -> None:
        """Raises or says what a save behind the run has met."""
        if self._open is not None:
            with self._noticed():
                self._open.check_for_errors()

    def wait(self) -> None:
        """Until every started save is on disk and sealed; raises what a save raised."""
        if self._open is not None:
            with self._noticed():
                self._open.wait_until_finished()

    def finish(self, step: int) -> None:
        """Waits until `step`, the last one, is saved.

        Raises:
          InputError: it is not, whatever on_error says: there is no next save.
        """
        self.wait()
        if not self._read_only and step and step not in self._steps():
            raise InputError(f"{self.folder}/{step}", "a last save that failed", "room for it; --workdir goes on")

    def close(self) -> None:
        """Waits and lets go of the folder."""
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
            whole = self._forget()
            goes_on = f"step {whole} is whole" if whole is not None else "no step is saved yet"
            lines = str(error).partition(" [tensorstore_spec=")[0].strip().splitlines()
            found = f"a save that failed ({lines[0] if lines else type(error).__name__})"
            if self._on_error == "stop":
                raise InputError(
                    str(self.folder), found, f"a folder with room that can be written; {goes_on}"
                ) from error
            self.say(f"{self.folder}: {found}; {goes_on}; the run goes on to its next save")

    def _forget(self) -> int | None:
        """Lets go of what a failed save left: room on the disk, a name in Orbax's list. Gives the newest step left."""
        if self._open is not None:
            with contextlib.suppress(Exception):  # of the failure that is being told
                self._open.close()
            self._open = None
        if processes.index() == 0 and files.is_disk(self.folder) and self.folder.is_dir():
            for _ in range(5):  # threads that still write make it again
                for path in self.folder.glob(f"*{TEMPORARY}*"):
                    shutil.rmtree(path, ignore_errors=True)
                time.sleep(0.2)
        return max(self._steps(), default=None)

    def recorded(self, step: int) -> dict[str, Any]:
        """What was saved beside a step for reading; {} in checkpoints from before there was that."""
        return self._read_meta(step).get("record", {})

    def _read_meta(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, like: Any, shardings: Any, step: int | None = None) -> TrainState:
        """The state of `step` (default: the newest whole one), leaf by leaf onto the given shardings.

        Args:
          like: abstract state (jax.eval_shape); shapes and dtypes must be those on disk.
          shardings: the same tree of shardings, of whatever mesh this run has.

        Raises:
          InputError: there is no such checkpoint, it is damaged, or it is of another run or another model.
        """
        step = processes.from_first("restore", lambda: self._chosen(step), self._seconds)
        where = f"{self.folder}/{step}"
        with self._readable(step):
            saved = self._read_meta(step)
        layout: Any = saved.get("layout")
        if not layouts.known(layout):
            raise InputError(where, f"a state of layout {layout!r}", f"at most {LAYOUT}, that of this release")
        for name, value in self.meta.items():
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
        """What is wrong with an unsealed step shows when it is read. A sealed one is whole: its errors are others."""
        folder = self.folder / str(step)
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # of Orbax, TensorStore, JSON
            if manifest.is_sealed(folder):
                raise
            text = str(error).partition(" [tensorstore_spec=")[0]
            found = f"what cannot be read ({type(error).__name__}: {text})"
            raise InputError(str(folder), found, "a whole checkpoint") from error

    def _chosen(self, step: int | None) -> int:
        steps = self._steps()
        if step is None:
            step = self._newest()
        if step is None or step not in steps:
            where = self.folder if step is None else self.folder / str(step)
            raise InputError(
                str(where), "no finished checkpoint", f"the steps {', '.join(map(str, steps)) or 'of a run'}"
            )
        found = self._fault(step)
        if found is not None:
            raise InputError(f"{self.folder}/{step}", found, "a whole checkpoint")
        return step


@dataclasses.dataclass
class _Best:
    """Keeps the n steps with the best scores: Orbax's own policy wants the score at the save, before the evaluation."""

    n: int
    mode: str
    scores: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        known = [c.step for c in checkpoints if math.isfinite(self.scores.get(c.step, math.nan))]
        best = sorted(known, key=lambda s: self.scores[s], reverse=self.mode == "max")[: self.n]
        return [c.step in best for c in checkpoints]


def _is_step(name: str) -> bool:
    return name.isdecimal() and name == str(int(name))


def _sealing(folder: epath.Path) -> type:
    """Orbax's way to make a finished step visible, with the seal before (on a disk) or after (on gs://)."""
    ways = ocp.path.atomicity
    plain = ways.AtomicRenameTemporaryPath if files.is_disk(folder) else ways.CommitFileTemporaryPath

    class Sealing(plain):  # type: ignore[misc, valid-type]
        async def finalize(self) -> None:
            final = self.get_final()
            if final.parent != folder:  # an item inside of a step
                await super().finalize()
                return
            if not files.is_disk(folder):
                await super().finalize()
                manifest.seal(final, {"step": int(final.name)})
                return
            # Orbax renames to a place that it cleans up as unfinished, the seal is added, and the rename that counts
            # comes last: no step is ever seen without its seal.
            staged = folder / f"{final.name}{TEMPORARY}-sealing"
            shutil.rmtree(staged, ignore_errors=True)
            self._final_path = staged
            try:
                await super().finalize()
            finally:
                self._final_path = final
            if not (staged / "state" / "manifest.ocdbt").exists():
                raise OSError(f"{final}: Orbax left the parts of the state apart")
            manifest.seal(staged, {"step": int(final.name)})
            staged.rename(final)
            manifest.flush(folder)

    return Sealing


def _layout(folder: epath.Path) -> Any:
    """The layout that an unsealed step says it has."""
    try:
        return json.loads((folder / "meta" / "metadata").read_text())["layout"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _same_leaves(where: str, saved: Any, like: Any) -> None:
    """Orbax casts a dtype without a word, so shapes and dtypes are compared first."""
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
