"""The page on some runs, written to a file: whole or not at all."""

import os
import pathlib
from collections.abc import Callable, Sequence

from hcl_jax.compare import logged
from hcl_jax.disk import whole
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError
from hcl_jax.report import features, views
from hcl_jax.report.page import Part, page


def report(
    runs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    records: int = 1000,
    say: Callable[[str], None] = print,
) -> None:
    """Writes the page on some runs, whole or not at all; the folders of the runs stay as they are.

    Args:
      runs: their folders; the first is the one that others are compared with.
      output: the .html file.
      records: how many of each split are encoded at most.
      say: where a line of progress goes.

    Raises:
      InputError: a folder without a run or without a logged step, an output that cannot be written.
    """
    where = f"--output={os.fspath(output)}"
    check(output, where)
    parts = [part_of(run, records, say) for run in logged.read(runs)]
    with readable(where, "a file that this user may write, with room", "no file"):
        whole.write(output, page(parts))


def check(output: str | os.PathLike, where: str) -> None:
    """Raises InputError unless `output` can be a file of this user; writes nothing."""
    path = pathlib.Path(output).absolute()
    if path.suffix not in (".html", ".htm"):
        raise InputError(where, f"the ending {path.suffix!r}", "a name that ends with .html")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(where, "a folder" if path.is_dir() else f"no folder {path.parent}", "a file in a folder")
    if not os.access(path.parent, os.W_OK):
        raise InputError(where, f"{path.parent}, which cannot be written", "a folder that this user may write")


def part_of(run: logged.Logged, records: int, say: Callable[[str], None]) -> Part:
    """What can be read of a run; a line for what cannot."""
    notes, rows, shown = [], None, None
    try:
        rows = views.read(run)
    except InputError as error:
        notes.append(f"no views: {error}")
    if not run.config.evaluate.views:
        notes.append("no features: the run has no evaluation view")
    else:
        try:
            shown = features.read(run, most=records, say=say)
        except InputError as error:
            notes.append(f"no features: {error}")
    return Part(run, rows, shown, tuple(notes))
