"""The command that makes views offline: its bytes, what a stop leaves, what it refuses."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.data import offline as command
from hcl_jax.data.generated import with_generated
from hcl_jax.data.offline import generate
from hcl_jax.data.source import Arrays, from_arrays
from hcl_jax.errors import InputError
from hcl_jax.generate import main
from hcl_jax.train import train_and_evaluate
from hcl_jax.views import Draws, make_view

OPS = ({"op": "random_affine", "rotation": 15.0}, {"op": "noise", "std": 0.1})
VIEW = {"kind": "image", "field": "image", "ops": OPS, "draws": "a"}
FILES = ["MANIFEST.json", "hashes.npy", "rows.npy", "settings.json", "views.npy"]


def silent(text):
    pass


@pytest.fixture(scope="module")
def digits():
    c = configs.defaults().data
    c.num_examples = 200
    return data.open_source(c, "train")


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "whole"
    assert generate(digits, VIEW, folder, count=2, say=silent) == 200
    return folder


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_files(digits, whole):
    assert sorted(p.name for p in whole.iterdir()) == FILES
    views, rows, hashes = (np.load(whole / f"{n}.npy") for n in ("views", "rows", "hashes"))
    assert (views.shape, views.dtype) == ((200, 2, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(rows, np.arange(200))
    image = digits.fetch(np.arange(200))["image"].numpy()
    assert bytes(hashes[7]) == hashlib.sha256(image[7].tobytes()).digest()
    assert all((a != b).any() for a, b in zip(views[:, 0], views[:, 1], strict=True))
    settings = json.loads((whole / "settings.json").read_text())
    assert (settings["seed"], settings["fingerprint"], settings["field"]) == (0, digits.fingerprint, "image")
    assert [op["op"] for op in settings["ops"]] == ["random_affine", "noise"]


def test_the_views_are_those_of_the_stated_draws(digits, whole):
    image = digits.fetch(np.arange(64, 128))["image"]
    draws = Draws(0, 1, 64, np.arange(64), "a/generated/1")
    wanted = make_view(VIEW, image, draws)["image"].numpy()
    found = np.load(whole / "views.npy")[64:128, 1] / 255
    # Half a grey level by rounding, and arithmetic that rounds otherwise outside a graph.
    np.testing.assert_allclose(found, np.clip(wanted, 0, 1), atol=0.51 / 255)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("chunk", [1, 128])
def test_the_bytes_do_not_depend_on_the_chunks(digits, whole, tmp_path, chunk):
    generate(digits, VIEW, tmp_path / "g", count=2, chunk=chunk, say=silent)
    assert bytes_of(tmp_path / "g") == bytes_of(whole)


@pytest.mark.slow
def test_seeds_and_salts_differ_and_copies_stay(digits, whole, tmp_path):
    first = np.load(whole / "views.npy")[:, 0]
    for i, (view, more) in enumerate([(VIEW, {"seed": 1}), ({**VIEW, "draws": "b"}, {})]):
        generate(digits, view, tmp_path / str(i), say=silent, **more)
        assert (np.load(tmp_path / str(i) / "views.npy")[:, 0] != first).any()
    generate(digits, VIEW, tmp_path / "one", say=silent)
    np.testing.assert_array_equal(np.load(tmp_path / "one" / "views.npy")[:, 0], first)


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_stop_leaves_whole_chunks_that_are_kept(digits, whole, tmp_path, monkeypatch):
    def stop(text):
        if "128 of" in text:
            raise Stopped

    folder = tmp_path / "g"
    with pytest.raises(Stopped):
        generate(digits, VIEW, folder, count=2, chunk=64, say=stop)
    parts = sorted((folder / "parts").iterdir())
    assert [p.name for p in parts] == ["000000000-000000064.npz", "000000064-000000128.npz"]
    with pytest.raises(InputError, match="no views.npy .*; allowed: a finished folder"):
        with_generated(digits, folder)
    parts[0].write_bytes(parts[0].read_bytes()[:500])  # torn by something else: made again
    (folder / "parts" / "000000128-000000192.npz.part").write_bytes(b"half")
    made, said = [], []
    chunk = command._chunk
    monkeypatch.setattr(command, "_chunk", lambda *args: made.append(args[3]) or chunk(*args))
    generate(digits, VIEW, folder, count=2, chunk=64, say=said.append)
    assert made[1:] == [0, 128, 192]  # after the block that is tried first
    assert said[0] == "generate: 1 of 4 chunks are there already" and said[-1] == "generate: 200 of 200 examples"
    assert bytes_of(folder) == bytes_of(whole)


def test_a_finished_folder_stays(digits, whole):
    before = {p.name: p.stat().st_mtime_ns for p in whole.iterdir() if p.suffix == ".npy"}
    said = []
    assert generate(digits, VIEW, whole, count=2, say=said.append) == 200
    assert "is finished" in said[0]
    assert {p.name: p.stat().st_mtime_ns for p in whole.iterdir() if p.suffix == ".npy"} == before


@pytest.mark.parametrize(
    ("view", "more", "said"),
    [
        (VIEW, {"seed": 1}, "settings.json seed: found 0; allowed: 1"),
        (VIEW, {"count": 1}, "settings.json count: found 2; allowed: 1"),
        ({**VIEW, "ops": OPS[:1]}, {}, "settings.json ops: found"),
        ({**VIEW, "draws": "b"}, {}, "settings.json draws: found 'a'; allowed: 'b'"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(digits, whole, view, more, said):
    before = bytes_of(whole)
    with pytest.raises(InputError, match=said) as error:
        generate(digits, view, whole, **{"count": 2, "say": silent} | more)
    assert "\n" not in str(error.value) and bytes_of(whole) == before


@pytest.mark.parametrize(
    ("view", "more", "said"),
    [
        ({**VIEW, "field": "picture"}, {}, "view.field: found 'picture'; allowed: fields of digits: image"),
        ({**VIEW, "kind": "text"}, {}, "view.kind: found 'text'; allowed: image or series"),
        ({**VIEW, "ops": ({"op": "normalise", "mean": 0.5, "std": 0.1},)}, {}, "found normalise"),
        ({**VIEW, "ops": ({"op": "louder"},)}, {}, "pictures from 0 to 10"),
        ({**VIEW, "ops": ({"op": "lost"},)}, {}, "pictures from nan to nan"),
        ({**VIEW, "ops": ({"op": "bluur"},)}, {}, "ops.0..op: found 'bluur'"),
        ({**VIEW, "ops": ({"op": "rotate90"},)}, {}, "ops: found ops that make rotation besides"),
        (VIEW, {"count": 0}, "--count: found 0"),
        (VIEW, {"seed": -1}, "--seed: found -1"),
    ],
)
def test_what_cannot_be_kept_makes_no_folder(digits, tmp_path, view, more, said):
    from hcl_jax.views import VIEWS

    own = {**VIEWS, "louder": lambda x, draws: 10 * x, "lost": lambda x, draws: x * np.float32("nan")}
    with pytest.raises(InputError, match=said):
        generate(digits, view, tmp_path / "g", views=own, say=silent, **more)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found a file"):
        generate(digits, VIEW, tmp_path / "file", say=silent)
    with pytest.raises(InputError, match="--output=.*: found no settings.json"):
        generate(digits, VIEW, tmp_path, say=silent)


def test_pictures_that_do_not_decode_are_named(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "train" / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8 + (name == "c"), 3), np.uint8)).save(tmp_path / "train" / "x" / f"{name}.png")
    for name in ("a", "b"):
        (tmp_path / "train" / "x" / f"{name}.png").write_bytes(b"")
    config = configs.defaults().data
    config.name, config.dir, config.in_memory = "folder", str(tmp_path), False
    ops = ({"op": "resize", "size": 4},)
    with pytest.raises(
        InputError, match="a.png: found a picture that does not decode, and 1 more: .*b.png; allowed: a "
    ):
        generate(data.open_source(config, "train"), {**VIEW, "ops": ops}, tmp_path / "g", say=silent)


def test_series(tmp_path):
    x = np.random.default_rng(0).normal(size=(70, 12, 2)).astype(np.float32)
    arrays = Arrays(fields={"series": x}, labels={}, classes={}, licence="", citation="")
    c = configs.defaults().data
    c.labels = ()
    source = from_arrays("waves", arrays, c, "train")
    generate(source, {"kind": "series", "field": "series", "ops": ({"op": "negate", "p": 1.0},), "draws": "a"},
             tmp_path / "g", say=silent)  # fmt: skip
    views = np.load(tmp_path / "g" / "views.npy")
    assert views.dtype == np.float32
    np.testing.assert_array_equal(views[:, 0], -x)
    np.testing.assert_array_equal(with_generated(source, tmp_path / "g").fetch([3])["generated"], -x[[3]])


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    flags = ["--config=simclr:digits", "--view=a", f"--output={tmp_path / 'g'}", "--config.data.num_examples=100"]
    assert main(flags) == 0
    assert "1 views of each of 100 examples of digits, train" in capsys.readouterr().out
    c = configs.defaults().data
    c.num_examples = 100
    plain = data.open_source(c, "train")
    assert with_generated(plain, tmp_path / "g").fields["generated"] == ((8, 8, 1), "uint8")
    assert main([*flags, "--seed=2"]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("hcl_jax: ") and "\n" not in text and "seed" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=simclr:digits", "--view=c"], "--view: found 'c'; allowed: a view of the recipe: a, b"),
        (["--config=simclt", "--view=a"], "simclr"),
        (["--config=simclr:digits", "--view=a", "--config.data.labels=lable"], "lable"),
        (["--config=simclr:digits", "--view=a", "--config.data.name=npz"], "config.data.dir"),
        (["--config=simclr:digits", "--view=a", "--config.views.a.ops=({'op': 'noise', 'std': 'much'},)"], "std"),
    ],
)
def test_bad_input_is_one_line_and_makes_no_folder(tmp_path, capsys, flags, said):
    assert main([*flags, f"--output={tmp_path / 'g'}"]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("hcl_jax: ") and "\n" not in text and said in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_recipe_trains_on_a_picture_and_its_generated_view(digits, tmp_path):
    generate(digits, VIEW, tmp_path / "g", say=silent)
    config = configs.load("generated_views:digits")
    config.data.num_examples, config.data.batch_size, config.train.steps, config.mesh.data = 200, 16, 2, 2
    config.towers.image.encoder.widths, config.log.every = (8,), 1
    config.evaluate.per_class, config.evaluate.linear, config.evaluate.baselines = (), False, False
    plain = data.SOURCES["digits"]

    def read(fields, split):
        source = plain(fields, split)
        return with_generated(source, tmp_path / "g") if split == "train" else source

    train_and_evaluate(config, tmp_path / "w", sources={**data.SOURCES, "digits": read})
    lines = [json.loads(x) for x in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [1, 2] and all(x["skipped"] == 0 for x in lines)
    assert "eval/image/knn_accuracy" in lines[-1]


@pytest.mark.parametrize("flags", [["--config=simclr:digits"], ["--config=simclr", "--view=a", "--output=x", "--n=1"]])
def test_bad_flags_exit_with_2(flags, capsys):
    with pytest.raises(SystemExit) as error:
        main(flags)
    assert error.value.code == 2


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stopped(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "generate", stopped)
    assert main(["--config=simclr:digits", "--view=a", f"--output={tmp_path / 'g'}"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_two_at_once(digits, tmp_path):
    """F4: the second is told in one line, and the first ends as if alone; a killed writer's parts go away."""
    told = []

    def say(line):
        if not told:
            (tmp_path / "g" / "parts" / "000.npz.7-aa.part").write_bytes(b"cut")
            with pytest.raises(InputError, match="--output=.*in use by process .*; allowed: another folder") as error:
                generate(digits, VIEW, tmp_path / "g", count=1, say=silent)
            told.append(str(error.value))

    generate(digits, VIEW, tmp_path / "g", count=1, chunk=64, say=say)
    assert len(told) == 1 and "\n" not in told[0]
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == FILES
