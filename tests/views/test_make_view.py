"""A whole view: shapes, kinds, shared numbers, splits of the rows, replay, refusals."""

import inspect
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import KINDS, VIEWS, Draws, Replay, check_ops, make_view
from hcl_jax.views.lazy import tf

SIMCLR = (
    {"op": "random_resized_crop", "size": 8},
    {"op": "flip"},
    {"op": "color_jitter", "strength": 0.5},
    {"op": "grey"},
    {"op": "blur"},
    {"op": "solarise"},
)
# Every picture op that bears any picture; the others have tests of their own.
ROUGH = (
    *({"op": "pad_crop"}, {"op": "random_affine"}, {"op": "noise"}, {"op": "erase"}, {"op": "gamma"}),
    *({"op": "cutout", "size": 3}, {"op": "invert"}, {"op": "shuffle_patches", "grid": 2}, {"op": "rotate90"}),
    {"op": "normalise", "mean": 0.5, "std": 0.25},
)
IMAGE = {"kind": "image", "field": "image", "ops": (*SIMCLR, *ROUGH)}


def view(spec, x, rows=None, batch=12, step=3, salt="a"):
    rows = np.arange(batch) if rows is None else np.asarray(rows)
    draws = Draws(0, step, batch, rows, salt)
    return {k: np.asarray(v) for k, v in make_view(spec, x[rows], draws).items()}, draws


@pytest.mark.parametrize("shape", [(12, 10, 10, 3), (12, 10, 10, 1), (12, 10, 10)])
def test_any_split_of_the_rows_makes_the_same_view(shape):
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    whole, all_draws = view(IMAGE, x)
    assert whole["image"].shape == (12, 8, 8, 3 if shape[-1] == 3 else 1) and whole["image"].dtype == np.float32
    assert set(whole) == {"image", "rotation", "jigsaw"}
    for rows in ([0], [1, 5, 11], np.arange(6), np.arange(6, 12), np.arange(0)):
        part, draws = view(IMAGE, x, rows)
        for name, numbers in draws.record.items():
            np.testing.assert_array_equal(numbers, all_draws.record[name].numpy()[np.asarray(rows, int)], err_msg=name)
        # The draws are equal bit by bit; arithmetic may round otherwise where vectors of another length end.
        for name in whole:
            np.testing.assert_allclose(part[name], whole[name][np.asarray(rows, int)], atol=2e-5, err_msg=name)


def test_steps_rows_and_salts_differ():
    x = np.tile(np.random.default_rng(0).integers(0, 256, (1, 10, 10, 3)), (12, 1, 1, 1)).astype(np.uint8)
    spec = {"kind": "image", "ops": SIMCLR}
    base = view(spec, x)[0]["image"]
    assert len(np.unique(base.reshape(12, -1), axis=0)) == 12
    for other in ({"step": 4}, {"salt": "b"}):
        made = view(spec, x, **other)[0]["image"]
        assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(base, made, strict=True)), other
    np.testing.assert_array_equal(view(spec, x)[0]["image"], base)


def test_replay_reproduces_the_picture():
    x = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3)).astype(np.uint8)
    made, draws = view(IMAGE, x)
    record = {k: np.asarray(v) for k, v in draws.record.items()}
    assert all(len(v) == 12 for v in record.values())
    again = make_view(IMAGE, x, Replay(record))
    for name in made:
        np.testing.assert_array_equal(made[name], again[name])
    short = {k: v for k, v in record.items() if k != "flip/coin"}
    with pytest.raises(InputError, match=r"view\.ops\[1\]: draw 'flip/coin'"):
        make_view(IMAGE, x, Replay(short))


def test_views_with_one_salt_share_the_numbers_of_common_ops():
    x = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3)).astype(np.uint8)
    ops = ({"op": "flip"}, {"op": "random_resized_crop", "size": 8}, {"op": "flip", "axis": "vertical"})
    _, one = view({"kind": "image", "ops": SIMCLR}, x)
    _, two = view({"kind": "image", "ops": ops}, x)
    for name in ("flip/coin", "random_resized_crop/area"):
        np.testing.assert_array_equal(one.record[name], two.record[name])
    assert np.any(two.record["flip/coin"] != two.record["flip#2/coin"])


@pytest.mark.slow(one=True)
def test_a_view_in_a_data_set_has_static_shapes_and_no_surprises():
    x = tf.constant(np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3)).astype(np.uint8))

    def make(step):
        draws = Draws(0, step, 12, np.arange(4, 8), "a")
        return {**make_view(IMAGE, x[4:8], draws), "draws": draws.record}

    data = tf.data.Dataset.range(3, 5).map(make, num_parallel_calls=2)
    assert data.element_spec["image"].shape == (4, 8, 8, 3) and data.element_spec["rotation"].shape == (4,)
    batches = list(data.as_numpy_iterator())
    for step, batch in zip((3, 4), batches, strict=True):
        eager, _ = view(IMAGE, x.numpy(), np.arange(4, 8), step=step)
        np.testing.assert_allclose(batch["image"], eager["image"], atol=1e-4)
        np.testing.assert_array_equal(batch["rotation"], eager["rotation"])


