"""GCN and GIN against loops in NumPy: both forms, masks, gradients, meshes; GRACE's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hcl_jax.encoders import ENCODERS, HEADS, Rows
from hcl_jax.errors import InputError
from hcl_jax.losses import nt_xent

EVAL, TRAIN = Rows(), Rows(train=True)
FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}


def one(n=16, k=3, f=4, seed=0):
    """One graph; some edges are masked, node 3 links to itself, row n - 1 is absent."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, n - 1, (n, k, 2)).astype(np.int32)
    edges[0, 0] = 3, 3
    mask = rng.random((n, k)) < 0.8
    mask[0, 0], mask[-1] = True, False
    nodes = rng.normal(size=(n, f))
    nodes[-1] = 0
    return {"nodes": nodes, "edges": edges, "edge_mask": mask}


def many(n=8, v=6, e=10, f=4, seed=0):
    """Graphs with 1 to v nodes; the last row is absent."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, v + 1, n)
    count[-1] = 0
    edges = (rng.random((n, e, 2)) * np.maximum(count, 1)[:, None, None]).astype(np.int32)
    there = np.arange(v) < count[:, None]
    nodes = np.where(there[..., None], rng.normal(size=(n, v, f)), 0)
    mask = (rng.random((n, e)) < 0.7) & (count[:, None] > 0)
    return {"nodes": nodes, "node_mask": there, "edges": edges, "edge_mask": mask}


def split(x):
    """A list of (nodes [V, F], edges, there) for each graph of either form."""
    if x["nodes"].ndim == 2:
        edges = x["edges"].reshape(-1, 2)[x["edge_mask"].reshape(-1)]
        return [(x["nodes"], edges, np.ones(len(x["nodes"]), bool))]
    return [(x["nodes"][i], x["edges"][i][x["edge_mask"][i]], x["node_mask"][i]) for i in range(len(x["nodes"]))]


def dense_gcn(nodes, edges, params, activation="relu", last=True):
    """D^-1/2 (A + I) D^-1/2 X W + b with a dense A; A[i, j] counts the edges j -> i."""
    n = len(nodes)
    a = np.eye(n)
    for source, destination in edges:
        if source != destination:
            a[destination, source] += 1
    d = a.sum(1) ** -0.5
    a = d[:, None] * a * d[None]
    f = {
        "relu": lambda x: np.maximum(x, 0),
        "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "prelu": lambda x: np.where(x > 0, x, params.get("slope", 0) * x),
    }[activation]
    x, layers = nodes, sum(k.startswith("conv") for k in params)
    for i in range(1, layers + 1):
        p = params[f"conv{i}"]
        x = a @ x @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
        x = f(x) if i < layers or last else x
    return x


def apply(module, variables, x, rows=EVAL):
    return jax.device_get(module.apply(variables, jax.tree.map(jnp.asarray, x), rows))


@pytest.mark.parametrize("activation", ["relu", "elu", "prelu"])
@pytest.mark.parametrize("make", [one, many])
def test_gcn_equals_the_dense_formula(activation, make, weights):
    with jax.enable_x64(True):
        x = make()
        for last in (True, False):
            module = ENCODERS["gcn"](widths=(5, 3), activation=activation, last_activation=last, **FLOAT64)
            variables = weights(module, x)
            assert ("slope" in variables["params"]) is (activation == "prelu")
            got = apply(module, variables, x)
            for i, (nodes, edges, there) in enumerate(split(x)):
                params = variables["params"]
                wanted = np.where(there[:, None], dense_gcn(nodes, edges, params, activation, last), 0)
                if make is one:
                    np.testing.assert_allclose(got["h"], wanted, rtol=1e-10, atol=1e-12)
                else:
                    np.testing.assert_allclose(got["tokens"][i], wanted, rtol=1e-10, atol=1e-12)
                    mean = wanted.sum(0) / max(there.sum(), 1)
                    np.testing.assert_allclose(got["h"][i], mean, rtol=1e-10, atol=1e-12)


def dense_gin(x, variables, depth, train, epsilon=(0, 0, 0)):
    """Node outputs [g, V, depth hidden] by loops over graphs and edges."""
    params, stats = variables["params"], variables["batch_stats"]
    graphs = split(x)
    there = np.stack([t for _, _, t in graphs])
    state, made = np.stack([n for n, _, _ in graphs]), []
    for i in range(1, depth + 1):
        total = state * (1 + epsilon[i - 1])
        for row, (_, edges, _) in enumerate(graphs):
            for source, destination in edges:
                total[row, destination] += state[row, source]
        for k in (1, 2):
            p = params[f"layer{i}_dense{k}"]
            total = np.maximum(total @ np.asarray(p["kernel"]) + np.asarray(p["bias"]), 0)
        mean, var = (np.asarray(stats[f"norm{i}"][k]) for k in ("mean", "var"))
        if train:
            mean, var = total[there].mean(0), total[there].var(0)
        p = params[f"norm{i}"]
        state = (total - mean) / np.sqrt(var + 1e-5) * np.asarray(p["scale"]) + np.asarray(p["bias"])
        state = np.where(there[..., None], state, 0)
        made.append(state)
    return np.concatenate(made, -1)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_gin_equals_the_loops(train, pool, weights):
    with jax.enable_x64(True):
        x = many()
        module = ENCODERS["gin"](hidden=5, depth=2, pool=pool, **FLOAT64)
        variables = weights(module, x)
        got = module.apply(variables, jax.tree.map(jnp.asarray, x), Rows(train=train), mutable=["batch_stats"])[0]
        wanted = dense_gin(x, variables, 2, train)
        np.testing.assert_allclose(got["tokens"], wanted, rtol=1e-9, atol=1e-11)
        count = np.maximum(x["node_mask"].sum(1), 1)[:, None] if pool == "mean" else 1
        np.testing.assert_allclose(got["h"], wanted.sum(1) / count, rtol=1e-9, atol=1e-11)


def test_gin_of_one_graph_and_learned_epsilon(weights):
    with jax.enable_x64(True):
        x = one()
        module = ENCODERS["gin"](hidden=5, depth=2, learn_epsilon=True, **FLOAT64)
        variables = weights(module, x)
        epsilon = [float(variables["params"][f"epsilon{i}"]) for i in (1, 2)]
        assert all(epsilon)
        got = apply(module, variables, x)
        assert set(got) == {"h"}
        np.testing.assert_allclose(got["h"], dense_gin(x, variables, 2, False, epsilon)[0], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_epsilon_starts_at_0_and_the_slope_at_a_quarter():
    params = ENCODERS["gin"](hidden=3, depth=1, learn_epsilon=True).init(jax.random.key(0), many(), EVAL)["params"]
    assert params["epsilon1"] == 0
    params = ENCODERS["gcn"](widths=(3,), activation="prelu").init(jax.random.key(0), one(), EVAL)["params"]
    assert params["slope"] == 0.25 and not params["conv1"]["bias"].any()


CASES = [("gcn", one, {"widths": (5, 3), "activation": "elu"}), ("gin", many, {"hidden": 5, "depth": 2})]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(("name", "make", "params"), CASES)
def test_gradients_equal_central_differences(name, make, params, weights):
    with jax.enable_x64(True):
        x = make()
        module = ENCODERS[name](**params, **FLOAT64)
        variables = weights(module, x)
        target = np.random.default_rng(1).normal(size=apply(module, variables, x)["h"].shape)

        def value(tree, nodes):
            made = module.apply({**variables, "params": tree}, {**x, "nodes": nodes}, TRAIN, mutable=["batch_stats"])
            return (made[0]["h"] * target).sum()

        arguments = (variables["params"], jnp.asarray(x["nodes"]))
        grads, value = jax.jit(jax.grad(value, argnums=(0, 1)))(*arguments), jax.jit(value)
        flat, tree = jax.tree.flatten(arguments)
        rng, step = np.random.default_rng(2), 1e-6
        for _ in range(3):
            way = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=p.shape)) for p in flat])
            up, down = (jax.tree.map(lambda p, w, s=s: p + s * w, arguments, way) for s in (step, -step))
            slope = sum(float((g * w).sum()) for g, w in zip(*map(jax.tree.leaves, (grads, way)), strict=True))
            np.testing.assert_allclose((value(*up) - value(*down)) / (2 * step), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "make", "params"), CASES)
def test_what_is_masked_changes_nothing(name, make, params, weights):
    x = {k: v.astype(np.float32) if v.dtype == float else v for k, v in make().items()}
    module = ENCODERS[name](**params)
    variables = weights(module, x)
    run = jax.jit(lambda x, rows: module.apply(variables, x, rows, mutable=["batch_stats"])[0]["h"])
    other = {k: v.copy() for k, v in x.items()}
    other["edges"][~x["edge_mask"]] = 99
    rows = Rows(present=jnp.arange(len(x["nodes"])) < len(x["nodes"]) - 1, train=True)
    if make is many:
        other["nodes"][~x["node_mask"]] = np.nan
    else:
        other["nodes"][-1] = np.nan
    np.testing.assert_array_equal(run(x, rows), run(other, rows))
    assert np.isfinite(run(other, rows)).all()


@pytest.mark.parametrize(("name", "make", "params"), CASES)
def test_order_of_edges_and_names_of_nodes_do_not_matter(name, make, params, weights):
    with jax.enable_x64(True):
        x, rng = make(), np.random.default_rng(3)
        module = ENCODERS[name](**params, **FLOAT64)
        variables = weights(module, x)
        other = dict(x)
        if make is one:
            order = rng.permutation(x["edge_mask"].size)
            other["edges"] = x["edges"].reshape(-1, 2)[order].reshape(x["edges"].shape)
            other["edge_mask"] = x["edge_mask"].reshape(-1)[order].reshape(x["edge_mask"].shape)
            again = rng.permutation(len(x["nodes"]))  # new row -> old node
            other["nodes"], other["edges"] = x["nodes"][again], np.argsort(again)[other["edges"]].astype(np.int32)
            wanted = apply(module, variables, x)["h"][again]
        else:
            again = rng.permutation(x["nodes"].shape[1])
            other |= {"nodes": x["nodes"][:, again], "node_mask": x["node_mask"][:, again]}
            other["edges"] = np.argsort(again)[x["edges"]].astype(np.int32)
            wanted = apply(module, variables, x)["h"]
        np.testing.assert_allclose(apply(module, variables, other)["h"], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make", "params"), CASES)
def test_equal_on_eight_devices(name, make, params, weights):
    with jax.enable_x64(True):
        x = make()
        module = ENCODERS[name](**params, **FLOAT64)
        variables = weights(module, x)
        rows = Rows(present=jnp.arange(len(x["nodes"])) < len(x["nodes"]) - 1, train=True)

        def value(tree, x, rows):
            made = module.apply({**variables, "params": tree}, x, rows, mutable=["batch_stats"])
            return jnp.sin(made[0]["h"]).sum(), (made[0]["h"], made[1])

        step, found = jax.jit(jax.value_and_grad(value, has_aux=True)), []
        for devices in (1, 8):
            mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
            over = NamedSharding(mesh, PartitionSpec("data"))
            found.append(jax.device_get(step(variables["params"], *jax.device_put((x, rows), over))))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *found)


@pytest.mark.parametrize(("name", "make", "params"), CASES)
def test_another_graph_compiles_nothing(name, make, params, weights):
    module = ENCODERS[name](**params)
    variables = weights(module, make())
    run = jax.jit(lambda x: module.apply(variables, x, EVAL)["h"])
    for seed in range(3):
        run(make(seed=seed))
    assert run._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("name", "make", "params"), CASES)
def test_precisions(name, make, params, dtype, weights):
    module = ENCODERS[name](**params, dtype=dtype)
    x = {k: v.astype(np.float32) if v.dtype == float else v for k, v in make().items()}
    variables = weights(module, x)
    got = apply(module, variables, x)["h"]
    exact = apply(ENCODERS[name](**params), variables, x)["h"]
    assert str(got.dtype) == dtype
    np.testing.assert_allclose(got.astype(np.float32), exact, rtol=0.1, atol=0.1 * np.abs(exact).max())


@pytest.mark.slow
def test_an_edge_from_outside_of_the_batch_is_loud(weights):
    x = one()
    for name in ("gcn", "gin"):
        module = ENCODERS[name]()
        variables = weights(module, x)
        x["edges"][2, 1], x["edge_mask"][2, 1] = (16, 5), True
        assert np.isnan(apply(module, variables, x)["h"][5]).all()


def test_bad_input_is_refused():
    x = many()
    for name in ("gcn", "gin"):
        for field in ("nodes", "edges", "edge_mask", "node_mask"):
            with pytest.raises(InputError, match=f"{name} input: found no field '{field}'"):
                ENCODERS[name]().init(jax.random.key(0), {k: v for k, v in x.items() if k != field}, EVAL)
        with pytest.raises(InputError, match="2 axes, rows first"):
            ENCODERS[name]().init(jax.random.key(0), x | {"edge_mask": x["edges"]}, EVAL)
    for name, params in (("gcn", {"activation": "tanh"}), ("gcn", {"widths": ()}), ("gin", {"pool": "max"})):
        with pytest.raises(InputError, match=f"{name}.{next(iter(params))}"):
            ENCODERS[name](**params).init(jax.random.key(0), x, EVAL)


@pytest.mark.slow
def test_nt_xent_is_the_loss_of_grace():
    """-log e^(u_i v_i / t) / (sum_k e^(u_i v_k / t) + sum_{k != i} e^(u_i u_k / t)), both ways, averaged."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(2, 7, 5))
        u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))

        def one_way(u, v):
            between, within = np.exp(u @ v.T / 0.4), np.exp(u @ u.T / 0.4)
            return -np.log(np.diag(between) / (between.sum(1) + within.sum(1) - np.diag(within)))

        wanted = np.mean(one_way(u, v) + one_way(v, u)) / 2
        np.testing.assert_allclose(nt_xent(jnp.asarray(a), jnp.asarray(b), temperature=0.4), wanted, rtol=1e-12)


def test_activations_of_the_projector(weights):
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(6, 4))
        from scipy.special import erf

        functions = {
            "relu": lambda y: np.maximum(y, 0),
            "elu": lambda y: np.where(y > 0, y, np.expm1(y)),
            "gelu": lambda y: y * (1 + erf(y / np.sqrt(2))) / 2,
        }
        for name, f in functions.items():
            module = HEADS["projector"](
                features=3, batch_norm=False, last_batch_norm=False, last_bias=True, activation=name, **FLOAT64
            )
            p = weights(module, jnp.asarray(x))
            one, two = (jax.tree.map(np.asarray, p["params"][k]) for k in ("dense1", "dense2"))
            wanted = f(x @ one["kernel"] + one["bias"]) @ two["kernel"] + two["bias"]
            np.testing.assert_allclose(module.apply(p, jnp.asarray(x), EVAL), wanted, rtol=1e-10)
        with pytest.raises(InputError, match="head.activation: found 'tanh'; allowed: "):
            HEADS["projector"](activation="tanh").init(jax.random.key(0), jnp.asarray(x), EVAL)
