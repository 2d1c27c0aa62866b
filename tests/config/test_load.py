"""Recipes, overrides, freezing, and the golden copy of every recipe."""

import argparse
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from hcl_jax import config as configs
from hcl_jax import workdir
from hcl_jax.cli import plain_log, read_config
from hcl_jax.config import validate
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES
from hcl_jax.views import VIEWS

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN, CONFIGS = ROOT / "tests" / "golden", ROOT / "configs"
RECIPES = [
    "simclr:digits", "simclr:fashion_mnist", "simclr:cifar10", "simclr:cifar10_paper", "simclr:imagenet",
    "simclr:imagenet_code", "simclr:folder", "byol:folder", "dino:folder",
    "clip:emoji", "clip:icons", "clip:pairs", "clip:csv", "clip:siglip_b", "clip:vit_b",
    "three_views:emoji", "simclr_series:BasicMotions", "simclr_series:csv", "byol:digits",
    "byol:digits_no_predictor", "byol:digits_no_stop_gradient", "byol:fashion_mnist", "byol:imagenet", "moco:digits",
    "moco:fashion_mnist", "moco:imagenet_v1", "moco:imagenet_v2", "moco:imagenet_v3_r50", "moco:imagenet_v3_vit",
    "swav:imagenet_256", "swav:digits", "swav:fashion_mnist", "swav:imagenet", "dino:digits",
    "dino:imagenet", "grace:cora", "grace:graph", "grace:blocks", "graphcl:mutag", "graphcl:motifs", "joao:mutag",
    "joao:motifs",
    "ts2vec:BasicMotions", "second_stage:linear", "second_stage:mlp", "second_stage:contrast",
    "second_stage:frozen_tower", "dpo:reference", "dpo:preferences", "multi_task:fixed", "multi_task:uncertainty",
    "nmtune:linear", "nmtune:mlp", "nmtune:paper", "nmtune:code",
    "generated_views:digits", "generated_views:fashion_mnist", "simsiam:digits", "simsiam:fashion_mnist",
    "simsiam:imagenet", "quality:judge", "quality:moco", "quality:byol", "quality:simsiam", "quality:swav",
    "quality:judge_digits", "quality:moco_digits",
    "supervised:digits", "supervised:fashion_mnist", "supervised:emoji", "supervised:BasicMotions",
]  # fmt: skip


