"""Old import paths give the very modules of today."""

import importlib
import subprocess
import sys

import pytest

from hcl_jax.compat.modules import MOVED


def test_every_old_name_is_the_module_of_today():
    for old, new in sorted(MOVED.items()):  # a package before what lies in it
        sys.modules.pop(f"hcl_jax.{old}", None)
        with pytest.warns(DeprecationWarning, match=f"hcl_jax.{old} is now hcl_jax.{new}$"):
            module = importlib.import_module(f"hcl_jax.{old}")
        module = vars(module).get("found", module)  # of a package under its old name
        assert module is importlib.import_module(f"hcl_jax.{new}")
        assert module.__name__ == f"hcl_jax.{new}" and module.__spec__.name == f"hcl_jax.{new}"


def test_names_below_an_old_name_in_a_fresh_process():
    code = "from hcl_jax.parallel.similarity import streamed; from hcl_jax.evaluate.knn import knn_accuracy"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_name_that_never_was():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("hcl_jax.nothing")


def test_a_module_by_its_old_name_replaces_no_function():
    with pytest.warns(DeprecationWarning):
        for name in ("hcl_jax.evaluate", "hcl_jax.evaluate.label_efficiency"):
            sys.modules.pop(name, None)
            importlib.import_module(name)
    from hcl_jax import evaluators

    assert callable(evaluators.label_efficiency)
