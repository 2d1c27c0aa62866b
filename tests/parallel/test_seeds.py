"""Several seeds in one program: each run has the numbers that it has alone, on any mesh."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from hcl_jax import config as configs
from hcl_jax import data, evaluation
from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel.sharding import flat_paths
from hcl_jax.run import Parts, build, global_batches
from hcl_jax.workdir import seed_stats
from hcl_jax.workdir.init_from import init_from

STEPS = 6


def digits(count, mesh, **fields):
    """A shrunken run on digits in float64, `count` seeds from 3 on."""
    config = configs.load("simclr:digits")
    given = {
        "seed": "3",
        "data.batch_size": "16",
        "train.steps": str(STEPS),
        "train.seeds": str(count),
        "train.param_dtype": "float64",
        "train.compute_dtype": "float64",
        "towers.image.encoder.widths": "(4, 8)",
        "towers.image.heads.z.hidden": "8",
        "towers.image.heads.z.features": "4",
        "optimizer.warmup_epochs": "0",
        **{f"mesh.{axis}": str(size) for axis, size in mesh.items()},
        **fields,
    }
    for field, text in given.items():
        configs.override(config, field, text)
    config = configs.complete(config)
    source = data.open_source(config.data, "train")
    return build(config, Parts(), source, meshes.make_mesh(config.mesh)), source


def train(run, source):
    state, step, losses = run.init(), run.step(), []
    for batch in global_batches(run, source, 0, STEPS):
        state, metrics = step(state, batch)
        losses.append(np.asarray(metrics["loss"]))
    return np.array(losses), {seed: jax.tree.map(np.asarray, one.params) for seed, one in run.states(state)}


@pytest.mark.slow
def test_each_seed_has_its_own_numbers_on_any_mesh():
    with jax.enable_x64(True):
        alone = {}
        for seed in (3, 10):
            losses, params = train(*digits(1, {"data": 1}, seed=str(seed)))
            alone[seed] = losses, params[seed]
        assert np.ptp([losses[-1] for losses, _ in alone.values()]) > 1e-3, "seeds differ"
        for mesh in ({"data": 2, "fsdp": 2}, {"data": 8}):
            losses, params = train(*digits(8, mesh))
            assert losses.shape == (STEPS, 8)
            for seed, (expected, weights) in alone.items():
                np.testing.assert_allclose(losses[:, seed - 3], expected, rtol=1e-9, err_msg=str((mesh, seed)))
                for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(params[seed]), strict=True):
                    np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("count", "mesh", "words"),
    [(3, {"data": 2}, ("train.seeds", "3", "multiple of 2")), (4, {"data": 2, "tensor": 2}, ("mesh.tensor",))],
)
def test_seeds_that_the_mesh_does_not_take(count, mesh, words):
    with pytest.raises(InputError) as error:
        digits(count, mesh)
    assert all(w in str(error.value) for w in words)


def test_step_metrics_by_seed():
    found = seed_stats.by_seed({"loss": np.array([1.0, 3.0]), "skipped": np.array([0, 2])}, (5, 6))
    assert found == {"loss": 2, "skipped": 2, "seed5/loss": 1, "seed6/loss": 3, "seed5/skipped": 0, "seed6/skipped": 2}
    assert seed_stats.by_seed({"loss": np.float32(1.5)}, (5,)) == {"loss": 1.5}


def test_results_by_seed():
    results = [{"eval/x": 0.5, "eval/x_se": 0.1, "eval/n": 9}, {"eval/x": 0.7, "eval/x_se": 0.1, "eval/n": 9}]
    found = seed_stats.summary(results, (0, 1))
    assert found["eval/x"] == pytest.approx(0.6)
    assert found["eval/x_se"] == pytest.approx(np.std([0.5, 0.7], ddof=1) / np.sqrt(2))
    assert found["eval/n"] == 9 and "eval/n_se" not in found
    assert found["seed1/eval/x"] == 0.7 and found["seed1/eval/x_se"] == 0.1
    assert seed_stats.summary(results[:1], (0,)) == results[0]


TINY = [
    "--config=simclr:digits",
    "--config.seed=3",
    "--config.train.seeds=2",
    "--config.train.steps=4",
    "--config.data.num_examples=48",
    "--config.data.batch_size=16",
    "--config.mesh.data=2",
    "--config.views.a.ops=()",
    "--config.views.b.ops=({'op': 'noise', 'std': 0.1},)",
    "--config.towers.image.encoder={'name': 'mlp', 'widths': (8,)}",
    "--config.towers.image.heads.z={'name': 'linear', 'features': 4}",
    "--config.optimizer.warmup_epochs=0",
    "--config.log.every=1",
    "--config.log.tensorboard=false",
    "--config.checkpoint.every=2",
    "--config.evaluate.baselines=false",
    "--config.evaluate.objectives=true",
    "--config.evaluate.linear=false",
    "--config.evaluate.per_class=()",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with seeds 3 and 4 on two devices, checkpoints after 2 and 4 steps."""
    folder = tmp_path_factory.mktemp("seeds") / "whole"
    assert main([*TINY, f"--workdir={folder}"]) == 0
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder):
    with ocp.CheckpointManager((folder / "checkpoints").absolute()) as manager:
        assert manager.latest_step() == 4
        state = manager.restore(4, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
    return {k: np.asarray(jax.random.key_data(x) if k == "key" else x) for k, x in flat_paths(state).items()}


@pytest.mark.slow(one=True)
def test_a_run_of_two_seeds_logs_both(finished):
    assert [x["step"] for x in lines(finished)] == [1, 2, 3, 4]
    for line in lines(finished):
        for name in ("loss", "loss/contrast", "gradient_norm", "spread/a.z"):
            both = [line[f"seed{s}/{name}"] for s in (3, 4)]
            assert both[0] != both[1] and line[name] == pytest.approx(np.mean(both), rel=1e-6)
        assert line["skipped"] == 0 and "seed5/loss" not in line


def test_the_card_has_means_and_their_errors(finished):
    card = json.loads((finished / "card.json").read_text())
    results = card["results"]
    assert (card["seed"], card["seeds"], card["steps"]) == (3, 2, 4)
    for name in ("eval/image/knn_accuracy", "eval/image/spread", "eval/loss/contrast"):
        both = [results[f"seed{s}/{name}"] for s in (3, 4)]
        assert both[0] != both[1] and results[name] == pytest.approx(np.mean(both))
        assert results[f"{name}_se"] == pytest.approx(np.std(both, ddof=1) / np.sqrt(2))
    assert results["eval/image/n"] == 360 and "eval/image/n_se" not in results
    assert "seed3/eval/image/knn_accuracy_se" in results, "of the test rows"
    # The numbers of weights, one run's.
    assert card["parameters"]["image"] == sum(x[0].size for k, x in saved(finished).items() if "params/image" in k)


@pytest.mark.slow
def test_a_checkpoint_of_several_seeds_goes_on_bit_by_bit(finished, tmp_path):
    folder = tmp_path / "stopped"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "card.json").unlink()
    assert main([f"--workdir={folder}"]) == 0
    keep = {"examples_per_second", "input_wait_fraction", "minutes"}
    for a, b in zip(lines(finished), lines(folder), strict=True):
        assert {k: v for k, v in a.items() if k not in keep} == {k: v for k, v in b.items() if k not in keep}
    a, b = saved(finished), saved(folder)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    results = [json.loads((f / "card.json").read_text())["results"] for f in (finished, folder)]
    assert results[0] == results[1]


