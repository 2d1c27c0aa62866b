"""Identities between losses, and what must not matter: order, padding, ignored rows, length of the vectors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcl_jax.losses import (
    align_uniform,
    barlow_twins,
    bpr,
    byol,
    clip,
    consistency,
    covariance,
    debiased,
    decoupled,
    decoupled_weighted,
    dominant_singular_value,
    hard_negative,
    info_nce,
    instance_graph,
    koleo,
    moco_v3,
    multi_positive,
    multi_view,
    negative_cosine,
    nnclr,
    nt_xent,
    siglip,
    spectral,
    sup_con,
    triplet,
    vicreg,
    w_mse,
)
from hcl_jax.similarity import Dense, dense
from tests.losses import cases
from tests.losses.cases import CASES, PAIRED, TEMPERED, N, normal, paired

# Copies of its own: everything here runs in float64, and jax may keep a NumPy array as it first took it.
A, B, C = (x.copy() for x in (cases.A, cases.B, cases.C))
IDS, LEFT_OUT = cases.IDS.copy(), np.isin(np.arange(N), (2, 5, 6))
SHORT = N - LEFT_OUT.sum()
OWN, ONES = np.arange(N, dtype=np.int32), np.ones(N)

FAST = {"xla_backend_optimization_level": 0}

STATISTICS = ("barlow_twins", "vicreg", "covariance", "dominant_singular_value")

# One call of each loss that has parameters.
PARAMETERS: dict[str, dict] = {
    **{name: {"temperature": 0.2} for name in TEMPERED},
    "clip": {"scale": 5.0},
    "siglip": {"scale": 5.0, "bias": -3.0},
}


@functools.cache
def step(name: str):
    """jit of (a, b, ids, weights) -> value, gradient by a; two compilations a loss, with N and with SHORT rows."""

    def loss(a, b, ids, weights):
        return paired(name)(a, b, ids=ids, row_weights=weights, **PARAMETERS.get(name, {}))

    return jax.jit(jax.value_and_grad(loss), compiler_options=FAST)


def call(name: str, a=A, b=B, ids=OWN, weights=ONES) -> float:
    """The value alone; ids and weights are cut to the rows of a."""
    return float(step(name)(a, b, ids[: len(a)], weights[: len(a)])[0])


def value(loss, *arrays, **settings) -> float:
    """The loss, compiled as one program: operation by operation takes longer the first time."""
    return float(jax.jit(functools.partial(loss, **settings), compiler_options=FAST)(*arrays))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_sup_con_with_instance_ids_is_nt_xent():
    for ids in (None, np.arange(N, dtype=np.int32), IDS):
        assert value(sup_con, A, B, temperature=0.3, ids=ids) == pytest.approx(
            value(nt_xent, A, B, temperature=0.3, ids=ids), rel=1e-12
        )


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("ids", [None, IDS])
def test_nothing_to_correct_is_nt_xent(ids):
    """DCL and HCL without a prior and without hardness; DCLW with one weight for all is DCL."""
    settings = {"temperature": 0.3, "ids": ids}
    plain = value(nt_xent, A, B, **settings)
    assert value(debiased, A, B, tau_plus=0.0, **settings) == pytest.approx(plain, rel=1e-12)
    assert value(hard_negative, A, B, tau_plus=0.0, beta=0.0, **settings) == pytest.approx(plain, rel=1e-12)
    # A traced beta takes the other branch, that of any beta.
    traced = jax.jit(lambda beta: hard_negative(A, B, tau_plus=0.0, beta=beta, **settings), compiler_options=FAST)
    assert float(traced(1e-9)) == pytest.approx(plain, rel=1e-7)
    assert value(hard_negative, A, B, beta=0.0, **settings) == pytest.approx(
        value(debiased, A, B, **settings), rel=1e-12
    )
    decoupled_is = value(nt_xent, A, B, denominator="negatives", **settings)
    assert value(decoupled, A, B, **settings) == pytest.approx(decoupled_is, rel=1e-12)
    assert value(decoupled_weighted, A, B, sigma=1e9, **settings) == pytest.approx(decoupled_is, rel=1e-6)


def test_more_than_all_is_taken_off():
    """With a large prior the estimate is below what any negative can add: the floor holds, N exp(-1 / t) exactly."""
    t, prior = 0.5, 0.99
    a = np.eye(4)
    expected = math.log1p(6 * math.exp(-1 / t) / math.exp(1 / t))
    assert value(debiased, a, a, temperature=t, tau_plus=prior) == pytest.approx(expected, rel=1e-12)
    gradient = jax.jit(jax.grad(functools.partial(debiased, temperature=0.01, tau_plus=prior)))(A, B)
    assert np.isfinite(gradient).all()


def test_moco_v3_is_info_nce_both_ways():
    t = 0.2
    pair = functools.partial(value, info_nce, temperature=t)
    expected = 2 * t * (pair(A, B) + pair(C, A))
    assert value(moco_v3, A, B, C, A, temperature=t) == pytest.approx(expected, rel=1e-12)
    assert value(moco_v3, A, B, C, A, temperature=t, convention="mean") == pytest.approx(expected / (2 * t), rel=1e-12)


@pytest.mark.slow(one=True)
def test_nnclr_with_the_batch_as_support_is_info_nce():
    """Each row is then its own nearest neighbour; an empty support gives 0."""
    t = 0.2
    expected = (value(info_nce, A, B, temperature=t) + value(info_nce, B, A, temperature=t)) / 2
    support = np.concatenate([np.zeros((2, 4)), 3 * B, A])
    assert value(nnclr, A, B, B, A, support, temperature=t) == pytest.approx(expected, rel=1e-12)
    ways = value(nnclr, A, B, B, A, support, temperature=t, convention="both_ways")
    assert ways == pytest.approx(value(clip, A, B, scale=1 / t), rel=1e-12)
    loss = functools.partial(nnclr, temperature=t)
    empty, gradient = jax.jit(jax.value_and_grad(loss, argnums=1))(A, B, B, A, np.zeros((3, 4)))
    assert empty == 0 and not gradient.any()


def test_listed_positives_are_ids():
    """Itself alone is InfoNCE; the rows of the same label, each as much as another, are the form with ids."""
    own = OWN[:, None]
    alone = value(info_nce, A, B, temperature=0.2)
    assert value(multi_positive, A, B, own, temperature=0.2) == pytest.approx(alone, rel=1e-12)
    labels = np.array([0, 1, 0, 1, 2, 2, 2, 5], np.int32)
    same = np.array([np.r_[np.flatnonzero(labels == label), [-1] * N][:3] for label in labels], np.int32)
    by_ids = value(info_nce, A, B, temperature=0.2, ids=labels)
    assert value(multi_positive, A, B, same, temperature=0.2) == pytest.approx(by_ids, rel=1e-12)
    both = (by_ids + value(info_nce, B, A, temperature=0.2, ids=labels)) / 2
    assert value(clip, A, B, scale=5.0, ids=labels) == pytest.approx(both, rel=1e-12)


def test_no_graph_is_info_nce():
    positives, weights = jax.jit(functools.partial(instance_graph, k=0))(A)
    assert (positives == OWN[:, None]).all() and (weights == 1).all()
    graph = functools.partial(instance_graph, k=3)
    positives, weights = jax.jit(graph)(np.eye(N))  # neighbours at right angles
    expected = value(info_nce, A, B, temperature=0.2)
    assert value(multi_positive, A, B, positives, weights, temperature=0.2) == pytest.approx(expected, rel=1e-12)


def test_no_negative_is_far_enough():
    """Triplet: margin less the gap while that is positive, then 0."""
    z = np.eye(N)
    assert value(triplet, z, z, margin=0.5) == 0
    assert value(triplet, z, z, margin=2.5) == pytest.approx(0.5, rel=1e-12)
    assert value(triplet, z, z, np.roll(z, 1, axis=0), margin=2.5) == pytest.approx(0.5, rel=1e-12)


def test_second_moments_are_pairs():
    """Spectral: orthogonal rows as long as allowed give -2, equal ones -1; without a limit it is the sum over pairs."""
    z = np.eye(N)
    assert value(spectral, z, z) == pytest.approx(-2, rel=1e-12)
    assert value(spectral, 9 * z, 9 * z, mu=4.0) == pytest.approx(-2, rel=1e-12)  # 1/4 (-2 4 + 0)
    same = np.ones((N, 4))
    assert value(spectral, same, same) == pytest.approx(-1, rel=1e-12)
    expected = -2 * np.mean(np.sum(A * A, 1)) + (np.sum((A @ A.T) ** 2) - np.sum(np.sum(A * A, 1) ** 2)) / N / (N - 1)
    assert value(spectral, A, A, mu=None) == pytest.approx(expected, rel=1e-12)


def test_whitening_forgets_any_linear_map():
    """W-MSE is 0 for a view and its image under a lower triangular map, whatever their lengths and means."""
    assert value(w_mse, A, 5 * A + 3, epsilon=1e-6) == pytest.approx(0, abs=1e-12)
    z = normal(5, 256, 4)
    lower = np.tril(normal(6, 4, 4)) + 4 * np.eye(4)
    assert value(w_mse, z, z @ lower.T, epsilon=1e-9) == pytest.approx(0, abs=1e-9)


def test_spread_rows_and_equal_scores():
    assert value(koleo, np.eye(N)) == pytest.approx(-math.log(math.sqrt(2)), rel=1e-12)
    assert value(koleo, np.ones((N, 4)), epsilon=1e-3) == pytest.approx(-math.log(1e-3), rel=1e-9)
    assert value(koleo, A[:1]) == 0
    assert value(bpr, A, A) == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.slow
def test_multi_view_of_two_views_is_clip():
    assert value(multi_view, A, B, temperature=0.2) == pytest.approx(value(clip, A, B, scale=5.0), rel=1e-12)
    full, core = (value(multi_view, A, B, C, temperature=0.2, graph=graph) for graph in ("full", "core"))
    pair = functools.partial(value, clip, scale=5.0)
    assert full == pytest.approx((pair(A, B) + pair(A, C) + pair(B, C)) / 3, rel=1e-12)
    assert core == pytest.approx((pair(A, B) + pair(A, C)) / 2, rel=1e-12)


def test_clip_is_the_mean_of_both_directions_of_info_nce():
    there, back = value(info_nce, A, B, temperature=0.2), value(info_nce, B, A, temperature=0.2)
    assert value(clip, A, B, scale=5.0) == pytest.approx((there + back) / 2, rel=1e-12)


@pytest.mark.slow(one=True)
def test_conventions_are_factors():
    t = 0.2
    assert value(nt_xent, A, B, temperature=t, convention="sum_of_halves") == pytest.approx(
        2 * value(nt_xent, A, B, temperature=t), rel=1e-12
    )
    assert value(info_nce, A, B, temperature=t, convention="two_tau") == pytest.approx(
        2 * t * value(info_nce, A, B, temperature=t), rel=1e-12
    )
    assert value(multi_view, A, B, C, temperature=t, convention="sum") == pytest.approx(
        6 * value(multi_view, A, B, C, temperature=t), rel=1e-12
    )
    assert value(sup_con, A, B, temperature=t, base_temperature=0.1) == pytest.approx(
        2 * value(sup_con, A, B, temperature=t), rel=1e-12
    )
    assert value(byol, A, B) == pytest.approx(2 + 2 * value(negative_cosine, A, B), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
def test_collapsed_rows_give_the_logarithm_of_their_number(temperature):
    same = np.broadcast_to(A[:1], A.shape)
    assert value(nt_xent, same, same, temperature=temperature) == pytest.approx(math.log(2 * N - 1), rel=1e-12)
    assert value(info_nce, same, same, temperature=temperature) == pytest.approx(math.log(N), rel=1e-12)
    assert value(clip, same, same, scale=1 / temperature) == pytest.approx(math.log(N), rel=1e-12)
    # All logits are 1 / t: the correction takes off what it adds, and weights of equal negatives are equal.
    for loss in (debiased, hard_negative):
        assert value(loss, same, same, temperature=temperature) == pytest.approx(math.log(2 * N - 1), rel=1e-9)
    for loss in (decoupled, decoupled_weighted):
        assert value(loss, same, same, temperature=temperature) == pytest.approx(math.log(2 * N - 2), rel=1e-9)
    both = value(moco_v3, same, same, same, same, temperature=temperature)
    assert both == pytest.approx(4 * temperature * math.log(N), rel=1e-12)
    queue = np.broadcast_to(A[:1], (20, A.shape[1]))
    assert value(info_nce, same, same, queue, temperature=temperature) == pytest.approx(math.log(21), rel=1e-12)


def test_perfect_views():
    """Orthonormal rows and equal views: closed forms."""
    z, t = np.eye(6), 0.5
    assert value(nt_xent, z, z, temperature=t) == pytest.approx(math.log1p(10 * math.exp(-1 / t)), rel=1e-12)
    assert value(clip, z, z, scale=1 / t) == pytest.approx(math.log1p(5 * math.exp(-1 / t)), rel=1e-12)
    expected = math.log1p(math.exp(-(2 - 1))) + 5 * math.log1p(math.exp(-1))
    assert value(siglip, z, z, scale=2.0, bias=-1.0) == pytest.approx(expected, rel=1e-12)
    # Distinct unit rows are sqrt(2) apart.
    assert value(align_uniform, z, z, t=2.0) == pytest.approx(-4.0, rel=1e-12)
    assert value(negative_cosine, z, z) == pytest.approx(-1.0)
    assert value(byol, z, z, z, z) == pytest.approx(0.0, abs=1e-12)


def test_whitened_views_have_no_redundancy():
    z = np.linalg.qr(normal(3, 64, 4) - normal(3, 64, 4).mean(0))[0] * 8  # orthogonal, mean 0, variance 1
    assert value(barlow_twins, z, z, epsilon=1e-12) == pytest.approx(0.0, abs=1e-9)
    assert value(vicreg, 2 * z, 2 * z) == pytest.approx(0.0, abs=1e-9)


def test_covariance_is_a_term_of_vicreg():
    assert value(vicreg, A, B, invariance=0.0, variance=0.0, covariance=3.0) == pytest.approx(
        3 * (value(covariance, A) + value(covariance, B)), rel=1e-12
    )
    assert value(covariance, A[:1]) == 0
    line = np.outer(np.arange(N) - 3.5, [1.0, 2.0])  # Cov_12 = 2 Var_1 = 12, twice, over D = 2
    assert value(covariance, line) == pytest.approx(12.0**2, rel=1e-12)


def test_consistency_is_byol_of_one_pair():
    assert value(consistency, A, B) == pytest.approx(value(byol, A, B), rel=1e-12)
    assert value(consistency, A, B, reduction="entry") == pytest.approx(value(byol, A, B) / 4, rel=1e-12)
    assert value(consistency, A, 3 * A) == pytest.approx(0, abs=1e-12)
    assert value(consistency, A, -A) == pytest.approx(4, rel=1e-12)


def test_shares_of_singular_values():
    """Equal ones: 1/D each; one direction: all in the first; without any: 0."""
    equal, line = np.linalg.qr(A)[0], np.outer(A[:, 0], B[0])
    for top in (1, 3):
        assert value(dominant_singular_value, equal, top=top) == pytest.approx(-1 / 4, rel=1e-12)
        assert value(dominant_singular_value, 5 * equal.T, top=top) == pytest.approx(-1 / 4, rel=1e-12)
        assert value(dominant_singular_value, line, top=top) == pytest.approx(-1 / top, rel=1e-12)
    assert value(dominant_singular_value, np.diag([6.0, 3, 1]), top=2) == pytest.approx(-0.45, rel=1e-12)
    assert value(dominant_singular_value, A, top=8) == pytest.approx(-1 / 8, rel=1e-12)  # there are four
    assert value(dominant_singular_value, 0 * A) == 0


def test_optax_ntxent_agrees():
    """optax takes one array and labels; it broadcasts N x N x D, hence the small N."""
    labels = jnp.tile(jnp.arange(N), 2)
    expected = jax.jit(optax.losses.ntxent)(np.concatenate([A, B]), labels, 0.2)
    assert value(nt_xent, A, B, temperature=0.2) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", PAIRED)
def test_ignored_rows_are_absent_rows(name):
    """A row with id -1 may hold anything, NaN too: the loss and its gradient are those of the batch without it."""
    keep, ids = ~LEFT_OUT, np.where(LEFT_OUT, -1, OWN)
    a, b = A.copy(), B.copy()
    a[2], b[5], a[6] = np.nan, np.inf, 0
    value, gradient = step(name)(a, b, ids, ONES)
    expected, expected_gradient = step(name)(A[keep], B[keep], OWN[keep], ONES[keep])
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    np.testing.assert_allclose(gradient[keep], expected_gradient, atol=1e-10)
    assert not gradient[LEFT_OUT].any()


@pytest.mark.parametrize("name", PAIRED)
def test_padded_batch_is_the_short_batch(name):
    weights = np.linspace(1, 2, N)
    pad = np.arange(N) >= SHORT
    a, b = (np.where(pad[:, None], 0, x) for x in (A, B))
    padded = call(name, a, b, np.where(pad, -1, OWN), np.where(pad, 0, weights))
    assert padded == pytest.approx(call(name, A[:SHORT], B[:SHORT], weights=weights), rel=1e-10)


@pytest.mark.parametrize("name", PAIRED)
def test_order_of_rows_does_not_matter(name):
    order = np.random.default_rng(0).permutation(N)
    weights = np.linspace(0.5, 1.5, N)
    shuffled = call(name, A[order], B[order], IDS[order], weights[order])
    assert shuffled == pytest.approx(call(name, ids=IDS, weights=weights), rel=1e-10)


@pytest.mark.parametrize(
    "name",
    [*PARAMETERS, "negative_cosine", "byol", "align_uniform", "triplet", "koleo", "w_mse", "consistency"]
    + ["dominant_singular_value"],
)
def test_length_of_vectors_does_not_matter(name):
    assert call(name, 7.0 * A, 0.01 * B) == pytest.approx(call(name), rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(PAIRED) - {*STATISTICS, "align_uniform", "spectral"}))
def test_weights_are_factors_of_rows(name):
    """Not renormalised: half the weights, half the loss; and the rows' parts sum to the whole."""
    assert call(name, weights=np.full(N, 0.5)) == pytest.approx(0.5 * call(name), rel=1e-12)
    parts = sum(call(name, weights=row) for row in np.eye(N))
    assert parts == pytest.approx(call(name), rel=1e-10)


