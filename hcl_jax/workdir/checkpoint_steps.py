"""The steps in `checkpoints/`: which are complete and intact, and where damaged ones go."""

import json
import os
from collections.abc import Callable
from typing import Any

from etils import epath

from hcl_jax.errors import InputError
from hcl_jax.workdir import files, manifest

UNSEALED_LAYOUT = 1  # of checkpoints from before there were manifests


class Steps:
    """The folders of steps on disk. What is read has been verified byte by byte, once.

    Args:
      folder: `checkpoints/` of a workdir, absolute.
      read_only: moves nothing.
    """

    def __init__(self, folder: epath.Path, read_only: bool):
        self.folder, self._read_only = folder, read_only
        self._intact: set[int] = set()  # steps that have been verified

    def finished(self) -> list[int]:
        """The steps whose save has ended, ascending; verified or not."""
        if not self.folder.is_dir():
            return []
        steps = sorted(int(p.name) for p in self.folder.iterdir() if _is_step(p.name) and p.is_dir())
        # On gs:// a step is visible while it is written: without a manifest it is unfinished, not damaged.
        return steps if files.is_disk(self.folder) else [s for s in steps if manifest.exists(self.folder / str(s))]

    def newest(self, say: Callable[[str], None]) -> int | None:
        """The newest intact step, None if nothing was saved; newer, damaged ones are moved to `quarantine/`.

        Raises:
          InputError: there are steps, and none is intact; nothing has been moved then.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.finished()):
            error = self.verify(step, say)
            if error is None:
                for bad, why in damaged.items():
                    self._quarantine(bad, why, say)
                return step
            damaged[step] = error
        if damaged:
            newest = max(damaged)
            others = f", and {len(damaged) - 1} older ones" if len(damaged) > 1 else ""
            raise InputError(f"{self.folder}/{newest}", f"{damaged[newest]}{others}", "a whole checkpoint")
        return None

    def choose(self, step: int | None, say: Callable[[str], None]) -> int:
        """`step` if it is intact; by default the newest one that is. Raises InputError otherwise."""
        steps = self.finished()
        if step is None:
            step = self.newest(say)
        if step is None or step not in steps:
            where = self.folder if step is None else self.folder / str(step)
            raise InputError(
                str(where), "no finished checkpoint", f"the steps {', '.join(map(str, steps)) or 'of a run'}"
            )
        error = self.verify(step, say)
        if error is not None:
            raise InputError(f"{self.folder}/{step}", error, "a whole checkpoint")
        return step

    def verify(self, step: int, say: Callable[[str], None]) -> str | None:
        """What is wrong with a step, or None; each is read through once."""
        if step in self._intact:
            return None
        folder = self.folder / str(step)
        error = manifest.verify(folder)
        if error is None and (sealed := manifest.metadata(folder).get("step")) != step:
            error = f"the seal of step {sealed}"
        if error == f"no {manifest.MANIFEST}" and _layout(folder) == UNSEALED_LAYOUT and not self._sealed_before(step):
            say(f"{folder}: written before checkpoints were sealed, so its bytes cannot be checked")
            error = None
        if error is None:
            self._intact.add(step)
        return error

    def _sealed_before(self, step: int) -> bool:
        """Whether an older step has a manifest: a release that writes them was here then, and wrote no step without."""
        return any(manifest.exists(self.folder / str(s)) for s in self.finished() if s < step)

    def _quarantine(self, step: int, why: str, say: Callable[[str], None]) -> None:
        if self._read_only:
            say(f"{self.folder}/{step}: {why}; passed over")
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
        say(f"{self.folder}/{step}: {why}; moved to {place / name}")


def _is_step(name: str) -> bool:
    return name.isdecimal() and name == str(int(name))


def _layout(folder: epath.Path) -> Any:
    """The layout that a step without a manifest says it has."""
    try:
        return json.loads((folder / "meta" / "metadata").read_text())["layout"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
