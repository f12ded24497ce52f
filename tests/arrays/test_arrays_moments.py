"""Streaming moments: any split merges to the whole, and d' is that of the stored responses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featattn_neuro.arrays import discrimination, moments
from featattn_neuro.arrays.moments import FIELDS, ClassMoments

UNITS = 4
TASK = [[True, False]], [[False, True]]


def whole(values, member):
    found = ClassMoments(len(member), values.shape[:-1])
    found.update(values, member)
    return found


def assert_same(first, second, rtol=1e-10):
    for name in ("count", "zeros", "nonfinite", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    finite = np.abs(first.maximum[np.isfinite(first.maximum)])
    scale = max(1.0, finite.max(initial=0.0), np.abs(first.minimum[np.isfinite(first.minimum)]).max(initial=0.0))
    np.testing.assert_allclose(first.mean, second.mean, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(first.m2, second.m2, rtol=rtol, atol=rtol * scale**2)


@st.composite
def streams(draw, *, special=True):
    n = draw(st.integers(1, 25))
    odd = st.sampled_from([0.0, 0.0, 1.0, np.nan, np.inf, -np.inf]) if special else st.sampled_from([0.0, 1.0])
    numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32) | odd
    values = draw(hnp.arrays(np.float64, (UNITS, n), elements=numbers))
    member = draw(hnp.arrays(np.bool_, (3, n)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=5)))
    return values, member, [0, *cuts, n]


@settings(max_examples=60, deadline=None)
@given(streams())
def test_any_split_merges_to_the_whole(stream):
    values, member, cuts = stream
    wanted = whole(values, member)
    pieces = [whole(values[:, a:b], member[:, a:b]) for a, b in pairwise(cuts)]  # some are empty
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    backwards = pieces[-1]
    for piece in pieces[-2::-1]:
        backwards = piece.merge(backwards)
    streamed = ClassMoments(3, (UNITS,))
    for a, b in pairwise(cuts):
        streamed.update(values[:, a:b], member[:, a:b])
    for found in (merged, backwards, streamed):
        assert_same(found, wanted)


@settings(max_examples=60, deadline=None)
@given(streams(), st.sampled_from(discrimination.DENOMINATORS))
def test_dprime_and_reasons_are_those_of_the_stored_responses(stream, denominator):
    values, member, cuts = stream
    target = member[0]
    found = ClassMoments(2, (UNITS,))
    for a, b in pairwise(cuts):
        found.update(values[:, a:b], np.stack([target, ~target])[:, a:b])
    np.testing.assert_array_equal(moments.status_codes(found, *TASK)[0], discrimination.status_codes(values, target))
    with np.errstate(invalid="ignore"):
        wanted = discrimination.dprime(values, target, denominator=denominator)
    got = moments.dprime(found, *TASK, denominator=denominator)[0]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    # one response that differs by 1e-7 among equal ones: the mean's rounding is then a visible share of the SD
    spread = np.array([min(np.ptp(row[chosen]) for chosen in (target, ~target) if chosen.any()) for row in values])
    sound = np.isfinite(wanted) & (spread > 1e-3)
    np.testing.assert_allclose(got[sound], wanted[sound], rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_adding_a_million_changes_nothing(seed, batch):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(UNITS, 60)) * rng.uniform(0.1, 5, size=(UNITS, 1))
    target = np.arange(60) % 3 == 0
    member = np.stack([target, ~target])

    def streamed(shift):
        found = ClassMoments(2, (UNITS,))
        for start in range(0, 60, batch):
            found.update(values[:, start : start + batch] + shift, member[:, start : start + batch])
        return moments.dprime(found, *TASK)[0]

    assert np.abs(streamed(1e6) - streamed(0.0)).max() < 1e-6


def test_computed_values_are_numpys():
    rng = np.random.default_rng(1)
    values = np.maximum(rng.normal(size=(2, 3, 50)), 0)
    member = np.stack([np.arange(50) < 20, np.arange(50) % 2 == 0])
    found = whole(values, member).compute()
    for group, chosen in enumerate(member):
        part = values[..., chosen]
        np.testing.assert_allclose(found.mean[group], part.mean(-1))
        np.testing.assert_allclose(found.variance[group], part.var(-1, ddof=1))
        np.testing.assert_array_equal(found.minimum[group], part.min(-1))
        np.testing.assert_array_equal(found.maximum[group], part.max(-1))
        np.testing.assert_array_equal(found.zero_fraction[group], (part == 0).mean(-1))
    assert found.count.tolist() == [20, 25]


def test_undefined_is_nan_and_constant_is_exactly_zero():
    found = ClassMoments(3, (2,))
    tenth = np.full((2, 3), 0.1)
    tenth[1, 2] = np.nan
    found.update(tenth, [[True] * 3, [True, False, False], [False] * 3])
    result = found.compute()
    assert result.variance[0, 0] == 0.0
    assert np.isnan(result.variance[0, 1])
    assert np.isnan(result.mean[0, 1])
    assert result.nonfinite[:, 1].tolist() == [1, 0, 0]
    assert np.isnan(result.variance[1]).all()
    assert np.isnan([result.mean[2], result.minimum[2], result.maximum[2], result.zero_fraction[2]]).all()


def test_unions_of_groups_and_state_by_name():
    rng = np.random.default_rng(2)
    values, label = rng.normal(size=(UNITS, 40)), rng.integers(0, 4, 40)
    found = whole(values, label == np.arange(4)[:, None])
    sets = np.array([[True, False, True, False], [True] * 4])
    assert_same(found.pooled(sets), whole(values, np.stack([label % 2 == 0, label >= 0])))
    assert_same(ClassMoments.from_arrays(found.arrays()), found, rtol=0)
    before = found.arrays()
    found.merge(found)
    for name in FIELDS:
        np.testing.assert_array_equal(before[name], getattr(found, name))


def test_blocks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(3)
    values, member = rng.normal(size=(UNITS, 40)), rng.random((2, 40)) < 0.6
    wanted = whole(values, member)
    monkeypatch.setattr(moments, "_BLOCK_NUMBERS", 12)
    assert_same(whole(values, member), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensors_give_what_arrays_give(device, dtype):
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    values = torch.randn(2, UNITS, 30, generator=torch.Generator().manual_seed(0)).relu()
    values[0, 0, 3] = float("nan")
    values = values.to(getattr(torch, dtype)).to(device).requires_grad_()
    member = torch.arange(30, device=device) % 3 == torch.arange(2, device=device)[:, None]
    found = ClassMoments(2, (2, UNITS))
    found.update(values, member)
    assert_same(found, whole(values.detach().double().cpu().numpy(), member.cpu().numpy()), rtol=1e-12)


def test_wrong_shapes_are_refused():
    found = ClassMoments(2, (3,))
    with pytest.raises(ValueError, match=r"responses must be \(3, 'n'\); came \(4, 5\)"):
        found.update(np.zeros((4, 5)), np.zeros((2, 5), bool))
    with pytest.raises(ValueError, match=r"member must be boolean \(2, 5\); came int64"):
        found.update(np.zeros((3, 5)), np.zeros((2, 5), int))
    with pytest.raises(ValueError, match="one shape"):
        found.merge(ClassMoments(3, (3,)))
    with pytest.raises(ValueError, match="chosen must be boolean"):
        found.pooled([[True]])
    with pytest.raises(ValueError, match="at least 1"):
        ClassMoments(0, (3,))
    with pytest.raises(ValueError, match="count must have shape"):
        ClassMoments.from_arrays({**found.arrays(), "count": [1]})
