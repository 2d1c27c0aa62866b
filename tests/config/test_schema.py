"""What the schema says of each field is what is refused, read from the command line, and written in the docs."""

import copy
import dataclasses
import inspect
import json
import math
import types
import typing

import pytest
from tables import DOCS, PAGES, renewed
from worlds import two_views

from hcl_jax import config as configs
from hcl_jax.config import schema, specs, validate
from hcl_jax.config.check_evaluation import BOUNDS
from hcl_jax.config.fields import Field, Rule, check, fields, filled, members, setting
from hcl_jax.core import optim, schedules
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.evaluators.entries import FEATURES
from hcl_jax.losses import LOSSES
from hcl_jax.similarity import ENGINES
from hcl_jax.views import KINDS, VIEWS

BAD = (-7, -7.5, 0, math.nan, math.inf, 10**40, "a string", [1], True, {"a": 1}, None)


def everything():
    """A valid config in which each kind of section stands, as plain dicts."""
    c = two_views()
    c.views["a"]["draws"] = "a"
    tower = c.towers["image"]
    tower["target"] = {"momentum": 0.9}
    tower["memory"] = {
        "queue": {"kind": "fifo", "reads": "a.z", "size": 64},
        "centre": {"kind": "mean_ema", "reads": "a.target.h", "momentum": 0.9},
    }
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": (), "tower": "image"}}
    return configs.complete(c).to_dict()


def checked(plain):
    config = types.SimpleNamespace(to_dict=lambda: plain)
    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)


def numeric(section, value, path=()):
    """(path, field) of each number below a section that `value` has."""
    for name, f in fields(section).items():
        here = (*path, name)
        if {int, float} & set(members(f.kind)):
            yield here, f
            continue
        for kind in members(f.kind):
            if dataclasses.is_dataclass(kind) and value[name] is not None:
                yield from numeric(kind, value[name], here)
            elif typing.get_origin(kind) is dict and dataclasses.is_dataclass(typing.get_args(kind)[1]):
                for key, entry in value[name].items():
                    inner = typing.get_args(kind)[1]
                    inner = specs.MEMORIES[entry["kind"]] if inner is specs.Memory else inner
                    yield from numeric(inner, entry, (*here, key))


def put(value, path, leaf):
    """A copy with another value at a path."""
    changed = copy.deepcopy(value)
    inside = changed
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = leaf
    return changed


def meant(value, f):
    """Whether a field says of an odd value that it may be given."""
    kinds = members(f.kind)
    if value is None or isinstance(value, dict):
        return (types.NoneType if value is None else dict) in kinds
    if isinstance(value, bool) or not isinstance(value, int if float not in kinds else int | float):
        return False
    if value in f.rule.also or (value == 0 and bool(f.rule.zero)):
        return True
    return f.rule.least is not None and f.rule.least <= value <= 0


def slips(value, path, f, check):
    """The odd values of one field that `check` lets through though nothing says that they are meant."""
    found = []
    for bad in BAD:
        try:
            check(put(value, path, bad))
        except InputError as error:
            line = str(error)
            assert line.startswith(f"config.{'.'.join(path)}") and "\n" not in line and "; allowed: " in line, line
        else:
            if not meant(bad, f):
                found.append((".".join(path), bad))
    return found


def test_no_odd_number_passes_unless_its_bound_says_so():
    """Every number of a config at -7, 0, nan, a string, a list, ...: refused by a line that names it, or meant."""
    value = everything()
    checked(value)
    leaves = list(numeric(schema.Config, value))
    assert len(leaves) > 50
    assert [slip for path, f in leaves for slip in slips(value, path, f, checked)] == []


@pytest.mark.parametrize(
    ("section", "value"),
    [
        (specs.Learned, {"learn": "linear", "init": 1.0, "min": 0.5, "max": 2.0}),
        (specs.Scheduled, {"schedule": "linear", "start": 1.0, "end": 2.0, "steps": 3, "hold": 1}),
        (schema.Part, {f: d.default for f, d in fields(schema.Part).items()}),
    ],
)
def test_nor_in_what_stands_beside_the_config(section, value):
    leaves = list(numeric(section, value))
    assert leaves
    for path, f in leaves:
        assert slips(value, path, f, lambda v: check(section, v, "config")) == []


def test_nor_among_the_arguments_of_evaluators():
    """Each whole number and number that an evaluator's signature has; one without a bound shows here."""
    value = everything()
    for name, function in EVALUATORS.items():
        for argument, parameter in inspect.signature(function).parameters.items():
            if {int, float} & set(members(parameter.annotation)):
                entry = {"evaluator": name, "views": (("image.h", "image.h"),) if name == "retrieval" else ()}
                entry = filled(specs.Evaluator, entry)
                path = ("evaluate", "evaluators", "tried", argument)
                f = Field(*BOUNDS.get(argument, (parameter.annotation, Rule())), None)
                assert slips(put(value, path[:3], entry), path, f, checked) == []


