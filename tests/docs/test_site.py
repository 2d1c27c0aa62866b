"""The docs as a site: every page has its place, the index has the words that people look for, and no link is dead."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
WORDS = """
augment fine-tune freeze pretrained inference unlabelled labels EXIF GPU TPU install `make demo` class names
embedding backbone teacher split resume checkpoint safetensors learning rate kNN linear probe TensorBoard W&B
seeds preemption report compare photos series graph text encoder loop pod tutorial `git clone`
""".split()


def pages(nav):
    """The files of a navigation."""
    for entry in nav:
        for at in entry.values():
            yield from [at] if isinstance(at, str) else pages(at)


def test_every_page_is_in_the_navigation():
    assert sorted(pages(CONFIG["nav"])) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_the_index_has_the_words_that_people_look_for():
    text = (ROOT / "docs" / "index.md").read_text().lower()
    assert [word for word in WORDS if word.lower() not in text] == []


def test_docstrings_as_the_site_reads_them():
    line = runpy.run_path(str(ROOT / "docs" / "site" / "docstrings.py"))["line"]
    assert line("Example:") == "Examples:"
    assert line("  row_ids: int [n], as in `x[i]`.") == r"  row_ids: int \[n\], as in `x[i]`."
    assert line("  >>> x[0]") == "  >>> x[0]" and line("a row") == "a row"


def build(config, to):
    """The status and the text of a build in which a warning is an error."""
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--config-file={config}", f"--site-dir={to}"]
    ran = subprocess.run(
        call, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, timeout=600
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Links, anchors, pages outside of the navigation, and docstrings of the reference."""
    status, said = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert status == 0, said
    reference = (tmp_path / "site" / "api.html").read_text()
    for name in ("hcl_jax.trained.Model.encode", "hcl_jax.losses.nt_xent.nt_xent", "hcl_jax.views.crops"):
        assert f'id="{name}' in reference, name
    assert "fonts.googleapis" not in reference  # it asks no other host for anything


@pytest.mark.slow
def test_a_dead_link_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[there](#nowhere)\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({"site_name": "x", "validation": CONFIG["validation"]}))
    status, said = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert status == 1 and "nowhere" in said
