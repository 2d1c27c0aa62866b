"""Every loss against its oracle: value and gradient in float64, and float32 against float64."""

import numpy as np
import pytest

from hcl_jax.losses import LOSSES
from tests.losses.cases import CASES, ELSEWHERE, ONE_EACH, evaluate


def central_difference(f, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Numerical gradient of f at x, one number at a time; zeros in x are left alone (an empty slot of a queue)."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        kept = x[index]
        if kept == 0:
            continue
        x[index] = kept + step
        above = f()
        x[index] = kept - step
        below = f()
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


def test_every_loss_has_a_case():
    cases = {case.name for case in CASES.values()}
    assert cases == {CASES[name].name for name in ONE_EACH} == set(LOSSES) - set(ELSEWHERE)


@pytest.mark.seconds(240)  # the first compiles all losses
@pytest.mark.parametrize("name", CASES)
def test_float64_value_and_gradient(name):
    case = CASES[name]
    value, gradients = evaluate(np.float64)[name]
    arrays = [x.copy() for x in case.arrays]
    numbers = {key: np.array(number) for key, number in case.learned.items()}

    def oracle() -> float:
        held = {"held": case.arrays} if case.held else {}
        return case.oracle(*arrays, **held, **{key: number[()] for key, number in numbers.items()})

    assert value.shape == () and value.dtype == np.float64
    assert float(value) == pytest.approx(oracle(), rel=1e-10, abs=1e-10)
    for i, x in enumerate(arrays):
        gradient = gradients.get(f"input {i}")
        if i in case.stopped:
            assert not gradient.any()
        elif x.dtype == np.float64:
            np.testing.assert_allclose(gradient, central_difference(oracle, x), rtol=1e-6, atol=1e-6, err_msg=str(i))
            assert np.abs(gradient).max() > 1e-4
    for key, number in numbers.items():
        np.testing.assert_allclose(gradients[key], central_difference(oracle, number), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_EACH)
def test_float32_value_and_gradient(name):
    value, gradients = evaluate(np.float32, names=ONE_EACH)[name]
    wide_value, wide_gradients = evaluate(np.float64)[name]
    assert value.dtype == np.float32
    assert float(value) == pytest.approx(float(wide_value), rel=1e-5, abs=1e-5)
    for key, wide in wide_gradients.items():
        np.testing.assert_allclose(gradients[key], wide, rtol=1e-5, atol=1e-5 * max(1, np.abs(wide).max()))
