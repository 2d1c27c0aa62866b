"""One run a folder: DIR/lock names the process that trains there, its owner.

On one machine the truth is flock, through filelock: the kernel releases it when the process ends, however it ends. Over
machines that share a folder flock may not reach, and some file systems have none; there the owner changes a counter in
the file, its heartbeat, and a newcomer watches whether the counter moves. No clock is compared with another.
(filelock.SoftFileLease has a heartbeat too, but never takes over the lock of a dead owner on NFS or SMB, which cannot
exchange two names, nor one that a power cut left empty.)

Readers (evaluation, embed) take no lock.
"""

import contextlib
import datetime
import errno
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

from filelock import FileLock, Timeout

from hcl_jax.errors import InputError

HEARTBEAT = 10.0  # seconds between two changes of the counter
WITHOUT_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
TRIES = 20  # at a file that another process is creating or removing
_log = logging.getLogger(__name__)


class Lock:
    """Holds `folder` for this process, which is the first of its run.

        with Lock(folder) as lock:
            if lock.message: ...

    A missing folder is created, and removed again if it stays empty.

    Args:
      folder: the run's folder.
      heartbeat: seconds between two changes of the counter.
      lease: seconds that a newcomer watches a counter that may be another machine's; default three heartbeats.

    Attributes:
      message: what was taken over, for the log; "" when the folder was free.
      lost: who owns the folder now, when another process took it because this one slept longer than `lease`; else "".
        A run that has lost its folder must write no more.

    Raises:
      InputError: another run owns the folder, or the file cannot be created.
    """

    def __init__(self, folder: str | os.PathLike, *, heartbeat: float = HEARTBEAT, lease: float | None = None):
        self.folder, self.path = str(folder), pathlib.Path(folder) / "lock"
        self._heartbeat, self._lease = heartbeat, 3 * heartbeat if lease is None else lease
        self.message = self.lost = ""
        self._file = -1
        self._created: list[pathlib.Path] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._me = this_process()
        self._count = 0
        # Without the fallback of filelock: its soft lock would be another file format.
        self._flock = FileLock(self.path, blocking=False, fallback_to_soft=False, thread_local=False)

    def __enter__(self) -> "Lock":
        with self._readable():
            self._create_folder()
        try:
            with self._readable():
                while not self._take():
                    self._release()
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the folder. The file is removed only if it is still this process's."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5)  # an unavailable share may block it
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()) and self._me["pid"] == os.getpid():  # a fork owns nothing
                self.path.unlink()  # before the flock is released: who opened it meanwhile sees that it has no name
        self._close()

    def _take(self) -> bool:
        """One try; False when the file changed hands meanwhile. Raises InputError when another run owns it."""
        if os.path.lexists(self.path) and not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise InputError(str(self.path), "no plain file", "a file, or nothing")
        has_flock = self._acquire()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        before = self._read()
        owner = owner_of(before)
        may_live = before and (not has_flock or (owner and owner["host"] != self._me["host"]))
        if may_live and not self._watch(before):
            return False
        self._write(cut=True)
        if not has_flock:  # two newcomers may have watched together: the one that wrote last owns it
            time.sleep(min(self._heartbeat, 1.0))
            if not self._is_mine(now := self._read()):
                raise in_use(self.folder, owner_of(now))
        if before:
            taken = f"the lock of {name_of(owner)}, which is gone" if owner else "a damaged lock"
            self.message = f"took over {taken}"
        return True

    def _acquire(self) -> bool:
        """Whether the file system has flock. Raises InputError when another process has the lock."""
        for _ in range(TRIES):
            try:
                self._flock.acquire()
                return True
            except Timeout:
                if owner := owner_of(self._read()):
                    raise in_use(self.folder, owner) from None
            except OSError as error:
                if error.errno not in WITHOUT_FLOCK:
                    raise
                return False
            time.sleep(0.02)
        raise in_use(self.folder, {})

    def _watch(self, before: bytes) -> bool:
        """Watches the file. False when it was removed, as a run that ends does. Raises InputError when it changes."""
        _log.info(f"{self.path}: {name_of(owner_of(before))} may be alive; watching for {self._lease:.0f} seconds")
        until = time.monotonic() + self._lease
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, self._heartbeat / 4))
            now = self._read()
            if not self._is_file():
                return False
            if now != before:
                raise in_use(self.folder, owner_of(now) or owner_of(before))
        return True

    def _beat(self) -> None:
        """Moves the counter until the end; notices when another process has taken the folder."""
        while not self._ended.wait(self._heartbeat):
            try:
                now = self._read()
                if not self._is_mine(now) and owner_of(now):
                    self.lost = name_of(owner_of(now))
                    print(f"hcl_jax: {self.path} now belongs to {self.lost}", file=sys.stderr, flush=True)
                    return
                self._count += 1
                self._write()
            except OSError:
                continue  # a full disk, or a share that is briefly unavailable: retry at the next heartbeat

    def _write(self, cut: bool = False) -> None:
        # In place: under another inode it would be another lock. The counter only grows, so no old end remains.
        if cut:
            os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps({**self._me, "beat": self._count}).encode(), 0)
        os.fsync(self._file)

    def _read(self) -> bytes:
        # Opened anew: a network file system asks its server then.
        with contextlib.suppress(FileNotFoundError):
            return self.path.read_bytes()
        return b""

    def _is_mine(self, content: bytes) -> bool:
        owner = owner_of(content)
        return {k: owner.get(k) for k in self._me} == self._me

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

    def _create_folder(self) -> None:
        above = self.path.parent.absolute()
        missing = [p for p in (above, *above.parents) if not p.exists()]
        above.mkdir(parents=True, exist_ok=True)
        self._created = missing

    def _release(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
        with contextlib.suppress(OSError):
            self._flock.release(force=True)

    def _close(self) -> None:
        self._release()
        with contextlib.suppress(OSError):  # not empty
            for folder in self._created:
                folder.rmdir()


def this_process() -> dict[str, Any]:
    """How an owner names itself."""
    # The time is read by people, and tells two processes of one number apart; it is compared with no clock.
    started = datetime.datetime.now(datetime.UTC).isoformat()
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def in_use(folder: str, owner: dict[str, Any]) -> InputError:
    """The error for a folder that another run owns."""
    started = str(owner.get("started", ""))[:16].replace("T", " ")
    since = f" since {started} UTC" if len(started) == 16 else ""
    allowed = "another folder, or wait until that run has ended"
    return InputError(f"--workdir={folder}", f"in use by {name_of(owner)}{since}", allowed)


def owner_of(content: bytes) -> dict[str, Any]:
    """Whom the file names; {} where it is empty, damaged or cut."""
    try:
        value = json.loads(content)
        return value if isinstance(value, dict) and {"pid", "host"} <= set(value) else {}
    except (ValueError, RecursionError):
        return {}


def name_of(owner: dict[str, Any]) -> str:
    """An owner as a message names it."""
    return f"process {owner['pid']} on host {owner['host']}" if owner else "a process that has not named itself"