@pytest.mark.parametrize("name", STATISTICS)
def test_weights_are_multiplicities_in_statistics(name):
    times = np.array([2, 1, 3, 1, 1])
    rows = np.repeat(np.arange(SHORT), times)
    assert len(rows) == N
    weighted = call(name, A[:SHORT], B[:SHORT], weights=times.astype(float))
    assert weighted == pytest.approx(call(name, A[rows], B[rows]), rel=1e-10)
    without = call(name, weights=np.where(LEFT_OUT, 0.0, 1.0))
    assert without == pytest.approx(call(name, A[~LEFT_OUT], B[~LEFT_OUT]), rel=1e-10)


@pytest.mark.slow(one=True)
def test_absent_view_is_no_pair():
    """A row without its third view counts in the pair of the other two, whatever the third holds."""
    present = np.ones(N, bool)
    present[[0, 6]] = False
    c = C.copy()
    c[~present] = np.nan
    loss = functools.partial(multi_view, temperature=0.2, present=(None, None, present))
    pair = functools.partial(value, clip, scale=5.0)
    rest = pair(A[present], C[present]) + pair(B[present], C[present])
    assert value(loss, A, B, c) == pytest.approx((pair(A, B) + rest) / 3, rel=1e-10)
    gradient = jax.jit(jax.grad(loss, argnums=2))(A, B, c)
    assert not gradient[~present].any() and gradient[present].any()