def test_every_packaged_recipe_is_listed_here():
    assert {r.partition(":")[0] for r in RECIPES} == set(configs.recipe_names())


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_valid_and_as_golden(recipe):
    """A changed default shows in review: `make golden` writes the new copies."""
    config = configs.complete(configs.load(recipe))
    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    golden = GOLDEN / f"{recipe.replace(':', '-')}.txt"
    assert golden.read_text() == "".join(f"{k} = {v!r}\n" for k, v in configs.flatten(config.to_dict()).items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_freezing_is_a_fixed_point(recipe):
    config = configs.complete(configs.load(recipe))
    again = configs.from_json(configs.to_json(config), "here")
    assert configs.differences(config, again) == {}
    assert configs.to_json(configs.complete(again)) == configs.to_json(config)


def test_paths_and_names_find_the_same_recipe(tmp_path, monkeypatch):
    by_name = configs.complete(configs.load("simclr:digits"))
    monkeypatch.chdir(tmp_path)
    by_path = configs.complete(configs.load("configs/simclr.py:digits"))
    assert configs.differences(by_name, by_path) == {}


def test_recipes_share_a_file_wherever_they_lie(tmp_path, monkeypatch):
    """`from ._image import ...` in a recipe that was copied away, and in one beside a file of its own of that name."""
    by_name = configs.complete(configs.load("byol:digits"))
    monkeypatch.chdir(tmp_path)
    for folder in ("alone", "beside"):
        (tmp_path / folder).mkdir()
        shutil.copy(CONFIGS / "byol.py", tmp_path / folder)
    assert configs.differences(configs.complete(configs.load("alone/byol.py:digits")), by_name) == {}
    text = (CONFIGS / "_image.py").read_text().replace('batch_size = "digits", 256', 'batch_size = "digits", 64')
    (tmp_path / "beside" / "_image.py").write_text(text)
    assert configs.load("beside/byol.py:digits").data.batch_size == 64, "its own comes before the packaged one"
    assert configs.load("byol:digits").data.batch_size == 256


@pytest.mark.slow
def test_recipes_share_a_file_in_an_installed_package(tmp_path):
    """As in a wheel: configs is inside of the package, and no clone is near."""
    package = tmp_path / "site" / "hcl_jax"
    shutil.copytree(ROOT / "hcl_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONFIGS, package / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from hcl_jax import config; print(config.__file__, *(config.load(r).name for r in ('simclr', 'swav:digits')))"
    )
    env = {**os.environ, "PYTHONPATH": str(package.parent)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.stdout.split() == [str(package / "config" / "__init__.py"), "simclr", "swav"], found.stderr


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("optimizer.learning_rate", "3", 3.0),
        ("data.batch_size", "64", 64),
        ("data.name", "cifar10", "cifar10"),
        ("log.wandb", "true", True),
        ("evaluate.per_class", "(1, 5)", (1, 5)),
        ("evaluate.knn", "None", None),
        ("objectives.contrast.temperature", "0.5", 0.5),
        ("views.a.ops", "()", ()),
        ("towers.image.encoder.kernel", "5", 5),
    ],
)
def test_override_takes_the_type_of_the_field(field, text, value):
    config = configs.load("simclr:digits")
    configs.override(config, field, text)
    assert configs.flatten(config.to_dict())[field] == value


def test_override_inside_a_list_of_operations():
    config = configs.load("simclr:fashion_mnist")
    configs.override(config, "views.a.ops.0.size", "20")
    configs.override(config, "views.b.ops[0].size", "22")
    assert (config.views.a.ops[0]["size"], config.views.b.ops[0]["size"]) == (20, 22)


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("optimizer.learning_rat", "3", "learning_rate"),
        ("data.batch_size", "1.5", "whole number"),
        ("data.batch_size", "many", "whole number"),
        ("log.wandb", "3", "true or false"),
        ("optimizer.learning_rate.x", "3", "existing field"),
        ("views.a.ops.9.size", "3", "0 to"),
        ("views.a.ops[9].size", "3", "0 to"),
        ("views.a.missng", "0.3", "missing"),
    ],
)
def test_bad_override_is_refused(field, text, said):
    with pytest.raises(InputError, match=said):
        configs.override(configs.load("simclr:digits"), field, text)


def flags(**given):
    return argparse.Namespace(**{"config": None, "workdir": None, **given})


def test_another_encoder_by_name_drops_what_it_has_not(caplog):
    """`--config.towers.image.encoder.name=resnet18` alone; what was asked for by a flag is never dropped."""
    asked = [("towers.image.encoder.name", "vit"), ("towers.image.encoder.variant", "ti/4")]
    config = read_config(flags(config="simclr:digits"), asked)
    assert config.towers.image.encoder.to_dict() == {"name": "vit", "variant": "ti/4"}
    assert "config.towers.image.encoder.widths: of convnet, left out" in caplog.text
    asked = [("towers.image.encoder.widths", "(8,)"), ("towers.image.encoder.name", "resnet18")]
    config = read_config(flags(config="simclr:digits"), asked)
    assert config.towers.image.encoder.widths == (8,)
    with pytest.raises(InputError, match="an argument|unknown argument"):
        validate.check(configs.complete(config), encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)


