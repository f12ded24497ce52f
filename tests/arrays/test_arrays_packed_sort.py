"""The fast kernels: compiled, plain and torch paths agree, with ties, signed zeros, odd types, memory orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from featattn_neuro.arrays import counting, packed_sort
from featattn_neuro.arrays import discrimination as d
from featattn_neuro.arrays.compiled import compiled

FIELDS = ("dprime", "auc", "auc_variance", "status", "target_mean", "target_variance", "distractor_variance")


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def rectified(rng, units=9, n=80, dtype=np.float32):
    return np.maximum(rng.normal(size=(units, n)), 0).astype(dtype)


def targets(rng, n, tasks=3):
    return rng.random((tasks, n)) < np.array([0.5, 0.2, 0.7])[:tasks, None]


def awkward(rng, n=80):
    """Rows with negative numbers, signed zeros, tiny and huge numbers, one value only, NaN and infinities."""
    rows = rng.normal(size=(8, n)).astype(np.float32).round(1)
    rows[1] = -np.abs(rows[1])
    rows[2, ::3] = -0.0
    rows[2, 1::3] = 0.0
    rows[3] *= np.float32(1e-44)
    rows[4] *= np.float32(1e38)
    rows[5] = 3.5
    rows[6, 4] = np.nan
    rows[7, 5] = -np.inf
    return rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_compiled_and_plain_paths_give_the_same_numbers(rng, dtype):
    responses = np.concatenate([rectified(rng, dtype=np.float32), awkward(rng)]).astype(dtype)
    if dtype == np.float64:
        responses = responses * (1 + 1e-12)  # no float32 holds them
    target = targets(rng, 80)
    fast, plain = (d.discriminate(responses, target, engine=engine) for engine in ("numba", "numpy"))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name), err_msg=name)


def test_torch_agrees_with_the_arrays(rng):
    responses = np.concatenate([rectified(rng, dtype=np.float64), awkward(rng).astype(np.float64)])
    target = targets(rng, 80)
    here = d.discriminate(responses, target)
    there = d.discriminate(torch.from_numpy(responses), torch.from_numpy(target))
    for name in FIELDS:
        if name == "status":
            assert (there.status == here.status).all()
            continue
        ordinary = slice(None) if name in ("auc", "auc_variance") else [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14]
        mine, other = getattr(here, name)[:, ordinary], getattr(there, name)[:, ordinary]
        np.testing.assert_allclose(other, mine, rtol=1e-12, atol=1e-12, err_msg=name)
    counts = torch.from_numpy(rng.integers(0, 5, size=(4, 80)))
    np.testing.assert_array_equal(d.roc_area(counts, target), d.roc_area(counts.numpy(), target))
    low, _ = d.delong_interval(torch.from_numpy(responses), target)
    np.testing.assert_allclose(low, d.delong_interval(responses, target)[0], atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_arrays(rng):
    responses, target = rectified(rng, dtype=np.float64), targets(rng, 80)
    here, there = d.discriminate(responses, target), d.discriminate(torch.from_numpy(responses).cuda(), target)
    for name in ("dprime", "auc", "auc_variance"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-12, atol=1e-12)


def test_memory_order_and_type_do_not_matter(rng):
    responses = rng.integers(0, 9, size=(6, 80))
    target = targets(rng, 80)
    wanted = d.discriminate(responses, target)
    for other in (
        np.asfortranarray(responses),
        responses.astype(np.uint8),
        responses.astype(np.float32),
        np.ascontiguousarray(responses.T).T,
        np.repeat(responses, 2, axis=0)[::2],
    ):
        found = d.discriminate(other, target)
        np.testing.assert_array_equal(found.auc, wanted.auc)
        np.testing.assert_array_equal(found.dprime, wanted.dprime)


def test_numbers_that_only_float64_tells_apart_are_not_tied():
    responses = np.array([1.0, 1.0 + 1e-15, 1.0 + 2e-15, 1.0 + 3e-15])
    target = np.array([False, True, False, True])
    assert float(d.roc_area(responses, target)) == 0.75
    assert float(d.roc_area(np.float32(responses) + np.arange(4, dtype=np.float32) * 0, target)) != 0.75


def test_integers_that_would_be_rounded_or_overflow_are_refused_or_right():
    target = np.array([True, True, False, False])
    with pytest.raises(ValueError, match="2\\^53"):
        d.dprime(np.array([2**60, 2**60 + 1, 0, 1]), target)
    wide = d.dprime(np.array([250.0, 255.0, 3.0, 5.0]), target)
    assert d.dprime(np.array([250, 255, 3, 5], dtype=np.uint8), target) == wide  # 8-bit sums would overflow
    with pytest.raises(ValueError, match="real numbers"):
        d.dprime(np.array(["a", "b", "c", "d"]), target)
    with pytest.raises(ValueError, match="at most"):
        counting.check_size(packed_sort.MOST_OBSERVATIONS + 1)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(2, 30)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    )
)
def test_centred_ranks_are_scipys(values):
    n = values.shape[1]
    wanted = stats.rankdata(values, axis=1) - (n + 1) / 2
    for engine in ("numba", "numpy"):
        np.testing.assert_array_equal(counting.centred_ranks(values, engine=engine), wanted)
    np.testing.assert_array_equal(counting.centred_ranks(torch.from_numpy(values)), wanted)
    tiny = values * np.float64(1e-200)
    np.testing.assert_array_equal(counting.centred_ranks(tiny), stats.rankdata(tiny, axis=1) - (n + 1) / 2)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_classes_against_the_rest_and_each_other_are_single_tasks(rng, engine):
    for values in (rectified(rng), rng.normal(size=(5, 80)).round(1), awkward(rng)[:5]):
        codes = rng.integers(-1, 4, size=80)  # -1: left out
        whole = counting.one_versus_rest_counts(values, codes, 4, engine=engine)
        roles = np.where(codes < 0, -1, codes == np.arange(4)[:, None])
        single = counting.two_class_counts(values, roles, engine="numpy")
        pairs = list(itertools.permutations(range(4), 2))
        among = counting.pair_counts(values, codes, pairs, 4, engine=engine)
        roles = [np.where(codes == i, 1, np.where(codes == j, 0, -1)) for i, j in pairs]
        one_by_one = counting.two_class_counts(values, np.array(roles), engine="numpy")
        for name in ("n1", "n0", "wins", "squares1", "squares0"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(single, name), err_msg=name)
            np.testing.assert_array_equal(getattr(among, name), getattr(one_by_one, name), err_msg=name)


def test_left_out_observations_play_no_part(rng):
    responses, target = rectified(rng), targets(rng, 80)
    among = rng.random(target.shape) < 0.7
    found = d.discriminate(responses, target, among=among)
    for task in range(3):
        alone = d.discriminate(responses[:, among[task]], target[task][among[task]])
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name)[task], getattr(alone, name))
    with pytest.raises(ValueError, match="among must be boolean"):
        d.dprime(responses, target, among=np.ones(80))


def test_which_responses_are_not_finite_is_said(rng):
    rows = awkward(rng)
    count, first = d.nonfinite_places(rows)
    assert count.tolist() == [0] * 6 + [1, 1]
    assert first.tolist() == [-1] * 6 + [4, 5]
    np.testing.assert_array_equal(d.nonfinite_places(torch.from_numpy(rows))[1], first)


def test_an_unknown_engine_is_refused(rng):
    with pytest.raises(ValueError, match="engine must be one of"):
        d.roc_area(rectified(rng), targets(rng, 80), engine="cuda")


def test_compiled_code_is_the_plain_function():
    @compiled
    def total(values):
        found = 0.0
        for value in values:
            found += value
        return found

    values = np.arange(5.0)
    assert total(values) == total.__wrapped__(values) == 10.0
