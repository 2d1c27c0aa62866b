"""The mesh of a run on eight virtual devices, and the lines that a wrong one gives."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AxisType
from ml_collections import FrozenConfigDict

from hcl_jax.errors import InputError
from hcl_jax.parallel.mesh import AXES, check_batch, make_mesh, mesh_shape, num_shards


@pytest.mark.parametrize(
    "config, shape",
    [
        ({}, (8, 1, 1)),
        ({"data": -1, "fsdp": 1, "tensor": 1}, (8, 1, 1)),
        ({"tensor": 2}, (4, 1, 2)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 2, "fsdp": -1}, (2, 4, 1)),
        ({"data": 1, "tensor": -1}, (1, 1, 8)),
        ({"data": 3}, (3, 1, 1)),
        ({"data": 1}, (1, 1, 1)),
        ({"data": 2, "fsdp": 2}, (2, 2, 1)),
    ],
)
def test_make_mesh(config, shape):
    mesh = make_mesh(FrozenConfigDict(config))
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert num_shards(mesh) == shape[0] * shape[1]
    assert list(mesh.devices.flat) == jax.devices()[: mesh.devices.size], "fewer devices: the first ones"


@pytest.mark.parametrize(
    "config, text",
    [
        ({"data": 16}, "mesh.data: found data 16 x fsdp 1 x tensor 1 = 16 devices; allowed: at most the 8 that"),
        ({"tensor": 16}, "mesh.tensor: found fsdp 1 x tensor 16 = 16 devices; allowed: at most the 8"),
        ({"data": 3, "fsdp": 4}, "mesh.fsdp: found data 3 x fsdp 4 x tensor 1 = 12 devices"),
        ({"tensor": 3}, "mesh.data: found -1 with fsdp 1 x tensor 3 = 3 on 8 devices; allowed: sizes that divide 8"),
        ({"fsdp": -1}, "mesh.fsdp: found -1, and mesh.data is -1 too; allowed: -1 for one axis"),
        ({"fsdp": 0}, "mesh.fsdp: found 0; allowed: a whole number from 1, or -1"),
        ({"data": 2.0}, "mesh.data: found 2.0"),
        ({"data": True}, "mesh.data: found True"),
        ({"tensor": "2"}, "mesh.tensor: found '2'"),
    ],
)
def test_a_wrong_mesh_names_the_field(config, text):
    with pytest.raises(InputError, match=text.replace("(", r"\(")):
        make_mesh(config)


def test_no_process_is_left_without_a_device():
    devices = [SimpleNamespace(process_index=i // 4) for i in range(8)]
    with pytest.raises(InputError, match=r"a mesh of 4 of 8 devices, which leaves processes \[1\] with none"):
        make_mesh({"data": 4}, devices)


def test_z_times_z_transposed_needs_no_annotation():
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    z = jax.device_put(jax.numpy.ones((8, 3)), jax.NamedSharding(mesh, jax.P(("data", "fsdp"))))
    assert jax.jit(lambda z: z @ z.T)(z).shape == (8, 8)


def test_check_batch():
    mesh = make_mesh({"data": 2, "fsdp": 3})
    check_batch(12, mesh)
    for wrong in (0, 1, 8, 255):
        text = rf"data.batch_size: found {wrong}; allowed: a multiple of 6 \(mesh data 2 x fsdp 3\)"
        with pytest.raises(InputError, match=text):
            check_batch(wrong, mesh)
    check_batch(4, make_mesh({"data": 2, "tensor": 4}))


def test_mesh_shape_of_a_pod():
    assert mesh_shape({"fsdp": 16, "tensor": 8}, 256) == (2, 16, 8)