def test_a_field_whose_bound_is_forgotten_is_caught():
    """The test above sees a new field without a bound, and one whose 0 nobody explained."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Planted:
        unbounded: int = setting(1, "no bound")
        share: float = setting(0.5, "its 0 means nothing", most=1)
        sound: int = setting(1, "bounded", least=1)

    value = {"unbounded": 1, "share": 0.5, "sound": 1}
    leaves = numeric(Planted, value)
    found = {path[0] for path, f in leaves if slips(value, path, f, lambda v: check(Planted, v, "config"))}
    assert found == {"unbounded", "share"}


def test_counts_fit_what_reads_them():
    value = everything()
    for path, f in numeric(schema.Config, value):
        past = 1.1 * (f.rule.most or 3.4e38) if float in members(f.kind) else 1 + (f.rule.most or 2**31 - 1)
        with pytest.raises(InputError, match=path[-1]):
            checked(put(value, path, past))


TEXTS = {
    bool: {"true": True, "False": False, "1": None, "x": None, "()": None},
    int: {"3": 3, "-1": -1, "3.0": None, "1e3": None, "true": None, "x": None, "(1,)": None},
    float: {"3": 3.0, "1e-3": 1e-3, "true": None, "x": None, "nan": None, "(1,)": None},
    str: {"x": "x", "3": "3", "true": "true", "(1,)": "(1,)"},
    tuple: {"('a', 'b')": ("a", "b"), "()": (), "a": ("a",), "[3]": (3,)},
}


def test_the_type_of_a_field_decides_how_an_override_is_read():
    """Every flat field against texts of each type; None: refused, with a line that names the flag."""
    config = configs.defaults()
    seen = set()
    for section, f in fields(schema.Config).items():
        inside = fields(f.kind).items() if dataclasses.is_dataclass(f.kind) else [("", f)]
        for name, leaf in inside:
            kind = tuple if typing.get_origin(leaf.kind) is tuple else leaf.kind
            field = f"{section}.{name}" if name else section
            for text, value in TEXTS.get(kind, {}).items():
                seen.add(kind)
                if value is None:
                    with pytest.raises(InputError, match=rf"^--config\.{field}: found "):
                        configs.override(config, field, text)
                    continue
                configs.override(config, field, text)
                got = config[section][name] if name else config[section]
                assert got == value and type(got) is type(value), (field, text, got)
    assert seen == set(TEXTS)


def test_choices_are_those_of_the_tables():
    assert set(schema.ENGINES) == set(ENGINES)
    assert schema.DEFAULT_EXCLUDE == optim.DEFAULT_EXCLUDE
    assert specs.FEATURES == FEATURES
    assert set(specs.KINDS) == set(KINDS)
    optimizer = fields(schema.Optimizer)
    assert set(optimizer["name"].rule.choices) == set(optim.OPTIMIZERS)
    tables = {"scaling": schedules.SCALINGS, "schedule": schedules.SCHEDULES, "warmup_form": schedules.WARMUPS}
    tables |= {
        "schedule_by": schedules.UNITS,
        "cosine_over": schedules.SPANS,
        "clip_by": optim.CLIPS,
        **optim.FORM_NAMES,
    }
    assert {name: set(optimizer[name].rule.choices) for name in tables} == {k: set(v) for k, v in tables.items()}


def test_every_field_has_words():
    sections = [schema.Config, *(f.kind for f in fields(schema.Config).values() if dataclasses.is_dataclass(f.kind))]
    sections += [s for s in vars(specs).values() if dataclasses.is_dataclass(s)]
    for section in sections:
        for name, f in fields(section).items():
            whole = section is schema.Config and f.kind not in (int, str)
            assert whole or f.rule.words, f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("default", "rule", "value", "line"),
    [
        (1, {"least": 1}, 0, "a whole number >= 1"),
        (1, {"least": 0, "below": 2}, 2, "a whole number, 0 <= x < 2"),
        (1.0, {"above": 0, "most": 1}, 1.5, "a number, 0 < x <= 1"),
        (2, {"least": 2, "also": (0,)}, 1, "a whole number >= 2, or 0"),
        (0, {"least": 0, "zero": "is off"}, -1, "a whole number >= 0; 0 is off"),
        (0.0, {"least": -math.inf}, "x", "a number"),
        (1, {"least": 1}, 2**31, "a whole number, 1 <= x <= 2147483647"),
        ("a", {"choices": ("a", "b")}, "c", "a, b"),
    ],
)
def test_what_is_allowed_is_said_in_words(default, rule, value, line):
    section = dataclasses.make_dataclass("S", [("x", type(default), setting(default, "", **rule))])
    with pytest.raises(InputError) as error:
        check(section, {"x": value}, "config.s")
    assert str(error.value) == f"config.s.x: found {value!r}; allowed: {line}"


def test_a_frozen_config_without_the_younger_fields_has_their_defaults():
    plain = everything()
    old = {k: v for k, v in plain.items() if k != "limits"}
    del old["checkpoint"]["on_error"], old["towers"]["image"]["frozen"], old["optimizer"]["average"]
    again = configs.with_younger(json.loads(json.dumps(old)))
    assert configs.differences(again, configs.complete(configs.ConfigDict(everything()))) == {}
    with pytest.raises(InputError, match="config.json: found no field 'log'"):
        configs.with_younger({k: v for k, v in plain.items() if k != "log"})


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_the_docs_are_those_of_the_code(page):
    """`make golden` writes them."""
    text = (DOCS / page).read_text()
    assert renewed(text) == text and text.count("<!-- table: ") == text.count("<!-- end -->") > 5
