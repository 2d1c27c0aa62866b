"""One table of calls: every loss with its conventions, ids and weights, for the tests that hold for all of them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax.losses import LOSSES, instance_graph
from hcl_jax.similarity import Engine, dense, gathered, ring, streamed
from tests.losses import batch_oracles, oracles

N, D = 8, 4
ORACLES = vars(oracles)


class Case(NamedTuple):
    """A call `loss(*arrays, **learned, **fixed)`; `arrays` that are floats and `learned` take gradients."""

    name: str
    arrays: tuple[np.ndarray, ...]
    learned: dict[str, float | tuple[float, ...]]
    fixed: dict
    stopped: tuple[int, ...] = ()  # inputs that the loss stops gradients to
    held: bool = False  # the loss stops gradients to something it makes: the oracle takes the inputs that it is made of

    @property
    def loss(self) -> Callable:
        fixed = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, self.fixed)
        return functools.partial(LOSSES[self.name], **fixed)

    @property
    def oracle(self) -> Callable:
        home = oracles if hasattr(oracles, self.name) else batch_oracles
        return functools.partial(getattr(home, self.name), **self.fixed)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float64."""
    return np.random.default_rng(seed).normal(size=shape)


A, B, C, E = (normal(seed, N, D) for seed in range(4))
QUEUE = normal(9, N, D)
QUEUE[3] = 0.0  # an empty slot
IDS = np.array([3, 7, 3, -1, 0, 7, 7, 12], np.int32)  # repeated, and one ignored
WEIGHTS = np.array([1.0, 0.5, 2.0, 3.0, 0.0, 1.5, 1.0, 0.25], np.float32)
WHOLE = np.array([1.0, 2.0, 1.0, 1.0, 0.0, 3.0, 1.0, 1.0], np.float32)
PRESENT = (
    np.array([1, 1, 1, 0, 1, 1, 0, 1], bool),
    np.array([1, 0, 1, 1, 1, 1, 0, 1], bool),
    None,
)
LABELS = np.array([0, 2, -1, 1, 3, 3, 0, -1], np.int32)
TOKENS = np.array([[0, 1], [2, -1], [-1, -1], [1, 1], [3, 0], [3, 2], [0, -1], [2, 2]], np.int32)
DIVERSE = normal(10, 5, N, 8)  # outputs of eight features
WORDS = np.random.default_rng(11).integers(1, 6, (2, N, 5)).astype(np.int32)
WORDS[0, 2, 3:] = WORDS[1, 5, 4:] = 0  # padding
ANSWER = np.broadcast_to(np.arange(5) >= 2, (2, N, 5)) & (WORDS != 0)
ANSWER[1, 4] = False  # no loser
LOGITS = normal(12, 4, N, 5, 6)
NEIGHBOURS = np.array([[0, 5], [-1, 2], [2, 2], [3, 1], [6, 3], [-1, -1], [7, 0], [4, -1]], np.int32)
SHARES = np.array([[1.0, 0.5], [9.0, 1.0], [0.3, 0.2], [1, 1], [0.1, 2.0], [1, 1], [0.0, 4.0], [2.0, 1.0]])
MASK = np.array([[1, 0], [0, 0], [1, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]], bool)

PLAIN: dict = {}
SPECIAL = {"ids": IDS, "row_weights": WEIGHTS}
T = {"temperature": 0.2}
S = {"scale": 5.0}

