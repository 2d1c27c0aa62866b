"""Reads .npz files of plain arrays; nothing is ever unpickled, and headers are looked at before memory is taken."""

import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from hcl_jax.data.limits import check_bytes
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest

MAX_BYTES = 2**32  # of the arrays of a file, where data.max_array_bytes does not say
SMALLEST = 1100  # bytes that a deflated one can stand for, and some: its own bound is 1032
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: str, keys: Sequence[str] = (), max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a file as np.savez writes it.

    Args:
      path: of the file.
      keys: the arrays wanted; () takes all that are there.
      max_bytes: of these arrays together.

    Returns:
      name -> array.

    Raises:
      InputError: no .npz, a damaged or encrypted one, pickled objects, a header that lies or asks for more than
        max_bytes, or an array that is not there.
    """
    allowed = f"an .npz as np.savez writes it{', with ' if keys else ''}{', '.join(keys)}"
    with readable(path, allowed), open(path, "rb") as file:
        start = file.read(6)
        if start == np.lib.format.MAGIC_PREFIX:
            raise InputError(path, "one array without a name (.npy)", allowed)
        if start and start[:2] != b"PK":
            raise InputError(path, "pickled objects, or no .npz at all", f"plain arrays: {allowed}")
        with zipfile.ZipFile(file) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            for key in keys:
                if key not in members:
                    known = f"{', '.join(keys)}; there: {nearest(key, members)}"
                    raise InputError(path, f"no array {key!r}", known)
            members = {key: members[key] for key in keys or members}
            total = 0
            for key, member in members.items():
                total += _size(archive, member, f"{path}: {key}", allowed)
                check_bytes(path, total, max_bytes)
            return {key: _array(archive, member, f"{path}: {key}", allowed) for key, member in members.items()}


def names_of(path: str) -> tuple[str, ...]:
    """The names of the arrays of a file. Raises InputError where it is no .npz."""
    with readable(path, "an .npz as np.savez writes it"), zipfile.ZipFile(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())


def npy_size(file: Any, length: int, where: str, allowed: str) -> int:
    """Bytes of the array of an .npy file, by its header; reads the header.

    Args:
      file: at its beginning.
      length: of the file, in bytes.
      where, allowed: for messages.

    Raises:
      InputError: no .npy, pickled objects, or a shape that the file does not hold.
    """
    with readable(where, allowed, "no plain array"):
        version = np.lib.format.read_magic(file)
        if version not in READERS:
            raise InputError(where, f"an .npy of version {'.'.join(map(str, version))}", allowed)
        shape, _, dtype = READERS[version](file)
    if dtype.hasobject:
        unequal = "series of unequal lengths are np.concatenate(arrays), with lengths=[len(a) for a in arrays]"
        raise InputError(where, "pickled objects", f"plain arrays: {allowed}; {unequal}")
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise InputError(where, f"the shape {_short(shape)}", "sizes from 0 on")
    size = math.prod(shape) * dtype.itemsize
    if file.tell() + size != length:
        found = f"{length - file.tell()} bytes for {dtype} of shape {_short(shape)}"
        raise InputError(where, found, f"{_short([size])[1:-1]} bytes: a whole file, and a header that does not lie")
    return size


def _size(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, allowed: str) -> int:
    if member.flag_bits & 1:
        raise InputError(where, "an encrypted file", allowed)
    packed = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if packed and member.file_size > SMALLEST * (member.compress_size + 1):
        raise InputError(where, f"{member.file_size} bytes in {member.compress_size}", "a header that does not lie")
    with readable(where, allowed), archive.open(member) as file:
        return npy_size(file, member.file_size, where, allowed)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, allowed: str) -> np.ndarray:
    with readable(where, allowed), archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _short(shape: Sequence[int]) -> str:
    """The first numbers of a shape, long ones by their power of ten."""
    return f"[{', '.join(str(n) if abs(n) < 1e20 else '10^' + str(len(str(n)) - 1) for n in shape[:6])}]"
