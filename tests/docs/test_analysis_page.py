"""docs/analysis.md: its example runs as it is printed, and its tables name what exists, all of it."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import runpy

import numpy as np
import pytest

import hcl_jax.analysis

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "analysis.md").read_text()
NAMED = set(re.findall(r"`(hcl_jax\.[\w.]+)\.(\w+)`", TEXT))


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    (tmp_path / "example.py").write_text(block)
    made = runpy.run_path(str(tmp_path / "example.py"))
    assert all(0 < value < np.log(64) for value in (*made["spectrum"].values(), made["ratio"]))
    assert made["spectrum"]["rows"] != made["spectrum"]["columns"] and 1 < made["rank"] < 64
    assert made["report"].mean_classifier <= made["report"].bound
    assert made["sides"].lower <= made["sides"].mean_supervised <= made["sides"].upper
    assert 0.8 < made["means"].accuracy.value < made["probe"].accuracy.value
    assert made["gain"].value > 0 and 1 < made["needed"] < 10 and 0.5 < made["area"] < 1


def test_the_tables_name_functions():
    for module, name in NAMED:
        assert callable(getattr(importlib.import_module(module), name)), f"{module}.{name}"


def test_every_measure_is_public_and_in_a_table():
    for module in pkgutil.iter_modules(hcl_jax.analysis.__path__, "hcl_jax.analysis."):
        for name, item in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            if item.__module__ == module.name and not name.startswith("_") and "<lambda>" not in item.__qualname__:
                assert name in hcl_jax.analysis.__all__, f"{module.name}.{name}"
    for name in hcl_jax.analysis.__all__:
        if inspect.isfunction(getattr(hcl_jax.analysis, name)):
            assert ("hcl_jax.analysis", name) in NAMED, name


def test_the_constant_in_words():
    (nats,) = re.findall(r"temperature of 0.1 the two sides are (\d+) nats", " ".join(TEXT.split()))
    assert int(nats) == round(4 * np.log(np.cosh(10)))
