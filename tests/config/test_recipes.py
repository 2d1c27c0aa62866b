"""Every packaged recipe: shapes at full size, a batch, two real steps of each method shrunken, mock TFDS data."""

import json

import jax
import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.config import validate
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, build
from hcl_jax.views import tokenizers
from tests.config.test_load import RECIPES
from tests.core.test_equality import RECIPES as EQUAL
from tests.core.test_shapes import SHAPES

SMALL = ("simclr:digits", "byol:", "moco:", "swav:", "dino:", "multi_task:", "generated_views:", "supervised:digits",
         "simsiam:", "quality:judge")  # fmt: skip
# Each method once, and again where it has another encoder: the step of another data set differs in shapes alone, and
# those are traced for every recipe in tests/plan/test_lowering.py.
METHODS = ("simclr:digits", "simclr:imagenet", "clip:emoji", "clip:vit_b", "three_views:emoji", "byol:digits",
           "simclr_series:BasicMotions", "moco:digits", "swav:fashion_mnist", "dino:digits", "grace:blocks",
           "graphcl:motifs", "joao:motifs", "ts2vec:BasicMotions", "second_stage:mlp", "second_stage:contrast",
           "second_stage:frozen_tower", "dpo:reference", "dpo:preferences", "multi_task:uncertainty", "nmtune:paper",
           "generated_views:digits", "simsiam:digits", "quality:judge", "quality:moco",
           "supervised:digits", "supervised:BasicMotions")  # fmt: skip
# From the command line, through mock data of TFDS.
TFDS, CAPTIONS = ("simclr:cifar10", "simclr:imagenet"), ("clip:vit_b", "clip:siglip_b")
# These take twenty steps on one and on eight devices.
TWENTY_STEPS = {*SHAPES, *EQUAL, "ts2vec:BasicMotions"}
SHRINK = {
    "clip:emoji": ["towers.image.encoder.widths=(8,)", "towers.text.encoder.depth=1"],
    "clip:vit_b": [
        "towers.image.encoder={'name': 'vit', 'variant': 'ti/32', 'depth': 1}",
        "towers.text.encoder.width=32",
        "towers.text.encoder.depth=1",
        "towers.text.encoder.vocab_size=300",
    ],
    "clip:siglip_b": [
        "towers.image.encoder={'name': 'vit', 'variant': 'ti/16', 'depth': 1, 'pool': 'map'}",
        "towers.text.encoder={'name': 'text_transformer', 'vocab_size': 300, 'width': 32, 'depth': 1, "
        "'pool': 'last', 'hide_padding': False}",
        "towers.text.heads.z.features=192",
    ],
    "supervised:BasicMotions": ["towers.series.encoder.depth=1"],
    "quality:moco": ["towers.image.encoder.widths=(8,)", "towers.judge.encoder.widths=(8, 8)", "init_from.path="],
    **{name: ["towers.image.encoder.widths=(8,)"] for name in METHODS if name.startswith(SMALL)},
}


def with_other_views() -> list[str]:
    """The first recipe of all that make the same views, where no method above makes them."""
    views = {r: configs.load(r).views.to_json(sort_keys=True) for r in RECIPES}
    done = {views[r] for r in (*METHODS, *TFDS, *CAPTIONS)}
    return list({v: r for r, v in reversed(views.items()) if v not in done}.values())[::-1]


def small(recipe: str, *fields: str):
    """A recipe with few rows a batch, and its records: random ones of its shape, as `--steps` has them."""
    config = configs.load(recipe)
    for field in fields if config.data.order == "whole" else ("data.batch_size=8", *fields):
        configs.override(config, *field.split("=", 1))
    config = configs.complete(config)
    return config, data.random_like(config.data, config.views, sources=data.SOURCES)


def some_batches(config, source, count: int) -> list:
    rows = np.arange(config.data.batch_size)
    settings = {"seed": config.seed, "batch_size": len(rows), "rows": rows, "order": config.data.order}
    return list(data.batches(source, config.views, **settings, start=0, stop=count))


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("recipe", [r for r in METHODS if r not in {*TWENTY_STEPS, *TFDS, *CAPTIONS}])
def test_two_steps_of_every_other_method(recipe):
    """On two devices. Not from the command line, whose checkpoints and cards are those of every other run."""
    config, source = small(recipe, "train.steps=2", "mesh.data=2", *SHRINK.get(recipe, []))
    validate.check(config, **Parts().checked())
    batches = some_batches(config, source, 2)
    specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches[0])
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh), specs)
    state, step = run.init(config.seed), run.step()
    for batch in batches:
        rows = np.arange(config.data.batch_size)
        state, metrics = step(state, sharding.to_global(batch, run.batch_sharding, rows, len(rows)))
        assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    assert state.step == 2


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("recipe", with_other_views())
def test_a_batch_of_every_recipe_with_other_views(recipe):
    """Its views on records of its shape: what two steps would read, without compiling."""
    config, source = small(recipe)
    different = {repr(view["ops"]): name for name, view in config.views.items()}  # of eight small crops one
    with config.unlocked():
        config.views = {name: config.views[name] for name in sorted(different.values())}
    (batch,) = some_batches(config, source, 1)
    assert set(batch["views"]) == set(config.views)
    for view, fields in batch["views"].items():
        for name, x in fields.items():
            assert len(x) == config.data.batch_size and (x.dtype.kind != "f" or np.isfinite(x).all()), (view, name)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TFDS)
def test_a_tfds_name_through_mock_data(recipe, tmp_path):
    import tensorflow_datasets as tfds

    # Its own encoder takes 80 s to compile; tests/plan/test_lowering.py lowers it at full size.
    small = ["towers.image.encoder={'name': 'convnet', 'widths': (8,)}", "data.batch_size=8", "mesh.data=2"]
    quick = ["train.steps=2", "evaluate.linear=false", "evaluate.per_class=()", "evaluate.baselines=false"]
    flags = [*small, *quick, "data.in_memory=false"]
    with tfds.testing.mock_data(num_examples=16):
        assert main([f"--config={recipe}", f"--workdir={tmp_path / 'w'}", *(f"--config.{f}" for f in flags)]) == 0
    card = json.loads((tmp_path / "w" / "card.json").read_text())
    assert "eval/image/knn_accuracy" in card["results"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CAPTIONS)
def test_captions_through_mock_data(recipe, tmp_path):
    """The field of LAION-400M, ids of a file, and numbers of the held-out pairs at the end."""
    import tensorflow_datasets as tfds

    tokenizers.train_bpe(["a photo of a cat"] * 3, 300, str(tmp_path / "t.json"))
    flags = [f"data.tokenizer={tmp_path / 't.json'}", "data.batch_size=8", "mesh.data=2", "train.steps=2"]
    flags += ["optimizer.warmup_steps=1", *SHRINK[recipe]]
    with tfds.testing.mock_data(num_examples=16):
        assert main([f"--config={recipe}", f"--workdir={tmp_path / 'w'}", *(f"--config.{f}" for f in flags)]) == 0
    results = json.loads((tmp_path / "w" / "card.json").read_text())["results"]
    assert {"eval/image-text/image_to_text/recall_1", "eval/image-text/text_to_image/recall_10"} <= results.keys()
