"""Numbers are a pure function of (seed, step, global row, salt, name)."""

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, Replay
from hcl_jax.views import draws as module
from hcl_jax.views.lazy import tf

WIDE = (module.SMALL // 64 + 1,)  # drawn row by row in a batch of 64


def drawn(rows, name="x", shape=(), seed=0, step=5, salt="a", batch=64, kind="uniform"):
    made = Draws(seed, step, batch, np.asarray(rows), salt)
    return np.asarray(getattr(made, kind)(name, shape))


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (40,), WIDE])
def test_any_split_of_the_rows_draws_the_same(kind, shape):
    whole = drawn(np.arange(64), shape=shape, kind=kind)
    assert whole.shape == (64, *shape) and whole.dtype == np.float32
    for rows in ([0], np.arange(32, 64), np.arange(0, 64, 2), [63, 1, 17], np.arange(0)):
        np.testing.assert_array_equal(drawn(rows, shape=shape, kind=kind), whole[np.asarray(rows, int)])


@pytest.mark.parametrize("shape", [(3,), (*WIDE,)])
def test_every_other_thing_changes_the_numbers(shape):
    base = drawn(np.arange(8), shape=shape)
    others = [{"seed": 1}, {"step": 6}, {"salt": "b"}, {"name": "y"}]
    for other in others:
        assert not np.any(base[:, :3] == drawn(np.arange(8), shape=shape, **other)[:, :3]), other
    assert len(np.unique(base[:, 0])) == 8
    np.testing.assert_array_equal(base, drawn(np.arange(8), shape=shape))


def test_numbers_have_their_distribution():
    uniform = drawn(np.arange(4096), shape=(4,), batch=4096).astype(np.float64)
    assert 0.0 <= uniform.min() and uniform.max() < 1.0
    assert abs(uniform.mean() - 0.5) < 4 * np.sqrt(1 / 12 / uniform.size)
    assert np.abs(np.corrcoef(uniform.T) - np.eye(4)).max() < 4 / np.sqrt(4096)
    normal = drawn(np.arange(4096), shape=(4,), batch=4096, kind="normal").astype(np.float64)
    assert abs(normal.mean()) < 4 / np.sqrt(normal.size) and abs(normal.var() - 1) < 4 * np.sqrt(2 / normal.size)
    wide = drawn(np.arange(16), shape=WIDE, kind="normal").astype(np.float64)
    assert np.abs(np.corrcoef(wide) - np.eye(16)).max() < 5 / np.sqrt(WIDE[0])


def test_coins_and_ranges():
    made = Draws(0, 0, 4096, np.arange(4096), "a")
    assert not np.any(made.coin("never", 0.0)) and np.all(made.coin("always", 1.0))
    assert abs(np.mean(made.coin("some", 0.3)) - 0.3) < 4 * np.sqrt(0.21 / 4096)
    ranged = np.asarray(made.uniform("ranged", (), -2.0, 3.0))
    assert ranged.min() >= -2.0 and ranged.max() <= 3.0 and ranged.min() < -1.9 and ranged.max() > 2.9


def test_the_step_may_be_a_tensor_in_a_data_set():
    data = tf.data.Dataset.range(3).map(lambda step: Draws(7, step, 16, np.arange(4, 8), "a").uniform("x", (2,)))
    assert data.element_spec.shape == (4, 2)
    for step, got in enumerate(data.as_numpy_iterator()):
        np.testing.assert_array_equal(got, drawn(np.arange(4, 8), shape=(2,), seed=7, step=step, batch=16))


def test_rows_may_be_a_tensor():
    made = Draws(0, 5, 64, tf.constant([3, 9], tf.int64), "a")
    np.testing.assert_array_equal(made.uniform("x"), drawn([3, 9]))


def test_a_scope_changes_the_name_and_shares_the_record():
    made = Draws(0, 5, 64, np.arange(4), "a")
    inner = made.scope("flip").scope("deep")
    inner.uniform("x")
    inner.target("t", tf.constant([1, 2, 3, 4]))
    assert list(made.record) == ["flip/deep/x"] and list(made.targets) == ["t"]
    np.testing.assert_array_equal(made.record["flip/deep/x"], drawn(np.arange(4), name="flip/deep/x"))


def test_replay_gives_the_numbers_back():
    made = Draws(0, 5, 64, np.arange(4), "a")
    scope = made.scope("op")
    values = [scope.uniform("u", (2,), 3.0, 4.0), scope.normal("n"), scope.coin("c", 0.5)]
    again = Replay({k: np.asarray(v) for k, v in made.record.items()}).scope("op")
    for one, other in zip(values, [again.uniform("u", (2,)), again.normal("n"), again.coin("c", 0.1)], strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="not in the record"):
        again.uniform("v")
    with pytest.raises(InputError, match="shape"):
        again.uniform("u", (3,))


def test_mistakes_are_refused():
    made = Draws(0, 5, 8, np.arange(4), "a")
    made.uniform("x")
    with pytest.raises(InputError, match="drawn twice"):
        made.normal("x")
    made.target("t", made.record["x"])
    with pytest.raises(InputError, match="two ops"):
        made.target("t", made.record["x"])
    for rows in ([8], [-1], [[0]]):
        with pytest.raises(InputError, match="rows"):
            Draws(0, 5, 8, rows, "a")
