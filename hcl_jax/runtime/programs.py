"""Compiled programs kept between starts: a folder that jax's persistent cache reads and writes.

A kept program is machine code that is loaded and run. So the folder has to be the user's own, and programs of machines
with other CPU features, or of processes with another number of threads (sums are split over them), are in folders of
their own. jax's key covers the program itself, its compiler's version, options and flags, and the devices: code that
changed is compiled again.
"""

import hashlib
import logging
import os
import pathlib
import platform
import stat
import tempfile
import time
from typing import Any

LOG = logging.getLogger("hcl_jax")
AUTO, OFF = "auto", "off"
LIMIT = 2**30  # bytes of all folders of a user; the programs that were read longest ago go first
STALE = 86400  # seconds after which a file that was never finished is taken away
FIELD = "config.train.compile_cache"


def keep(word: str = AUTO) -> pathlib.Path | None:
    """Lets jax keep its compiled programs; called by commands, before the backend starts, never at an import.

    JAX_COMPILATION_CACHE_DIR, or whatever else has named a folder to jax, is left as it is. A folder that cannot be
    used is a warning, and the run goes on without it.

    Args:
      word: "auto", a folder of the user's, for a run of one process; "off"; a folder, which may be gs://BUCKET/PATH.

    Returns:
      The folder that is used and was set here; None: there is none.
    """
    import jax
    from jax._src import distributed  # how many processes there are, without starting the backend

    settings: Any = jax.config
    if word == OFF or settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return None
    if word == AUTO and (distributed.global_state.num_processes or 1) > 1:
        # The first process alone writes, to its own disk perhaps, and one that compiles may wait for one that does not.
        return None
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs count too
    if "://" in word:
        jax.config.update("jax_compilation_cache_dir", word)
        return None
    try:
        root = home() if word == AUTO else pathlib.Path(word).expanduser()
        folder = root / mark()
        for made in (*([root.parent] if word == AUTO else []), root, folder):
            _own(made)
        prune(root, LIMIT)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        found = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        where = f"{FIELD}={word}" if word != AUTO else f"the folder of compiled programs, {root_text()}"
        LOG.warning("%s: %s; this run compiles its programs anew (%s=off is silent)", where, found, FIELD)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    _install(folder)
    return folder


def word_of(config: Any) -> str:
    """What a config that has not been checked says; a check comes later."""
    word = (config.get("train") or {}).get("compile_cache", AUTO)
    return word if isinstance(word, str) else AUTO


def home() -> pathlib.Path:
    """The user's folder: $XDG_CACHE_HOME/hcl_jax/programs, or ~/.cache/hcl_jax/programs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / ".cache") / "hcl_jax" / "programs"


def root_text() -> str:
    """`home`, for a line."""
    try:
        return str(home())
    except RuntimeError:
        return "~/.cache/hcl_jax/programs"


def mark() -> str:
    """A word for what a program may depend on and jax's key leaves out: the CPU, its features, the threads."""
    from hcl_jax.runtime import machine  # imports jax, which --help does without

    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = sorted({x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part", "CPU impl"))})
    except OSError:
        cpu = [platform.processor()]
    text = "\n".join([platform.system(), platform.machine(), *cpu, str(machine.threads())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _own(folder: pathlib.Path) -> None:
    """Makes a folder that its owner alone can write. Raises OSError for one that others own or can write."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise OSError(0, f"{folder} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(0, f"others may write in {folder} (chmod go-w)")


def prune(root: pathlib.Path, limit: int) -> None:
    """Takes away what was read longest ago until the folders below `root` hold `limit` bytes. Other processes may do
    the same meanwhile, or read: a file that is gone is compiled again."""
    found, now = [], time.time()
    for path in [*root.glob("*/*.program"), *root.glob("*/*.part")]:
        try:
            at = path.stat()
        except OSError:
            continue
        if path.suffix == ".part" and now - at.st_mtime > STALE:
            path.unlink(missing_ok=True)
            continue
        found.append((at.st_mtime, at.st_size, path))
    size = sum(bytes_ for _, bytes_, _ in found)
    for _, bytes_, path in sorted(found):
        if size <= limit:
            return
        path.unlink(missing_ok=True)
        size -= bytes_


class Programs:
    """The files of a folder, as jax's cache asks for them: each written whole or not at all, and read with its sha256.

    jax's own has neither, so that a process that is killed while it writes leaves a program that warns at every start.
    """

    def __init__(self, folder: pathlib.Path):
        self._path, self._off = folder, False

    def get(self, key: str) -> bytes | None:
        """The program of a key; None where there is none, or one that is damaged, which the next `put` replaces."""
        path = self._path / f"{key}.program"
        try:
            whole = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, value = whole[:32], whole[32:]
        if hashlib.sha256(value).digest() == digest:
            return value
        LOG.warning("%s: a damaged program, compiled anew", path)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program. The first that finds no room is the last."""
        if self._off:
            return
        part = None
        try:
            file, part = tempfile.mkstemp(suffix=".part", dir=self._path)
            with os.fdopen(file, "wb") as out:
                out.write(hashlib.sha256(value).digest() + value)
            os.replace(part, self._path / f"{key}.program")
        except OSError as error:
            self._off = True
            LOG.warning("%s: %s; the programs of this run are not kept", self._path, error.strerror)
            if part is not None:
                pathlib.Path(part).unlink(missing_ok=True)


def _install(folder: pathlib.Path) -> None:
    """Puts Programs in the place of jax's own cache; with a jax that has no such place, its own stays."""
    try:
        from jax._src import compilation_cache
        from jax._src.compilation_cache_interface import CacheInterface

        compilation_cache.reset_cache()
        interface: Any = CacheInterface
        compilation_cache._cache = type("Kept", (Programs, interface), {})(folder)
        compilation_cache._cache_initialized = True
    except (ImportError, AttributeError):
        LOG.debug("this jax keeps programs by itself")
