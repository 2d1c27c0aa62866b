"""One run a folder on gs://: the object `lock` names the process that trains there, as lock.py does on a disk.

Each write of an object gives it a new generation number, and a write can be made conditional on the number last seen:
of two that try, one succeeds. The owner rewrites it every few seconds, its heartbeat; a newcomer watches whether the
number moves. No clock is compared with another.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from hcl_jax.workdir import files
from hcl_jax.workdir.lock import HEARTBEAT, in_use, name_of, owner_of, this_process


class Lease:
    """Owns a folder of gs:// for this process, which is the first of its run; used as hcl_jax.workdir.lock.Lock is.

    Args:
      folder: gs://BUCKET/FOLDER.
      heartbeat: seconds between two writes.
      lease: seconds that a newcomer watches an existing lock; default three heartbeats.

    Attributes:
      message: what was taken over, for the log; "" when the folder was free.
      lost: who owns the folder now, when another process took it because this one slept longer than `lease`; else "".

    Raises:
      InputError: another run owns the folder.
    """

    def __init__(self, folder: str | os.PathLike, *, heartbeat: float = HEARTBEAT, lease: float | None = None):
        from google.cloud import storage

        self.folder = str(files.path(folder))
        self.path = f"{self.folder}/lock"
        bucket, _, self._name = self.path.removeprefix("gs://").partition("/")
        self._bucket = storage.Client().bucket(bucket)
        self._heartbeat, self._lease = heartbeat, 3 * heartbeat if lease is None else lease
        self._me = this_process()
        self._generation = 0  # of what this process wrote last
        self.message = self.lost = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        if not self._write():
            seen, owner = self._seen()
            if seen and not _is_gone(owner):
                self._see_still(seen, owner)
            self._generation = seen
            if not self._write():
                raise in_use(self.folder, self._seen()[1])
            if seen:
                self.message = f"took over the lock of {name_of(owner)}, which is gone"
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the folder. The object is deleted only if it is still this process's."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # another's by now, or no network: the next run sees that it does not move
            if self._seen()[1] == self._me:
                self._bucket.blob(self._name, generation=self._generation).delete()

    def _see_still(self, seen: int, owner: dict[str, Any]) -> None:
        """Raises InputError when the lock is rewritten while it is watched."""
        until = time.monotonic() + self._lease
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, self._heartbeat / 4))
            if self._seen()[0] != seen:
                raise in_use(self.folder, owner)

    def _write(self) -> bool:
        """Names this process if the object still has `_generation` (0: if there is no lock); whether it did."""
        from google.api_core import exceptions

        blob = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(json.dumps(self._me), if_generation_match=self._generation)
        except exceptions.PreconditionFailed:
            generation, owner = self._seen()
            if owner != self._me:
                return False
            self._generation = generation  # this process's own write, whose answer was lost
            return True
        self._generation = blob.generation
        return True

    def _seen(self) -> tuple[int, dict[str, Any]]:
        """(generation, owner) of the lock; (0, {}) if there is none."""
        from google.api_core import exceptions

        try:
            # A new one each time: a blob that knows its generation asks for that one.
            blob = self._bucket.get_blob(self._name)
            if blob is None:
                return 0, {}
            return blob.generation, owner_of(blob.download_as_bytes())
        except exceptions.NotFound:  # rewritten between the two
            return self._seen()

    def _beat(self) -> None:
        """Rewrites the lock until the end; notices when another process has taken the folder."""
        while not self._ended.wait(self._heartbeat):
            with contextlib.suppress(Exception):  # the service is briefly unavailable: retry at the next heartbeat
                if not self._write():
                    generation, owner = self._seen()
                    if not generation:  # removed by hand: written again
                        self._generation = 0
                        continue
                    self.lost = name_of(owner)
                    print(f"hcl_jax: {self.path} now belongs to {self.lost}", file=sys.stderr, flush=True)
                    return


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether an owner of this machine has ended; False for another machine's, which cannot be asked."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        pass
    return False
