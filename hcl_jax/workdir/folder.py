"""A run is its folder: which config it holds, and whether another may resume it."""

import io
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hcl_jax import config as configs
from hcl_jax.disk.reading import is_file, readable, text_of
from hcl_jax.errors import InputError
from hcl_jax.workdir import files

PARAMETERS = "parameters.txt"  # names, shapes and shardings, as the run began
CLASSIFIERS = "classifiers.npz"  # what the last evaluation fitted, for new records
DATA = "data.json"  # what is known of the training records, for a model that is opened without them
OPEN_ENDS = ("train.steps", "train.epochs")  # may grow on resume, never shrink
LOG = logging.getLogger("hcl_jax")


def resume_config(workdir: str | os.PathLike) -> Any:
    """The frozen config of a workdir. Raises InputError when there is none."""
    return _younger(*_frozen(workdir))


def config_of(run: str | os.PathLike) -> Any:
    """The same of a run that is only read: what is refused names the folder, for there is no flag."""
    return _younger(*_frozen(run, os.fspath(run), "the folder of a run"))


def _younger(plain: dict[str, Any], path: Any) -> Any:
    return configs.with_younger(plain, str(path))


def as_begun(workdir: str | os.PathLike, config: Any) -> Any:
    """A completed config with the fields that are younger than the run in `workdir` as that run had them.

    The command that began a run goes on with it, although a field has come whose default is another; a line says so.
    """
    if not has_run(workdir):
        return config
    config, lines = configs.as_begun(config, _frozen(workdir)[0])
    for line in lines:
        LOG.warning("%s: %s", workdir, line)
    return config


def _frozen(
    workdir: str | os.PathLike, where: str = "", allowed: str = "the folder of a run, or --config=RECIPE with it"
) -> tuple[dict[str, Any], Any]:
    """The text of a workdir's config.json as it is there, and its path."""
    path = files.path(workdir) / "config.json"
    wrote = "the config.json that a run wrote"
    if not is_file(path, path, wrote):
        raise InputError(where or f"--workdir={workdir}", "no config.json", allowed)
    text = text_of(path, wrote)
    with readable(path, wrote, "no config"):
        return configs.from_json(text, str(path)).to_dict(), path


def check(
    workdir: str | os.PathLike, config: Any, plain: Callable[[Any], Any] = lambda c: c
) -> dict[str, tuple[Any, Any]]:
    """Whether `config` may run in `workdir`; writes nothing.

    Args:
      workdir: the run's folder.
      config: completed.
      plain: writes a config so that two spellings of one thing are equal.

    Returns:
      The open fields that differ from the frozen ones: {field: (frozen, given)}.

    Raises:
      InputError: the workdir is a file, cannot be written, holds other things, or holds a different run.
    """
    path = files.path(workdir)
    where = f"--workdir={workdir}"
    if isinstance(path, pathlib.Path):
        with readable(where, "a folder that can be read and written", "no folder"):
            _check_disk(path, where)
    else:
        _check_store(path, where)
    frozen = path / "config.json"
    if not is_file(frozen, frozen, "the config.json that a run wrote"):
        if (path / "checkpoints").exists():
            raise InputError(where, "checkpoints without a config.json", "an empty folder, or that of a whole run")
        return {}
    return allowed(plain(resume_config(path)), plain(config), str(frozen))


def has_run(workdir: str | os.PathLike) -> bool:
    """Whether the folder holds a run."""
    return (files.path(workdir) / "config.json").exists()


def allowed(old: Any, new: Any, where: str) -> dict[str, tuple[Any, Any]]:
    """The open fields that a run's config has otherwise than `where`, a file or a checkpoint: {field: (old, new)}.

    Raises:
      InputError: another field differs.
    """
    changed = configs.differences(old, new)
    for field, (was, now) in changed.items():
        grows = field in OPEN_ENDS and was is not None and now is not None and now >= was
        engine = field.startswith("objectives.") and field.endswith(".engine")
        if not (grows or engine or field.startswith(configs.OPEN_FIELDS)):
            more = " or more" if field in OPEN_ENDS else ""
            raise InputError(f"config.{field}", f"{now!r}", f"{was!r}{more}, as {where} has it; or another --workdir")
    return changed


def _check_disk(path: pathlib.Path, where: str) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(where, "a file", "a folder, or a name for a new one")
    parent = next(p for p in [path, *path.absolute().parents] if p.exists())
    if not parent.is_dir():
        raise InputError(where, f"{parent}, a file, above it", "a folder, or a name for a new one")
    if not _writable(parent):
        raise InputError(where, f"{parent}, which cannot be written", "a folder that this user may write")
    full = os.fspath(path.absolute())
    try:
        full.encode()
    except UnicodeEncodeError:
        raise InputError(where, "a name that is no UTF-8", "one that is") from None
    if "[" in full:
        # Orbax uses the folder's own name as a glob pattern for its parts, finds none, and saves half a step.
        raise InputError(where, f"{full}, with a [", "a path without [")
    if (path / "checkpoints").exists() and not (path / "checkpoints").is_dir():
        raise InputError(f"{path}/checkpoints", "a file", "a folder, or nothing")


def _check_store(path: files.Path, where: str) -> None:
    probe = path / f".write-test-{os.getpid()}"
    try:
        is_object = path.is_file()
        if not is_object:
            probe.write_bytes(b"-")
            probe.unlink()
    except Exception as error:  # of gcsfs, aiohttp and google.auth: no bucket, no permission, no network
        found = f"no place to write ({type(error).__name__}: {error})"
        raise InputError(where, found, "a folder in a bucket that these credentials may write") from error
    if is_object:
        raise InputError(where, "an object", "a folder, or a name for a new one")


def _writable(folder: pathlib.Path) -> bool:
    # os.access says yes to root whatever the mount says; only a file tells.
    probe = folder / f".write-test-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def freeze(workdir: str | os.PathLike, config: Any) -> files.Path:
    """Creates the folder and writes config.json, whole or not at all."""
    path = files.path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    files.write(path / "config.json", configs.to_json(config))
    return path


def write_arrays(path: files.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    files.write(path, packed.getvalue())
