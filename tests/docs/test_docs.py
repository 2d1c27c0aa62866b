"""What README and docs say is so."""

import importlib
import inspect
import pathlib
import re
import types

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.losses import LOSSES
from hcl_jax.views import VIEWS

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_field_is_documented():
    text = (ROOT / "docs" / "config.md").read_text()
    named = {f for f in configs.flatten(configs.defaults().to_dict()) if f"`{f}`" not in text}
    nested = {"views", "towers", "objectives"}  # in tables of their own
    assert {f for f in named if not f.startswith("evaluate.evaluators.")} - nested == set()


def test_documented_fields_exist():
    text = (ROOT / "docs" / "config.md").read_text()
    known = configs.defaults().to_dict()
    for section, field in re.findall(r"`(\w+)\.(\w+)`", text):
        if section in known and section not in ("parallel",):
            assert field in known[section] or section in ("views",), f"{section}.{field}"


def test_every_loss_is_documented_with_its_arguments():
    lines = (ROOT / "docs" / "losses.md").read_text().splitlines()
    for name, loss in LOSSES.items():
        (line,) = (line for line in lines if line.startswith(f"| `{name}("))
        for argument, p in inspect.signature(loss).parameters.items():
            if p.kind == p.KEYWORD_ONLY:
                shared = argument in ("ids", "row_weights", "engine")
                assert (f"`{argument}`" in line) != shared, f"{name}: {argument}"
            elif name != "ipo":  # its arrays are dpo's
                assert re.search(rf"`{name}\([^`]*\b{argument}\b", line), f"{name}: {argument}"


def test_the_readme_recipe_is_a_recipe(tmp_path):
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "get_config" in b
    )
    assert len(block.splitlines()) <= 20
    (tmp_path / "mine.py").write_text(block)
    config = configs.complete(configs.load(str(tmp_path / "mine.py")))
    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)


def test_commands_of_the_readme_name_packaged_recipes():
    text = (ROOT / "README.md").read_text()
    for recipe in set(re.findall(r"--config=([\w]+:[\w]+)", text)):
        configs.complete(configs.load(recipe))


def test_every_recipe_header_says_command_hardware_expectation_and_source():
    for path in (ROOT / "configs").glob("[!_]*.py"):
        header = path.read_text().split('"""')[1]
        for word in ("Command:", "Hardware:", "Expected:", "Source:"):
            assert word in header, f"{path.name} without {word}"


def pages():
    """{file: its text} of what a reader is sent to."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


FOLDERS = ("hcl_jax", "configs", "claims", "launch", "benchmarks", "findings", "tests", "docs")
BELOW = sorted(p.name for p in (ROOT / "hcl_jax").iterdir() if p.is_dir() and p.name != "__pycache__")


def missing_paths(text, at="."):
    """Paths in a text that lead nowhere. They start at the root, at the folder `at`, at hcl_jax/ or at tests/. NAME
    stands for any name, and a line that starts with +++ shows a file to be added."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("+++"))
    starts = "|".join((*FOLDERS, *BELOW))
    paths = set(re.findall(rf"(?<![\w/.-])(?:{starts})/[\w./-]*\w", text))
    paths = {p for p in paths if "." in p.rpartition("/")[2] or p.split("/")[0] in FOLDERS}
    places = (ROOT, ROOT / at, ROOT / "hcl_jax", ROOT / "tests")
    return {p for p in paths if "NAME" not in p and not any((place / p).exists() for place in places)}


def missing_names(text):
    """Names such as hcl_jax.core.optim.make_schedule, and `from hcl_jax.a import b`, that cannot be looked up."""
    dotted = set(re.findall(r"\bhcl_jax(?:\.\w+)+", text))
    for module, names in re.findall(r"from (hcl_jax[\w.]*) import ([\w, ]+)", text):
        dotted |= {f"{module}.{name}" for name in re.split(r", *", names.strip())}
    return {name for name in dotted if not known(name)}


def known(name):
    """Whether a dotted name is a module of today, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:cut])
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            rest = parts[cut:]
            found = getattr(importlib.import_module(".".join(parts[:cut])), rest[0], None) if rest else parts
            return found is not None and not isinstance(found, types.ModuleType)  # an old name would be a module
    return False


def test_paths_in_the_docs_exist():
    """A file that moved takes its mentions along."""
    assert {page: bad for page, text in pages().items() if (bad := missing_paths(text, page.rpartition("/")[0]))} == {}


def test_names_in_the_docs_exist():
    assert {page: bad for page, text in pages().items() if (bad := missing_names(text))} == {}


def test_these_checks_can_fail():
    assert missing_paths("see `hcl_jax/seal.py`, core/towers.py\n+++ hcl_jax/new.py") == {"hcl_jax/seal.py"}
    assert missing_paths("[docs](docs/none.md), similarity/none.py, claims/NAME.toml") == {
        "docs/none.md",
        "similarity/none.py",
    }
    assert missing_names("hcl_jax.checkpoint, hcl_jax.core.optim.OPTIMIZERS") == {"hcl_jax.checkpoint"}
    assert missing_names("from hcl_jax.losses import nt_xent, none_such") == {"hcl_jax.losses.none_such"}
