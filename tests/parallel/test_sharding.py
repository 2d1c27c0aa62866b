"""Rules to shardings, and rows to global arrays, on eight virtual devices and on two and four processes."""

import json
import os
import socket
import subprocess
import sys
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from hcl_jax.core.optim import make_optimizer
from hcl_jax.errors import InputError
from hcl_jax.parallel.mesh import make_mesh
from hcl_jax.parallel.sharding import (
    DEFAULT_RULES,
    batch_sharding,
    check_rules,
    infer,
    local_rows,
    resolve,
    state_shardings,
    table,
    to_global,
)

MESHES = [
    {"data": 1},
    {"data": 2},
    {},
    {"fsdp": 2},
    {"fsdp": 8},
    {"tensor": 2},
    {"tensor": 8},
    {"fsdp": 2, "tensor": 2},
    {"data": 3},
    {"data": 1, "fsdp": 2, "tensor": 3},
]


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


@pytest.mark.parametrize(
    "shape, spec, expected",
    [
        ((3, 3, 64, 128), "fsdp", P(None, None, None, "fsdp")),
        ((128, 64), "fsdp", P("fsdp")),
        ((64, 64), "fsdp", P(None, "fsdp")),
        ((9, 6), "fsdp", P(None, "fsdp")),
        ((9, 7), "fsdp", P()),
        ((), "fsdp", P()),
        ((128, 64), "replicate", P()),
        ((64, 128), "columns", P("fsdp", "tensor")),
        ((128, 64), "rows", P("tensor", "fsdp")),
        ((64, 129), "columns", P("fsdp")),
        ((63, 128), "columns", P(None, "tensor")),
        ((128,), "columns", P("tensor")),
        ((128,), "rows", P("fsdp")),
        ((3, 3, 64, 128), (None, "tensor"), P(None, None, None, "tensor")),
        ((3, 3, 64, 128), ["tensor", None], P(None, None, "tensor")),
        ((64, 128), ("fsdp", "tensor"), P("fsdp", "tensor")),
        ((64, 128), (("fsdp", "tensor"),), P(None, ("fsdp", "tensor"))),
        ((64, 128), ("data", None), P("data")),
        ((64,), (), P()),
        ((7,), (None,), P()),
    ],
)
def test_resolve(shape, spec, expected):
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    assert resolve("a/kernel", shape, mesh, (("kernel$", spec),)) == expected


def test_an_axis_of_one_splits_nothing():
    mesh = make_mesh({"fsdp": 1, "tensor": 2})
    assert resolve("k", (4, 4), mesh, (("k", "fsdp"),)) == P()
    assert resolve("k", (3, 4), mesh, (("k", ("fsdp", "tensor")),)) == P(None, "tensor")
    assert resolve("k", (3, 4), mesh, (("k", (None, ("fsdp", "tensor"))),)) == P(None, "tensor")


def test_the_first_rule_decides():
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    tree = {"image": shapes(kernel=(4, 8), bias=(8,)), "text": shapes(kernel=(4, 8))}
    rules = (("^image/kernel$", (None, "tensor")), ("kernel$", "fsdp"), ("", "replicate"))
    specs = jax.tree.map(lambda s: s.spec, infer(tree, mesh, rules))
    assert specs == {"image": {"kernel": P(None, "tensor"), "bias": P()}, "text": {"kernel": P(None, "fsdp")}}


def test_an_unmatched_parameter_is_named():
    mesh, tree = make_mesh({"fsdp": 2}), {"image": shapes(kernel=(4, 8), bias=(8,))}
    with pytest.raises(InputError, match=r"mesh.rules: found no rule for parameter image/bias \(8,\); allowed: a last"):
        infer(tree, mesh, (("kernel", "fsdp"),))
    assert infer(tree, mesh, (("kernel", "fsdp"),), strict=False)["image"]["bias"].spec == P()


