"""Whatever a reader of a user's file raises becomes one line that names the file."""

import errno
import hashlib
import json
import pathlib

import pytest

from hcl_jax.claims import claim
from hcl_jax.data.generated import read_settings
from hcl_jax.errors import InputError
from hcl_jax.workdir import check, manifest, resume_config
from hcl_jax.workdir.checkpoint_steps import Steps

DIGITS = "7" * 5000  # past what Python makes an int of
DEEP = '{"a":' * 100_000
NESTED = '{"a":' * 300 + "1" + "}" * 300  # JSON reads it; what walks it may not


@pytest.mark.parametrize("text", [f'{{"seed": {DIGITS}}}', DEEP, NESTED, "[]", '{"data": 5}', "\x00"])
def test_config_json(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json") as error:
        resume_config(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("method", ["is_file", "read_text"])
def test_a_share_that_has_gone_away(tmp_path, monkeypatch, method):
    """ESTALE is no absence: a new run must not begin in the folder of an old one."""
    (tmp_path / "config.json").write_text("{}")
    real = getattr(pathlib.Path, method)

    def stale(path, *a, **k):
        if path.name == "config.json":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real(path, *a, **k)

    monkeypatch.setattr(pathlib.Path, method, stale)
    for call in (lambda: resume_config(tmp_path), lambda: check(tmp_path, None)):
        with pytest.raises(InputError, match="config.json: found an unreadable file .Stale file handle"):
            call()


@pytest.mark.parametrize("text", [f"seeds = {DIGITS}", "a = " + "[" * 5000, "a = \x00"])
def test_a_claim(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="mine.toml: found no TOML") as error:
        claim._toml(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [f'{{"count": {DIGITS}}}', DEEP])
def test_settings_of_generated_views(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError, match="settings.json: found no JSON"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "change", [{"files": [1]}, {"files": {"a": 5}}, {"files": {"a": [1]}}, {"files": {"a": [[], 2]}}, {"note": []}]
)
def test_a_manifest_of_other_types(tmp_path, change):
    """With a digest that fits: made by hand."""
    (tmp_path / "a").write_text("x")
    manifest.write(tmp_path)
    body = {k: v for k, v in json.loads((tmp_path / "MANIFEST.json").read_text()).items() if k != "sha256"} | change
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n"
    (tmp_path / "MANIFEST.json").write_text(text)
    assert manifest.verify(tmp_path) == "MANIFEST.json, which is damaged"


def test_a_step_without_a_seal_after_one_with_a_seal(tmp_path):
    """F8: steps of before there were seals are read, and that is said; never ones that pretend to be so old."""
    for step in ("2", "4"):
        (tmp_path / step / "meta").mkdir(parents=True)
        (tmp_path / step / "meta" / "metadata").write_text('{"layout": 1}')
    said = []
    assert Steps(tmp_path, read_only=True).newest(said.append) == 4
    assert "cannot be checked" in said[0]
    manifest.write(tmp_path / "2", {"step": 2})
    assert Steps(tmp_path, read_only=True).newest(said.append) == 2
