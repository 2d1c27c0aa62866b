"""Which code a result stands on."""

import functools

import pytest

from hcl_jax.claims import code_version


def test_reach_follows_imports_and_no_tables():
    found = code_version.reach(["hcl_jax.losses.nt_xent"])
    assert {"hcl_jax.losses.nt_xent", "hcl_jax.losses.masking", "hcl_jax.similarity"} <= set(found)
    assert not {"hcl_jax.losses.byol", "hcl_jax.train", "hcl_jax.losses.clip"} & set(found)
    step = code_version.reach(["hcl_jax.run", "hcl_jax.data.pipeline"])
    assert {"hcl_jax.core.model", "hcl_jax.core.optim", "hcl_jax.views", "hcl_jax.data.order"} <= set(step)
    assert not {"hcl_jax.losses.nt_xent", "hcl_jax.encoders.vit", "hcl_jax.evaluation", "hcl_jax.claims.study"} & set(
        step
    )


def test_what_is_left_out_and_kept_is_there():
    """A module that is renamed must not slip back into every key, nor out of it."""
    for name in (*code_version.LEFT_OUT, *code_version.KEPT):
        assert code_version._path(name) is not None and code_version._path(name).is_file(), name
    step = code_version.reach(["hcl_jax.run", "hcl_jax.workdir.init_from"])
    assert "hcl_jax.workdir.init_from" in step and "hcl_jax.core.state" in step
    assert not any(m.startswith(("hcl_jax.config", "hcl_jax.runtime", "hcl_jax.workdir.m")) for m in step)


def test_module_of():
    from hcl_jax.encoders import ENCODERS

    assert code_version.module_of(ENCODERS["resnet50"]) == "hcl_jax.encoders.resnet"
    assert (
        code_version.module_of(functools.partial(functools.partial(code_version.version)))
        == "hcl_jax.claims.code_version"
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "hcl_jax"
    (root / "losses").mkdir(parents=True)
    (root / "a.py").write_text("from hcl_jax.losses import rows\nX = 1\n")
    (root / "b.py").write_text("Y = 1\n")
    (root / "losses" / "__init__.py").write_text("from hcl_jax.losses import rows\nTABLE = {}\n")
    (root / "losses" / "rows.py").write_text('"""Rows."""\nZ = 1\n')
    monkeypatch.setattr(code_version, "ROOT", root)
    code_version._read.cache_clear()
    yield root
    code_version._read.cache_clear()


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("losses/rows.py", '"""Other words."""\n# a comment\nZ = 1\n', True),
        ("losses/rows.py", '"""Rows."""\nZ = 2\n', False),
        ("losses/__init__.py", "TABLE = {'new': 1}\n", True),
        ("b.py", "Y = 2\n", True),
        ("a.py", "from hcl_jax.losses import rows\nX = 2\n", False),
    ],
)
def test_version(package, file, text, same):
    before = code_version.version(["hcl_jax.a"])
    (package / file).write_text(text)
    code_version._read.cache_clear()
    assert (code_version.version(["hcl_jax.a"]) == before) is same
