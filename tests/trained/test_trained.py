"""A run as a model to use: what it makes of its own records, of new ones, and what it refuses."""

import shutil

import numpy as np
import pytest
from PIL import Image

import hcl_jax
from hcl_jax import config as configs
from hcl_jax import embed, evaluation, trained, workdir
from hcl_jax.main import main
from hcl_jax.neighbours.__main__ import main as neighbours
from hcl_jax.views.lazy import tf


def test_the_star_import_leaves_pythons_own_open():
    assert "open" in dir(hcl_jax) and "open" not in hcl_jax.__all__


@pytest.fixture(scope="module")
def model(shared_run):
    return hcl_jax.open(shared_run)


@pytest.fixture(scope="module")
def own(model):
    return model.records("test")


@pytest.fixture(scope="module")
def pixels(model):
    return model.source("test").fetch(np.arange(360))["image"].numpy()


@pytest.fixture
def pictures(pixels, tmp_path):
    """Pictures of three test records in class folders."""
    for row, name in ((0, "0/a.png"), (1, "1/b.png"), (2, "1/c.png")):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_bytes(tf.io.encode_png(pixels[row]).numpy())
    return tmp_path / "new"


@pytest.mark.slow(one=True)
def test_own_records_again_are_what_embed_writes(shared_run, model, own, pixels, tmp_path):
    assert embed.main([f"--workdir={shared_run}", f"--output={tmp_path / 'h'}", "--split=test"]) == 0
    with np.load(tmp_path / "h" / "test.npz") as file:
        np.testing.assert_array_equal(own.features, file["features"])
        np.testing.assert_array_equal(own.labels["label"], file["label"])
    np.testing.assert_array_equal(model.encode(pixels), own.features)
    np.testing.assert_allclose(model.encode(pixels[:5, :, :, 0]), own.features[:5], atol=1e-6)
    assert model.encode(pixels[:3], output="z").shape == (3, 64)
    assert (model.step, model.towers, model.inputs) == (6, {"image": ("h", "z")}, ("image",))
    assert model.class_names == {"label": tuple("0123456789")} and model.config.data.name == "digits"


@pytest.mark.slow
def test_pictures_and_the_command(shared_run, model, own, pictures, tmp_path, capsys):
    """Files are the records that they were made from, by path and by class; a broken one is named."""
    made = model.encode([pictures / "1/c.png", pictures / "0/a.png"])
    np.testing.assert_allclose(made, own.features[[2, 0]], atol=1e-6)
    flags = [f"--workdir={shared_run}", f"--data={pictures}", f"--output={tmp_path / 'f.npz'}"]
    assert embed.main(flags) == 0
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["features"], own.features[:3], atol=1e-6)
        assert file["path"].tolist() == ["0/a.png", "1/b.png", "1/c.png"] and file["index"].tolist() == [0, 1, 2]
        assert file["label"].tolist() == [0, 1, 1] and file["class_names"].tolist() == list("0123456789")
    assert embed.main(flags) == 2
    assert "--output: found a file or folder that is there" in capsys.readouterr().err
    (pictures / "1/b.png").write_bytes(b"no picture")
    with pytest.raises(hcl_jax.InputError, match=r"1/b.png: found a picture that does not decode"):
        model.encode(pictures)


@pytest.mark.slow
def test_refusals_are_one_line(shared_run, model, pixels, tmp_path):
    (tmp_path / "wide.png").write_bytes(tf.io.encode_png(np.zeros((9, 9, 3), np.uint8)).numpy())
    (tmp_path / "config.json").write_text((shared_run / "config.json").read_text())
    for call, said in (
        (lambda: model.encode(pixels, output="y"), "output: found 'y'; allowed: outputs of tower image: h, z"),
        (lambda: model.encode(pixels, input="text"), "input: found 'text'; allowed: an input of the run: image"),
        (
            lambda: model.encode(pixels[:, :7]),
            "inputs: found a view of shape image [7, 8, 1]; allowed: image [8, 8, 1]",
        ),
        (lambda: model.encode(tmp_path / "wide.png"), "wide.png: found a picture of another size; allowed: image of"),
        (lambda: model.records("valid"), "split: found 'valid'"),
        (lambda: hcl_jax.open(shared_run, seed=7), "seed: found 7; allowed: a seed of the run: 0"),
        (lambda: hcl_jax.open(tmp_path), "found no finished checkpoint"),
        (lambda: hcl_jax.open(tmp_path / "no"), "no: found no config.json; allowed: the folder of a run"),
    ):
        with pytest.raises(hcl_jax.InputError) as error:
            call()
        assert said in str(error.value) and "--" not in str(error.value) and "\n" not in str(error.value)


