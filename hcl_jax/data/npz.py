"""Reads .npz files of plain arrays; nothing is ever unpickled."""

import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from hcl_jax.errors import InputError, nearest


def read_npz(path: str, keys: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a file as np.savez writes it.

    Args:
      path: of the file.
      keys: the arrays wanted; () takes all that are there.

    Returns:
      name -> array.

    Raises:
      InputError: no .npz, a damaged one, pickled objects, or an array that is not there.
    """
    allowed = f"an .npz as np.savez writes it{', with ' if keys else ''}{', '.join(keys)}"
    try:
        with open(path, "rb") as file:  # np.load leaves a file open that it cannot read
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise InputError(path, "one array without a name (.npy)", allowed)
            for key in keys:
                if key not in loaded.files:
                    known = f"{', '.join(keys)}; there: {nearest(key, loaded.files)}"
                    raise InputError(path, f"no array {key!r}", known)
            return {k: loaded[k] for k in keys or loaded.files}
    except InputError:
        raise
    except ValueError:  # NumPy refuses with it what only unpickling could read
        raise InputError(path, "pickled objects, or no .npz at all", f"plain arrays: {allowed}") from None
    except (OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(path, f"an unreadable file ({error})", allowed) from None
