"""What evaluation reads: the objectives over the test split by hand, and no test row where rows are folded."""

import functools

import jax
import numpy as np
import pytest
from worlds import two_views

from hcl_jax import config as configs
from hcl_jax import workdir
from hcl_jax.check.evaluation import _check_shapes, check_evaluation
from hcl_jax.core.weight_average import average_of
from hcl_jax.data.source import Arrays, from_arrays
from hcl_jax.errors import InputError
from hcl_jax.evaluation import Evaluation
from hcl_jax.evaluators import collapse
from hcl_jax.evaluators.entries import entries
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, build, global_batches
from hcl_jax.trained import embedded
from hcl_jax.views.lazy import tf
from hcl_jax.workdir.checkpoint import Checkpoints

CLASSES, TRAIN, TEST = 3, 48, 21  # the last batch of 8 has 5 test rows


def pictures(n, seed):
    """Two pictures of 2 x 2 around one of their class; some records lack the second, some have no class."""
    random = np.random.default_rng(seed)
    label = random.integers(0, CLASSES, n)
    image = label[:, None, None, None] / CLASSES + 0.3 * random.random((2, n, 2, 2, 1))
    label[::7] = -1
    return Arrays(
        fields={"first": image[0].astype(np.float32), "second": image[1].astype(np.float32)},
        labels={"label": label.astype(np.int32)},
        classes={"label": CLASSES},
        licence="",
        citation="",
        present={"second": np.arange(n) % 5 != 2},
    )


def built(parts=Parts(), **fields):  # noqa: B008
    """(run, train, test): a perceptron with batch norm, a projection and a classifier of pictures in pairs."""
    c = two_views(batch_size=8)
    c.views = {v: {"kind": "image", "field": f, "ops": ()} for v, f in (("a", "first"), ("b", "second"))}
    heads = {"z": {"name": "linear", "features": 4}, "c": {"name": "linear", "features": CLASSES}}
    c.towers = {"image": {"views": ("a", "b"), "encoder": {"name": "mlp", "widths": (8,)}, "heads": heads}}
    temperature = {"schedule": "linear", "start": 0.5, "end": 0.3, "steps": 4}
    c.objectives = {
        "contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": temperature},
        "classes": {"loss": "cross_entropy", "inputs": ("a.c", "labels.label"), "weight": 0.5},
    }
    c.mesh.data, c.optimizer.learning_rate, c.optimizer.average = 2, 0.05, 1.0
    c.evaluate.views = {"image": {"kind": "image", "field": "first", "ops": (), "tower": "image"}}
    c.evaluate.linear, c.evaluate.per_class, c.evaluate.batch_size = False, (), 8
    for name, value in fields.items():
        c.evaluate[name] = value
    c = configs.complete(c)
    splits = {"train": pictures(TRAIN, 0), "test": pictures(TEST, 1)}
    train, test = (from_arrays("made", arrays, c.data, split) for split, arrays in splits.items())
    return build(c, parts, train, meshes.make_mesh(c.mesh)), train, test


def trained(run, source, steps=3):
    state, step = run.init(), run.step()
    for batch in global_batches(run, source, 0, steps):
        state, _ = step(state, batch)
    return state


def by_hand(params, stats, image):
    """The outputs of the tower in evaluation mode, float64."""
    params, stats = (jax.tree.map(lambda x: np.asarray(x, np.float64), t["image"]) for t in (params, stats))
    norm, running, heads = params["encoder"]["norm1"], stats["encoder"]["norm1"], params["heads"]
    x = image.reshape(len(image), -1) @ params["encoder"]["dense1"]["kernel"]
    x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
    h = np.maximum(x, 0)
    return {"h": h} | {k: h @ heads[k]["dense"]["kernel"] + heads[k]["dense"]["bias"] for k in ("z", "c")}