def test_a_run_is_made_longer_by_its_folder_alone(tmp_path):
    workdir.freeze(tmp_path, configs.complete(configs.load("simclr:digits")))
    config = configs.complete(read_config(flags(workdir=str(tmp_path)), [("train.epochs", "61")]))
    assert config.train.epochs == 61.0 and list(workdir.check(tmp_path, config)) == ["train.epochs"]
    config = configs.complete(read_config(flags(workdir=str(tmp_path)), [("optimizer.learning_rate", "1")]))
    with pytest.raises(InputError, match="config.optimizer.learning_rate: found 1.0; allowed: 0.002, as .*config.json"):
        workdir.check(tmp_path, config)


def changed(**fields):
    config = configs.load("simclr:digits")
    for name, value in fields.items():
        at = config
        *path, last = name.split("__")
        for part in path:
            at = at[part]
        with at.unlocked(), at.ignore_type():
            at[last] = value
    return configs.complete(config)


def moving(name, **changes):
    """The objective with a scheduled number; None leaves a field out."""
    schedule = {"schedule": "linear", "start": 0.5, "end": 0.1, "steps": 10, **changes}
    schedule = {k: v for k, v in schedule.items() if v is not None}
    plain = {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.5}
    return {"objectives__contrast": {**plain, name: schedule}}


def game(**changes):
    distribution = {"learn": "simplex", "init": 2, **changes}
    return {"objectives__contrast": {"loss": "min_max", "inputs": ("a.z", "b.z"), "distribution": distribution}}


