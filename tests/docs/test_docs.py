"""What README and docs say is so."""

import inspect
import pathlib
import re

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.losses import LOSSES
from hcl_jax.views import VIEWS

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_field_is_documented():
    text = (ROOT / "docs" / "config.md").read_text()
    named = {f for f in configs.flatten(configs.defaults().to_dict()) if f"`{f}`" not in text}
    nested = {"evaluate.knn.k", "evaluate.knn.temperature", "views", "towers", "objectives"}  # in tables of their own
    assert named - nested == set()
    for table in (configs.VIEW, configs.TOWER, configs.OBJECTIVE):
        assert all(f"`{field}`" in text for field in table)


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
    for path in (ROOT / "configs").glob("*.py"):
        header = path.read_text().split('"""')[1]
        for word in ("Command:", "Hardware:", "Expected:", "Source:"):
            assert word in header, f"{path.name} without {word}"
