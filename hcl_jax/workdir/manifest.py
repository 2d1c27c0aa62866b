"""A folder with a seal: a manifest of the size and sha256 of every file in it, which also vouches for itself.

Orbax gives back a flipped byte without a word, so a checkpoint is sealed when it is whole, and checked before it is
read.
"""

import concurrent.futures
import hashlib
import json
import os
import re
from typing import Any

from etils import epath

from hcl_jax.workdir.files import is_disk, write

MANIFEST = "MANIFEST.json"
FORMAT = 1
CHUNK = 1 << 22  # bytes read at once
# What file managers and network file systems leave in a folder; Orbax reads none of it.
PASSED_OVER = re.compile(r"\.DS_Store|\._.*|\.nfs.*")
THREADS = 8  # hashlib lets go of the interpreter, so files are read side by side


def seal(folder: epath.PathLike, note: dict[str, Any] | None = None) -> None:
    """Writes the manifest of a whole folder; on a disk it is there at once or not at all, and outlives a power cut.

    Args:
      folder: of files and folders; on gs:// too.
      note: what else the manifest holds and vouches for.

    Raises:
      OSError: a link in the folder, or no room.
    """
    folder = epath.Path(folder)
    files, link = _walk(folder)
    if link is not None:
        raise OSError(f"{folder}/{link}: a link, which a checkpoint may not hold")
    body = {"format": FORMAT, "files": dict(zip(files, _digests(folder, files), strict=True)), "note": note or {}}
    data = _text(body).encode()
    if is_disk(folder):
        for name in files:
            flush(folder / name)
    write(folder / MANIFEST, data)
    if is_disk(folder):
        for path in {folder, *((folder / name).parent for name in files)}:
            flush(path)


def is_sealed(folder: epath.PathLike) -> bool:
    """Whether there is a manifest; `fault` says whether it is true."""
    return (epath.Path(folder) / MANIFEST).exists()


def note(folder: epath.PathLike) -> dict[str, Any]:
    """The note of a sealed folder that has no fault."""
    return json.loads((epath.Path(folder) / MANIFEST).read_bytes())["note"]


def fault(folder: epath.PathLike) -> str | None:
    """The first thing wrong with a sealed folder, naming the file; None when every byte is as it was sealed.

    Refused are also links and files that the manifest does not name: what is read lies in the folder, and was there.
    """
    folder = epath.Path(folder)
    try:
        files, link = _walk(folder)
        if link is not None:
            return f"{link}, a link"
        if not is_sealed(folder):
            return f"no {MANIFEST}"
        data = (folder / MANIFEST).read_bytes()
        body = _body(data)
        if body is None:
            return f"{MANIFEST}, which is damaged"
        for name in sorted(body["files"].keys() | set(files)):
            if name not in files:
                return f"no file {name}"
            if name not in body["files"]:
                return f"{name}, which is not in {MANIFEST}"
        for name, found in zip(files, _digests(folder, files), strict=True):
            if found != body["files"][name]:
                size, was = found[0], body["files"][name][0]
                return f"{name} of {size} bytes, not {was}" if size != was else f"{name}, which is damaged"
    except OSError as error:
        name = os.path.relpath(error.filename, folder) if error.filename else folder.name
        return f"{name}, which cannot be read ({error.strerror or error})"
    return None


def _body(data: bytes) -> dict[str, Any] | None:
    """What a manifest says, or None unless every byte of it is as it was written."""
    try:
        whole = json.loads(data)
        body = {k: whole[k] for k in ("format", "files", "note")}
        return body if whole["format"] == FORMAT and _text(body).encode() == data else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _text(body: dict[str, Any]) -> str:
    """The manifest as text: canonical, so that a changed space shows too, with the digest of the rest."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def _walk(folder: epath.Path) -> tuple[list[str], str | None]:
    """(files below, relative and sorted, without the manifest; the first link, the folder itself included)."""
    local = is_disk(folder)
    if local and os.path.islink(folder):
        return [], folder.name
    files, waiting = [], [folder]
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
                files.append(name)
    return sorted(files), None


def _digests(folder: epath.Path, files: list[str]) -> list[list[Any]]:
    """[size, sha256] of each file."""

    def one(name: str) -> list[Any]:
        digest, size = hashlib.sha256(), 0
        with (folder / name).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return [size, digest.hexdigest()]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, files))


def flush(path: epath.Path) -> None:
    """Puts a file or the entries of a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
