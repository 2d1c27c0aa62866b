"""What a launcher cleans up after: the signals that end it, a lock on its folder, and a note of what it created.

DIR/left.json says what is still there if the launcher dies; the kernel releases DIR/lock then.
"""

import contextlib
import json
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.workdir import files

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def record_signals(received: list[int]) -> Iterator[None]:
    """Appends SIGTERM, Ctrl-C and SIGHUP to `received` as they arrive, in place of their usual effect.

    SIGHUP or Ctrl-C that nohup or a shell's `&` have this process ignore stay ignored: the terminal closes, the
    launcher stays and cleans up later. SIGTERM always counts.
    """
    before = {}
    for number in END_SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda n, _: received.append(n))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def exclusive(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Holds the folder of a launch, which is created if missing.

    Raises:
      InputError: another launcher on this machine holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout  # here, for launch.local and launch.mpi need the signals alone

    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise InputError("--logs", f"{folder}, {error.strerror}", "a folder that this user may write") from None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path, blocking=False, fallback_to_soft=False))
        except Timeout:
            found = f"{name}, which process {path.read_text().strip() or 'of another launch'} is launching"
            raise InputError("--name", found, f"another name, or the end of that launcher ({path})") from None
        except OSError:  # a file system without flock: the cloud still knows the name
            pass
        path.write_text(f"{os.getpid()}\n")
        yield
        path.write_text("")


def write_note(folder: pathlib.Path, note: dict[str, Any]) -> None:
    """Notes what is about to be created, before it is."""
    files.write(folder / "left.json", json.dumps(note, indent=1) + "\n")


def read_note(folder: pathlib.Path) -> dict[str, Any] | None:
    """The note of a launcher that died, was told to --detach, or could not delete; None if there is none."""
    try:
        note = json.loads((folder / "left.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


def clear_note(folder: pathlib.Path) -> None:
    """Removes the note: everything has been deleted, or is left to the user knowingly."""
    with contextlib.suppress(OSError):
        (folder / "left.json").unlink()
