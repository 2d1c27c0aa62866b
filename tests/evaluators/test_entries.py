"""Evaluators that a recipe lists: a user's own, how often each is called, on which views, labels and data."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax import EVALUATORS
from hcl_jax import config as configs
from hcl_jax.check.evaluation import check_evaluation
from hcl_jax.config import validate
from hcl_jax.data.source import from_arrays
from hcl_jax.errors import InputError
from hcl_jax.evaluation import Evaluation
from hcl_jax.evaluators import Result, Splits
from hcl_jax.evaluators.entries import entries, inputs
from hcl_jax.evaluators.groups import Features, groups_of, numbers, wanted
from hcl_jax.evaluators.known_labels import check_known_labels
from hcl_jax.evaluators.paired import evaluate_features
from hcl_jax.evaluators.result import result_of
from hcl_jax.run import Parts
from tests.test_evaluation import TEST, TRAIN, built, pictures

VIEWS = {"image": {"output": "h"}, "text": {"output": "z"}}


def nearest_mean(features, labels, *, scale: float = 1.0):
    """A user's evaluator: accuracy of the class with the nearest mean, as a plain mapping."""
    classes = np.unique(labels.train[labels.train >= 0])
    means = np.stack([features.train[labels.train == c].mean(0) for c in classes])
    rows = labels.test >= 0
    guess = classes[((features.test[rows][:, None] - means[None]) ** 2).sum(-1).argmin(1)]
    return {"mean_accuracy": scale * float(np.mean(guess == labels.test[rows]))}


def distance(a, b, *, names=()):
    """A user's evaluator of two views."""
    return Result({f"{'_'.join(names)}_distance": float(np.abs(a.test - b.test).mean())}, once={"rows": len(a.test)})


TABLE = {**EVALUATORS, "mine": nearest_mean, "distance": distance}


def section(listed, **fields):
    """A completed section `evaluate`."""
    named = {name: {"evaluator": name, **spec} for name, spec in listed.items()}
    return {"views": VIEWS, "labels": "label", "every": 0, "folds": 0, "evaluators": named, **fields}


