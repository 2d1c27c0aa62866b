"""Measures on made features whose answers are known."""

import numpy as np
import pytest

from hcl_jax.claims.measures import MEASURES
from hcl_jax.claims.measures.bound import _straight
from hcl_jax.claims.measures.fusion import fuse, kept
from hcl_jax.claims.measures.reading import Reading, Split
from hcl_jax.data.noise import sampled_rows

CLASSES, WIDTH = 4, 6
RNG = np.random.default_rng(0)
CENTRES = 4 * np.eye(CLASSES, WIDTH)


def made(n: int, spread: float, seed: int = 0, there: float = 1.0) -> Split:
    """Classes around their own axes."""
    rng = np.random.default_rng((n, seed))
    labels = np.arange(n) % CLASSES
    x = CENTRES[labels] + spread * rng.standard_normal((n, WIDTH))
    return Split(x.astype(np.float32), labels, rng.random(n) < there)


def reading(spread: float, value=None, seed: int = 0, **others: float) -> Reading:
    views = {"image": {"train": made(120, spread, seed), "test": made(80, spread, seed + 1)}}
    views |= {name: {"test": made(80, s, seed + 2)} for name, s in others.items()}
    return Reading(value, views, {"image": {"train": made(120, 6.0, seed), "test": made(80, 6.0, seed + 1)}})


def logits(right: float, n: int = 80) -> dict:
    """A head whose share `right` of rows is right."""
    labels = np.arange(n) % CLASSES
    guess = np.where(np.arange(n) < round(right * n), labels, (labels + 1) % CLASSES)
    return {"head": {"test": Split(np.eye(CLASSES, dtype=np.float32)[guess], labels, np.ones(n, bool))}}


@pytest.mark.slow(one=True)
def test_fewer_labels():
    scratch = [Reading(n, logits(right)) for n, right in ((8, 0.25), (40, 0.5), (120, 0.95))]
    found = MEASURES["fewer_labels"](
        {"ssl": [reading(0.1)], "scratch": scratch}, 0, ssl="ssl", scratch="scratch", view="image", head="head"
    )
    assert found["full"] == 1.0 and found["ssl"]["x"] == [8, 40, 120]
    assert found["needed_ssl"] == 8  # well apart: the first count is enough
    share = (0.9 - 0.5) / (0.95 - 0.5)
    assert found["needed_scratch"] == pytest.approx(40 * (120 / 40) ** share)
    assert found["ratio_scratch"] == pytest.approx(8 / found["needed_scratch"])
    assert found["log_ratio_scratch"] == pytest.approx(np.log(8 / found["needed_scratch"]))
    # Never reached: counts with all labels.
    assert found["needed_untrained"] == 120 and max(found["untrained"]["y"]) < 0.9


@pytest.mark.slow
def test_rows_without_a_label_count_nowhere():
    rows = made(120, 0.1)
    labels = np.where(np.arange(120) % 3 == 0, -1, rows.labels)
    test = made(80, 0.1, 1)
    views = {"image": {"train": rows._replace(labels=labels),
                       "test": test._replace(labels=np.where(np.arange(80) < 40, -1, test.labels))}}  # fmt: skip
    arms = {"ssl": [Reading(None, views, views)], "scratch": [Reading(n, logits(0.5)) for n in (4, 120)]}
    found = MEASURES["fewer_labels"](arms, 0, ssl="ssl", scratch="scratch", view="image", head="head")
    assert found["full"] == 1.0


def test_the_probe_sees_the_rows_that_a_run_from_scratch_is_trained_on():
    few = sampled_rows(120, 8, seed=3)
    wrong = made(120, 0.1)
    labels = (wrong.labels + 1) % CLASSES
    labels[few] = wrong.labels[few]  # right on these rows alone
    views = {"image": {"train": wrong._replace(labels=labels), "test": made(80, 0.1, 1)}}
    arms = {"ssl": [Reading(None, views, views)], "scratch": [Reading(n, logits(0.5)) for n in (8, 120)]}
    found = MEASURES["fewer_labels"](arms, 3, ssl="ssl", scratch="scratch", view="image", head="head")
    assert found["ssl"]["y"][0] > 0.7 > 0.3 > found["ssl"]["y"][1]