@pytest.mark.parametrize(
    "rule, text",
    [
        (("k", "fdsp"), r"mesh.rules\[0\]: found 'fdsp'; allowed: \"fsdp\", \"columns\", \"rows\", \"replicate\", or"),
        (("k", 3), r"mesh.rules\[0\]: found 3"),
        (("k", ("model",)), r"mesh.rules\[0\]: found axis 'model'; allowed: data, fsdp, tensor, or None"),
        (("k", ("tensor", "tensor")), "an axis twice"),
        (("(", "fsdp"), "a Python regular expression"),
        ("k", "a pair"),
        (("k", ("tensor", None, None)), r"mesh.rules\[0\]: found .* for k, which has 2 dimensions \(4, 6\)"),
        (("k", (None, ("fsdp", "tensor"))), r"a dimension of 6 of k \(4, 6\) split 4 ways over fsdp, tensor; allowed"),
    ],
)
def test_a_wrong_rule_is_named(rule, text):
    with pytest.raises(InputError, match=text):
        infer(shapes(k=(4, 6)), make_mesh({"fsdp": 2, "tensor": 2}), (rule,))


def test_default_rules_fit_any_mesh_and_shape():
    check_rules(DEFAULT_RULES)
    odd = {"attention": {"query": shapes(kernel=(5, 6), bias=(6,)), "out": shapes(kernel=(6, 5))}}
    for config in MESHES:
        infer(shapes(kernel=(3, 3, 16, 30), bias=(30,), t=()) | odd, make_mesh(config))


@pytest.mark.slow(one=True)
def test_default_rules_split_a_transformer():
    """Columns, then rows: each pair of products needs one sum over the tensor axis, and gives the same numbers."""
    from hcl_jax.encoders.inputs import Rows
    from hcl_jax.encoders.transformer import Transformer

    module, x = Transformer(depth=1, heads=4, mlp=16), jnp.ones((4, 5, 8)) * jnp.arange(8.0)[None, None]
    rows = Rows(present=None, keys=None, train=False, bn_groups=1)
    params = module.init(jax.random.key(0), x, None, rows)
    mesh = make_mesh({"fsdp": 2, "tensor": 4})
    shardings = infer(params, mesh)
    block = jax.tree.map(lambda s: s.spec, shardings)["params"]["block0"]
    for name in ("query", "key", "value"):
        assert block["attention"][name] == {"kernel": P("fsdp", "tensor"), "bias": P("tensor")}
    assert block["attention"]["out"] == {"kernel": P("tensor", "fsdp"), "bias": P("fsdp")}
    assert block["mlp"]["up"]["kernel"] == P("fsdp", "tensor") and block["mlp"]["down"]["kernel"] == P("tensor", "fsdp")
    call = jax.jit(lambda params, x: module.apply(params, x, None, rows)[0])
    placed = call(jax.device_put(params, shardings), jax.device_put(x, batch_sharding(mesh)))
    np.testing.assert_allclose(placed, call(params, x), rtol=1e-5, atol=1e-5)


State = namedtuple("State", "step params target model_state memory opt_state key")


def state_of(mesh_config):
    trunk = {"kernel": jnp.ones((6, 8)), "bias": jnp.ones((8,))}
    params = {"image": {"encoder": trunk, "heads": {"z": {"kernel": jnp.ones((8, 4))}}}}
    config = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.1, "average": 0.9, "clip": 1.0}
    config["rules"] = (("bias", 0),)
    optimizer = make_optimizer(config, params, steps=3, batch_size=8, steps_per_epoch=1)
    # The target is a copy: jaxlib 0.10.2 dies of a segmentation fault when a donated buffer comes twice.
    copy = jax.tree.map(lambda x: jnp.array(x, copy=True), trunk)
    state = State(
        jnp.int32(0),
        params,
        {"image": {"params": {"encoder": copy}, "batch_stats": {"encoder": {"kernel": jnp.ones((6,))}}}},
        {"image": {"encoder": {"mean": jnp.zeros((8,))}}},
        {"image": {"queue": {"rows": jnp.zeros((16, 4))}}},
        optimizer.init(params),
        jax.random.key(0),
    )
    mesh = make_mesh(mesh_config)
    rules = (("encoder/kernel", ("fsdp", "tensor")), (".*", "fsdp"))
    return optimizer, state, state_shardings(jax.eval_shape(lambda: state), mesh, rules)


