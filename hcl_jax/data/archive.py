"""Pictures and a list of them, in a folder or a zip file as it came: read by name, without unpacking."""

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hcl_jax.data.images import decoded, fault_of_header
from hcl_jax.data.limits import check_bytes
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError
from hcl_jax.views.headers import header


@contextlib.contextmanager
def opened(path: str, name: str, layout: str, max_bytes: int) -> Iterator[tuple[frozenset[str], Callable]]:
    """(names relative to the folder of NAME.json, reader of one) of a zip file or a folder.

    Args:
      path: `data.dir`: the zip file, a folder with NAME.zip, the folder of NAME.json or the one above it.
      name: of the set, "emoji".
      layout: what is allowed there, for messages.
      max_bytes: of a file in a zip.

    Raises:
      InputError: neither, or no NAME.json in it.
    """
    if not path:
        raise InputError("config.data.dir", "nothing", layout)
    given, path = path, os.path.expanduser(path)
    if os.path.isfile(os.path.join(path, f"{name}.zip")):
        path = os.path.join(path, f"{name}.zip")
    if os.path.isdir(path):
        root = os.path.join(path, name) if os.path.isdir(os.path.join(path, name)) else path
        found = [
            os.path.relpath(os.path.join(d, f), root).replace(os.sep, "/") for d, _, fs in os.walk(root) for f in fs
        ]

        def read(file_name: str) -> bytes:
            where = os.path.join(root, file_name)
            with readable(where, "a whole file"), open(where, "rb") as file:
                return file.read()

        yield _with_list(frozenset(found), name, given, layout), read
        return
    with readable("config.data.dir", layout, f"{path}, which is no folder and no zip file"):
        archive = zipfile.ZipFile(path)
    with archive:
        inside = archive.namelist()
        root = next((n.removesuffix(f"{name}.json") for n in inside if n.split("/")[-1] == f"{name}.json"), "")

        def unpacked(file_name: str) -> bytes:
            with readable(f"{path} {file_name}", "a whole file"):
                check_bytes(f"{path} {file_name}", archive.getinfo(root + file_name).file_size, max_bytes)
                return archive.read(root + file_name)

        yield _with_list(frozenset(n.removeprefix(root) for n in inside), name, given, layout), unpacked


def _with_list(names: frozenset[str], name: str, path: str, layout: str) -> frozenset[str]:
    if f"{name}.json" not in names:
        raise InputError("config.data.dir", f"no {name}.json in {path}", layout)
    return names


def fifth(content: bytes) -> int:
    """Which fifth of a set, 0 to 4, a record is in by its sha256: the same on every machine, whatever else is there."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % 5


def pictures(
    read: Callable[[str], bytes], names: Sequence[str], where: str, shape: tuple[int, int, int], max_pixels: int
) -> np.ndarray:
    """uint8 [n, *shape] of encoded pictures. Raises InputError naming the first that is another size or damaged."""
    encoded = [read(name) for name in names]
    for name, content in zip(names, encoded, strict=True):
        wrong = fault_of_header(name, header(io.BytesIO(content)), max_pixels)
        if wrong is not None:
            raise wrong
    made = decoded(encoded, channels=shape[2], describe=names.__getitem__)
    if made is None or made.shape[1:] != shape:
        raise InputError(where, "pictures of other sizes", f"{shape[0]} x {shape[1]} pixels")
    return made