@pytest.mark.slow
def test_offline_evaluation_of_several_seeds(finished, capsys):
    assert evaluation.main([f"--workdir={finished}", "--json"]) == 0
    offline = json.loads(capsys.readouterr().out)
    assert offline == json.loads((finished / "card.json").read_text())["results"]


@pytest.mark.slow
def test_every_seed_starts_from_the_same_weights(tmp_path):
    run, _ = digits(2, {"data": 1}, **{"train.param_dtype": "float32", "train.compute_dtype": "float32"})
    state = run.init()
    random = np.random.default_rng(0)
    leaves = flat_paths(state.params["image"])
    given = {k: random.normal(size=x.shape[1:]).astype(np.float32) for k, x in leaves.items()}
    save_file({f"image.{k}".replace("/", "."): v for k, v in given.items()}, tmp_path / "w.safetensors")
    spec = configs.defaults().init_from
    spec.path, spec.include = str(tmp_path / "w.safetensors"), ("^image/encoder/",)
    found = init_from(spec, state, 2)
    for name, x in flat_paths(found.params["image"]).items():
        for seed in range(2):
            if name.startswith("encoder/"):
                np.testing.assert_array_equal(x[seed], given[name])
            else:
                np.testing.assert_array_equal(x[seed], flat_paths(state.params["image"])[name][seed])
    head = np.asarray(found.params["image"]["heads"]["z"]["dense1"]["kernel"])
    assert (head[0] != head[1]).any(), "what is not read is the seed's own"
    spec.include = (".*",)
    save_file({"image.encoder.stage1_conv.kernel": np.zeros((2, 3, 3, 1, 4), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"shape \(2, 3, 3, 1, 4\); allowed: \(3, 3, 1, 4\)"):
        init_from(spec, state, 2)