def test_repeated_caption_is_a_positive():
    """Two images with one caption: with ids the loss reaches its floor, log 2 for those rows; without, it cannot."""
    image, ids = np.eye(4), np.array([0, 0, 1, 2], np.int32)
    text = image[[0, 0, 2, 3]]
    image = image[[0, 0, 2, 3]]
    with_ids = value(clip, image, text, scale=1000.0, ids=ids)
    assert with_ids == pytest.approx((2 * math.log(2)) / 4, rel=1e-9)
    gradient = jax.jit(jax.grad(lambda x: clip(x, text, scale=1000.0, ids=ids)))(image)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_engine_is_static_and_equal_by_value():
    assert dense() == Dense() and hash(dense()) == hash(Dense())
    step = jax.jit(nt_xent, static_argnames=("engine", "convention", "denominator"))
    default = step(A, B, temperature=0.2, engine=dense())
    assert float(step(A, B, temperature=0.2, engine=dense("default"))) == pytest.approx(float(default), rel=1e-5)


def test_no_retrace_when_the_temperature_changes():
    traces = []

    @jax.jit
    def step(temperature):
        traces.append(1)
        return nt_xent(A, B, temperature=temperature)

    assert float(step(0.1)) == pytest.approx(value(nt_xent, A, B, temperature=0.1), rel=1e-12)
    assert float(step(0.5)) == pytest.approx(value(nt_xent, A, B, temperature=0.5), rel=1e-12)
    assert len(traces) == 1


def test_targets_and_predictions_have_their_own_gradients():
    case = CASES["byol"]
    gradients = jax.jit(jax.grad(case.loss, argnums=(0, 1, 2, 3)))(*(x.copy() for x in case.arrays))
    assert [bool(jnp.any(g != 0)) for g in gradients] == [True, False, True, False]