OF_PICTURES = tuple(f"hcl_jax.views.{m}" for m in ("colours", "crops", "image"))
WITH_P = [n for n, f in VIEWS.items() if f.__module__ in OF_PICTURES and "p" in inspect.signature(f).parameters]


def test_a_change_of_all_rows_keeps_their_number():
    """tf.dynamic_stitch and the like give an unknown number of rows, and a step needs a known one."""

    def make(x, step):
        def one(op):
            ops = ({"op": op, "p": 1.0, **({"size": 2} if op == "cutout" else {})},)
            return make_view({**IMAGE, "ops": ops}, x, Draws(0, step, 12, np.arange(4), "a"))["image"]

        return {op: one(op) for op in WITH_P}

    specs = tf.TensorSpec([4, 10, 10, 3], tf.float32), tf.TensorSpec([], tf.int64)
    shapes = tf.function(make).get_concrete_function(*specs).output_shapes
    assert len(shapes) > 8 and {k: s for k, s in shapes.items() if s != (4, 10, 10, 3)} == {}


@pytest.mark.slow
def test_batch_sizes_may_be_unknown():
    x = tf.constant(np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3)).astype(np.uint8))
    data = tf.data.Dataset.from_tensor_slices(x).batch(5)
    for batch in data.map(lambda x: make_view(IMAGE, x, Draws(0, 0, 12, tf.range(tf.shape(x)[0]), "a"))):
        assert batch["image"].shape[1:] == (8, 8, 3)


def test_kinds_finish_their_fields():
    x = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float64)
    made, _ = view({"kind": "series", "ops": ({"op": "jitter"},)}, x)
    assert made["series"].shape == (12, 9, 1) and made["series"].dtype == np.float32
    words = np.array(["a b c"] * 12, object)
    made, _ = view({"kind": "text", "ops": ({"op": "drop_words"}, {"op": "tokens", "length": 8})}, words)
    assert made["tokens"].shape == (12, 8) and made["tokens"].dtype == np.int32
    bare, _ = view({"kind": "image"}, np.full((12, 4, 4), 255, np.uint8))
    np.testing.assert_array_equal(bare["image"], np.ones((12, 4, 4, 1), np.float32))
    assert set(KINDS) == {"image", "series", "text", "graph", "features"}


def test_a_spec_may_be_a_config_dict():
    x = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3)).astype(np.uint8)
    spec = ml_collections.ConfigDict({"v": IMAGE}).v
    np.testing.assert_array_equal(view(spec, x)[0]["image"], view(IMAGE, x)[0]["image"])


def test_an_op_of_ones_own():
    def brighten(x, draws, *, by):
        return x + by * draws.uniform("by")[:, None, None, None]

    views = {**VIEWS, "brighten": brighten}
    spec = {"kind": "image", "ops": ({"op": "brighten", "by": 0.5},)}
    draws = Draws(0, 0, 4, np.arange(4), "a")
    made = make_view(spec, np.zeros((4, 2, 2, 3), np.float32), draws, views)
    np.testing.assert_array_equal(made["image"][:, 0, 0, 0], 0.5 * np.asarray(draws.record["brighten/by"]))


@pytest.mark.parametrize(
    "spec, match",
    [
        ({"kind": "sound"}, r"v\.kind: found 'sound'; allowed: image, series, text"),
        ({"kind": "image", "ops": ({"op": "flop"},)}, r"v\.ops\[0\]\.op: found 'flop'; allowed: flip"),
        ({"kind": "image", "ops": ({"p": 1.0},)}, r"v\.ops\[0\]\.op: found None"),
        ({"kind": "image", "ops": ({"op": "flip", "q": 1},)}, r"v\.ops\[0\]\.q: found a parameter that flip lacks"),
        ({"kind": "image", "ops": ({"op": "resize"},)}, r"v\.ops\[0\]: found resize without size"),
        ({"kind": "image", "ops": ({"op": "flip"}, {"op": "grey", "p": 7})}, r"v\.ops\[1\]: grey\.p: found 7"),
        ({"kind": "image", "ops": ({"op": "tokens"},)}, r"v\.ops\[0\]: tokens: found"),
        ({"kind": "image", "ops": ({"op": "rotate90", "target": "image"},)}, r"v: target 'image'"),
        ({"kind": "text", "ops": ()}, r"v: the finished text: found"),
    ],
)
def test_bad_specs_name_the_field(spec, match):
    x = np.zeros((4, 6, 6, 3), np.uint8)
    with pytest.raises(InputError, match=f"^{match}"):
        make_view(spec, x, Draws(0, 0, 4, np.arange(4), "a"), where="v")


def test_every_op_can_be_checked_before_tensorflow_is_there():
    """The whole package imports, and specs are checked, without TensorFlow."""
    code = (
        "import sys; from hcl_jax.views import VIEWS, check_ops;"
        "check_ops([{'op': 'flip', 'p': 0.5}, {'op': 'crop', 'length': 3}]);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    with pytest.raises(InputError, match=r"view\.ops\[0\]\.sise"):
        check_ops([{"op": "resize", "sise": 3}])
