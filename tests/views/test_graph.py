"""Graph ops against loops in NumPy, in both forms; random numbers that a whole batch shares."""

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import VIEWS, Draws, Replay, graph, make_view
from hcl_jax.views.lazy import tf

MANY = ["drop_edges", "mask_features", "mask_nodes", "drop_nodes", "perturb_edges", "subgraph", "augment_graph"]
ONE = MANY[:4]


def many(n=6, v=7, e=12, f=4, seed=0):
    """Graphs with 2 to v nodes, each edge in both directions where there is room."""
    rng = np.random.default_rng(seed)
    count = rng.integers(2, v + 1, n)
    count[0] = v
    edges, mask = np.zeros((n, e, 2), np.int32), np.zeros((n, e), bool)
    for row in range(n):
        for slot in range(0, 2 * int(rng.integers(2, e // 2 + 1)), 2):
            a, b = rng.choice(count[row], 2, replace=False)
            edges[row, slot], edges[row, slot + 1], mask[row, slot : slot + 2] = (a, b), (b, a), True
    there = np.arange(v) < count[:, None]
    nodes = np.where(there[..., None], rng.normal(size=(n, v, f)), 0).astype(np.float32)
    return {"nodes": nodes, "node_mask": there, "edges": edges, "edge_mask": mask}


def one(n=16, k=3, f=4, seed=0):
    """One graph of n nodes; the reverse of an edge lies in another row."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, n, (n * k // 2, 2)).astype(np.int32)
    edges = np.concatenate([half, half[:, ::-1]])
    mask = np.arange(n * k) < n * k - 4
    mask[: len(half)] &= mask[len(half) :]
    return {
        "nodes": rng.normal(size=(n, f)).astype(np.float32),
        "edges": edges.reshape(n, k, 2),
        "edge_mask": mask.reshape(n, k),
    }


def run(op, x, rows=None, batch=None, step=3, **params):
    """(the graph made, the numbers drawn), NumPy arrays."""
    n = len(x["nodes"]) if batch is None else batch
    draws = Draws(0, step, n, np.arange(n) if rows is None else rows, "a")
    made = VIEWS[op]({k: tf.constant(v) for k, v in x.items()}, draws, **params)
    assert {k: (v.shape, v.dtype) for k, v in made.items()} == {
        k: (tf.TensorShape(v.shape), tf.as_dtype(v.dtype)) for k, v in x.items()
    }
    numbers = {k: np.asarray(v) for k, v in draws.record.items()} | {k: np.asarray(v) for k, v in draws.targets.items()}
    return {k: v.numpy() for k, v in made.items()}, numbers


def same(a, b, *parts):
    for part in parts or a:
        np.testing.assert_array_equal(a[part], b[part], part)


def lowest(drawn, there, p):
    """The floor(p count) entries that are there with the least numbers."""
    chosen = np.zeros_like(there)
    for row in range(len(there)):
        at = np.flatnonzero(there[row])
        chosen[row, at[np.argsort(drawn[row, at], kind="stable")[: int(np.floor(p * len(at)))]]] = True
    return chosen


def splitmix(z):
    """One number of splitmix64, in Python's whole numbers."""
    mask = 2**64 - 1
    z = (z + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def hashed(seed, key):
    a, b = (int(float(s) * 2**24) for s in seed)
    return (splitmix(int(key) ^ splitmix(a * 2**24 + b)) >> 11) * 2.0**-53


@pytest.mark.parametrize("make", [one, many])
def test_drop_edges(make):
    x = make()
    made, drawn = run("drop_edges", x, p=0.4)
    same(made, x, *set(x) - {"edge_mask"})
    np.testing.assert_array_equal(made["edge_mask"], x["edge_mask"] & (drawn["edge"] >= np.float32(0.4)))
    assert 0 < made["edge_mask"].sum() < x["edge_mask"].sum()


@pytest.mark.parametrize("make", [one, many])
def test_both_directions_of_an_edge_share_a_coin(make):
    x = make()
    made, drawn = run("drop_edges", x, p=0.4, undirected=True)
    fates = {}
    for row in range(len(x["nodes"])):
        for slot in np.flatnonzero(x["edge_mask"][row]):
            a, b = sorted(int(i) for i in x["edges"][row, slot])
            kept = bool(made["edge_mask"][row, slot])
            assert kept == (hashed(drawn["pair"][row], a * 2**32 + b) >= 0.4)
            fates.setdefault((a, b) if make is one else (row, a, b), set()).add(kept)
    assert all(len(fate) == 1 for fate in fates.values()) and set.union(*fates.values()) == {True, False}
    assert not (made["edge_mask"] & ~x["edge_mask"]).any()


def test_hashed_coins_are_uniform_and_differ_by_seed():
    key = np.arange(20_000)
    a, b = (np.asarray(graph._hashed(tf.constant([s, 0.5]), tf.constant(key))) for s in (0.25, 0.26))
    assert a.min() >= 0 and a.max() < 1
    assert abs(a.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(key)) and abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(key))
    assert a[7] == hashed((0.25, 0.5), 7)


@pytest.mark.parametrize("make", [one, many])
def test_mask_features_takes_the_same_columns_everywhere(make):
    x = make(f=40)
    made, drawn = run("mask_features", x, p=0.3)
    assert (drawn["column"] == drawn["column"][:1]).all() and drawn["column"].shape == (len(x["nodes"]), 40)
    kept = drawn["column"][0] >= np.float32(0.3)
    assert 20 < kept.sum() < 36
    same(made, x | {"nodes": np.where(kept, x["nodes"], 0)})


@pytest.mark.parametrize("make", [one, many])
def test_mask_nodes_keeps_what_it_hides(make):
    x = make()
    made, drawn = run("mask_nodes", x, p=0.3, target=True)
    masked = drawn["node"] < np.float32(0.3) if make is one else lowest(drawn["node"], x["node_mask"], 0.3)
    assert masked.any()
    np.testing.assert_array_equal(drawn["mask"], masked)
    np.testing.assert_array_equal(drawn["clean"], x["nodes"])
    same(made, x | {"nodes": np.where(masked[..., None], 0, x["nodes"])})
    assert "mask" not in run("mask_nodes", x)[1]


def without(x, kept):
    """Many graphs with only the nodes kept, by loops."""
    mask = x["edge_mask"].copy()
    for row in range(len(mask)):
        for slot, (a, b) in enumerate(x["edges"][row]):
            mask[row, slot] &= kept[row, a] and kept[row, b]
    return x | {"nodes": np.where(kept[..., None], x["nodes"], 0), "node_mask": kept, "edge_mask": mask}


def test_drop_nodes_of_many_graphs():
    x = many(n=20)
    made, drawn = run("drop_nodes", x, p=0.3)
    kept = x["node_mask"] & ~lowest(drawn["node"], x["node_mask"], 0.3)
    same(made, without(x, kept))
    assert (made["node_mask"].sum(1) == x["node_mask"].sum(1) - np.floor(0.3 * x["node_mask"].sum(1))).all()


def test_drop_nodes_of_one_graph():
    x = one(n=40)
    made, drawn = run("drop_nodes", x, p=0.3)
    kept = np.array([hashed(drawn["node"][0], r) >= 0.3 for r in range(40)])
    assert 0 < kept.sum() < 40
    np.testing.assert_array_equal(made["nodes"], np.where(kept[:, None], x["nodes"], 0))
    np.testing.assert_array_equal(made["edge_mask"], x["edge_mask"] & kept[x["edges"]].all(-1))


def test_perturb_edges_rewires_a_share():
    x = many(n=30)
    made, drawn = run("perturb_edges", x, p=0.5)
    chosen, edges = lowest(drawn["edge"], x["edge_mask"], 0.5), x["edges"].copy()
    for row, slot in np.argwhere(chosen):
        count = int(x["node_mask"][row].sum())
        first, other = (
            int(np.float32(u) * np.float32(c))
            for u, c in zip(drawn["ends"][row, slot], (count, count - 1), strict=True)
        )
        others = [i for i in range(count) if i != first]
        edges[row, slot] = first, (others[first:] + others[:first])[other]
    mask = x["edge_mask"].copy()
    for row in range(30):
        there = {tuple(e) for e in edges[row][mask[row] & ~chosen[row]].tolist()}
        for slot in np.flatnonzero(chosen[row]):
            mask[row, slot] = tuple(edges[row, slot].tolist()) not in there
            there.add(tuple(edges[row, slot].tolist()))
    same(made, x | {"edges": edges, "edge_mask": mask})
    new = made["edges"][chosen]
    assert chosen.any() and (new[:, 0] != new[:, 1]).all()
    assert 0 < mask.sum() < x["edge_mask"].sum(), "some are drawn that are there"


def grown(x, row, start, steps, wanted):
    """A part of a graph, grown by loops from a node."""
    part = {start}
    links = [tuple(e) for e, m in zip(x["edges"][row].tolist(), x["edge_mask"][row], strict=True) if m]
    for u in steps:
        near = sorted({b for a, b in links if a in part} - part)
        if len(part) >= wanted or not near:
            break
        part.add(near[int(np.float32(u) * np.float32(len(near)))])
    return part


def test_subgraph_grows_as_the_loop():
    x = many(n=30, e=20)
    made, drawn = run("subgraph", x, keep=0.6)
    kept = np.zeros_like(x["node_mask"])
    for row in range(30):
        count = int(x["node_mask"][row].sum())
        start = int(np.float32(drawn["start"][row]) * np.float32(count))
        kept[row, list(grown(x, row, start, drawn["step"][row], int(np.ceil(0.6 * count))))] = True
    same(made, without(x, kept))
    assert (made["node_mask"].sum(1) <= np.ceil(0.6 * x["node_mask"].sum(1))).all()
    assert (made["node_mask"].sum(1) == np.ceil(0.6 * x["node_mask"].sum(1))).any()


def test_subgraph_skips_nodes_that_are_gone():
    """After drop_nodes the nodes that are there have gaps between them."""
    x, _ = run("drop_nodes", many(n=30, e=20), p=0.4)
    made, _ = run("subgraph", x, keep=1.0)
    assert not (made["node_mask"] & ~x["node_mask"]).any() and (made["node_mask"].sum(1) >= 1).all()
    rewired, drawn = run("perturb_edges", x, p=1.0)
    ends = rewired["edges"][rewired["edge_mask"]]
    rows = np.argwhere(rewired["edge_mask"])[:, 0]
    assert x["node_mask"][rows[:, None], ends].all()


def test_augment_graph_takes_one_op_for_each_row():
    x, of = many(n=64), ("drop_nodes", "subgraph", "perturb_edges", "mask_nodes")
    made, drawn = run("augment_graph", x, p=0.3)
    which, seen = np.floor(drawn["which"] * 4).astype(int), set()
    for i, name in enumerate(of):
        draws = Draws(0, 3, 64, np.arange(64), "a").scope(name)
        alone = VIEWS[name](
            {k: tf.constant(v) for k, v in x.items()}, draws, **{"keep" if i == 1 else "p": [0.3, 0.7][i == 1]}
        )
        rows = which == i
        seen.add(rows.sum() > 4)
        same({k: v[rows] for k, v in made.items()}, {k: v.numpy()[rows] for k, v in alone.items()})
    assert seen == {True}


@pytest.mark.parametrize("op", [(one, op) for op in ONE] + [(many, op) for op in MANY])
def test_strength_0_changes_nothing(op):
    make, op = op
    x = make()
    params = {"keep": 1.0} if op == "subgraph" else {"p": 0.0}
    if op in ("subgraph", "augment_graph"):  # a graph of one piece: a path through all nodes, both ways
        path = np.array([(i, i + 1) for i in range(6)] + [(i + 1, i) for i in range(6)], np.int32)
        x |= {"node_mask": np.ones((6, 7), bool), "edges": np.stack([path] * 6), "edge_mask": np.ones((6, 12), bool)}
    same(run(op, x, **params)[0], x)


@pytest.mark.parametrize("op", [(one, op) for op in ONE] + [(many, op) for op in MANY])
def test_any_split_of_the_rows_makes_the_same_and_replays(op):
    make, op = op
    x = make(n=16)
    for extra in [{}, {"undirected": True}] if op == "drop_edges" else [{}]:
        whole, drawn = run(op, x, **extra)
        for rows in (np.arange(8, 16), np.arange(0, 16, 3)):
            part, _ = run(op, {k: v[rows] for k, v in x.items()}, rows=rows, batch=16, **extra)
            same(part, {k: v[rows] for k, v in whole.items()})
        again = VIEWS[op]({k: tf.constant(v) for k, v in x.items()}, Replay(drawn), **extra)
        same({k: v.numpy() for k, v in again.items()}, whole)
        other, _ = run(op, x, step=4, **extra)
        assert any((other[k] != whole[k]).any() for k in x)


@pytest.mark.parametrize("op", [(one, op) for op in ONE] + [(many, op) for op in MANY])
def test_ops_run_in_a_data_set_with_static_shapes(op):
    make, op = op
    x = make(n=16)

    def change(step):
        draws = Draws(0, step, 16, np.arange(16), "a")
        return make_view({"kind": "graph", "ops": ({"op": op},)}, {k: tf.constant(v) for k, v in x.items()}, draws)

    stream = tf.data.Dataset.range(3, 5).map(change)
    assert {k: tuple(s.shape) for k, s in stream.element_spec.items()} == {k: v.shape for k, v in x.items()}
    for step, got in zip((3, 4), stream.as_numpy_iterator(), strict=True):
        wanted = make_view(
            {"kind": "graph", "ops": ({"op": op},)},
            {k: tf.constant(v) for k, v in x.items()},
            Draws(0, step, 16, np.arange(16), "a"),
        )
        same(got, {k: v.numpy() for k, v in wanted.items()})


def test_shared_numbers_are_the_same_on_every_host():
    def drawn(rows, name="x", seed=0, step=5, salt="a"):
        made = Draws(seed, step, 8, np.asarray(rows), salt).scope("op")
        value = np.asarray(made.shared(name, (3,)))
        np.testing.assert_array_equal(made.record[f"op/{name}"], np.stack([value] * len(rows)))
        return value

    base = drawn(range(8))
    assert base.shape == (3,) and base.dtype == np.float32 and 0 <= base.min() <= base.max() < 1
    np.testing.assert_array_equal(base, drawn([3]))
    for other in ({"name": "y"}, {"seed": 1}, {"step": 6}, {"salt": "b"}):
        assert not (base == drawn([0], **other)).any()
    made = Draws(0, 5, 8, np.arange(8), "a")
    value = made.shared("x", (2,))
    np.testing.assert_array_equal(Replay(made.record).shared("x", (2,)), value)
    with pytest.raises(InputError, match="drawn twice"):
        made.shared("x", (2,))


@pytest.mark.parametrize(
    ("op", "make", "params", "pattern"),
    [
        ("drop_edges", one, {"p": 1.5}, "drop_edges.p: found 1.5"),
        ("mask_features", one, {"p": -0.1}, "mask_features.p"),
        ("mask_nodes", one, {"p": "x"}, "mask_nodes.p"),
        ("drop_nodes", many, {"p": 2}, "drop_nodes.p"),
        ("perturb_edges", one, {}, "perturb_edges: found one graph whose nodes are the rows; allowed: many graphs"),
        ("subgraph", one, {}, "many graphs"),
        ("subgraph", many, {"keep": 1.1}, "subgraph.keep"),
        ("augment_graph", many, {"of": ()}, "augment_graph.of"),
        ("augment_graph", many, {"of": "drop_nodes"}, "augment_graph.of"),
        ("augment_graph", many, {"of": ("blur",)}, "augment_graph.of: found 'blur'"),
    ],
)
def test_bad_parameters_are_refused(op, make, params, pattern):
    with pytest.raises(InputError, match=pattern):
        run(op, make(), **params)


@pytest.mark.parametrize("op", MANY)
def test_what_is_no_graph_is_refused(op):
    draws = Draws(0, 0, 4, np.arange(4), "a")
    for x in (tf.zeros([4, 3]), {"nodes": tf.zeros([4, 3])}):
        with pytest.raises(InputError, match=f"{op}: found no graph"):
            VIEWS[op](x, draws)
    x = {k: tf.constant(v) for k, v in many(4).items() if k != "node_mask"}
    with pytest.raises(InputError, match="without node_mask"):
        VIEWS[op](x, draws)
