"""Fields of `evaluate` before evaluators were entries: read in recipes, in config.json and on the command line."""

import json
import re

import pytest

from hcl_jax import config as configs
from hcl_jax import workdir
from hcl_jax.compat.fields import OLD_FIELDS, check_once, old_value, translated
from hcl_jax.config import validate
from hcl_jax.errors import InputError
from hcl_jax.run import Parts

PLAIN = {"evaluators": {"spread": {}, "knn": {"k": 20, "temperature": 0.07}, "linear": {}}, "labels": "label"}
FEW = {"few_labels": {"per_class": (1, 10), "draws": 20}}
PAIRS = (("image.z", "text.z"),)
# field, value, what the evaluators were, what they are then.
CASES = [
    ("knn", {"k": 5, "temperature": 0.1}, {"knn": {"k": 20}}, {"knn": {"k": 5, "temperature": 0.1}}),
    ("knn", None, {"knn": {"k": 20}, "linear": {}}, {"linear": {}}),
    ("linear", False, {"spread": {}, "linear": {"scaling": "rows"}}, {"spread": {}}),
    ("linear", True, {"linear": {"scaling": "rows"}}, {"linear": {"scaling": "rows"}}),
    ("scaling", "rows", {"linear": {}}, {"linear": {"scaling": "rows"}}),
    ("scaling", "columns", {"linear": {"scaling": "rows"}}, {"linear": {"scaling": "columns"}}),
    ("scaling", "rows", {"knn": {}}, {"knn": {}}),
    ("svm", True, {}, {"svm": {}}),
    ("svm", False, {"svm": {}, "knn": {}}, {"knn": {}}),
    ("objectives", True, {}, {"objectives": {}}),
    ("nearest_neighbour", True, {}, {"one_nn": {}}),
    ("per_class", (1, 5), FEW, {"few_labels": {"per_class": (1, 5), "draws": 20}}),
    ("per_class", (), FEW, {}),
    ("draws", 3, FEW, {"few_labels": {"per_class": (1, 10), "draws": 3}}),
    ("draws", 3, {}, {}),
    ("retrieval", PAIRS, {}, {"retrieval": {"views": PAIRS}}),
    ("retrieval", (), {"retrieval": {"views": PAIRS}}, {}),
    ("recall_at", (1, 10), {"retrieval": {"views": PAIRS}}, {"retrieval": {"views": PAIRS, "ks": (1, 10)}}),
]


def test_every_old_field_has_a_case():
    assert {case[0] for case in CASES} == set(OLD_FIELDS)


@pytest.mark.parametrize(("field", "value", "before", "after"), CASES)
def test_an_old_field_stands_for_an_entry(field, value, before, after):
    found = translated({"evaluators": before, "labels": "label", field: value})
    assert found == {"evaluators": after, "labels": "label"}


def test_old_fields_act_together_whatever_their_order():
    """draws before per_class on a command line, and arguments of an evaluator that another field switches on."""
    old = {"draws": 3, "recall_at": (2,), "scaling": "rows", "per_class": (4,), "retrieval": PAIRS, "linear": True}
    expected = {"few_labels": {"per_class": (4,), "draws": 3}, "linear": {"scaling": "rows"}} | {
        "retrieval": {"views": PAIRS, "ks": (2,)}
    }
    assert translated({"evaluators": {}, "labels": "label", **old})["evaluators"] == expected


def test_without_labels_what_a_user_lists_stays():
    listed = {"evaluators": {"mine": {}, "spread": {}}, "labels": ""}
    assert translated({**listed, "svm": False}) == listed
    assert translated({"labels": "", "svm": False}) == {"evaluators": {}, "labels": ""}  # as old runs did


def test_a_section_without_old_fields_is_left_alone():
    assert translated(PLAIN) == PLAIN


@pytest.mark.parametrize(("field", "value", "before", "after"), CASES)
def test_the_old_value_is_what_its_translation_means(field, value, before, after):
    """What an override starts from: translating it back changes nothing."""
    if field in ("scaling", "draws", "recall_at") and before == after:
        return  # it has no entry to be an argument of
    section = {"evaluators": after, "labels": "label"}
    assert translated({**section, field: old_value(section, field)})["evaluators"] == after
    assert old_value(section, field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("knn", 5), ("linear", 1), ("svm", "yes"), ("objectives", 1), ("nearest_neighbour", None), ("scaling", "row"),
        ("draws", 0), ("draws", 2.5), ("per_class", 5), ("per_class", ("a",)), ("recall_at", (True,)),
        ("retrieval", "a.z"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(field, value):
    with pytest.raises(InputError, match=re.escape(f"config.evaluate.{field}: found {value!r}")):
        translated({**PLAIN, field: value})


def entries(config):
    """{entry: its arguments} of a completed config."""
    own = ("evaluator", "every", "labels", "features", "data")
    found = configs.complete(config).evaluate.evaluators.to_dict()
    return {k: {f: x for f, x in v.items() if f not in own and x != ()} for k, v in found.items()}


DIGITS = {"spread": {}, "knn": {"k": 20, "temperature": 0.07}, "linear": {}} | {
    "few_labels": {"per_class": (1, 10, 100), "draws": 20}
}


def without(*names, **more):
    return {k: v for k, v in DIGITS.items() if k not in names} | more


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["knn=none", "svm=true"], without("knn", svm={})),
        (["draws=2", "per_class=(1,)", "linear=false"], without("linear", few_labels={"per_class": (1,), "draws": 2})),
        (["knn.k=3", "per_class=()"], without("few_labels", knn={"k": 3, "temperature": 0.07})),
        (["evaluators.knn=none", "evaluators.linear.l2=0.5"], without("knn", linear={"l2": 0.5})),
        (["evaluators.svm={}", "evaluators.few_labels.draws=2"],
         without(svm={}, few_labels={"per_class": (1, 10, 100), "draws": 2})),
        (["evaluators={'near': {'evaluator': 'knn', 'k': 1}}"], {"near": {"k": 1}}),
    ],
)  # fmt: skip
def test_the_command_line_takes_old_and_new_fields(flags, expected):
    config = configs.load("simclr:digits")
    for flag in flags:
        field, _, text = flag.partition("=")
        configs.override(config, f"evaluate.{field}", text)
    assert entries(config) == expected


