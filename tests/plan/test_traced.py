"""Work counted from traces, against numbers worked out by hand, and the times that follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from hcl_jax import config as configs
from hcl_jax import data, similarity
from hcl_jax.losses import nt_xent
from hcl_jax.parallel import mesh as meshes
from hcl_jax.plan import chips, roofline, traced
from hcl_jax.plan.traced import Sent, Work
from hcl_jax.run import Parts, build

ONE = {"data": 1, "fsdp": 1, "tensor": 1}
EIGHT = {"data": 8, "fsdp": 1, "tensor": 1}
H100 = chips.GPUS["h100"]


def counted(function, *shapes, sizes=ONE, state=(), dtype=jnp.float32):
    arguments = [jax.ShapeDtypeStruct(s, dtype) for s in shapes]
    return traced.count(jax.make_jaxpr(function)(*arguments).jaxpr, sizes, dict.fromkeys(state, 1))


def flops(work):
    return sum(work.flops.values())


def test_a_dense_layer():
    """y = x w, x [64, 128], w [128, 32]; its gradient makes two more products of as many FLOP."""
    forward = 2 * 64 * 128 * 32
    work = counted(jnp.matmul, (64, 128), (128, 32))
    assert work.flops == {"tf32": forward}
    assert work.least == 4 * (64 * 128 + 128 * 32 + 64 * 32)
    both = counted(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), argnums=(0, 1)), (128, 32), (64, 128))
    assert flops(both) == 3 * forward
    assert both.unfused > both.least


def test_a_batch_is_split_and_parameters_are_not():
    work = counted(jnp.matmul, (64, 128), (128, 32), sizes=EIGHT, state=[(128, 32)])
    assert flops(work) == 2 * 64 * 128 * 32 / 8
    assert work.least == 4 * (64 * 128 / 8 + 128 * 32 + 64 * 32 / 8)
    assert work.sent == ()


@pytest.mark.parametrize(("how", "kind"), [
    ({}, "tf32"), ({"precision": "highest"}, "float32"), ({"precision": "TF32_TF32_F32"}, "tf32"),
    ({"precision": "F32_F32_F32"}, "float32"), ({"dtype": jnp.bfloat16}, "bfloat16"),
])  # fmt: skip
def test_what_a_product_is_made_with(how, kind):
    dtype = how.pop("dtype", jnp.float32)
    assert list(counted(lambda x, y: lax.dot(x, y, **how), (4, 4), (4, 4), dtype=dtype).flops) == [kind]


def conv(x, k, strides=(1, 1), padding="SAME", **more):
    return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **more)


@pytest.mark.parametrize(("shape", "kernel", "how", "by_hand"), [
    ((2, 6, 6, 3), (3, 3, 3, 5), {"padding": "VALID"}, 2 * 2 * 3 * 5 * (4 * 3) ** 2),
    ((2, 6, 6, 3), (3, 3, 3, 5), {}, 2 * 2 * 3 * 5 * (6 * 3 - 2) ** 2),  # a tap at each edge falls on padding
    ((2, 6, 6, 3), (3, 3, 3, 5), {"strides": (2, 2)}, 2 * 2 * 3 * 5 * (3 * 3 - 1) ** 2),  # padding after the last
    ((2, 6, 6, 4), (3, 3, 1, 4), {"feature_group_count": 4}, 2 * 2 * 1 * 4 * (6 * 3 - 2) ** 2),
    ((2, 6, 6, 3), (3, 3, 3, 5), {"padding": "VALID", "rhs_dilation": (2, 2)}, 2 * 2 * 3 * 5 * (2 * 3) ** 2),
    ((2, 3, 3, 3), (2, 2, 3, 5), {"padding": ((0, 0), (0, 0)), "lhs_dilation": (2, 2)}, 2 * 2 * 3 * 5 * 4**2),  # holes
])  # fmt: skip
def test_a_convolution(shape, kernel, how, by_hand):
    assert flops(counted(lambda x, k: conv(x, k, **how), shape, kernel)) == by_hand


def test_each_gradient_of_a_convolution_costs_what_it_costs():
    """The taps that meet a pixel are the same pairs of pixel and output, whichever of the three is made."""

    def loss(x, k):
        return jnp.sum(jnp.tanh(conv(x, k, (2, 2))))

    forward = 2 * 8 * 3 * 32 * 23**2
    assert flops(counted(loss, (8, 16, 16, 3), (3, 3, 3, 32))) == forward
    assert flops(counted(jax.grad(loss, argnums=(0, 1)), (8, 16, 16, 3), (3, 3, 3, 32))) == 3 * forward


def test_convolutions_are_counted_as_the_compiler_counts_them():
    x, k = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 32), jnp.float32)
    said = jax.jit(lambda x, k: conv(x, k, (2, 2))).lower(x, k).cost_analysis()["flops"]
    assert flops(counted(lambda x, k: conv(x, k, (2, 2)), x.shape, k.shape)) == said


def test_loops_count_as_often_as_they_go_round_and_branches_once():
    once = 2 * 16**3

    def around(x):
        return lax.scan(lambda c, _: (c @ c, None), x, None, length=10)[0]

    assert flops(counted(around, (16, 16))) == 10 * once
    nested = counted(lambda x: lax.scan(lambda c, _: (around(c), None), x, None, length=3)[0], (16, 16))
    assert flops(nested) == 30 * once
    either = counted(lambda x: lax.cond(x[0, 0] > 0, around, lambda x: x @ x, x), (16, 16))
    assert flops(either) == 10 * once
    until = counted(lambda x: lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x), (16, 16))
    assert (flops(until), until.unknown_loops) == (once, 1)


def test_functions_with_rules_of_their_own():
    def remat(x):
        return jnp.sum(jax.checkpoint(lambda y: jnp.tanh(y @ y) @ y)(x))

    once = 2 * 16**3
    assert flops(counted(remat, (16, 16))) == 2 * once
    # Two of the forward pass, the first again for its backward pass, four gradients.
    assert flops(counted(jax.grad(remat), (16, 16))) == 7 * once

    @jax.custom_vjp
    def own(x):
        return x @ x

    own.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T @ x,))
    assert flops(counted(own, (16, 16))) == once
    assert flops(counted(jax.grad(lambda x: jnp.sum(own(x))), (16, 16))) == 3 * once


@pytest.mark.parametrize(("name", "kind", "bytes_"), [
    ("psum", "all-reduce", 2 * 7 / 8 * 32), ("gather", "all-gather", 7 * 32), ("scatter", "reduce-scatter", 7 * 4),
    ("hop", "permute", 5 * 32),
])  # fmt: skip
def test_what_a_shard_map_sends(name, kind, bytes_):
    """Each of eight devices has one row of 8 numbers, 32 bytes."""
    ring = [(i, (i + 1) % 8) for i in range(8)]
    functions = {
        "psum": lambda x: lax.psum(x, "data"),
        "gather": lambda x: lax.all_gather(x, "data"),
        "scatter": lambda x: lax.psum_scatter(x, "data", scatter_dimension=1, tiled=True),
        "hop": lambda x: lax.scan(lambda c, _: (lax.ppermute(c, "data", ring), None), x, None, length=5)[0],
    }
    mesh = Mesh(np.array(jax.devices()).reshape(8, 1, 1), tuple(EIGHT), axis_types=(AxisType.Auto,) * 3)
    out = P() if name == "psum" else P("data")
    mapped = jax.shard_map(functions[name], mesh=mesh, in_specs=P("data"), out_specs=out)
    assert counted(mapped, (8, 8), sizes=EIGHT).sent == (Sent(kind, bytes_, 8, 1),)


def test_what_a_product_of_rows_implies():
    """64 rows of 16 numbers, eight on each device: every key must come; sums over rows must be joined."""
    shapes, size = [(64, 16), (64, 16)], 64 * 16 * 4
    gather = (Sent("all-gather", 7 / 8 * size, 8, 1),)
    assert counted(lambda x, y: x @ y.T, *shapes, sizes=EIGHT).sent == gather
    assert counted(jax.jit(lambda x, y: x @ (2 * jax.jit(jnp.transpose)(y))), *shapes, sizes=EIGHT).sent == gather
    assert counted(lambda x, y: x.T @ y, *shapes, sizes=EIGHT).sent == (
        Sent("all-reduce", 2 * 7 / 8 * 16**2 * 4, 8, 1),
    )
    gradient = counted(lambda x, y: x.T @ y, *shapes, sizes=EIGHT, state=[(16, 16)])
    assert gradient.sent == ()  # roofline.gradients has these
    assert counted(lambda x, y: x @ y.T, *shapes).sent == ()


@pytest.mark.parametrize("engine", ["dense", "ring"])
def test_the_wire_of_a_loss_is_that_of_its_table(engine):
    """docs/losses.md: dense (n - 1) R d and twice that; ring h R (d + 1) + 4 c R and h R (d + 4) + c R d numbers."""
    n, examples, d = 8, 64, 16
    mesh = Mesh(np.array(jax.devices()).reshape(8, 1, 1), tuple(EIGHT), axis_types=(AxisType.Auto,) * 3)
    made = similarity.dense() if engine == "dense" else similarity.ring(mesh)
    work = counted(
        jax.value_and_grad(lambda a, b: nt_xent(a, b, temperature=0.1, engine=made), argnums=(0, 1)),
        (examples, d), (examples, d), sizes=EIGHT,
    )  # fmt: skip
    rows, h, c = 2 * examples // n, n // 2, (n - 1) // 2
    table = {"dense": 3 * (n - 1) * rows * d, "ring": h * rows * (2 * d + 5) + c * rows * (d + 4)}
    large = sum(s.bytes for s in work.sent) / 4
    assert table[engine] <= large <= 1.15 * table[engine]  # ids and sums of rows come on top


def test_gradients_of_copies_and_of_shards():
    copied = roofline.gradients([(800, ()), (80, ())], EIGHT)
    assert copied == (Sent("all-reduce", 2 * 7 / 8 * 880, 8, 1),)
    sizes = {"data": 2, "fsdp": 4, "tensor": 1}
    kinds = {s.kind: s for s in roofline.gradients([(800, ("fsdp",))], sizes)}
    assert kinds["all-gather"] == Sent("all-gather", 3 / 4 * 800, 4, 1)
    assert kinds["reduce-scatter"] == Sent("reduce-scatter", 3 / 4 * 800, 4, 1)
    assert kinds["all-reduce"] == Sent("all-reduce", 2 * 1 / 2 * 200, 2, 4)
    assert roofline.gradients([(800, ())], ONE) == ()


@pytest.mark.parametrize(("sent", "rate"), [
    (Sent("all-reduce", 1, 8, 1), H100.link),  # inside a host
    (Sent("all-reduce", 1, 16, 1), 8 * H100.network),  # eight members in each host
    (Sent("all-reduce", 1, 2, 8), H100.network),  # one in each
    (Sent("permute", 1, 16, 1), H100.network),
])  # fmt: skip
def test_the_rate_of_a_group(sent, rate):
    assert roofline.rate(sent, H100) == rate


def test_the_largest_time_is_the_bound():
    work = Work({"bfloat16": 989.4e9, "float32": 66.9e9}, 3.35e9, 6.7e9, (Sent("permute", 5e7, 16, 1),), 0)
    made = roofline.roofline(work, [], state=0, params=0, gpu=H100)
    assert made.products == pytest.approx(2e-3) and made.memory == pytest.approx(1e-3)
    assert made.wire == pytest.approx(1e-3) and made.unfused == pytest.approx(2e-3)
    assert (made.step, made.bound) == (made.products, "products")
    heavy = roofline.roofline(work, [], state=5 * 10**9, params=10**9, gpu=H100)
    assert heavy.bound == "memory" and heavy.memory == pytest.approx((3.35e9 + 12e9) / 3.35e12)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_whole_recipe(fsdp):
    """State and wire of a recipe, its parameters copied, and sharded over four."""
    plain = configs.load("simclr:digits").to_dict()
    plain["mesh"] |= {"data": 8 // fsdp, "fsdp": fsdp}
    config = configs.complete(configs.ConfigDict(plain))
    source = data.random_like(config.data, config.views, sources=data.SOURCES)
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh))
    made = roofline.of_run(run, H100)
    params = {jax.tree_util.keystr(k): x for k, x in jax.tree_util.tree_leaves_with_path(run.abstract.params)}
    size = sum(4 * x.size for x in params.values())
    assert made.state == pytest.approx((3 * size) / fsdp, rel=0.1)  # parameters, Adam's two moments, statistics
    whole = 2 * 7 / 8 * size
    sharded = 2 * 3 / 4 * size + 2 * 1 / 2 * size / 4
    assert sum(made.sent.values()) == pytest.approx(whole if fsdp == 1 else sharded, rel=0.15)
