"""Every method's step lowers for GPUs and TPUs, at full size on a mesh of eight, without either and without data."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import export

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.core import model
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, build
from tests.config.test_load import RECIPES
from tests.config.test_published import PUBLISHED, check_parameters
from tests.config.test_recipes import METHODS

PLATFORMS = ("cuda", "tpu")  # lowered in one pass: an operation without a rule for one of them raises


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("recipe", sorted(RECIPES, key=lambda r: r != "supervised:digits"))
def test_every_recipe_is_traced_and_lowers_for_gpus_and_tpus(recipe):
    """Two recipes of a method with one encoder have the same operations: one of them is lowered, both are traced."""
    config = configs.complete(configs.load(recipe))
    source = data.random_like(config.data, config.views, sources=data.SOURCES)
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh))
    if recipe in PUBLISHED:
        check_parameters(recipe, run.abstract.params)
    if recipe not in METHODS:  # its losses, for the gradient of full-size encoders takes a minute to trace
        losses = functools.partial(model.evaluate, run.model, run.parts.counts)
        found, _ = jax.eval_shape(losses, run.abstract, run.abstract.params, run.abstract_batch)
        assert all(x.shape == () for x in found.values()) and set(config.objectives) <= {k[5:] for k in found}
        return
    exported = export.export(run.step(), platforms=PLATFORMS)(run.abstract, run.abstract_batch)
    assert exported.platforms == PLATFORMS
    assert exported.nr_devices == 8
    assert exported.out_avals[-1].shape == ()  # metrics are numbers


def test_the_check_can_fail():
    """A Schur decomposition has a rule for CPUs alone."""
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    with pytest.raises(NotImplementedError, match="schur.*cuda"):
        export.export(jax.jit(jax.scipy.linalg.schur), platforms=PLATFORMS)(square)