def changed_weight(**weight):
    return {"objectives__contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.5, "weight": weight}}


def slot(**changes):
    return {"towers__image__memory": {"q": {"kind": "fifo", "reads": ("a.z", "b.z"), "size": 512, **changes}}}


@pytest.mark.parametrize("fields", [moving("temperature"), moving("weight", start=-1), game(), slot()])
def test_what_the_next_refusals_change_is_valid(fields):
    validate.check(changed(**fields), encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        (
            {"objectives__contrast__inputs": ("a.z", "c.z")},
            "objectives.contrast.inputs",
            "'c.z', which no view or tower makes",
        ),
        ({"objectives__contrast__inputs": ("a.z", "b.zz")}, "objectives.contrast.inputs", "b.z"),
        ({"objectives__contrast__inputs": ("a.z",)}, "objectives.contrast.inputs", "1 names"),
        ({"objectives__contrast__inputs": ("a.z", "labels.lable")}, "objectives.contrast.inputs", "label"),
        ({"objectives__contrast__temperature": 0.0}, "objectives.contrast.temperature", "> 0"),
        ({"objectives__contrast__temperature": -1.0}, "objectives.contrast.temperature", "> 0"),
        ({"objectives__contrast__temperatur": 1.0}, "objectives.contrast.temperatur", "temperature"),
        ({"objectives__contrast__loss": "nt_xnet"}, "objectives.contrast.loss", "nt_xent"),
        ({"objectives__contrast__weight": "big"}, "objectives.contrast.weight", "a number"),
        ({"objectives": {}}, "config.objectives", "at least one"),
        ({"towers__image__encoder": {"name": "resnet19"}}, "towers.image.encoder.name", "resnet18"),
        ({"towers__image__encoder": {"name": "resnet18", "widht": 2}}, "towers.image.encoder.widht", "width"),
        ({"towers__image__views": ("a", "q")}, "towers.image.views", "'q'"),
        ({"towers__image__bn_groups": 7}, "towers.image.bn_groups", "divisor"),
        ({"towers__image__heads": {"z": {"name": "linear", "reads": "z"}}}, "towers.image.heads.z.reads", "no circle"),
        ({"towers__image__target": {"momentum": 2.0}}, "towers.image.target.momentum", "0 <= x <= 1"),
        (
            {"towers__image__memory": {"q": {"reads": "a.z", "size": 300}}},
            "towers.image.memory.q.size",
            "multiple of the 256 rows",
        ),
        ({"views__a": {"kind": "image", "field": "image", "ops": ({"op": "flup"},)}}, "views.a.ops[0].op", "flip"),
        ({"views__a": {"kind": "image", "field": "image", "ops": ({"op": "flip", "q": 1},)}}, "views.a.ops[0].q", "p"),
        ({"views__a": {"kind": "imag", "field": "image", "ops": ()}}, "views.a.kind", "image"),
        ({"views__a": {"kind": "image", "ops": ()}}, "views.a.field", "no value"),
        ({"views__a__missing": 1.5}, "views.a.missing", "0 <= x < 1"),
        ({"train__accumulate": 3}, "train.accumulate", "divisor"),
        ({"train__compute_dtype": "float8"}, "train.compute_dtype", "bfloat16"),
        ({"optimizer__name": "adam"}, "optimizer.name", "adamw"),
        ({"optimizer__rules": (("(", 0.0),)}, "optimizer.rules", "regular expression"),
        ({"evaluate__retrieval": (("image.z", "text.z"),)}, "evaluators.retrieval.views[0]", "'text'"),
        ({"evaluate__labels": "clas"}, "evaluate.labels", "label"),
        ({"data__order": "sorted"}, "data.order", "shuffled"),
        ({"data__order": "whole", "train__accumulate": 2}, "train.accumulate", "1, for data.order is whole"),
        ({"data__labelled": 0.0}, "data.labelled", "0 < x <= 1"),
        ({"data__labelled": 1.5}, "data.labelled", "0 < x <= 1"),
        ({"train__seeds": 0}, "train.seeds", ">= 1"),
        ({"train__seeds": 2.0}, "train.seeds", "a whole number"),
        ({"optimizer__average": 1.1}, "optimizer.average", "0 <= x <= 1"),
        ({"optimizer__unit_norm": ("z", "(")}, "optimizer.unit_norm", "regular expression"),
        ({"optimizer__unit_norm": "z"}, "optimizer.unit_norm", "a list"),
        ({"evaluate__scaling": "row"}, "evaluate.scaling", "rows"),
        ({"evaluate__folds": 1}, "evaluate.folds", "a whole number >= 2, or 0"),
        ({"evaluate__folds": -5}, "evaluate.folds", "a whole number >= 2, or 0"),
        ({"evaluate__folds": 5, "evaluate__retrieval": (("image.z", "image.z"),)}, "evaluate.folds", "test split"),
        ({"evaluate__objectives": 1}, "evaluate.objectives", "true or false"),
        (moving("temperature", schedule="step"), "contrast.temperature.schedule", "linear"),
        (moving("temperature", steps=0), "contrast.temperature.steps", "a whole number >= 1"),
        (moving("temperature", steps=2.5), "contrast.temperature.steps", "a whole number >= 1"),
        (moving("temperature", steps=None), "contrast.temperature.steps", "no value"),
        (moving("temperature", start=0.0), "contrast.temperature.start", "a number > 0"),
        (moving("temperature", end=-0.1), "contrast.temperature.end", "a number > 0"),
        (moving("temperature", peak=1.0), "contrast.temperature.peak", "an unknown"),
        (moving("weight", start="low"), "contrast.weight.start", "a number"),
        (moving("weight", stop=3), "contrast.weight.stop", "an unknown"),
        (moving("convention"), "contrast.convention", "cannot move"),
        (changed_weight(learn="simplex", init=3), "contrast.weight", "uncertainty weight"),
        (changed_weight(learn="exp", init=1.0), "contrast.weight", "uncertainty weight"),
        (changed_weight(learn="linear", init=0.0, max=2.0), "contrast.weight", "uncertainty weight"),
        ({"towers__image__frozen": "no"}, "towers.image.frozen", "true or false"),
        (game(init=1), "contrast.distribution.init", "2 or more"),
        (game(init=2.5), "contrast.distribution.init", "2 or more"),
        (game(learn="softmax"), "contrast.distribution.learn", "simplex"),
        (slot(reads=()), "image.memory.q.reads", "a name, or a list of names"),
        (slot(reads=5), "image.memory.q.reads", "text or a list of texts"),
        (slot(reads=("a.z", "c.z")), "image.memory.q.reads", "'c.z'"),
        (slot(reads=("a.z", "labels.label")), "image.memory.q.reads", "an output of a view"),
        (slot(reads=("a.z", "image.memory.q")), "image.memory.q.reads", "an output of a view"),
        (slot(reads=("a.z", "b.z"), size=768), "image.memory.q.size", "multiple of the 512 rows"),
        ({"limits__watchdog": -1.0}, "config.limits.watchdog", "a number, 0 <= x <= 1000000000"),
        ({"limits__heartbeat": 0}, "config.limits.heartbeat", "a whole number >= 1"),
        ({"limits__heartbeat": 2.5}, "config.limits.heartbeat", "a whole number"),
        ({"limits__barrier": 0}, "config.limits.barrier", "a whole number >= 1"),
        ({"typo": 1}, "config.typo", "an unknown field"),
        ({"data__batch_siz": 1}, "config.data.batch_siz", "batch_size"),
        ({"seed": "x"}, "config.seed", "number"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_a_bad_config_is_one_line_that_names_the_field(fields, where, said):
    with pytest.raises(InputError) as error:
        validate.check(changed(**fields), encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    assert where in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_older_than_the_limits_has_their_defaults(tmp_path):
    config = configs.complete(configs.load("simclr:digits"))
    older = {k: v for k, v in json.loads(configs.to_json(config)).items() if k != "limits"}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert workdir.resume_config(tmp_path).limits.heartbeat == configs.defaults().limits.heartbeat
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in older.items() if k != "data"}))
    with pytest.raises(InputError, match="no field 'data'"):
        workdir.resume_config(tmp_path)


def test_limits_may_differ_when_a_run_goes_on():
    longer = changed(limits__watchdog=0.0, limits__heartbeat=10, limits__barrier=60)
    assert set(configs.differences(changed(), longer)) == {f"limits.{k}" for k in ("watchdog", "heartbeat", "barrier")}
    assert all(field.startswith(configs.OPEN_FIELDS) for field in configs.differences(changed(), longer))


def test_the_frozen_text_is_plain_json():
    text = configs.to_json(configs.complete(configs.load("simclr:digits")))
    assert json.loads(text)["objectives"]["contrast"]["temperature"] == 0.2
    with pytest.raises(InputError, match="no JSON"):
        configs.from_json(text[:-5], "config.json")


def test_a_config_of_objects_is_refused():
    config = configs.load("simclr:digits")
    with config.unlocked(), config.ignore_type():
        config.data.name = object
    with pytest.raises(InputError, match="numbers, strings"):
        configs.complete(config)


@pytest.mark.parametrize("given", [{}, {"evaluate": {}}, {"evaluate": {"labels": "label"}}])
def test_a_config_without_evaluators_has_the_usual_ones(given):
    found = configs.complete(configs.ConfigDict(given))
    assert found.evaluate == configs.complete(configs.defaults()).evaluate


def test_a_command_shows_what_is_logged_as_it_is_and_leaves_the_logger(capsys):
    logger = logging.getLogger("hcl_jax")
    before = list(logger.handlers), logger.propagate, logger.level
    assert before[0] == [], "a command that ran in this process has left its own"
    with plain_log():
        logger.warning("%d files passed over", 1)
        logger.info("not this")
    with plain_log(sys.stdout, logging.INFO), plain_log():
        logger.info("auto")
    assert capsys.readouterr() == ("auto\n", "1 files passed over\n")
    assert (logger.handlers, logger.propagate, logger.level) == before


def test_epochs_that_steps_outdo_are_refused():
    read_config(flags(config="simclr_series:csv"), [("train.epochs", "2"), ("train.steps", "0")])
    read_config(flags(config="simclr:digits"), [("train.epochs", "2")])
    with pytest.raises(
        InputError, match="train.epochs: found 2; allowed: train.steps, which is 600 and wins; or --con"
    ):
        read_config(flags(config="simclr_series:csv"), [("train.epochs", "2")])
