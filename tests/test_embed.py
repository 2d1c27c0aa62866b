"""Features of a run as files, and the second stage that reads them."""

import errno
import json

import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data, embed, evaluation, run
from hcl_jax.config import defaults
from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.trained import embedded as files
from hcl_jax.views import Draws, make_view
from hcl_jax.workdir.checkpoint import Checkpoints

pytestmark = pytest.mark.slow  # all share a run

SMALL = [
    "data.batch_size=16",
    "mesh.data=2",
    "checkpoint.every=2",
    "evaluate.draws=2",
    "evaluate.per_class=()",
    "evaluate.linear=false",
    "evaluate.baselines=false",
    "optimizer.warmup_epochs=0",
]


def train(recipe, folder, *fields):
    assert main([f"--config={recipe}", f"--workdir={folder}", *(f"--config.{f}" for f in (*SMALL, *fields))]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(shared_run):
    return shared_run


@pytest.fixture(scope="module")
def embedded(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "h"
    assert embed.main([f"--workdir={finished}", f"--output={folder}"]) == 0
    return folder


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.slow(one=True)
def test_the_files_hold_what_evaluation_sees(finished, embedded):
    made = {s: load(embedded / f"{s}.npz") for s in ("train", "test")}
    assert {k: (v.shape, v.dtype.name) for k, v in made["train"].items()} == {
        "features": ((96, 16), "float32"),
        "label": ((96,), "int32"),
        "index": ((96,), "int32"),
        "class_names": ((10,), "str32"),
    }
    config = configs.complete(configs.from_json((finished / "config.json").read_text(), "here"))
    sources = [data.open_source(config.data, s) for s in ("train", "test")]
    bound = run.build(config, run.Parts(), sources[0], meshes.make_mesh(config.mesh))
    restored = Checkpoints(finished, keep=1, meta=bound.meta(sources[0]), read_only=True)
    state = restored.restore(bound.abstract, bound.shardings)
    seen = evaluation.Evaluation(bound, *sources).features("test", state.params, state.model_state)
    np.testing.assert_array_equal(made["test"]["features"], seen.outputs["image"]["h"])
    np.testing.assert_array_equal(made["test"]["label"], seen.labels["label"])
    np.testing.assert_array_equal(made["test"]["index"], np.arange(360))
    settings = json.loads((embedded / "settings.json").read_text())
    assert (settings["step"], settings["view"], settings["output"]) == (6, "image", "h")
    assert settings["splits"]["test"]["fingerprint"] == sources[1].fingerprint


def test_another_output_step_and_split(finished, tmp_path):
    flags = ["--output-name=z", "--step=2", "--split=test", "--view=image"]
    assert embed.main([f"--workdir={finished}", f"--output={tmp_path / 'z'}", *flags]) == 0
    assert sorted(p.name for p in (tmp_path / "z").iterdir()) == ["settings.json", "test.npz"]
    assert load(tmp_path / "z" / "test.npz")["features"].shape == (360, 64)
    assert json.loads((tmp_path / "z" / "settings.json").read_text())["step"] == 2


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--view=text"], "--view: found 'text'; allowed: an evaluation view of the run: image"),
        (["--output-name=y"], "--output-name: found 'y'; allowed: outputs of tower image: h, z"),
        (["--step=3"], "3: found no finished checkpoint; allowed: the steps 2, 4, 6"),
        (["--step=-1"], "--step: found -1"),
        (["--split=valid"], "--split: found 'valid'; allowed: train, test"),
        (["--split="], "--split: found nothing"),
        (["--seed=7"], "--seed: found 7; allowed: a seed of the run: 0"),
    ],
)
def test_bad_flags_are_one_line_and_write_nothing(finished, tmp_path, capsys, flags, said):
    assert embed.main([f"--workdir={finished}", f"--output={tmp_path / 'h'}", *flags]) == 2
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("hcl_jax: ") and said in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow(one=True)
def test_nothing_is_overwritten(finished, embedded, tmp_path, capsys):
    before = (embedded / "train.npz").read_bytes()
    (tmp_path / "file").write_text("")
    for output, said in (
        (embedded, "a folder that is not empty"),
        (tmp_path / "file", "found a file"),
        (tmp_path / "no" / "h", "no folder"),
    ):
        assert embed.main([f"--workdir={finished}", f"--output={output}"]) == 2
        assert said in capsys.readouterr().err
    assert (embedded / "train.npz").read_bytes() == before
    assert embed.main([f"--workdir={tmp_path}", f"--output={tmp_path / 'h'}"]) == 2
    assert capsys.readouterr().err == f"hcl_jax: {tmp_path}: found no config.json; allowed: the folder of a run\n"


