"""One run a folder: DIR/lock names the process that trains there.

On one machine the truth is flock: the kernel lets go of it when the process ends, however it ends. Over machines that
share a folder flock may not reach, and some file systems have none; there the holder changes a counter in the file
every few seconds, and a newcomer watches whether it moves. No clock is compared with another.

Readers (evaluation, embed) take no lock.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from hcl_jax.errors import InputError

BEAT = 10.0  # seconds between two changes of the counter
WITHOUT_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_log = logging.getLogger(__name__)


class Lock:
    """Holds `folder` for this process, which is the first of its run.

        with Lock(folder) as lock:
            if lock.message: ...

    A folder that is missing is made, and goes again when nothing was put into it.

    Args:
      folder: the run's folder.
      beat: seconds between two changes of the counter.
      watch: how long a newcomer looks at a counter that may be another machine's; default three beats.

    Attributes:
      message: what was taken over, for the log; "" when the folder was free.
      lost: who has the folder now, when another took it because this process slept longer than `watch`; "" else. A run
        that has lost its folder must write no more.

    Raises:
      InputError: another run holds the folder, or the file cannot be made.
    """

    def __init__(self, folder: str | os.PathLike, *, beat: float = BEAT, watch: float | None = None):
        self.folder, self.path = str(folder), pathlib.Path(folder) / "lock"
        self._beat, self._watch = beat, 3 * beat if watch is None else watch
        self.message = self.lost = ""
        self._file = -1
        self._made: list[pathlib.Path] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._me = this_process()
        self._count = 0

    def __enter__(self) -> "Lock":
        with self._readable():
            self._make_folder()
        try:
            with self._readable():
                while not self._take():
                    pass
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go. The file goes only if it is still this process's."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5)  # a share that is away may keep it
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()) and self._me["pid"] == os.getpid():  # a fork holds nothing
                self.path.unlink()
        self._close()

    def _take(self) -> bool:
        """One try; False when the file changed hands meanwhile. Raises InputError when another run holds it."""
        if os.path.lexists(self.path) and not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise InputError(str(self.path), "no plain file", "a file, or nothing")
        try:
            self._file, fresh = os.open(self.path, os.O_RDWR), False
        except FileNotFoundError:
            try:
                self._file, fresh = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
            except FileExistsError:
                return False
        reaches = self._flock()
        if not self._is_file():  # it was removed between the opening and the lock
            self._let_go()
            return False
        before = self._read()
        if fresh or (reaches and not before):
            self._write(cut=True)
            return True
        holder = holder_of(before)
        elsewhere = bool(holder) and holder["host"] != self._me["host"]
        if (not reaches or elsewhere) and not self._stays(before):
            self._let_go()
            return False
        self._write(cut=True)
        if not reaches:  # two newcomers may have watched together: the one that wrote last has it
            time.sleep(min(self._beat, 1.0))
            if not self._is_mine(now := self._read()):
                raise in_use(self.folder, holder_of(now))
        self.message = (
            f"took over the lock of {name_of(holder)}, which is gone" if holder else "took over a damaged lock"
        )
        return True

    def _flock(self) -> bool:
        """Whether the file system has flock. Raises InputError when another process has the lock."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in WITHOUT_FLOCK:
                return False
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise in_use(self.folder, holder_of(self._read())) from None
            raise
        return True

    def _stays(self, before: bytes) -> bool:
        """Watches the file. False when it was removed, as a run that ends does. Raises InputError when it changes."""
        _log.info(f"{self.path}: {name_of(holder_of(before))} may be alive; watching for {self._watch:.0f} seconds")
        until = time.monotonic() + self._watch
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, self._beat / 4))
            now = self._read()
            if not self._is_file():
                return False
            if now != before:
                raise in_use(self.folder, holder_of(now) or holder_of(before))
        return True

    def _keep(self) -> None:
        """Moves the counter until the end; sees whether another has taken the folder."""
        while not self._ended.wait(self._beat):
            try:
                found = self._read()
                if not self._is_mine(found) and holder_of(found):
                    self.lost = name_of(holder_of(found))
                    print(f"hcl_jax: {self.path} now belongs to {self.lost}", file=sys.stderr, flush=True)
                    return
                self._count += 1
                self._write()
            except OSError:
                continue  # a full disk or a share that is away for a while: the next beat may do

    def _write(self, cut: bool = False) -> None:
        # In place: another name for it would be another lock. The counter only grows, so no old end stays.
        if cut:
            os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps({**self._me, "beat": self._count}).encode(), 0)
        os.fsync(self._file)

    def _read(self) -> bytes:
        # Opened anew: a network file system looks at the server then.
        with contextlib.suppress(FileNotFoundError):
            return self.path.read_bytes()
        return b""

    def _is_mine(self, content: bytes) -> bool:
        holder = holder_of(content)
        return {k: holder.get(k) for k in self._me} == self._me

    def _is_file(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        return False

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found = f"{error.filename or self.path}, {error.strerror}"
            raise InputError(f"--workdir={self.folder}", found, "a folder that this user may write") from None

    def _make_folder(self) -> None:
        above = self.path.parent.absolute()
        missing = [p for p in (above, *above.parents) if not p.exists()]
        above.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _let_go(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)  # and with it the kernel's lock
            self._file = -1

    def _close(self) -> None:
        self._let_go()
        with contextlib.suppress(OSError):  # something is in it
            for folder in self._made:
                folder.rmdir()


def this_process() -> dict[str, Any]:
    """How a holder names itself."""
    # The time is read by people, and tells two processes of one number apart; nobody compares it with a clock.
    started = datetime.datetime.now(datetime.UTC).isoformat()
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def in_use(folder: str, holder: dict[str, Any]) -> InputError:
    """The error for a folder that another run holds."""
    allowed = "another folder, or wait until that run has ended"
    return InputError(f"--workdir={folder}", f"in use by {name_of(holder)}", allowed)


def holder_of(content: bytes) -> dict[str, Any]:
    """Who the file names; nobody where it is empty, damaged or cut."""
    try:
        value = json.loads(content)
        return value if isinstance(value, dict) and {"pid", "host"} <= set(value) else {}
    except (ValueError, RecursionError):
        return {}


def name_of(holder: dict[str, Any]) -> str:
    """A holder as a message has it."""
    return f"process {holder['pid']} on host {holder['host']}" if holder else "a process that has not named itself"
