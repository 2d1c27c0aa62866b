"""Every public loss, engine, measure and evaluator has an example in its docstring that prints what it says."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax import analysis, evaluators, losses, similarity
from hcl_jax.losses import LOSSES, MEASURES, WEIGHTS
from tests.shapes import checked

PACKAGES = (losses, similarity, analysis, evaluators)
FINDER = doctest.DocTestFinder(exclude_empty=True, recurse=True)


def modules():
    for package in PACKAGES:
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def examples(module):
    """The doctests of a module, in a session with jax.numpy and numpy where its functions check their shapes."""
    own = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    globs = {"jnp": jnp, "np": np, **{n: checked(f) for n, f in own.items() if not n.startswith("_")}}
    return [test for test in FINDER.find(module, extraglobs=globs) if test.examples]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("module", [m for m in modules() if examples(m)], ids=lambda m: m.__name__)
def test_examples_print_what_they_say(module):
    runner, said = doctest.DocTestRunner(verbose=False), []
    for test in examples(module):
        runner.run(test, out=said.append)
    assert not runner.summarize(verbose=False).failed, "".join(said)


def test_every_public_function_has_an_example():
    functions = {*LOSSES.values(), *WEIGHTS.values(), *(f for table in MEASURES.values() for f in table.values())}
    for package in PACKAGES:
        functions |= {f for name in package.__all__ if inspect.isfunction(f := getattr(package, name))}
    functions |= {f for name, f in vars(similarity.Dense).items() if inspect.isfunction(f) and not name.startswith("_")}
    missing = {f.__name__ for f in functions if ">>> " not in inspect.getdoc(f)}
    assert len(functions) > 70 and not missing


def test_a_wrong_number_would_be_seen():
    def half(x: float) -> float:
        """x / 2.

        Example:
          >>> half(2.0)
          3.0
        """
        return x / 2

    runner = doctest.DocTestRunner(verbose=False)
    (test,) = FINDER.find(half, "half", globs={"half": half})
    assert jax.devices() and runner.run(test, out=lambda text: None).failed == 1