CASES = {
    "nt_xent": Case("nt_xent", (A, B), T, PLAIN),
    "nt_xent, ids": Case("nt_xent", (A, B), T, SPECIAL),
    "nt_xent, sum of halves": Case("nt_xent", (A, B), T, {"convention": "sum_of_halves"}),
    "nt_xent, negatives": Case("nt_xent", (A, B), T, {"denominator": "negatives", **SPECIAL}),
    "info_nce": Case("info_nce", (A, B), T, PLAIN),
    "info_nce, ids": Case("info_nce", (A, B), T, SPECIAL),
    "info_nce, two tau": Case("info_nce", (A, B), T, {"convention": "two_tau"}),
    "info_nce, queue": Case("info_nce", (A, B, QUEUE), T, SPECIAL),
    "info_nce, batch and queue": Case("info_nce", (A, B, QUEUE), T, {"in_batch": True, **SPECIAL}),
    "info_nce, decoupled": Case("info_nce", (A, B), T, {"decoupled": True, **SPECIAL}),
    "info_nce, decoupled queue": Case("info_nce", (A, B, QUEUE), T, {"decoupled": True, **SPECIAL}),
    "moco_v3": Case("moco_v3", (A, B, C, E), T, SPECIAL, stopped=(1, 3)),
    "moco_v3, mean": Case("moco_v3", (A, B, C, E), T, {"convention": "mean"}, stopped=(1, 3)),
    "nnclr": Case("nnclr", (A, B, C, E, QUEUE), T, SPECIAL, stopped=(0, 2, 4)),
    "nnclr, both ways": Case("nnclr", (A, B, C, E, QUEUE), T, {"convention": "both_ways"}, stopped=(0, 2, 4)),
    "multi_positive": Case("multi_positive", (A, B, NEIGHBOURS), T, PLAIN),
    "multi_positive, weights": Case("multi_positive", (A, B, NEIGHBOURS, SHARES), T, SPECIAL, stopped=(3,)),
    "decoupled": Case("decoupled", (A, B), T, SPECIAL),
    "decoupled_weighted": Case("decoupled_weighted", (A, B), T, PLAIN, held=True),
    "decoupled_weighted, ids": Case("decoupled_weighted", (A, B), T, {"sigma": 0.3, **SPECIAL}, held=True),
    "debiased": Case("debiased", (A, B), {**T, "tau_plus": 0.05}, PLAIN),
    "debiased, ids": Case("debiased", (A, B), T, {"tau_plus": 0.5, **SPECIAL}),
    "hard_negative": Case("hard_negative", (A, B), {**T, "tau_plus": 0.05, "beta": 0.7}, PLAIN),
    "hard_negative, ids": Case("hard_negative", (A, B), T, {"tau_plus": 0.3, "beta": 1.5, **SPECIAL}),
    "triplet": Case("triplet", (A, B), {}, PLAIN),
    "triplet, ids": Case("triplet", (A, B), {"margin": 1.5}, SPECIAL),
    "triplet, given": Case("triplet", (A, B, C), {}, {"margin": 0.5, **SPECIAL}),
    "clip": Case("clip", (A, B), S, PLAIN),
    "clip, ids": Case("clip", (A, B), S, SPECIAL),
    "siglip": Case("siglip", (A, B), {"scale": 5.0, "bias": -3.0}, PLAIN),
    "siglip, ids": Case("siglip", (A, B), {"scale": 5.0, "bias": -3.0}, SPECIAL),
    "sup_con": Case("sup_con", (A,), T, {"ids": np.array([0, 1, 0, 1, 2, 2, 2, 5], np.int32)}),
    "sup_con, two views": Case("sup_con", (A, B), T, {"base_temperature": 0.07, **SPECIAL}),
    "multi_view": Case("multi_view", (A, B, C), T, PLAIN),
    "multi_view, missing": Case("multi_view", (A, B, C), T, {"present": PRESENT, **SPECIAL}),
    "multi_view, core": Case("multi_view", (A, B, C), T, {"graph": "core", "convention": "sum", "present": PRESENT}),
    "negative_cosine": Case("negative_cosine", (A, B), {}, SPECIAL, stopped=(1,)),
    "negative_cosine, four": Case("negative_cosine", (A, B, C, E), {}, PLAIN, stopped=(1, 3)),
    "negative_cosine, free": Case("negative_cosine", (A, B), {}, {"stop_gradient": False}),
    "byol": Case("byol", (A, B, C, E), {}, SPECIAL, stopped=(1, 3)),
    "byol, free": Case("byol", (A, B), {}, {"stop_gradient": False, **SPECIAL}),
    "dino": Case("dino", (normal(13, 8), *DIVERSE), {"student_temperature": 0.3}, SPECIAL, stopped=(0, 1, 2)),
    "dino, one teacher": Case(
        "dino", (normal(13, 8), *DIVERSE[:3]), {}, {"teachers": 1, "teacher_temperature": 0.5}, stopped=(0, 1, 2)
    ),
    "min_max": Case("min_max", (A, B, C), {**T, "distribution": (0.5, 0.2, 0.3)}, {"gamma": 0.7, **SPECIAL}),
    "dpo": Case("dpo", (*LOGITS, *WORDS, *ANSWER), {"beta": 0.4}, {"smoothing": 0.1, **SPECIAL}, stopped=(2, 3)),
    "dpo, plain": Case("dpo", (*LOGITS, *WORDS, *ANSWER), {}, PLAIN, stopped=(2, 3)),
    "ipo": Case("ipo", (*LOGITS, *WORDS, *ANSWER), {"beta": 0.4}, SPECIAL, stopped=(2, 3)),
    "next_token": Case("next_token", (LOGITS[0], WORDS[0], ANSWER[0].astype(np.int32)), {}, SPECIAL),
    "next_token, all": Case("next_token", (LOGITS[0], WORDS[0]), {}, {"smoothing": 0.1}),
    "barlow_twins": Case("barlow_twins", (A, B), {}, PLAIN),
    "barlow_twins, ids": Case(
        "barlow_twins", (A, B), {}, {"scale": 0.025, "redundancy_weight": 0.02, "ids": IDS, "row_weights": WHOLE}
    ),
    "vicreg": Case("vicreg", (A, B), {}, PLAIN),
    "vicreg, ids": Case("vicreg", (A, B), {}, {"convention": "sum", "ids": IDS, "row_weights": WHOLE}),
    "w_mse": Case("w_mse", (A, B), {}, PLAIN),
    "w_mse, ids": Case("w_mse", (A, B), {}, {"epsilon": 0.1, **SPECIAL}),
    "spectral": Case("spectral", (A, B), {}, {"mu": 3.0}),
    "spectral, ids": Case("spectral", (A, B), {}, {"mu": None, **SPECIAL}),
    "align_uniform": Case("align_uniform", (A, B), {}, PLAIN),
    "align_uniform, ids": Case("align_uniform", (A, B), {}, {"alpha": 1.5, "uniformity": 0.5, **SPECIAL}),
    "koleo": Case("koleo", (A,), {}, PLAIN),
    "koleo, ids": Case("koleo", (A,), {}, SPECIAL),
    "consistency": Case("consistency", (A, B), {}, SPECIAL, stopped=(1,)),
    "consistency, entry": Case("consistency", (A, B), {}, {"reduction": "entry"}, stopped=(1,)),
    "covariance": Case("covariance", (A,), {}, PLAIN),
    "covariance, ids": Case("covariance", (A,), {}, {"ids": IDS, "row_weights": WHOLE}),
    "dominant_singular_value": Case("dominant_singular_value", (A,), {}, PLAIN),
    "dominant_singular_value, wide": Case(
        "dominant_singular_value", (normal(14, N, 11),), {}, {"top": 2, "ids": IDS, "row_weights": WHOLE}
    ),
    "bpr": Case("bpr", (A, B), {}, PLAIN),
    "bpr, one pair": Case("bpr", (A[:, 0], B[:, 0]), {}, SPECIAL),
    "cross_entropy": Case("cross_entropy", (A, LABELS), {}, SPECIAL),
    "cross_entropy, tokens": Case("cross_entropy", (normal(5, N, 2, D), TOKENS), {}, {"smoothing": 0.1}),
    "mean_squared_error": Case("mean_squared_error", (A, B), {}, SPECIAL),
    "mean_squared_error, mask": Case("mean_squared_error", (normal(6, N, 2, 3), normal(7, N, 2, 3), MASK), {}, PLAIN),
}