@pytest.mark.parametrize("mesh_config", [{"fsdp": 2, "tensor": 2}, {"fsdp": 2}, {}])
def test_state_follows_its_parameters(mesh_config):
    optimizer, state, shardings = state_of(mesh_config)
    assert jax.tree.structure(state) == jax.tree.structure(shardings)
    trunk, head = (shardings.params["image"][k] for k in ("encoder", "heads"))
    if mesh_config == {"fsdp": 2, "tensor": 2}:
        specs = trunk["kernel"].spec, trunk["bias"].spec, head["z"]["kernel"].spec
        assert specs == (P("fsdp", "tensor"), P("fsdp"), P("fsdp"))
    target = shardings.target["image"]
    assert target["params"]["encoder"] == trunk
    assert target["batch_stats"]["encoder"]["kernel"].spec == P(), "another shape"
    for other in (shardings.step, shardings.key, shardings.model_state, shardings.memory):
        assert {s.spec for s in jax.tree.leaves(other)} == {P()}

    # Each moment and the average lies where its parameter lies, and stays there through an update.
    placed = jax.device_put(state, shardings)

    def step(state):
        updates, opt_state = optimizer.update(state.params, state.opt_state, state.params)
        return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    out = jax.jit(step, in_shardings=(shardings,), out_shardings=shardings, donate_argnums=0)(placed)
    seen = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(out.opt_state)[0]:
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        if "image/" in text:
            at = shardings.params
            for part in text[text.index("image/") :].split("/"):
                at = at[part]
            assert leaf.sharding.is_equivalent_to(at, leaf.ndim), text
            seen += 1
        else:
            assert leaf.sharding.is_fully_replicated, text
    assert seen == 2 + 2 + 3  # mu, nu of what is trained; the average of all


def test_fsdp_divides_the_bytes():
    mesh = make_mesh({"fsdp": 8})
    params = {"kernel": jnp.ones((64, 32)), "bias": jnp.ones((5,))}
    placed = jax.device_put(params, infer(params, mesh))
    assert placed["kernel"].addressable_shards[0].data.nbytes * 8 == params["kernel"].nbytes
    assert placed["bias"].addressable_shards[0].data.nbytes == params["bias"].nbytes


def test_table():
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    params = {"image": shapes(kernel=(6, 8), bias=(7,)), "t": jax.ShapeDtypeStruct((), jnp.bfloat16)}
    rules = (("kernel", (None, ("fsdp", "tensor"))), ("", "fsdp"))
    assert table(params, infer(params, mesh, rules)).splitlines() == [
        "parameter     shape  dtype     count  bytes  spec",
        "image/bias    7      float32       7     28  replicate",
        "image/kernel  6x8    float32      48    192  (-, fsdp+tensor)",
        "t             ()     bfloat16      1      2  replicate",
        "total 56 parameters, 222 bytes, 78 bytes a device",
    ]