def clusters(rows=60, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    return (random.normal(size=(rows, 4)) + 2 * np.eye(3, 4)[labels]).astype(np.float32), labels


def test_what_a_function_reads_is_in_its_parameters():
    assert {name: tuple(inputs(f)) for name, f in TABLE.items()} == {
        **dict.fromkeys(("knn", "linear", "few_labels", "svm", "one_nn", "mine"), (1, True, False)),
        **dict.fromkeys(("retrieval", "distance"), (2, False, False)),
        "objectives": (0, False, True),
        "spread": (1, False, False),
    }


def test_a_users_evaluator_is_one_function_and_one_entry():
    x, y = clusters()
    sets = {"": (x[:40], x[40:]), "raw": (x[:40] * 0 + 1, x[40:] * 0 + 1)}
    spec = {"evaluators": {"mine": {}, "twice": {"evaluator": "mine", "scale": 2.0, "features": ("trained",)}}}
    found = evaluate_features(sets, y[:40], y[40:], spec, TABLE)
    own = nearest_mean(Splits(*sets[""]), Splits(y[:40], y[40:]))["mean_accuracy"]
    assert 0.7 < own < 1
    # Another name than its evaluator's is before its numbers; raw input is read unless the entry says otherwise.
    assert found == {
        "mean_accuracy": own, "raw/mean_accuracy": found["raw/mean_accuracy"], "twice/mean_accuracy": 2 * own,
        **{f"{before}{name}": n for before in ("", "twice/") for name, n in (("n", 20), ("train/n", 40))},
    }  # fmt: skip


def test_an_evaluator_that_fails_costs_no_other_its_numbers():
    def broken(features, labels):
        raise ZeroDivisionError("of its own")

    table = {**TABLE, "broken": broken}
    listed = entries(section({"broken": {}, "mine": {}}, views={"image": {"output": "h"}}), table)
    found, (group,) = features(30, 0), groups_of(listed, 0)
    made = {"": {("", s): found._replace(outputs={"image": found.outputs["image"]}) for s in ("train", "test")}}
    said = []
    results = numbers(group, made, 0, said.append)
    assert "image/mean_accuracy" in results and results["image/n"] == 30
    assert said[-1] == "evaluation: no number of broken of image: ZeroDivisionError: of its own"
    with pytest.raises(ZeroDivisionError):
        evaluate_features(
            {"": (np.eye(4), np.eye(4))}, [0, 1, 0, 1], [0, 1, 0, 1], {"evaluators": {"broken": {}}}, table
        )


@pytest.mark.parametrize(
    ("train", "test", "folds", "said"),
    [
        ([0, 0, 0], [0, 1], 0, "config.evaluate.labels: found 'label', only class 0 in 3 training rows"),
        ([-1, -1], [0, 1], 0, "config.evaluate.labels: found 'label', -1 in all 2 training rows"),
        ([0, 1], [-1, -1], 0, "config.evaluate.labels: found 'label', -1 in all 2 test rows"),
        ([0, 0, 1, 1], [-1], 20, "config.evaluate.folds: found 20: 20; allowed: a whole number from 2 to 2"),
    ],
)
def test_labels_are_looked_at_before_the_training(train, test, folds, said):
    listed = entries(section({"linear": {}}, views={"image": {"output": "h"}}), TABLE)
    fields = {"label": "config.evaluate.labels"}
    known = ({"label": np.array(x)} for x in (train, test))
    with pytest.raises(InputError, match=f"^{said}"):
        check_known_labels(listed, *known, folds, fields)
    check_known_labels(listed, {"label": np.array([0, 1, -1])}, {"label": np.array([0])}, 0, fields)
    check_known_labels(listed, {}, {}, 0, fields)  # of records that are read one by one nothing is known


def test_entries_say_what_is_read():
    listed = {
        "knn": {"every": 5, "views": ("text", "image.z")},
        "spread": {},
        "near": {"evaluator": "knn", "k": 1, "labels": "kind", "data": {"name": "csv"}},
        "retrieval": {"views": (("image.z", "text"),)},
        "objectives": {},
    }
    found = {e.name: e for e in entries(section(listed, every=2), TABLE)}
    assert found["knn"].views == ((("text", "z"),), (("image", "z"),)) and found["knn"].every == 5
    assert found["spread"].views == ((("image", "h"),), (("text", "z"),)) and found["spread"].every == 2
    assert found["retrieval"].views == ((("image", "z"), ("text", "z")),) and found["retrieval"].labels == ""
    assert (found["near"].prefix, found["near"].labels, found["near"].arguments) == ("near/", "kind", {"k": 1})
    assert {e.source for e in found.values()} == {"", '{"name": "csv"}'}
    assert not found["objectives"].views and found["spread"].prefix == ""
    unlabelled = {e.name for e in entries(section(listed, labels=""), TABLE)}
    assert unlabelled == {"near", "spread", "retrieval", "objectives"}, "the others read labels"


def features(rows, seed):
    random = np.random.default_rng(seed)
    outputs = {v: {o: random.normal(size=(rows, 3)).astype(np.float32) for o in "hz"} for v in VIEWS}
    present = {"image": np.ones(rows, bool), "text": np.arange(rows) % 4 != 0}
    return Features(outputs, {}, {"label": np.arange(rows) % 3}, present, np.arange(rows))


def test_a_split_is_read_once_and_only_where_it_is_needed():
    listed = entries(section({"knn": {"views": ("image",)}, "distance": {"views": (("image.z", "text"),)}}), TABLE)
    groups = groups_of(listed, 0)
    assert wanted(groups, VIEWS) == {("", "train"): ["image"], ("", "test"): ["image", "text"]}
    assert wanted(groups_of(listed[:1], 5), VIEWS) == {("", "train"): ["image"]}, "folds read no test row"


def test_two_views_are_compared_where_both_are_present():
    (group,) = groups_of(entries(section({"distance": {"views": (("image.z", "text"),)}}), TABLE), 0)
    ours, theirs = features(12, 0), features(12, 1)
    found = numbers(group, {"": {("", "test"): ours}, "untrained": {("", "test"): theirs}}, 0, lambda text: None)
    rows = np.arange(12) % 4 != 0

    def apart(of):
        return float(np.abs(of.outputs["image"]["z"][rows] - of.outputs["text"]["z"][rows]).mean())

    assert found == {
        "image-text/image_text_distance": apart(ours),
        "image-text/untrained/image_text_distance": apart(theirs),
        "image-text/rows": 9,
    }


@pytest.mark.parametrize(
    ("entry", "field", "said"),
    [
        ({"evaluator": "kn"}, "evaluator", "knn"),
        ({"evaluator": "knn", "K": 5}, "K", "k, temperature"),
        ({"evaluator": "knn", "k": 0}, "k", ">= 1"),
        ({"evaluator": "knn", "temperature": 0.0}, "temperature", "> 0"),
        ({"evaluator": "knn", "folded": True}, "folded", "k, temperature|temperature, k"),
        ({"evaluator": "linear", "l2": -1.0}, "l2", ">= 0"),
        ({"evaluator": "linear", "scaling": "row"}, "scaling", "columns"),
        ({"evaluator": "few_labels", "per_class": (0,)}, r"per_class\[0\]", ">= 1"),
        ({"evaluator": "few_labels", "per_class": ()}, "per_class", "at least one"),
        ({"evaluator": "knn", "every": -7}, "every", ">= 0"),
        ({"evaluator": "knn", "views": ("imag",)}, r"views\[0\]", "image"),
        ({"evaluator": "knn", "views": ("image.q",)}, r"views\[0\]", "z"),
        ({"evaluator": "knn", "views": (("image", "image"),)}, r"views\[0\]", "1 views"),
        ({"evaluator": "knn", "views": ("image.",)}, r"views\[0\]", "z"),
        ({"evaluator": "knn", "views": ("image.h", "image.z")}, r"views\[1\]", "one call of image"),
        ({"evaluator": "retrieval", "views": (("image.z", "image.h"),)}, r"views\[0\]", "different views"),
        ({"evaluator": "retrieval"}, "views", "2 outputs"),
        ({"evaluator": "retrieval", "views": (("image", "image"),), "ks": ()}, "ks", "at least one"),
        ({"evaluator": "objectives", "views": ("image",)}, "views", "no view"),
        ({"evaluator": "knn", "labels": "kind"}, "labels", "label"),
        ({"evaluator": "knn", "features": ("raw", "row")}, r"features\[1\]", "raw"),
        ({"evaluator": "knn", "features": ("raw", "raw")}, "features", "each once"),
        ({"evaluator": "knn", "data": {"batch_size": 5}}, "data.batch_size", ""),
        ({"evaluator": "knn", "data": {"num_examples": -1}}, "data.num_examples", ">= 0"),
    ],
)
def test_an_entry_that_cannot_be_evaluated_is_one_line(entry, field, said):
    config = configs.load("simclr:digits")
    config.evaluate.evaluators = {"one": entry}
    with pytest.raises(
        InputError, match=rf"^config.evaluate.evaluators.one.{field}: found .*allowed: .*({said})|{said}"
    ):
        validate.check(configs.complete(config), **Parts().checked())


def test_a_second_pair_of_the_same_views_would_replace_the_numbers_of_the_first():
    config = configs.load("clip:emoji")
    config.evaluate.evaluators = {"retrieval": {"views": (("image.z", "text.z"), ("image.h", "text.h"))}}
    said = r"retrieval.views\[1\]: found \('image.h', 'text.h'\); allowed: one call of image-text"
    with pytest.raises(InputError, match=said):
        validate.check(configs.complete(config), **Parts().checked())


OTHER = {"train": 24, "test": 11}


def other(data, split):
    """A source of its own, every row of which has a class."""
    arrays = pictures(OTHER[split], 5)
    return from_arrays("other", arrays._replace(labels={"label": np.arange(OTHER[split]) % 3}), data, split)


@pytest.fixture(scope="module")
def evaluation():
    """One run with entries of every kind, evaluated untrained."""
    listed = {
        "knn": {"every": 4, "k": 3},
        "mine": {},
        "one_nn": {"every": 0},
        "far": {"evaluator": "mine", "data": {"name": "other"}, "every": 0},
    }
    parts = Parts(evaluators=TABLE, sources={"other": other})
    run, train, test = built(parts, evaluators=listed, every=2)
    check_evaluation(run, train, test)
    return Evaluation(run, train, test, say=lambda text: None)


@pytest.mark.slow
def test_each_is_evaluated_when_it_is_due(evaluation, monkeypatch):
    """`every` of an entry beside that of the run; only what is due is read, and once for all that is."""
    assert [step for step in range(12) if evaluation.is_due(step, 10)] == [2, 4, 6, 8]
    made, read = [], evaluation.features
    monkeypatch.setattr(evaluation, "features", lambda *a, **k: made.append((a[0], k["source"])) or read(*a, **k))
    state = evaluation.run.init()
    assert set(evaluation.online(state, 2)) == {"eval/image/mean_accuracy", "eval/image/n", "eval/image/train/n"}
    assert {"eval/image/mean_accuracy", "eval/image/knn_accuracy"} <= set(evaluation.online(state, 4))
    assert made == [("train", ""), ("test", "")] * 2


@pytest.mark.slow
def test_an_evaluator_may_have_data_of_its_own(evaluation):
    """Another source beside the run's, with its numbers under the entry's name."""
    found = evaluation.full(evaluation.run.init())
    labelled = [int((pictures(n, seed).labels["label"] >= 0).sum()) for seed, n in enumerate((TRAIN, TEST))]
    assert [found["eval/image/train/n"], found["eval/image/n"]] == labelled
    assert (found["eval/image/far/train/n"], found["eval/image/far/n"]) == (OTHER["train"], OTHER["test"])
    assert found["eval/image/far/mean_accuracy"] != found["eval/image/mean_accuracy"]
    assert found["eval/image/untrained/far/mean_accuracy"] == found["eval/image/far/mean_accuracy"], "the same weights"
    assert "eval/image/raw/one_nn_accuracy" in found and "eval/image/one_nn_accuracy" not in found


@pytest.mark.parametrize(
    ("value", "plain"),
    [(np.float32(0.5), 0.5), (np.zeros(()), 0.0), (jnp.float32(2), 2.0), (jnp.bfloat16(2), 2.0), (np.int64(3), 3)],
)
def test_numbers_of_any_library_are_written_as_plain_ones(value, plain):
    found = result_of({"x": value}).metrics["x"]
    assert found == plain and type(found) is type(plain)
    assert json.loads(json.dumps({"x": found})) == {"x": plain}


@pytest.mark.parametrize("found", [None, [1.0], {"x": "abc"}, {"x": np.zeros(3)}, {"x": None}])
def test_what_is_no_mapping_of_numbers_is_refused_by_the_name_of_its_evaluator(found):
    with pytest.raises(InputError, match="what mine returns"):
        result_of(found, "mine")