# One call of each loss, the one with ids, weights and missing views where there is one.
ONE_EACH = (
    "nt_xent, ids",
    "info_nce, batch and queue",
    "moco_v3",
    "nnclr, both ways",
    "multi_positive, weights",
    "decoupled",
    "decoupled_weighted, ids",
    "debiased, ids",
    "hard_negative, ids",
    "triplet, ids",
    "clip, ids",
    "siglip, ids",
    "sup_con, two views",
    "multi_view, missing",
    "negative_cosine",
    "byol",
    "barlow_twins, ids",
    "vicreg, ids",
    "w_mse, ids",
    "spectral, ids",
    "align_uniform, ids",
    "koleo, ids",
    "consistency",
    "covariance, ids",
    "dominant_singular_value, wide",
    "bpr",
    "cross_entropy",
    "mean_squared_error, mask",
    "dino",
    "min_max",
    "dpo",
    "ipo",
    "next_token",
)

# Losses that can be called with two matrices [N, D] (see `paired`), for the properties that such losses share.
PAIRED = (
    "nt_xent",
    "info_nce",
    "moco_v3",
    "nnclr",
    "multi_positive",
    "decoupled",
    "decoupled_weighted",
    "debiased",
    "hard_negative",
    "triplet",
    "clip",
    "siglip",
    "sup_con",
    "multi_view",
    "negative_cosine",
    "byol",
    "barlow_twins",
    "vicreg",
    "w_mse",
    "spectral",
    "align_uniform",
    "koleo",
    "consistency",
    "covariance",
    "dominant_singular_value",
    "bpr",
    "cross_entropy",
    "mean_squared_error",
    "swav",
)
# Their parameters for a temperature t.
TEMPERED = (
    *("nt_xent", "info_nce", "moco_v3", "nnclr", "multi_positive", "decoupled", "decoupled_weighted", "debiased"),
    *("hard_negative", "sup_con", "multi_view"),
)
ELSEWHERE = ("swav", "swav_queue", "ts2vec")  # whose values have a test file of their own


