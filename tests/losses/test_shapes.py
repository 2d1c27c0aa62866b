"""The shapes in the signatures of the losses: true of every call of the table, and false of a wrong one.

Only shapes are traced, nothing is compiled. The inside of the package as well, where a test passes arrays of jax:
pytest --jaxtyping-packages=hcl_jax.losses,hcl_jax.similarity,beartype.beartype tests/losses/test_values.py
"""

import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import AbstractArray, TypeCheckError

from hcl_jax import losses
from hcl_jax.losses import LOSSES, MEASURES
from tests.losses.cases import CASES
from tests.shapes import checked

KEYWORDS = {"ids", "row_weights", "present", "distribution"}
PUBLIC = {name: getattr(losses, name) for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
MEASURED = {measure.__name__: measure for measures in MEASURES.values() for measure in measures.values()}


def arrays(tree, dtype):
    """The NumPy arrays of a tree as those of jax, floats in `dtype`; other values as they are."""

    def array(x):
        return jnp.asarray(x, dtype if x.dtype.kind == "f" else None) if isinstance(x, np.ndarray) else x

    return jax.tree.map(array, tree, is_leaf=lambda x: isinstance(x, np.ndarray))


def call(name, dtype, change=lambda inputs: inputs):
    """The call of a case with its loss checked, traced for its shape, and of what is logged beside it."""
    case = CASES[name]
    inputs, fixed = change(arrays(list(case.arrays), dtype)), arrays(case.fixed, dtype)
    learned = {key: jnp.asarray(x, dtype) for key, x in case.learned.items()}
    functions = [LOSSES[case.name], *MEASURES.get(case.name, {}).values()]
    shapes = []
    for function in functions:
        known = inspect.signature(function).parameters
        named = {k: v for k, v in {**fixed, **learned}.items() if k in known}
        traced = {k: v for k, v in named.items() if isinstance(v, jax.Array)}
        loss = functools.partial(checked(function), **{k: v for k, v in named.items() if k not in traced})
        shapes.append(jax.eval_shape(lambda inputs, traced, loss=loss: loss(*inputs, **traced), inputs, traced))
    return shapes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_signatures_are_true_of_every_call(dtype):
    for name in CASES:
        for out in call(name, dtype):
            assert out.shape == () and out.dtype == jnp.float32, name


def test_signatures_refuse_what_they_do_not_describe():
    """A signature that says nothing (`Array`, or a letter of its own for each axis) would let these pass."""
    for name, case in CASES.items():
        last = len(case.arrays) - 1
        for i in sorted({0, last}):
            longer = lambda x, i=i: [jnp.concatenate([a, a[:1]]) if k == i else a for k, a in enumerate(x)]  # noqa: E731
            if len(case.arrays) > 1 and not (case.name in ("info_nce", "nnclr") and case.arrays[2:] and i == last):
                with pytest.raises(TypeCheckError):
                    call(name, jnp.float32, longer)
        with pytest.raises(TypeCheckError):
            call(name, jnp.float32, lambda x: [x[0][None].astype(jnp.complex64), *x[1:]])


@pytest.mark.parametrize("name", sorted({**PUBLIC, **MEASURED}))
def test_every_array_has_a_shape(name):
    function = {**PUBLIC, **MEASURED}[name]
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        array = parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in KEYWORDS
        assert not array or has_shape(parameter.annotation), parameter
    assert has_shape(inspect.signature(function).return_annotation)


def has_shape(annotation) -> bool:
    """Whether an annotation, or a part of it, is an array with a shape."""
    if isinstance(annotation, type) and issubclass(annotation, tuple):
        return all(map(has_shape, typing.get_type_hints(annotation).values()))
    inside = typing.get_args(annotation)
    return isinstance(annotation, type) and issubclass(annotation, AbstractArray) or any(map(has_shape, inside))