def test_flags_that_are_refused_are_one_line(tmp_path, capsys):
    """Without the usage above, and before the run is looked for."""
    with pytest.raises(SystemExit, match="2"):
        neighbours(["--workdir=no", "--query=a.jpg", f"--output={tmp_path / 'none' / 'x.png'}"])
    said = capsys.readouterr().err
    assert (
        said.startswith("hcl_jax: --output=") and said.endswith("in a folder that exists\n") and said.count("\n") == 1
    )
    assert neighbours([f"--workdir={tmp_path}", "--text= "]) == 2
    assert capsys.readouterr().err == "hcl_jax: --text: found nothing; allowed: words\n"


@pytest.mark.slow
def test_neighbours(shared_run, model, pixels, pictures, tmp_path, capsys):
    """The records with the largest cosine, in that order, with their classes; and a picture of them."""
    (query,), bank = model.encode(pictures / "1/b.png"), model.records("train")
    cosine = bank.features @ query / np.linalg.norm(bank.features, axis=1) / np.linalg.norm(query)
    flags = [f"--workdir={shared_run}", f"--query={pictures / '1/b.png'}", "--k=3"]
    assert neighbours([*flags, f"--output={tmp_path / 'hits.png'}"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[:2] == [f"nearest to {pictures / '1/b.png'}", "rank  similarity  record  class"]
    for rank, (row, line) in enumerate(zip(np.argsort(-cosine), text[2:5], strict=False), 1):
        assert line.split() == [str(rank), f"{cosine[row]:.4f}", str(row), str(bank.labels["label"][row])]
    sheet = np.asarray(Image.open(tmp_path / "hits.png").convert("L"))
    assert (sheet[:3] == 255).all() and (sheet < 255).any()  # no title is cut at the edge
    assert neighbours([*flags, f"--data={pictures}"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["1", "1.0000", "1/b.png", "1"]
    assert neighbours([*flags[:2], "--k=97"]) == 2
    assert "--k: found 97; allowed: 1 to 96" in capsys.readouterr().err
    assert neighbours([flags[0], "--text=cat"]) == 2
    assert "--text: found text; allowed: --query: the run reads records of kind image" in capsys.readouterr().err


@pytest.mark.slow
def test_the_classifier_of_the_evaluation_is_kept(shared_run, model, own, pixels, tmp_path, monkeypatch):
    """The file gives what is fitted where there is none; its accuracy is the one that the evaluation prints."""
    fitted = model.classify(pixels)
    assert fitted.classes == tuple("0123456789") and fitted.probabilities.shape == (360, 10)
    np.testing.assert_allclose(fitted.probabilities.sum(axis=1), 1, rtol=1e-5)
    plain = workdir.resume_config(shared_run).to_dict()
    plain["evaluate"] |= {"evaluators": {"linear": {}}, "baselines": False}
    config = configs.complete(configs.ConfigDict(plain))
    run, sources, state = evaluation.restored(shared_run, config, say=lambda text: None)
    whole = evaluation.Evaluation(run, *sources.values(), say=lambda text: None)
    results = whole.full(state)
    right = np.array(fitted.names) == own.labels["label"].astype(str)
    assert right.mean() == pytest.approx(results["eval/image/linear_accuracy"])
    copy = shutil.copytree(shared_run, tmp_path / "copy")
    workdir.write_arrays(copy / workdir.CLASSIFIERS, whole.classifiers(6))

    def not_again(*features):
        raise AssertionError("fitted again")

    monkeypatch.setattr(trained, "linear", not_again)
    saved = hcl_jax.open(copy)
    np.testing.assert_allclose(saved.classify(pixels).probabilities, fitted.probabilities, atol=1e-5)
    near = saved.classify(pixels, "nearest")
    train = model.records("train")
    means = np.stack([train.features[train.labels["label"] == c].mean(axis=0) for c in range(10)])
    distance = np.linalg.norm(own.features[:, None] - means[None], axis=2)
    assert near.names == [str(c) for c in distance.argmin(axis=1)]
    with pytest.raises(AssertionError):  # the file is of step 6
        hcl_jax.open(copy, step=4).classify(pixels[:1])
    for more, said in (("knn", "method: found 'knn'"), ("linear", "label: found 'kind'; allowed: a label of the run")):
        with pytest.raises(hcl_jax.InputError, match=said):
            model.classify(pixels, more, label="kind")


@pytest.mark.slow
def test_without_the_runs_own_records(tmp_path):
    """Series that are standardised by the training split: the same bits, after the table has gone."""
    rng, table = np.random.default_rng(0), tmp_path / "series.csv"
    lines = [f"r{i},{t},{i % 2},{5 + rng.normal():.4f},{rng.normal():.4f}" for i in range(12) for t in range(8 - i % 3)]
    table.write_text("\n".join(["id,time,label,x,y", *lines]))
    flags = ["data.batch_size=8", "data.standardise=true", "towers.series.encoder.depth=1",
             "towers.series.encoder.hidden=4", "train.steps=1", "log.tensorboard=false", "mesh.data=1",
             "evaluate.baselines=false", "evaluate.evaluators={'linear': {}}"]  # fmt: skip
    run, fresh = tmp_path / "run", [5 + rng.normal(size=(n, 2)) for n in (8, 3)]
    flags = [f"--config.{flag}" for flag in (f"data.dir={table}", *flags)]
    assert main(["--config=simclr_series:csv", f"--workdir={run}", *flags]) == 0
    model = hcl_jax.open(run)
    before, named = model.encode(fresh), model.classify(fresh)
    table.rename(tmp_path / "gone.csv")
    said = []
    model = hcl_jax.open(run, say=said.append)
    assert said[0] == f"without the run's own records (config.data.dir: no folder {table})" and model.class_names == {}
    np.testing.assert_array_equal(model.encode(fresh), before)
    np.testing.assert_array_equal(model.classify(fresh).probabilities, named.probabilities)
    for call in (model.records, lambda: model.records("test"), lambda: model.classify(fresh, label="x"),
                 lambda: trained.embedded.embed(run, tmp_path / "own")):  # fmt: skip
        with pytest.raises(hcl_jax.InputError, match="^(config.data.dir: found no folder|label: found 'x')"):
            call()
    np.savez(tmp_path / "n.npz", series=np.stack([fresh[0]] * 2))
    assert embed.main([f"--workdir={run}", f"--data={tmp_path / 'n.npz'}", f"--output={tmp_path / 'o.npz'}"]) == 0
    assert neighbours([f"--workdir={run}", *(f"--{k}={tmp_path / 'n.npz'}" for k in ("query", "data")), "--k=2"]) == 0
    (run / workdir.DATA).unlink()  # as a run has it that was begun before there was this file
    with pytest.raises(hcl_jax.InputError) as error:
        hcl_jax.open(run)
    assert str(error.value).endswith(
        f"or {run}/data.json, which python -m hcl_jax.main --workdir={run} writes beside the data"
    )
    (tmp_path / "gone.csv").rename(table)
    np.testing.assert_array_equal(hcl_jax.open(run).encode(fresh), before)


@pytest.mark.slow
def test_a_graph_that_the_run_has_not_seen(tmp_path):
    """Its own folder again gives the run's features, and more nodes without an edge to them change none."""
    own, more = tmp_path / "own", tmp_path / "more"
    nodes = [f"n{i},{'pq'[i % 2]},{i % 3},{i % 5}" for i in range(12)]
    edges = [f"n{i},n{(i * 5 + 1) % 12}" for i in range(12)]
    for folder, others, links in ((own, [], []), (more, ["m0,,1,1", "m1,,2,2"], ["m0,m1"])):
        folder.mkdir()
        (folder / "nodes.csv").write_text("\n".join(["id,label,x,y", *nodes, *others]))
        (folder / "edges.csv").write_text("\n".join(["source,target", *edges, *links]))
    flags = [f"data.dir={own}", "data.held_out=0.5", "data.batch_size=16", "evaluate.batch_size=16",
             "mesh.data=1", "train.steps=1", "log.tensorboard=false", "evaluate.baselines=false",
             "evaluate.evaluators={}"]  # fmt: skip
    run = tmp_path / "run"
    assert main(["--config=grace:graph", f"--workdir={run}", *(f"--config.{flag}" for flag in flags)]) == 0
    features = hcl_jax.open(run).records("test").features
    shutil.rmtree(own)
    assert embed.main([f"--workdir={run}", f"--data={more}", f"--output={tmp_path / 'f.npz'}"]) == 0
    with np.load(tmp_path / "f.npz") as file:
        np.testing.assert_allclose(file["features"][:12], features, atol=1e-6)
        assert file["features"].shape[0] == 14 and file["label"].tolist() == [0, 1] * 6 + [-1, -1]
        assert file["class_names"].tolist() == ["p", "q"] and file["path"][11:].tolist() == ["n11", "m0", "m1"]