def mesh_of(devices: int) -> jax.sharding.Mesh:
    """A mesh of the first so many devices along one axis, "data"."""
    axis = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)


# The ways to run a loss that compares rows with rows, by a mesh.
WAYS: dict[str, Callable] = {
    "dense": lambda mesh: dense(),
    "streamed": lambda mesh: streamed(),
    "streamed in tiles": lambda mesh: streamed(tile=2),
    "ring": lambda mesh: ring(mesh, "data"),
    "gathered": lambda mesh: gathered(mesh, "data"),
}
WITH_ENGINE = tuple(name for name in CASES if "engine" in inspect.signature(LOSSES[CASES[name].name]).parameters)


@functools.cache
def evaluate(
    dtype: type, devices: int | None = None, names: tuple[str, ...] = tuple(CASES), way: str | None = None
) -> dict:
    """Value and gradients of the named cases: name -> (value, {"input 0" and so on, or learned name: gradient}).

    One compilation for all of them. With `devices`, every array is sharded by rows over so many. `way` names an engine.
    """
    with jax.enable_x64(dtype == np.float64):
        place: Callable = jnp.asarray
        mesh = mesh_of(devices or 1)
        if devices is not None:
            place = functools.partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec("data")))
        inputs = {}
        for name in names:
            case = CASES[name]
            arrays = [place(x.astype(dtype) if x.dtype == np.float64 else x) for x in case.arrays]
            assert all(len(x.sharding.device_set) == (devices or 1) for x in arrays)
            learned = {key: jnp.asarray(value, dtype) for key, value in case.learned.items()}
            inputs[name] = ({f"input {i}": x for i, x in enumerate(arrays)}, learned)
        # Compiled without LLVM's optimisation: it takes half as long, and nothing here is slow.
        engine = None if way is None else WAYS[way](mesh)
        every = jax.jit(functools.partial(_all, engine), compiler_options={"xla_backend_optimization_level": 0})
        return jax.device_get(every(inputs))


def assert_same(found: object, wanted: object, name: str = "") -> None:
    """Equal to 1e-10, as a loss and its gradients are on any number of devices."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10, err_msg=name), found, wanted)


def paired(name: str, table: Mapping[str, Callable] = LOSSES) -> Callable:
    """The loss (or its measure, or its oracle) as a function of two matrices [N, D]."""
    f = table[name]

    def neighbours(a, b, **settings):
        """Positives are data too: they follow the rows when these are shuffled or left out."""
        if table is ORACLES:
            graph = oracles.instance_graph(b, k=min(2, len(b) - 1), ids=settings.get("ids"))
            return f(a, b, np.tile(np.arange(len(b)), (len(b), 1)), graph, **settings)
        ids = settings.get("ids")
        return f(a, b, *instance_graph(b, k=min(2, len(b) - 1), ids=ids), **settings)

    def classes(a, b, **settings):
        return f(a, jnp.argmax(jnp.nan_to_num(b), axis=1), **settings)

    def each(a, b, **settings):
        return f(a, **settings) + f(b, **settings)

    def support(a):
        numbers = np.cos(np.arange(6 * a.shape[1])).reshape(6, -1)
        return numbers if table is ORACLES else jnp.asarray(numbers, jnp.promote_types(a.dtype, jnp.float32))

    return {
        "moco_v3": lambda a, b, **settings: f(a, b, b, a, **settings),
        "nnclr": lambda a, b, **settings: f(a, b, b, a, support(a), **settings),
        **dict.fromkeys(("koleo", "covariance", "dominant_singular_value"), each),
        "multi_positive": neighbours,
        "cross_entropy": classes,
    }.get(name, f)


def _all(engine: Engine | None, inputs: dict) -> dict:
    chosen = {} if engine is None else {"engine": engine}
    return {name: _one(CASES[name], chosen, *given) for name, given in inputs.items()}


def _one(case: Case, chosen: dict, arrays: dict, learned: dict) -> tuple[jax.Array, dict]:
    floats = {key: x for key, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def loss(given: dict) -> jax.Array:
        keywords = {key: given[key] for key in learned} | chosen
        return case.loss(*(given.get(key, x) for key, x in arrays.items()), **keywords)

    return jax.value_and_grad(loss)({**floats, **learned})
