"""Compiled programs kept between starts: the same bits from a kept one, and a folder that cannot be used is a line."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

from hcl_jax.runtime import programs


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """As in a process to which nobody has named a folder, with a home of its own."""
    folder, least = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    compilation_cache.reset_cache()


def compiled_and_called():
    """The bits of a program that is compiled, or loaded, anew."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 33)).astype(np.float32))
    jax.clear_caches()
    return np.asarray(jax.jit(lambda x: jax.nn.logsumexp(jnp.sin(x @ x.T), axis=1))(x)).tobytes()


def test_a_kept_program_has_the_same_bits_and_a_damaged_one_is_replaced(unset, caplog):
    folder = programs.keep()
    assert folder.parent == unset / "home" / "hcl_jax" / "programs" and folder.stat().st_mode & 0o777 == 0o700
    cold = compiled_and_called()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("jit__lambda*.program")}
    assert kept and not list(folder.glob("*.part"))
    for path in kept:
        os.utime(path, (1, 1))
    assert compiled_and_called() == cold
    assert all(path.stat().st_mtime > 1 for path in kept)  # read, not compiled
    for path in kept:
        path.write_bytes(path.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING, "hcl_jax"):
        assert compiled_and_called() == cold
    assert caplog.text.count("a damaged program") == len(kept)
    caplog.clear()
    assert compiled_and_called() == cold and not caplog.text


def test_a_folder_of_others_or_none_at_all_is_a_line(unset, caplog):
    open_to_all = unset / "shared"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    a_file = unset / "file"
    a_file.write_text("")
    for given, found in ((open_to_all, "others may write"), (a_file, "File exists")):
        caplog.clear()
        assert programs.keep(str(given)) is None
        assert found in caplog.text and len(caplog.records) == 1
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_jax_was_given_wins(unset):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    assert programs.keep() is None and jax.config.jax_compilation_cache_dir == "elsewhere"


def test_what_was_read_longest_ago_goes_first(tmp_path):
    (tmp_path / "machine").mkdir()
    for age, name in ((3, "old"), (1, "new"), (2, "middle")):
        path = tmp_path / "machine" / f"{name}.program"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    programs.prune(tmp_path, 200)
    assert sorted(p.stem for p in (tmp_path / "machine").iterdir()) == ["middle", "new"]


def test_a_full_disk_is_one_line(tmp_path, caplog, monkeypatch):
    kept = programs.Programs(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    kept.put("a", b"1")
    kept.put("b", b"1")
    assert caplog.text.count("No space left on device") == 1 and not list(tmp_path.iterdir())
