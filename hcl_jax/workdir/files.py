"""The few file operations that differ between a disk and gs://, where a run may live too.

On gs:// an object is written whole or not at all, and cannot be appended to; a folder exists while an object lies below
it; a rename copies. Everything else is the same call on a pathlib.Path and on an epath.Path.
"""

import functools
import importlib.util
import json
import os
import pathlib
import re
from typing import Any, TypeAlias

from etils import epath

from hcl_jax.disk import whole
from hcl_jax.errors import InputError

Path: TypeAlias = pathlib.Path | epath.Path
NEEDED = ("gcsfs", "google.cloud.storage")  # of the extra `gs`: epath's and Orbax's clients


def path(text: str | os.PathLike, where: str = "--workdir") -> Path:
    """A pathlib.Path on a disk, an epath.Path for gs://BUCKET/FOLDER.

    Raises:
      InputError: another kind of address, no bucket, or packages that gs:// needs and that are not installed.
    """
    name = os.fspath(text)
    scheme = re.match(r"([a-z][a-z0-9]+):/(/?)", name)
    if scheme is None or (scheme[1] != "gs" and not scheme[2]):
        return pathlib.Path(name)
    if scheme[1] != "gs":
        raise InputError(f"{where}={name}", f"{scheme[1]}://", "a folder, or gs://BUCKET/FOLDER")
    if not re.match(r"gs://[^/]", name):
        # pathlib drops the second slash, and would then make a folder "gs:" on the disk.
        raise InputError(f"{where}={name}", "no bucket", "the text gs://BUCKET/FOLDER, no pathlib.Path of it")
    _connect(f"{where}={name}")
    return epath.Path(name)


def is_disk(place: str | os.PathLike) -> bool:
    """Whether a path lies on a disk."""
    return not os.fspath(place).startswith("gs://")


@functools.cache
def _store() -> Any:
    """fsspec's client of gs://, the one that epath takes."""
    # TensorFlow's client, which epath prefers, has Google's address compiled in, so no test could reach it.
    os.environ["EPATH_USE_TF"] = "0"
    import fsspec

    # The client remembers listings, and TensorStore writes behind its back: new files would not be seen.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return fsspec.filesystem("gcs", finalize_on_close=True)


def _connect(where: str) -> None:
    missing = [m for m in NEEDED if not _is_installed(m)]
    if missing:
        found = f"gs://, but {' and '.join(missing)} is not installed"
        raise InputError(where, found, "a folder on a disk, or pip install -e '.[gs]'")
    _store()


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package above it
        return False


def write(place: Path, data: bytes | str) -> None:
    """Writes a file, whole or not at all; on a disk it outlives a power cut."""
    if is_disk(place):
        whole.write(place, data)
    else:
        place.write_bytes(data.encode() if isinstance(data, str) else data)


def keep(place: pathlib.Path, data: bytes | str) -> None:
    """Writes a file of a cache, whole or not at all, and creates the folders above it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write(place, data)


def read_json(place: pathlib.Path, *fields: str) -> dict[str, Any] | None:
    """The object in a file that `keep` wrote; None if the file is missing, damaged or lacks a field."""
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value and all(f in value for f in fields) else None


def listed(folder: Path) -> list[Any]:
    """What a folder holds, sorted; [] if there is no folder."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def move(folder: Path, to: Path) -> None:
    """Moves a folder to a name that is free: at once on a disk; on gs:// all is copied before anything is deleted."""
    if is_disk(folder):
        to.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, to)
        return
    source, target = os.fspath(folder).rstrip("/"), os.fspath(to).rstrip("/")
    store = _store()
    names = store.find(source)
    below = len(source.removeprefix("gs://")) + 1
    store.copy([f"gs://{n}" for n in names], [f"{target}/{n[below:]}" for n in names])
    store.rm(source, recursive=True)


def copy_up(folder: pathlib.Path, to: Path) -> None:
    """Copies every file below a folder on a disk to gs://, each whole or not at all."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            write(to / file.relative_to(folder).as_posix(), file.read_bytes())