@pytest.mark.parametrize("config", MESHES, ids=str)
def test_rows_become_the_global_batch(config):
    mesh = make_mesh(config)
    sharding, batch_size = batch_sharding(mesh), 48
    rows = local_rows(sharding, batch_size)
    np.testing.assert_array_equal(rows, np.arange(batch_size))
    rng = np.random.default_rng(0)
    batch = {
        "index": np.arange(batch_size, dtype=np.int32),
        "views": {"a": {"image": rng.normal(size=(batch_size, 4, 4, 3)).astype(np.float32)}},
        "present": {"a": rng.random(batch_size) < 0.5},
        "labels": {"label": np.arange(batch_size, dtype=np.int64)},
    }
    with jax.transfer_guard("disallow"):
        made = to_global(batch, sharding, rows, batch_size)
    for new, old in zip(jax.tree.leaves(made), jax.tree.leaves(batch), strict=True):
        assert new.sharding.is_equivalent_to(sharding, new.ndim) and new.shape == old.shape
        np.testing.assert_array_equal(new, old)
        for shard in new.addressable_shards:
            np.testing.assert_array_equal(shard.data, old[shard.index])
    assert made["labels"]["label"].dtype == jnp.int32
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    assert made["index"].addressable_shards[0].data.shape == (batch_size // ways,)
    assert float(jax.jit(jnp.sum)(made["index"])) == sum(range(batch_size))


def test_wrong_rows_are_refused():
    sharding = batch_sharding(make_mesh({}))
    with pytest.raises(ValueError, match=r"batch leaf views/a has shape \(7, 2\); allowed: 16 rows first"):
        to_global({"views": {"a": np.ones((7, 2))}}, sharding, np.arange(16), 16)
    with pytest.raises(ValueError, match="batch leaf x has shape"):
        to_global({"x": np.float32(1)}, sharding, np.arange(16), 16)
    for rows in (np.arange(8), np.r_[0:7, 8:17], np.arange(1, 17)):
        with pytest.raises(ValueError, match="not all in `rows`"):
            to_global({"x": np.ones(rows.size)}, sharding, rows, 16)


PROCESS = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
address = "127.0.0.1:" + sys.argv[1]
count, this = int(sys.argv[2]), int(sys.argv[3])
jax.distributed.initialize(address, num_processes=count, process_id=this, coordinator_bind_address=address)
import numpy as np
from jax.experimental import multihost_utils
from hcl_jax.errors import InputError
from hcl_jax.parallel.mesh import make_mesh
from hcl_jax.parallel.sharding import batch_sharding, local_rows, to_global

B, out = 24, []
fed = np.random.default_rng(0).normal(size=(B, 3)).astype(np.float32)
for config in json.loads(sys.argv[5]):
    devices = jax.devices()
    if config.pop("scattered", False):
        devices = devices[::2] + devices[1::2]  # as on a pod: the rows of a process are not contiguous
    mesh = make_mesh(config, devices)
    sharding = batch_sharding(mesh)
    rows = local_rows(sharding, B)
    batch = to_global({"x": fed[rows], "index": rows.astype(np.int32)}, sharding, rows, B)
    assert all(np.array_equal(s.data, fed[s.index]) for s in batch["x"].addressable_shards)
    # x is made whole by the processes together; each must then see the same, and all of it.
    whole = jax.jit(lambda b: b, out_shardings=jax.NamedSharding(mesh, jax.P()))(batch)
    np.testing.assert_array_equal(whole["x"].addressable_data(0), fed)
    np.testing.assert_array_equal(whole["index"].addressable_data(0), np.arange(B))
    out.append([rows.tolist(), [local_rows(sharding, B, p).tolist() for p in range(count)]])
try:
    make_mesh({"data": 1})
except InputError as error:
    out.append(str(error))
print("RESULT " + json.dumps(out), flush=True)
multihost_utils.sync_global_devices("done")
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_processes(count: int, devices_each: int, configs: list[dict]) -> list:
    port = str(free_port())
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env["PYTHONPATH"] = os.pathsep.join([os.getcwd(), env.get("PYTHONPATH", "")])
    arguments = [str(devices_each), json.dumps(configs)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(count), str(i), *arguments],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip
    results = []
    try:
        for p in processes:
            out, error = p.communicate(timeout=180)
            assert p.returncode == 0, error[-3000:]
            results.append(json.loads(next(line for line in out.splitlines() if line.startswith("RESULT "))[7:]))
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.communicate()
    return results


@pytest.mark.slow
@pytest.mark.parametrize("count, devices_each", [(2, 4), (4, 2)])
def test_processes_feed_the_same_global_batch(count, devices_each):
    """With a tensor axis wider than a process, the same rows are made by several processes."""
    configs = [{}, {"tensor": 2}, {"tensor": 8}, {"fsdp": 2, "tensor": 2}, {"data": 2, "tensor": 4}]
    configs += [{"tensor": 2, "scattered": True}, {"scattered": True}]
    results = run_processes(count, devices_each, configs)
    for i, config in enumerate(configs):
        made = [r[i][0] for r in results]
        assert all(r[i][1] == made for r in results), "every process knows what every other one makes"
        times = np.bincount(np.concatenate(made), minlength=24)
        ways = 8 // config.get("tensor", 1)
        if not config.get("scattered"):  # neighbours in the list: a tensor group covers this many processes
            assert set(times) == {max(1, config.get("tensor", 1) // devices_each)}
        assert set(times) <= set(range(1, count + 1)) and len(made[0]) % (24 // ways) == 0
    scattered = results[0][-2][0]
    assert scattered != list(range(scattered[0], scattered[0] + len(scattered))), "rows of a process with a gap"
    assert all("leaves processes" in r[-1] for r in results)