def test_an_old_field_on_the_command_line_has_its_type():
    config = configs.load("simclr:digits")
    for field, text, words in (("linear", "3", "true or false"), ("draws", "many", "whole number")):
        with pytest.raises(InputError, match=rf"--config.evaluate.{field}: found {text}; allowed: .*{words}"):
            configs.override(config, f"evaluate.{field}", text)


@pytest.mark.parametrize("field", ["evaluate", "evaluate.evaluators"])
def test_an_old_field_beside_a_section_that_is_none(field):
    config = configs.load("simclr:digits")
    for name, text in ((field, "5"), ("evaluate.knn", "none")):
        try:
            configs.override(config, name, text)
        except InputError:  # nothing can be set below a number
            break
    with pytest.raises(InputError, match=rf"^config.{field}: found 5; allowed: fields by name"):
        validate.check(configs.complete(config), **Parts().checked())


def test_a_recipe_of_before_is_read(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from hcl_jax.config import defaults\n"
        "def get_config(argument=''):\n"
        "    c = defaults()\n"
        "    c.evaluate.svm, c.evaluate.per_class, c.evaluate.draws = True, (1, 10), 20\n"
        "    c.evaluate.knn, c.evaluate.nearest_neighbour = {'k': 5, 'temperature': 0.07}, True\n"
        "    return c\n"
    )
    expected = {"spread": {}, "linear": {}, "knn": {"k": 5, "temperature": 0.07}, "svm": {}, "one_nn": {}, **FEW}
    assert entries(configs.load(str(recipe))) == expected


def test_a_run_of_before_has_its_evaluators(tmp_path):
    """Its config.json has every old field; it equals the recipe of today, so that nothing differs on resume."""
    config = configs.complete(configs.load("simclr:digits"))
    plain = json.loads(configs.to_json(config))
    del plain["evaluate"]["evaluators"]
    plain["evaluate"] |= {"knn": {"k": 20, "temperature": 0.07}, "linear": True, "scaling": "columns", "svm": False}
    plain["evaluate"] |= {"objectives": False, "per_class": [1, 10, 100], "draws": 20, "retrieval": []}
    plain["evaluate"] |= {"recall_at": [1, 5], "nearest_neighbour": False}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert configs.differences(workdir.resume_config(tmp_path), config) == {}
    plain["evaluate"]["labels"] = ""  # retrieval and objectives alone read views without labels
    (tmp_path / "config.json").write_text(json.dumps({**plain, "evaluate": {**plain["evaluate"], "objectives": True}}))
    assert list(workdir.resume_config(tmp_path).evaluate.evaluators) == ["objectives"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("knn", "knn.k"),
        ("knn.k", "knn"),
        ("linear", "linear.l2"),
        ("recall_at", "retrieval.ks"),
        ("draws", "few_labels"),
    ],
)
def test_an_evaluator_has_one_name_in_a_command(old, new):
    """`knn=None` beside `evaluators.knn.k=5` took the entry away without a word, in either order."""
    fields = [f"evaluate.{old}", f"evaluate.evaluators.{new}"]
    for order in (fields, fields[::-1]):
        with pytest.raises(
            InputError, match=rf"^--config.{fields[0]}: found beside --config.{fields[1]}; allowed: one"
        ):
            check_once(["train.steps", *order])
    check_once([fields[0], "evaluate.evaluators.svm", "evaluate.every"])


def test_a_run_begun_before_pictures_were_turned_goes_on_as_it_was(tmp_path, caplog):
    """By its folder alone, and by the command that began it, whose config has the default of today."""
    config = configs.complete(configs.load("simclr:digits"))
    assert config.data.upright is True
    plain = json.loads(configs.to_json(config))
    del plain["data"]["upright"]
    assert workdir.as_begun(tmp_path, config) is config  # nothing there yet
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert workdir.resume_config(tmp_path).data.upright is False
    again = workdir.as_begun(tmp_path, config)
    assert configs.differences(config, again) == {"data.upright": (True, False)}
    assert workdir.check(tmp_path, again) == {}
    assert "config.data.upright is False: the run was begun before there was such a field" in caplog.text
    (tmp_path / "config.json").write_text(configs.to_json(config))
    assert workdir.as_begun(tmp_path, again) is again  # a run that has the field
    with pytest.raises(InputError, match="config.data.upright: found False; allowed: True"):
        workdir.check(tmp_path, again)
