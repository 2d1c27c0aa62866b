"""H100s that are not there: what is refused, and a compile where a CUDA plugin is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hcl_jax.errors import InputError
from hcl_jax.plan import cuda


@pytest.mark.parametrize("count", [0, 12, -8])
def test_hosts_are_whole(count):
    with pytest.raises(InputError, match="multiple of 8"):
        cuda.devices(count)


def test_without_a_plugin_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cuda, "PLUGINS", ("no_such_plugin",))
    with pytest.raises(InputError, match="pip install jax-cuda12-plugin"):
        cuda.devices(8)


@pytest.mark.skipif(not cuda.installed(), reason="no CUDA plugin is installed")
def test_a_product_compiles_for_two_hosts_and_says_its_bytes():
    devices = cuda.devices(16)
    assert len(devices) == 16 and len({d.process_index for d in devices}) == 2
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((1024, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(lambda x: x.T @ x).lower(x).compile(cuda.OPTIONS)
    assert compiled.memory_analysis().argument_size_in_bytes == 1024 * 64 * 4 // 16
    assert "all-reduce" in compiled.as_text() and "reduce-scatter" not in compiled.as_text()
