"""Rank correlation against SciPy, and the calibration of the task-mismatch null."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from featattn_neuro.arrays import association as a


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_spearman_is_scipys_with_ties_and_mask(rng):
    x = rng.integers(0, 5, size=(6, 40)).astype(float)
    y = rng.integers(0, 5, size=(6, 40)).astype(float)
    valid = rng.random((6, 40)) < 0.7
    wanted = [stats.spearmanr(u[k], v[k]).statistic for u, v, k in zip(x, y, valid, strict=True)]
    np.testing.assert_allclose(a.spearman(x, y, valid=valid), wanted, atol=1e-12)


def test_spearman_broadcasts_over_tasks(rng):
    gains, selectivity = rng.normal(size=(3, 20)), rng.normal(size=(4, 20))
    table = a.spearman(gains[:, None], selectivity[None])
    assert table.shape == (3, 4)
    assert table[2, 1] == pytest.approx(stats.spearmanr(gains[2], selectivity[1]).statistic)


def test_ranks_of_infinities_do_not_hang_on_masked_entries():
    valid = np.array([[True, True, True, False], [True, True, True, True]])
    found = a.masked_ranks([[np.inf, 1, 2, 3], [np.inf, np.inf, 2, -np.inf]], valid)
    np.testing.assert_array_equal(found, [[3, 1, 2, np.nan], [3.5, 3.5, 2, 1]])


def test_undefined_correlations_are_nan():
    assert np.isnan(a.spearman([1.0, 2.0], [1.0, 2.0]))
    assert np.isnan(a.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert float(a.spearman([1.0, 2.0, 3.0, np.nan], [1.0, 2.0, 3.0, -9.0])) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=4, max_size=25))
def test_spearman_symmetries(pairs):
    x, y = np.array(pairs, dtype=float).T
    rho = a.spearman(x, y)
    np.testing.assert_allclose(a.spearman(y, x), rho)
    np.testing.assert_allclose(a.spearman(-x, y), -rho)
    np.testing.assert_allclose(a.spearman(np.exp(x), y**3), rho)  # ranks only: gain and log gain are the same


def test_clip_of_atanh():
    assert a.atanh_clipped(1.0) == pytest.approx(np.arctanh(0.999))
    assert a.atanh_clipped(-1.0) == pytest.approx(-np.arctanh(0.999))
    assert a.atanh_clipped(0.5) == pytest.approx(np.arctanh(0.5))


def test_partial_spearman_has_its_closed_form(rng):
    x, y, z = rng.normal(size=(3, 50))
    y, x = y + z, x + z
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    wanted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert a.partial_spearman(x, y, z) == pytest.approx(wanted)


def test_partial_spearman_given_two_is_the_recursion(rng):
    x, y, u, v = rng.normal(size=(4, 60))
    x, y = x + u - v, y + u + v

    def one(first, second, given):
        return a.partial_spearman(first, second, given)

    xy, xv, yv = one(x, y, u), one(x, v, u), one(y, v, u)
    wanted = (xy - xv * yv) / np.sqrt((1 - xv**2) * (1 - yv**2))
    assert a.partial_spearman(x, y, [u, v]) == pytest.approx(wanted)


def test_nothing_left_after_the_covariate_is_nan(rng):
    x, y = rng.normal(size=(2, 20))
    assert np.isnan(a.partial_spearman(x, y, x))
    assert a.partial_spearman(x, y, np.ones(20)) == pytest.approx(float(a.spearman(x, y)))


def test_leave_one_task_out_removes_what_all_tasks_share(rng):
    own, shared = rng.normal(size=(4, 9)), rng.normal(size=9)
    np.testing.assert_allclose(a.leave_one_task_out(own + shared), a.leave_one_task_out(own), atol=1e-12)
    by_hand = own[1] - own[[0, 2, 3]].mean(axis=0)
    np.testing.assert_allclose(a.leave_one_task_out(own)[1], by_hand)
    with pytest.raises(ValueError, match="two tasks"):
        a.leave_one_task_out(own[:1])


def test_task_mismatch_numbers_by_hand():
    z = np.array([[[0.9, 0.1, 0.2], [0.3, 0.8, 0.0], [0.1, 0.2, 0.7]]])
    found = a.task_mismatch(z, permutations=99, rng=np.random.default_rng(0))
    assert found.matched[0] == pytest.approx(0.8)
    assert found.specific[0] == pytest.approx(0.8 - 0.15)
    assert found.statistic == pytest.approx(0.8)
    assert found.centre == pytest.approx(z.mean())


def test_task_mismatch_p_approaches_the_enumeration_of_all_permutations(rng):
    z = rng.normal(size=(2, 4, 4)) + 0.8 * np.eye(4)
    table = z.mean(axis=0)
    every = np.array([table[np.arange(4), list(order)].mean() for order in itertools.permutations(range(4))])
    exact = (np.abs(every - table.mean()) >= abs(np.trace(table) / 4 - table.mean()) - 1e-12).mean()
    found = a.task_mismatch(z, permutations=20000, rng=rng)
    assert found.p == pytest.approx(exact, abs=0.012)


def test_the_smallest_p_is_one_over_one_plus_permutations():
    found = a.task_mismatch(np.eye(10)[None], permutations=999, rng=np.random.default_rng(0))
    assert found.p == 1 / 1000


def test_task_mismatch_is_two_sided_and_blind_to_generic_association():
    rng = np.random.default_rng(4)
    assert a.task_mismatch(-np.eye(10), permutations=499, rng=rng).p == 1 / 500
    table = rng.normal(size=(3, 6, 6))
    runs = [a.task_mismatch(t, permutations=499, rng=np.random.default_rng(1)).p for t in (table, table + 5.0)]
    rows = a.task_mismatch(
        table + rng.normal(size=(3, 6, 1)) * 3, permutations=499, rng=np.random.default_rng(1)
    ).specific
    assert runs[0] == runs[1]
    assert np.isfinite(rows).all()


def test_relabelling_tasks_leaves_matched_and_specific(rng):
    z, order = rng.normal(size=(3, 5, 5)), rng.permutation(5)
    one, two = (a.task_mismatch(t, permutations=9, rng=np.random.default_rng(0)) for t in (z, z[:, order][:, :, order]))
    np.testing.assert_allclose(one.matched, two.matched)
    np.testing.assert_allclose(one.specific, two.specific)


def test_incomplete_networks_are_left_out_and_counted(rng):
    z = rng.normal(size=(3, 4, 4))
    z[1, 0, 2] = np.nan
    found = a.task_mismatch(z, permutations=99, rng=np.random.default_rng(0))
    complete = a.task_mismatch(z[[0, 2]], permutations=99, rng=np.random.default_rng(0))
    assert found.n_networks == 2
    assert np.isnan(found.specific[1])
    assert found.p == complete.p
    assert np.isnan(a.task_mismatch(np.full((1, 3, 3), np.nan), permutations=9, rng=rng).p)


def test_task_mismatch_is_calibrated_where_filters_covary_and_gains_follow_generic_selectivity():
    """H0: gains follow what all tasks share. Correlated filters, tasks that share filters, shared test images."""
    rng = np.random.default_rng(20)
    n_tasks, n_networks, n_units, draws = 8, 5, 32, 400
    rejected = 0
    for _ in range(draws):
        mixing = rng.normal(size=(n_networks, n_units, 6)) / np.sqrt(6)  # filters have six dimensions, not 32
        generic = rng.normal(size=(n_networks, 1, n_units))
        own_gain = rng.normal(size=(n_networks, n_tasks, 6)) @ mixing.transpose(0, 2, 1)
        own_score = rng.normal(size=(n_networks, n_tasks, 6)) @ mixing.transpose(0, 2, 1)
        gain, score = generic + own_gain, np.abs(generic + own_score)
        z = a.atanh_clipped(a.spearman(gain[:, :, None], score[:, None]))
        rejected += a.task_mismatch(z, permutations=199, rng=rng).p <= 0.05
    # exact Monte-Carlo limits: a true rate of .05 gives 8 to 33 of 400 in 99.8 % of runs
    low, high = stats.binom.ppf([0.001, 0.999], draws, 0.05)
    assert low <= rejected <= high


def test_task_mismatch_has_power_for_specific_gains():
    rng = np.random.default_rng(21)
    score = np.abs(rng.normal(size=(5, 8, 32)))
    gain = score + 2 * rng.normal(size=score.shape)
    z = a.atanh_clipped(a.spearman(gain[:, :, None], score[:, None]))
    assert a.task_mismatch(z, permutations=999, rng=rng).p < 0.01