def statistics_by_hand(run, train, params):
    """{"mean", "var"} of the encoder's batch norm: means over the batches of an epoch, of the rows that are there."""
    kernel = np.asarray(params["image"]["encoder"]["dense1"]["kernel"], np.float64)
    found = []
    for batch in global_batches(run, train, 0, TRAIN // 8):
        views = {v: np.asarray(x["image"], np.float64).reshape(8, -1) for v, x in batch["views"].items()}
        x = np.concatenate([views["a"], views["b"][np.asarray(batch["present"]["b"])]]) @ kernel
        found.append({"mean": x.mean(0), "var": x.var(0)})
    return {name: np.mean([one[name] for one in found], 0) for name in ("mean", "var")}


def nt_xent(a, b, t):
    u = np.concatenate([a, b])
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    x = u @ u.T / t
    other = np.roll(np.arange(len(u)), len(a))
    np.fill_diagonal(x, -np.inf)
    return np.mean(np.log(np.exp(x).sum(1)) - x[np.arange(len(u)), other])


@pytest.mark.slow(one=True)
def test_objectives_of_the_test_split_by_hand():
    """Averaged weights with statistics of their own, the step's temperature; batches of 8, 8 and 5 by the rows that
    count."""
    run, train, test = built(objectives=True, views={})
    state = trained(run, train)
    said = []
    found = Evaluation(run, train, test, say=said.append).online(state)

    arrays, expected = pictures(TEST, 1), {}
    params = average_of(state.opt_state)
    stats = {"image": {"encoder": {"norm1": statistics_by_hand(run, train, params)}}}
    for start in range(0, TEST, 8):
        rows = np.arange(start, min(start + 8, TEST))
        a, b = (by_hand(params, stats, arrays.fields[f][rows]) for f in ("first", "second"))
        there, label = arrays.present["second"][rows], arrays.labels["label"][rows]
        logits, label = a["c"][label >= 0], label[label >= 0]
        picked = logits[np.arange(len(label)), label]
        numbers = {
            "loss/contrast": nt_xent(a["z"][there], b["z"][there], 0.5 - 0.2 * 3 / 4),
            "loss/classes": np.mean(np.log(np.exp(logits).sum(1)) - picked),
            "top1/classes": np.mean(logits.argmax(1) == label),
            "temperature/contrast": 0.5 - 0.2 * 3 / 4,
            "spread/a.z": collapse.spread(a["z"]),
            "spread/b.z": collapse.spread(b["z"][there]),
        }
        # Each objective is a mean over the rows that it counts.
        counted = {"contrast": there.sum(), "classes": len(label)}
        for name, value in numbers.items():
            weight = counted.get(name.partition("/")[2], len(rows))
            sums = expected.setdefault(f"eval/{name}", np.zeros(2))
            sums += [value * weight, weight]
    expected = {name: total / weight for name, (total, weight) in expected.items()}
    assert set(expected) <= set(found) and all(k.startswith("eval/") for k in found)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert said == [
        "evaluation: BatchNorm statistics of the averaged weights, from 6 training batches",
        "evaluation: objectives of the trained model",
    ]


@pytest.mark.slow(one=True)
def test_features_of_averaged_weights_are_written_with_their_statistics(tmp_path):
    """embed of a run on disk, by hand; an untrained encoder, which nothing has been averaged for, stays as it began."""
    splits = {"train": pictures(TRAIN, 0), "test": pictures(TEST, 1)}
    parts = Parts(sources={"made": lambda data, split: from_arrays("made", splits[split], data, split)})
    run, train, test = built(parts)
    run.config.data.name = "made"
    state = trained(run, train)
    folder = workdir.freeze(tmp_path / "run", run.config)
    checkpoints = Checkpoints(folder, keep=1, meta=run.meta(train))
    checkpoints.save(3, state)
    checkpoints.finish(3)
    checkpoints.close()
    embedded.embed(folder, tmp_path / "h", parts=parts, say=lambda text: None)
    params = average_of(state.opt_state)
    stats = {"image": {"encoder": {"norm1": statistics_by_hand(run, train, params)}}}
    for split, arrays in splits.items():
        with np.load(tmp_path / "h" / f"{split}.npz") as file:
            expected = by_hand(params, stats, arrays.fields["first"])["h"]
            np.testing.assert_allclose(file["features"], expected, rtol=1e-5, atol=1e-5)
    evaluation, begun = Evaluation(run, train, test, say=lambda text: None), run.init()
    assert evaluation.as_read(begun, 0).model_state is begun.model_state
    plain = state._replace(opt_state=())
    assert evaluation.as_read(plain, 0) is plain


def watched(source):
    """(a source, the list of the records that are read of it)."""
    read = []

    def fetch(index):
        with tf.control_dependencies([tf.py_function(lambda i: read.extend(i.numpy().tolist()), [index], [])]):
            return {k: tf.identity(v) for k, v in source.fetch(index).items()}

    return source._replace(fetch=fetch), read


@pytest.mark.slow(one=True)
def test_equal_captions_are_one_item():
    """Three pictures, each in seven test rows: a model that gives equal rows equal embeddings is right, not lost."""
    evaluators = {
        "retrieval": {"views": (("image.z", "other.z"),), "ks": (1, 2)},
        "rows": {"evaluator": "retrieval", "views": (("image.z", "other.z"),), "ks": (1,), "unique": False},
    }
    views = {v: {"kind": "image", "field": "first", "ops": (), "tower": "image"} for v in ("image", "other")}
    run, train, test = built(evaluators=evaluators, views=views, labels="", baselines=False)
    some = pictures(TEST, 1).fields["first"][np.arange(TEST) % 3]
    arrays = pictures(TEST, 1)._replace(fields={"first": some, "second": some})
    test = from_arrays("made", arrays, run.config.data, "test")
    found = Evaluation(run, train, test, say=lambda text: None).online(run.init())
    for way in ("image_to_other", "other_to_image"):
        assert found[f"eval/image-other/{way}/recall_1"] == 1.0 and found[f"eval/image-other/{way}/n"] == 3
        assert found[f"eval/image-other/chance/{way}/recall_1"] == pytest.approx(1 / 3)
        assert found[f"eval/image-other/chance/{way}/recall_2"] == pytest.approx(2 / 3)
        assert found[f"eval/image-other/rows/{way}/recall_1"] == 0.0, "as each row was an item of its own"


@pytest.mark.slow(one=True)
def test_folds_read_no_test_row():
    run, train, test = built(folds=3, knn={"k": 3, "temperature": 1.0})
    (train, read), (test, never) = watched(train), watched(test)
    check_evaluation(run, train, test)
    assert read == never == []
    found = Evaluation(run, train, test, say=lambda text: None).full(run.init())
    assert set(read) == set(range(TRAIN)) and never == []
    labelled = int((pictures(TRAIN, 0).labels["label"] >= 0).sum())
    assert found["eval/image/n"] == found["eval/image/train/n"] == labelled
    assert {"eval/image/knn_accuracy_se", "eval/image/untrained/spread"} <= set(found)
    run = run._replace(config=built()[0].config)
    Evaluation(run, train, test, say=lambda text: None).online(run.init())
    assert set(never) == set(range(TEST)), "without folds they are read"


def test_a_graph_that_does_not_fit_is_refused_before_the_run():
    run, train, test = built()
    line = f"config.evaluate.batch_size: found 8; allowed: at least {TEST}: records of made refer to each other"
    with pytest.raises(InputError) as error:
        check_evaluation(run, train, test._replace(whole=True))
    assert str(error.value) == line


def test_what_evaluation_cannot_read_is_refused_before_training():
    run, train, test = built(objectives=True, views={})
    lacking = test._replace(fields={"first": test.fields["first"]})
    with pytest.raises(InputError, match=r"config.views.b.field: found 'second'"):
        check_evaluation(run, train, lacking)
    run, train, test = built()
    larger = {field: np.zeros((TEST, 3, 3, 1), np.float32) for field in ("first", "second")}
    pictures_of_3 = from_arrays("made", pictures(TEST, 1)._replace(fields=larger), run.config.data, "test")
    with pytest.raises(InputError, match=r"config.evaluate.views.image: found image/?\S* ?of shape \(3, 3, 1\)"):
        check_evaluation(run, train, pictures_of_3)


OTHER = {"kind": "image", "field": "second", "ops": (), "tower": "image"}
BOTH = {"retrieval": {"views": (("image.z", "other.z"),), "ks": (1, 50)}}


@pytest.mark.parametrize(
    ("evaluators", "fields", "line"),
    [
        # refused, as the evaluator would be after the training
        (
            BOTH,
            {"lacking": "second"},
            "retrieval.views: found no test row of 21 with image and other; allowed: views that",
        ),
        (BOTH, {"missing": 0.99}, "retrieval.views: found no test row of 21 with image and other; allowed: views that"),
        (
            {"knn": {"views": ("other",)}},
            {"lacking": "second"},
            "labels: found 'label', -1 or without other in all 48 tr",
        ),
        # served and said
        (BOTH, {}, "retrieval.ks: recall_50 of 21 test rows is 1 for any encoder"),
        ({"knn": {"k": 100}}, {}, "knn.k: 100, of which 41 are there: all training rows vote"),
        ({"knn": {"k": 28}}, {"folds": 3}, "knn.k: 28, of which 27 are there: all training rows vote"),
        (
            {"few_labels": {}},
            {},
            "few_labels.per_class: labels_100 left out, for the smallest class has 10 training rows",
        ),
        ({"few_labels": {}}, {"folds": 3}, "few_labels: no number, for config.evaluate.folds is 3"),
        ({"one_nn": {}}, {"baselines": False}, "one_nn.features: no number, for it reads the raw input alone"),
        ({"knn": {"k": 41}, "few_labels": {"per_class": (10,)}, "one_nn": {}}, {}, ""),
    ],
)
def test_what_an_evaluator_will_lack_is_told_before_the_run(evaluators, fields, line, caplog):
    fields = dict(fields)
    lacking, missing = fields.pop("lacking", None), fields.pop("missing", 0.0)
    run, train, test = some_run()
    evaluate = run.config.evaluate.to_dict() | {"evaluators": evaluators, **fields}
    evaluate["views"]["other"] = {**OTHER, "missing": missing}
    run = run._replace(config=configs.complete(configs.ConfigDict(run.config.to_dict() | {"evaluate": evaluate})))
    if lacking:
        train, test = (s._replace(known_present={lacking: np.zeros(s.num_examples, bool)}) for s in (train, test))
    caplog.clear()
    if ": found" in line:
        with pytest.raises(InputError) as error:
            check_evaluation(run, train, test)
        said = [str(error.value)]
    else:
        check_evaluation(run, train, test)
        said = caplog.messages
    starts = [text.removeprefix("config.evaluate.").removeprefix("evaluators.")[: len(line)] for text in said]
    assert starts == ([line] if line else [])


@functools.cache
def some_run():
    return built()


def test_outputs_that_no_evaluator_reads_are_refused():
    run, *_ = some_run()
    entry = entries({**run.config.evaluate, "evaluators": run.config.evaluate.evaluators}, Parts().evaluators)[0]
    retrieval = entry._replace(evaluator="retrieval", name="pair", features=("trained", "raw"))
    made = {"a": {"h": (8, 4), "t": (8, 5, 4), "": (8, 3)}, "b": {"h": (8, 4), "": (8, 9)}}
    line = r"evaluators.pair.views: found raw a \(8, 3\) with raw b \(8, 9\); allowed: raw inputs of one width"
    _check_shapes(retrieval, (("a", "h"), ("b", "h")), made, baselines=False)
    with pytest.raises(InputError, match=line):
        _check_shapes(retrieval, (("a", "h"), ("b", "h")), made, baselines=True)
    with pytest.raises(InputError, match=r"views: found a.t of shape \(8, 5, 4\); allowed: one vector"):
        _check_shapes(entry, (("a", "t"),), made, baselines=True)
