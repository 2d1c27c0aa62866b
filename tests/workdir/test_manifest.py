"""The seal of a folder: what is not as it was sealed, is not there, or should not be there is named."""

import json
import os
import pathlib

import numpy as np
import pytest

from hcl_jax.workdir import manifest

FILES = {"data": bytes(range(256)), "meta/metadata": b'{"seed": 0}', "state/d/1f": b"\0" * 64, "state/empty": b""}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "5"
    for name, content in FILES.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest.write(made, {"step": 5})
    return made


def test_a_sealed_folder_has_no_fault(folder):
    assert manifest.exists(folder) and manifest.verify(folder) is None and manifest.metadata(folder) == {"step": 5}
    body = json.loads((folder / manifest.MANIFEST).read_text())
    assert set(body["files"]) == set(FILES) and not list(folder.rglob("*.part"))
    manifest.write(folder, {"step": 6})  # a second seal replaces the first
    assert manifest.verify(folder) is None and manifest.metadata(folder) == {"step": 6}


@pytest.mark.slow(one=True)
def test_every_byte_counts(folder):
    """R17: each byte of each file, and each byte of the manifest, with one bit of it turned."""
    random = np.random.default_rng(0)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            bad = bytearray(whole)
            bad[place] ^= 1 << int(random.integers(8))
            path.write_bytes(bad)
            name = path.relative_to(folder).as_posix()
            assert manifest.verify(folder) == f"{name}, which is damaged", (name, place)
        path.write_bytes(whole)
    assert manifest.verify(folder) is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def link(path):
    """To the very same bytes, elsewhere."""
    away = next(p for p in path.parents if p.name == "5").parent / "away"
    path.rename(away)
    path.symlink_to(away)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("name", [n for n in FILES if FILES[n]] + [manifest.MANIFEST])
@pytest.mark.parametrize("damage", [truncate, empty, delete, link, folder_instead, grow])
def test_a_damaged_file_is_named(folder, damage, name):
    """R18."""
    damage(folder / name)
    found = manifest.verify(folder)
    assert found is not None and name in found


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    """R18: as chmod 000 is to those who are not root."""
    (folder / "state/d/1f").chmod(0)
    if os.geteuid() == 0:
        real = manifest.epath.Path("/").__class__.open

        def denied(path, *args, **kwargs):
            if path.name == "1f":
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(manifest.epath.Path("/").__class__, "open", denied)
    assert manifest.verify(folder) == "state/d/1f, which cannot be read (Permission denied)"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_half_a_manifest_is_no_seal(folder, share):
    """R20."""
    path = folder / manifest.MANIFEST
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert manifest.verify(folder) == f"{manifest.MANIFEST}, which is damaged"


def test_a_part_of_a_manifest_is_no_seal(folder):
    """R20: killed before the rename."""
    (folder / manifest.MANIFEST).rename(folder / f"{manifest.MANIFEST}.part")
    assert not manifest.exists(folder) and manifest.verify(folder) == f"no {manifest.MANIFEST}"


@pytest.mark.parametrize("name", ["more", "state/more", ".hidden"])
def test_a_file_of_another_is_refused(folder, name):
    """R18, R34."""
    (folder / name).write_text("x")
    assert manifest.verify(folder) == f"{name}, which is not in {manifest.MANIFEST}"


def test_a_linked_folder_is_refused(folder, tmp_path):
    """R34: what is read lies in the folder."""
    (folder / "state/d").rename(tmp_path / "d")
    (folder / "state/d").symlink_to(tmp_path / "d")
    assert manifest.verify(folder) == "state/d, a link"
    (tmp_path / "6").symlink_to(folder)
    assert manifest.verify(tmp_path / "6") == "6, a link"
    with pytest.raises(OSError, match="a link"):
        manifest.write(folder, {})


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "state/../../outside"])
def test_a_manifest_that_names_files_outside_is_refused(folder, name):
    """R34: a true digest of a file that is there makes it no part of the folder."""
    (folder.parent / "outside").write_text("x")
    body = json.loads((folder / manifest.MANIFEST).read_text())
    del body["sha256"]
    outside = pathlib.Path(name) if name.startswith("/") else folder / name
    body["files"][name] = manifest._digests(manifest.epath.Path(outside.parent), [outside.name])[0]
    (folder / manifest.MANIFEST).write_text(manifest._text(body))
    assert manifest.verify(folder) == f"no file {name}"


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '"format"', '{"format": 1, "files": [], "note": {}}', "[" * 100_000, '{"a": 1}' * 2]
)
def test_any_other_json_is_a_damaged_manifest(folder, text):
    """R34."""
    (folder / manifest.MANIFEST).write_text(text)
    assert manifest.verify(folder) == f"{manifest.MANIFEST}, which is damaged"
