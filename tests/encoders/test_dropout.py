"""Dropout: a row's mask depends on its key and the module's path alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders.dropout import Dropout, keep_mask
from hcl_jax.encoders.inputs import Rows
from hcl_jax.errors import InputError

KEYS = jax.random.split(jax.random.key(0), 8)
X = jnp.ones((8, 5, 7))


def drop(x=X, keys=KEYS, rate=0.3, train=True, **kwargs):
    return np.asarray(Dropout(rate, **kwargs).apply({}, x, Rows(None, keys, train)))


def test_same_keys_same_mask_and_other_keys_another():
    np.testing.assert_array_equal(drop(), drop())
    assert (drop() != drop(keys=jax.random.split(jax.random.key(1), 8))).any()
    assert len({row.tobytes() for row in drop()}) == 8


@pytest.mark.slow(one=True)
def test_a_row_keeps_its_mask_in_any_batch_and_place():
    some = np.array([6, 2, 3])
    np.testing.assert_array_equal(drop(X[:3], KEYS[some]), drop()[some])
    np.testing.assert_array_equal(drop(X[:1], KEYS[5:6])[0], drop()[5])


def test_the_mask_is_the_documented_function_of_the_key():
    import zlib

    salt = zlib.crc32(b"a/b")
    for rate in (0.1, 0.5):
        found = keep_mask(KEYS, ("a", "b"), (5, 7), rate)
        for i in range(8):
            bits = jax.random.bits(jax.random.fold_in(KEYS[i], jnp.uint32(salt)), (35,), jnp.uint32)
            np.testing.assert_array_equal(found[i], np.asarray(bits).reshape(5, 7) >= round(rate * 2**32))


def test_expectation_and_rate():
    y = drop(jnp.ones((8, 40, 50)), rate=0.3)
    assert abs((y == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / y.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)


def test_whole_row():
    keys = jax.random.split(jax.random.key(2), 400)
    y = drop(jnp.ones((400, 2, 3)), keys, rate=0.25, whole_row=True)
    assert set(np.unique(y.reshape(400, -1).std(1))) == {0.0}
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_off_without_training_or_rate():
    np.testing.assert_array_equal(drop(train=False, keys=None), X)
    np.testing.assert_array_equal(drop(rate=0.0, keys=None), X)


def test_64_bit_mode_does_not_change_the_mask_and_dtypes_are_kept():
    narrow = drop() == 0
    with jax.enable_x64(True):
        y = Dropout(0.3).apply({}, jnp.ones(X.shape, "float64"), Rows(None, KEYS, True))
        assert y.dtype == jnp.float64
        np.testing.assert_array_equal(np.asarray(y) == 0, narrow)
    assert drop(X.astype("bfloat16")).dtype == jnp.bfloat16


class Two(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x, rows):
        make = nn.remat(Dropout) if self.remat else Dropout
        return make(0.5, name="first")(x, rows), make(0.5, name="second")(x, rows)


def test_modules_differ_by_path_and_remat_changes_nothing():
    rows = Rows(None, KEYS, True)
    first, second = jax.jit(lambda: Two().apply({}, X, rows))()
    assert (np.asarray(first) != np.asarray(second)).any()
    np.testing.assert_array_equal(first == 0, ~keep_mask(KEYS, ("first",), X.shape[1:], 0.5))
    again, _ = jax.jit(lambda: Two(remat=True).apply({}, X, rows))()
    np.testing.assert_array_equal(first, again)


def test_bad_input():
    with pytest.raises(InputError, match="rows.keys"):
        drop(keys=None)
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        drop(rate=1.0)
