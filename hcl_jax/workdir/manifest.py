"""A manifest seals a folder: the size and sha256 of every file in it, and of its own text.

Orbax restores a flipped byte without an error, so a checkpoint gets a manifest when it is complete, and is verified
before it is read.
"""

import concurrent.futures
import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from hcl_jax.disk import whole
from hcl_jax.workdir import files
from hcl_jax.workdir.files import is_disk

MANIFEST = "MANIFEST.json"
FORMAT = 1
CHUNK = 1 << 22  # bytes read at once
# What file managers and network file systems leave in a folder; Orbax reads none of it.
PASSED_OVER = re.compile(r"\.DS_Store|\._.*|\.nfs.*")
THREADS = 8  # hashlib releases the interpreter, so files are read side by side


def write(folder: epath.PathLike, metadata: dict[str, Any] | None = None, only: Sequence[str] | None = None) -> None:
    """Writes the manifest of a complete folder; on a disk it appears whole or not at all, and outlives a power cut.

    Args:
      folder: of files and folders; on gs:// too.
      metadata: what else the manifest holds and protects.
      only: the names of files that it seals, of a folder where others come and go; None: all.

    Raises:
      OSError: a link in the folder, or no room.
    """
    folder = epath.Path(folder)
    names, link = _walk(folder) if only is None else (sorted(only), None)
    if link is not None:
        raise OSError(f"{folder}/{link}: a link, which a checkpoint may not hold")
    body = {"format": FORMAT, "files": dict(zip(names, _digests(folder, names), strict=True)), "note": metadata or {}}
    if is_disk(folder):
        for name in names:
            whole.flush(folder / name)
    files.write(folder / MANIFEST, _text(body))
    if is_disk(folder):
        for path in {folder, *((folder / name).parent for name in names)}:
            whole.flush(path)


def exists(folder: epath.PathLike) -> bool:
    """Whether there is a manifest; `verify` says whether the folder matches it."""
    return (epath.Path(folder) / MANIFEST).exists()


def metadata(folder: epath.PathLike) -> dict[str, Any]:
    """The metadata in the manifest of a verified folder."""
    return json.loads((epath.Path(folder) / MANIFEST).read_bytes())["note"]


def verify(folder: epath.PathLike, only: Sequence[str] | None = None) -> str | None:
    """The first mismatch between a folder and its manifest, naming the file; None when every byte is as it was written.

    Links and files that the manifest does not name are mismatches too: only what was there then may be read. With
    `only` these files alone are looked at.
    """
    folder = epath.Path(folder)
    try:
        names, link = _walk(folder) if only is None else ([n for n in sorted(only) if (folder / n).exists()], None)
        if link is not None:
            return f"{link}, a link"
        if not exists(folder):
            return f"no {MANIFEST}"
        data = (folder / MANIFEST).read_bytes()
        body = _body(data)
        if body is None:
            return f"{MANIFEST}, which is damaged"
        for name in sorted(body["files"].keys() | set(names)):
            if name not in names:
                return f"no file {name}"
            if name not in body["files"]:
                return f"{name}, which is not in {MANIFEST}"
        for name, found in zip(names, _digests(folder, names), strict=True):
            if found != body["files"][name]:
                size, was = found[0], body["files"][name][0]
                return f"{name} of {size} bytes, not {was}" if size != was else f"{name}, which is damaged"
    except OSError as error:
        name = os.path.relpath(error.filename, folder) if error.filename else folder.name
        return f"{name}, which cannot be read ({error.strerror or error})"
    return None


def _body(data: bytes) -> dict[str, Any] | None:
    """The content of a manifest; None unless every byte of it is as it was written."""
    try:
        found = json.loads(data)
        body = {k: found[k] for k in ("format", "files", "note")}
        same = found["format"] == FORMAT and _text(body).encode() == data
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    entries = body["files"].values() if isinstance(body["files"], dict) else [None]
    typed = isinstance(body["note"], dict) and all(
        isinstance(e, list) and [*map(type, e)] == [int, str] for e in entries
    )
    return body if same and typed else None


def _text(body: dict[str, Any]) -> str:
    """The manifest as text: canonical, so that even a changed space is detected, with the digest of the rest."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def _walk(folder: epath.Path) -> tuple[list[str], str | None]:
    """(names of the files below, sorted, without the manifest; the first link, which may be the folder, or None)."""
    local = is_disk(folder)
    if local and os.path.islink(folder):
        return [], folder.name
    names, waiting = [], [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            if PASSED_OVER.fullmatch(path.name):
                continue
            name = "/".join(path.parts[len(folder.parts) :])
            if local and os.path.islink(path):
                return [], name
            if path.is_dir():
                waiting.append(path)
            elif name != MANIFEST:
                names.append(name)
    return sorted(names), None


def _digests(folder: epath.Path, names: list[str]) -> list[list[Any]]:
    """[size, sha256] of each file."""

    def one(name: str) -> list[Any]:
        digest, size = hashlib.sha256(), 0
        with (folder / name).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return [size, digest.hexdigest()]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, names))