def test_a_stop_in_the_middle_leaves_nothing(finished, tmp_path, monkeypatch):
    def stopped(*args, **columns):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.np, "savez", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.embed(finished, tmp_path / "h", splits=("test",), say=lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_has_the_files_rows(finished, embedded, tmp_path, capsys):
    """Read back by Arrow: both splits, and a class by its name beside its number; -1 has none."""
    parquet = pytest.importorskip("pyarrow.parquet")
    assert embed.main([f"--workdir={finished}", f"--output={tmp_path / 'h.parquet'}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'h.parquet'}: train 96 x 16, test 360 x 16\n"
    read = parquet.read_table(tmp_path / "h.parquet")
    assert str(read.schema.field("features").type) == "fixed_size_list<element: float>[16]"
    assert read.column_names == ["features", "label", "class_name", "index", "split"]
    assert json.loads(read.schema.metadata[b"hcl_jax"])["step"] == 6
    for split in ("train", "test"):
        some, npz = read.filter([s == split for s in read["split"].to_pylist()]), load(embedded / f"{split}.npz")
        np.testing.assert_array_equal(np.array(some["features"].to_pylist(), np.float32), npz["features"])
        assert some["class_name"].to_pylist() == npz["class_names"][npz["label"]].tolist()
    more = {"label": np.array([1, -1]), "kind": np.array([0, 0]), "path": np.array(["é.jpg", "b\udcff"]),
            "box": np.arange(4.0).reshape(2, 2)}  # fmt: skip
    more |= files.words_of(None, {"label": ("x", "y"), "kind": ("z\udcff",)})
    made = files.table({"features": np.ones((2, 3), np.float32), **more}).to_pydict()
    assert made["class_name"] == ["y", None] and made["class_name_kind"] == ["z?", "z?"]
    assert made["path"] == ["é.jpg", "b?"] and made["box"] == [[0, 1], [2, 3]] and "split" not in made


@pytest.mark.parametrize("name", ["o.npz", "o.PARQUET"])
def test_an_output_that_the_disk_does_not_take_is_one_line(finished, tmp_path, capsys, monkeypatch, name):
    """A full disk under each form of file, and the ending in capitals that made a folder."""
    if name != "o.npz":
        pytest.importorskip("pyarrow")
    np.savez(tmp_path / "new.npz", image=np.zeros((2, 8, 8, 1), np.uint8))
    new = [f"--data={tmp_path / 'new.npz'}"] if name == "o.npz" else []

    def full(place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.whole, "replacing", full)
    assert embed.main([f"--workdir={finished}", f"--output={tmp_path / name}", *new]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"hcl_jax: --output={tmp_path / name}: found No space left on device; allowed: ")
    assert not (tmp_path / name).exists()


def test_names_of_labels_that_a_file_needs():
    """A folder of .npz has no column `split` and no `class_name`."""
    files.check_labels(("split", "class_name_x", "label"), one_file=False)
    for label, one_file in (("split", True), ("class_name_x", True), ("class_names_x", False), ("path", False)):
        with pytest.raises(InputError, match="config.data.labels"):
            files.check_labels((label,), one_file)


def test_examples_without_the_view_and_bad_features():
    made = evaluation.Features(
        outputs={"a": {"h": np.arange(8.0).reshape(4, 2), "t": np.zeros((4, 2, 2)), "n": np.full((4, 2), np.nan)}},
        raw={},
        labels={"label": np.arange(4)},
        present={"a": np.array([True, False, True, True])},
        rows=np.arange(4),
    )
    columns = files._columns(made, "a", "h", "here")
    assert (
        columns["features"].dtype == np.float32 and columns["index"].tolist() == [0, 2, 3] == columns["label"].tolist()
    )
    with pytest.raises(InputError, match="'t' of shape"):
        files._columns(made, "a", "t", "here")
    with pytest.raises(InputError, match="not finite"):
        files._columns(made, "a", "n", "here")


def test_words_of_records_and_classes():
    """What is known by name, as arrays of text, and nothing that only pickle can read."""
    made = files.words_of(["a/0.png", "b/caf\ufffd.png"], {"kind": ("x", "yy")})
    assert {k: v.tolist() for k, v in made.items()} == {
        "path": ["a/0.png", "b/caf\ufffd.png"],
        "class_names_kind": ["x", "yy"],
    }
    assert all(v.dtype.kind == "U" for v in made.values())
    assert list(files.words_of(None, {"label": ("x",)})) == ["class_names"] and files.words_of(None, {}) == {}


def write_features(folder, n=24, width=5, classes=3, **more):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        label = np.arange(n) % classes
        features = rng.normal(size=(n, width)) + 4 * np.eye(classes, width)[label]
        np.savez(folder / f"{split}.npz", **{"features": features, "label": label, "index": np.arange(n)} | more)
    return folder


def config_of(folder, **fields):
    c = defaults().data
    c.update({"name": "npz", "dir": str(folder)} | fields)
    return c


@pytest.mark.slow(one=True)
def test_npz_with_features(tmp_path):
    write_features(tmp_path, category=np.zeros(24, int))
    source = data.open_source(config_of(tmp_path, labels=("label", "category")), "train")
    assert source.fields == {"features": ((5,), "float32")} and source.labels == {"label": 3, "category": 1}
    assert data.open_source(config_of(tmp_path), "train").labels == {"label": 3}
    row = source.fetch(np.arange(4))["features"]
    view = make_view({"kind": "features", "ops": ()}, row, Draws(0, 0, 4, np.arange(4), "a"))
    assert list(view) == ["features"] and view["features"].shape == (4, 5)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label": np.zeros(23, int)}, "one record in every array"),
        ({"features": np.full((24, 5), np.nan)}, "field features: found a number that is not finite"),
        ({"features": np.full((24, 5), np.inf)}, "field features: found a number that is not finite"),
        ({"features": np.zeros((24, 5, 1))}, r"features: found shape \(24, 5, 1\); allowed: 2 axes"),
        ({"features": np.array(["a"] * 24)}, "features"),
    ],
)
def test_bad_features(tmp_path, more, said):
    write_features(tmp_path, **more)
    with pytest.raises(InputError, match=said) as error:
        source = data.open_source(config_of(tmp_path), "train")
        make_view({"kind": "features", "ops": ()}, source.fetch(np.arange(4))["features"], None)
    assert "\n" not in str(error.value)


def test_a_view_of_other_numbers_is_refused():
    for x in (np.zeros((4, 2, 2)), np.array(["a"] * 4)):
        with pytest.raises(InputError, match=r"allowed: numbers \[n, D\]"):
            make_view({"kind": "features", "ops": ()}, x, Draws(0, 0, 4, np.arange(4), "a"))


@pytest.mark.parametrize("argument", ["linear", "mlp", "contrast"])
def test_the_second_stage_learns_from_the_files(tmp_path, argument):
    write_features(tmp_path / "h")
    folder = train(f"second_stage:{argument}", tmp_path / "w", "train.steps=40", f"data.dir={tmp_path / 'h'}")
    results = json.loads((folder / "card.json").read_text())["results"]
    assert results["eval/h/knn_accuracy"] > 0.8 and results["eval/y/knn_accuracy"] > 0.8
    state = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert state["skipped"] == 0


@pytest.mark.parametrize("argument", ["linear", "mlp", "paper", "code"])
def test_nmtune_learns_from_the_files(tmp_path, argument):
    """The classifier learns, the loss is the weighted sum that the recipe names, and z can be read beside h."""
    write_features(tmp_path / "h", n=96, width=8)
    fields = ["train.steps=60", "log.every=1", "optimizer.learning_rate=0.02", f"data.dir={tmp_path / 'h'}"]
    folder = train(f"nmtune:{argument}", tmp_path / "w", *fields)
    results = json.loads((folder / "card.json").read_text())["results"]
    assert results["eval/top1/labels"] > 0.9
    assert ("eval/z/knn_accuracy" in results) == (argument != "linear") and "eval/h/knn_accuracy" in results
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, last = (next(line for line in order if "loss" in line) for order in (lines, lines[::-1]))
    assert last["loss"] < first["loss"] and last["skipped"] == 0
    parts = {name for name in ("consistency", "covariance", "dominant") if f"loss/{name}" in last}
    assert len(parts) == (3 if argument in ("paper", "code") else 0)
    if parts:
        twice = (126 / 127) ** 2  # the code's covariance is over both copies of 64 rows
        weights = {"paper": (0.01, 0.01, 0.01), "code": (1.0, 0.04 * twice, 0.001)}[argument]
        terms = [last[f"loss/{name}"] for name in ("consistency", "covariance", "dominant")]
        whole = last["loss/labels"] + sum(w * x for w, x in zip(weights, terms, strict=True))
        assert last["loss"] == pytest.approx(whole, rel=1e-5)
        assert -1 / (1 if argument == "paper" else 5) <= terms[2] < 0 <= min(terms[:2])


def test_the_first_stage_feeds_the_second(embedded, tmp_path):
    folder = train("second_stage:linear", tmp_path / "w", "train.steps=2", f"data.dir={embedded}")
    results = json.loads((folder / "card.json").read_text())["results"]
    assert {"eval/h/knn_accuracy", "eval/y/knn_accuracy"} <= set(results)


def test_a_frozen_tower_keeps_the_encoder(finished, tmp_path):
    fields = [
        "train.steps=4",
        "data.num_examples=96",
        "towers.image.encoder.widths=(8,16)",
        f"init_from.path={finished}",
    ]
    folder = train("second_stage:frozen_tower", tmp_path / "w", *fields)
    features = [tmp_path / "a", tmp_path / "b"]
    assert embed.main([f"--workdir={finished}", f"--output={features[0]}", "--split=test"]) == 0
    assert embed.main([f"--workdir={folder}", f"--output={features[1]}", "--split=test", "--view=h"]) == 0
    a, b = (load(f / "test.npz")["features"] for f in features)
    np.testing.assert_array_equal(a, b)