def test_linear_signal():
    found = MEASURES["linear_signal"]({"ssl": [reading(0.1)]}, 0, run="ssl", view="image")
    for means in ("product", "nearest"):
        assert found["probe_trained"] == found[f"{means}_trained"] == 1.0 and found[f"{means}_gap_trained"] == 0
        gap = found["probe_untrained"] - found[f"{means}_untrained"]
        assert found[f"{means}_gap_untrained"] == pytest.approx(gap)
    assert found["probe_untrained"] < 1


def test_bound_and_its_identity():
    found = MEASURES["bound"]({"ssl": [reading(1.0)]}, 0, run="ssl", view="image", subsets=20, rows=24)
    assert found["identity_error"] < 1e-12
    assert found["share_holds"] == found["share_two_sided"] == 1.0
    assert found["slack"] > 0 and len(found["sides"]["x"]) == 20


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_straight_sum_against_loops(loss):
    x, labels = RNG.standard_normal((7, 3)), np.array([0, 0, 1, 1, 1, 2, 2])
    total = 0.0
    for i in range(7):
        same = [j for j in range(7) if labels[j] == labels[i]]
        each = []
        for j in same:
            for k in range(7):
                v = x[i] @ x[j] - x[i] @ x[k]
                each.append(max(0.0, 1 - v) if loss == "hinge" else np.log2(1 + np.exp(-v)))
        total += np.mean(each) / 7
    assert _straight(x, labels, loss) == pytest.approx(total, rel=1e-12)


def test_noise():
    spreads = {0.0: 1.0, 0.1: 2.0, 0.2: 3.0, 0.3: 4.5}
    arms = {"labels": [reading(s, v, rotated=s + 1, noisy=s + 2) for v, s in spreads.items()]}
    found = MEASURES["noise"](arms, 0, run="labels", view="image")
    assert found["id_change_0.3"] == pytest.approx(found["id_0.3"] - found["id_0.0"]) and found["id_change_0.3"] < 0
    assert found["ood_0.0"] < found["id_0.0"]
    assert found["id_rank"] == -1 and found["sve_rank"] == 1  # wider classes: flatter values
    assert found["id"]["x"] == list(spreads)
    with pytest.raises(ValueError, match="three or more"):
        MEASURES["noise"]({"labels": arms["labels"][:2]}, 0, run="labels", view="image")


def test_another_data_set_has_a_probe_of_its_own():
    turned = {s: made(80, 0.1, 5)._replace(labels=(made(80, 0.1, 5).labels + 1) % CLASSES) for s in ("train", "test")}
    readings = [r._replace(views={**r.views, "other": turned}) for r in (reading(0.1, v) for v in (0.0, 0.1, 0.2))]
    found = MEASURES["noise"]({"labels": readings}, 0, run="labels", view="image")
    assert found["ood_0.0"] == 1.0  # by the probe of `image` it would be 0


def test_tuning():
    def head(inside: float, outside: float) -> Reading:
        a, b = logits(inside, 40)["head"]["test"], logits(outside, 40)["head"]["test"]
        both = Split(*(np.concatenate(x) for x in zip(a, b, strict=True)))
        domain = both._replace(labels=np.repeat([0, 1], 40))
        return Reading(None, {"tuned": {"test": both}, "domain": {"test": domain}})

    arms = {"nmtune": [head(0.9, 0.7)], "linear": [head(0.8, 0.5)]}
    found = MEASURES["tuning"](arms, 0, method="nmtune", others=["linear"], view="tuned", domain="domain")
    assert found["id_over_linear"] == pytest.approx(0.1) and found["ood_over_linear"] == pytest.approx(0.2)
    assert found["ood_nmtune"] == pytest.approx(0.7)


