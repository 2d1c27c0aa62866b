"""Names of weights that a run starts from: renamed on the way in, refused where they fall together."""

import json
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from worlds import batch_of, start, two_views

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES
from hcl_jax.parallel.sharding import flat_paths
from hcl_jax.views import VIEWS
from hcl_jax.workdir.init_from import init_from, read_safetensors


@pytest.fixture(scope="module")
def state():
    c = two_views(towers__image__views=("a",))
    c.towers.image.heads = {}
    c.towers.judge = {**c.towers.image.to_dict(), "views": ("b",), "frozen": True}
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.h", "b.h"), "temperature": 0.5}}
    return start(c, batch_of(c))[0]


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """Weights and running statistics of a tower "image", all other numbers than those of the state."""
    parts = {"params": state.params["image"], "model_state": state.model_state["image"]}
    leaves = {f"{p}/image/{k}": np.asarray(x) + 1.5 for p, tree in parts.items() for k, x in flat_paths(tree).items()}
    path = tmp_path_factory.mktemp("saved") / "image.safetensors"
    save_file(leaves, str(path))
    return path, leaves


def spec(path, **fields):
    fields = {"path": str(path), **fields}
    return configs.ConfigDict({**configs.defaults().init_from.to_dict(), **fields})


@pytest.mark.parametrize("rename", [(("^image/", "judge/"),), (("^(image)/(enc)", r"first_\2"), ("^first_", "judge/"))])
def test_a_tower_comes_in_under_another_name(state, saved, rename):
    path, leaves = saved
    made = init_from(spec(path, rename=rename, include=("^judge/encoder/",)), state)
    for part in ("params", "model_state"):
        old, new = flat_paths(getattr(state, part)), flat_paths(getattr(made, part))
        assert len(new) == len(old)
        for name, leaf in new.items():
            brought_in = name.startswith("judge/encoder/")
            expected = leaves[f"{part}/{name.replace('judge/', 'image/')}"] if brought_in else old[name]
            np.testing.assert_array_equal(leaf, expected)
    assert jax.tree.structure(made) == jax.tree.structure(state)


def test_without_renaming_names_stay(state, saved):
    path, leaves = saved
    made = init_from(spec(path), state)
    for name, leaf in flat_paths(made.params).items():
        image = name.startswith("image/")
        np.testing.assert_array_equal(leaf, leaves[f"params/{name}"] if image else flat_paths(state.params)[name])
    with pytest.raises(InputError, match="include"):
        init_from(spec(path, include=("^judge/",)), state)
    with pytest.raises(InputError, match="include"):  # patterns are of this run's names
        init_from(spec(path, rename=(("^image/", "judge/"),), include=("^image/",)), state)


def test_two_leaves_of_one_name_are_refused(state, saved):
    path, _ = saved
    with pytest.raises(InputError, match="rename: found two saved leaves") as error:
        init_from(spec(path, rename=((r"(stage)\d", r"\1"),)), state)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ("(('^image/',),)", "a pair (a Python regular expression, text)"),
        ("(('(', 'x'),)", "a Python regular expression"),
        ("((5, 'x'),)", "a Python regular expression"),
        (r"(('^image/', '\\2'),)", "groups of its pattern"),
        ("(('^image/', 5),)", "text"),
    ],
)
def test_wrong_rules_are_one_line(rename, said):
    config = configs.load("simclr:digits")
    configs.override(config, "init_from.rename", rename)
    with pytest.raises(InputError, match="config.init_from.rename") as error:
        validate.check(configs.complete(config), encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("word", "dtype"), [("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn)])
def test_weights_of_a_dtype_that_numpy_has_not(tmp_path, word, dtype):
    """Published weights come in BF16; safetensors' own reader for NumPy gives KeyError."""
    values = np.array([1.5, -2.0, 0.25], dtype)
    header = json.dumps({"w": {"dtype": word, "shape": [3], "data_offsets": [0, values.nbytes]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    (read,) = read_safetensors(path).values()
    assert read.dtype == np.float32 and read.tolist() == [1.5, -2.0, 0.25]
    path.write_bytes(path.read_bytes().replace(word.encode(), b"X" * len(word)))
    with pytest.raises(InputError, match="w.safetensors"):
        read_safetensors(path)
