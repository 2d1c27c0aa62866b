"""Several seeds in one program: each run has the numbers that it has alone, on any mesh."""

import jax
import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data, seeds
from hcl_jax.errors import InputError
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, build, global_batches

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
        for seed in (3, 4, 5, 10):
            losses, params = train(*digits(1, {"data": 1}, seed=str(seed)))
            alone[seed] = losses, params[seed]
        assert np.ptp([losses[-1] for losses, _ in alone.values()]) > 1e-3, "seeds differ"
        for mesh in ({"data": 1}, {"data": 2}, {"data": 2, "fsdp": 2}, {"data": 8}):
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
    found = seeds.by_seed({"loss": np.array([1.0, 3.0]), "skipped": np.array([0, 2])}, (5, 6))
    assert found == {"loss": 2, "skipped": 2, "seed5/loss": 1, "seed6/loss": 3, "seed5/skipped": 0, "seed6/skipped": 2}
    assert seeds.by_seed({"loss": np.float32(1.5)}, (5,)) == {"loss": 1.5}


def test_results_by_seed():
    results = [{"eval/x": 0.5, "eval/x_se": 0.1, "eval/n": 9}, {"eval/x": 0.7, "eval/x_se": 0.1, "eval/n": 9}]
    found = seeds.summary(results, (0, 1))
    assert found["eval/x"] == pytest.approx(0.6)
    assert found["eval/x_se"] == pytest.approx(np.std([0.5, 0.7], ddof=1) / np.sqrt(2))
    assert found["eval/n"] == 9 and "eval/n_se" not in found
    assert found["seed1/eval/x"] == 0.7 and found["seed1/eval/x_se"] == 0.1
    assert seeds.summary(results[:1], (0,)) == results[0]