def test_recovery():
    arms = {"a": [reading(0.5)], "b": [reading(3.0)], "c": [reading(1.5)], "d": [reading(3.0)]}
    roles = {"clean": "a", "damaged": "b", "remedy": "c", "control": "d"}
    found = MEASURES["recovery"](arms, 0, **roles, view="image")
    assert found["lost"] > found["recovered"] > 0
    assert found["over_control"] == pytest.approx(found["recovered"])


def test_difference():
    arms = {"a": [reading(0.5)], "b": [reading(3.0)]}
    found = MEASURES["difference"](arms, 0, first="a", second="b", view="image")
    assert found["difference"] == pytest.approx(found["first"] - found["second"]) and found["difference"] > 0


@pytest.mark.slow
def test_fusion():
    splits = {name: {s: made(n, 2.5, i) for s, n in (("train", 160), ("test", 400))} for i, name in enumerate("abc")}
    arms = {"full": [Reading(None, splits)], "half": [Reading(None, splits)]}
    found = MEASURES["fusion"](arms, 0, runs={"full": 0.0, "half": 0.5}, views=["a", "b", "c"])
    assert found["over_single_0.0"] > 0.02  # three independent views tell more than one
    assert found["fused_0.0"] > found["fused_0.5"]
    assert found["drop_zeros_0.5"] > found["drop_mean_0.5"]
    assert found["drop_excess_0.5"] == pytest.approx(found["drop_mean_0.5"] - found["drop_zeros_0.5"] / 2)
    assert "drop_mean_0.0" not in found
    # Where the best view is missing it says nothing; where it is there, it is one view against all or fewer.
    assert found["over_single_0.5"] > found["over_single_there_0.5"]
    assert found["over_single_0.0"] == found["over_single_there_0.0"]


def test_gaps():
    there = kept(5000, 3, 0.6, seed=1)
    assert there.any(axis=1).all() and there.shape == (5000, 3)
    # P(there) = 0.4, and a third of the 0.6^3 examples without any keep this one.
    assert there.mean() == pytest.approx(0.4 + 0.6**3 / 3, abs=0.01)
    assert kept(10, 3, 0.0, seed=1).all()
    np.testing.assert_array_equal(there, kept(5000, 3, 0.6, seed=1))


def test_fuse():
    outputs = [np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])]
    there = np.array([[True, True], [False, True]])
    np.testing.assert_allclose(fuse(outputs, there, "mean"), [[0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(fuse(outputs, there, "zeros"), [[1, 0, 0, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("measure", "arguments", "words"),
    [
        ("linear_signal", {"run": "sll", "view": "image"}, ("arm 'sll'", "ssl")),
        ("linear_signal", {"run": "ssl", "view": "imag"}, ("view 'imag'", "image")),
        ("bound", {"run": "ssl", "view": "image", "subsets": 0}, ("subsets 0",)),
        ("fusion", {"runs": {"ssl": 1.0}, "views": ["image", "image"]}, ("1.0", "0 to below 1")),
        ("fusion", {"runs": {"ssl": 0.0}, "views": ["image"]}, ("two or more",)),
        ("fusion", {"runs": {"ssl": 0.3, "b": 0.3}, "views": ["image", "image"]}, ("another share",)),
        ("fusion", {"runs": {"ssl": 0.3}, "views": "ab"}, ("'ab'", "list")),
        ("tuning", {"method": "ssl", "others": "l", "view": "a", "domain": "b"}, ("'l'", "list")),
    ],
)
def test_refused(measure, arguments, words):
    with pytest.raises(ValueError) as error:
        MEASURES[measure]({"ssl": [reading(0.1)]}, 0, **arguments)
    assert all(w in str(error.value) for w in words), error.value
