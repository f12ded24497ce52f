"""Localisation scores against scikit-learn, brute force and symmetries; the cue swap of several objects."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from featattn_neuro.arrays import agreement as kernels
from featattn_neuro.arrays.agreement import mass_in_mask
from featattn_neuro.arrays.localisation import (
    LOCALISERS,
    auc_judd,
    centre_bias,
    energy_against_distractor,
    localise,
    localise_many,
    pointing_game,
)
from featattn_neuro.arrays.masks import (
    cell_edges,
    distractors,
    exclusive,
    in_pixels,
    on_grid,
    overlap,
    resolved_objects,
)


def coarse_maps(seed: int, n: int = 6, grid: tuple[int, int] = (4, 5)) -> np.ndarray:
    """Few values, so that many cells tie."""
    return np.random.default_rng(seed).integers(-2, 4, (n, *grid)).astype(float)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), soft=st.booleans())
def test_auc_judd_is_scikit_learns_with_ties_and_shares_of_cells(seed: int, soft: bool) -> None:
    rng, maps = np.random.default_rng(seed), coarse_maps(seed)
    mask = rng.uniform(0, 1, maps.shape) if soft else (rng.random(maps.shape) < 0.4).astype(float)
    for one, weights, found in zip(maps, mask, auc_judd(maps, mask), strict=True):
        w = weights.ravel()
        if w.sum() in (0, w.size):
            assert np.isnan(found)
            continue
        truth = np.repeat([1, 0], w.size)
        wanted = roc_auc_score(truth, np.tile(one.ravel(), 2), sample_weight=np.concatenate([w, 1 - w]))
        assert found == pytest.approx(wanted, abs=1e-12)


def judd_by_thresholds(values: np.ndarray, inside: np.ndarray) -> float:
    """The published procedure on maps without ties: a threshold at each fixated value, trapezoid."""
    hits, misses = [0.0], [0.0]
    for threshold in sorted(values[inside], reverse=True):
        above = values >= threshold
        hits.append((above & inside).sum() / inside.sum())
        misses.append((above & ~inside).sum() / (~inside).sum())
    return float(np.trapezoid([*hits, 1.0], [*misses, 1.0]))


def test_auc_judd_is_the_published_procedure_up_to_its_lines_between_thresholds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        values, inside = rng.permutation(24).astype(float).reshape(4, 6), rng.random((4, 6)) < 0.3
        excess = judd_by_thresholds(values, inside) - float(auc_judd(values, inside))
        assert -1e-12 <= excess <= 1 / (2 * inside.sum()) + 1e-12


def test_scores_where_the_answer_is_known() -> None:
    target, other = np.zeros((2, 4, 4))
    target[0, :2], other[3, 2:] = 1, 1
    on, off = 3 * target, 3 * other
    found = dict(zip(LOCALISERS, localise(np.stack([on, off]), target, other).tolist(), strict=True))
    assert found["pointing_game"] == [1.0, 0.0]
    assert found["mass_in_mask"] == [1 - 2 / 16, -2 / 16]
    assert found["auc_judd"] == pytest.approx([1.0, 0.5 * 12 / 14])
    assert found["energy"] == [1.0, 0.0]
    flat = localise(np.ones((1, 4, 4)), target, other)[:, 0]
    assert np.isnan(flat[0])  # a flat map points nowhere
    assert flat[1:].tolist() == [0.0, 0.5, 0.5]
    zero = localise(np.zeros((1, 4, 4)), target, other)[:, 0]
    assert np.isnan(zero[[0, 1, 3]]).all()
    assert np.isnan(localise(on[None], target)[3]).all()  # no distractor, no energy


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scale_reflection_and_complement(seed: int) -> None:
    maps = np.random.default_rng(seed).standard_normal((3, 5, 4))
    mask = np.random.default_rng(seed + 1).uniform(0.1, 0.9, (3, 5, 4))
    other = distractors(np.stack([mask, 1 - mask], axis=1))[:, 0]
    whole = localise(maps, mask, other)
    np.testing.assert_allclose(localise(3 * maps, mask, other), whole)
    np.testing.assert_allclose(localise(maps[..., ::-1], mask[..., ::-1], other[..., ::-1]), whole)
    np.testing.assert_allclose(auc_judd(maps, mask) + auc_judd(maps, 1 - mask), 1)
    np.testing.assert_allclose(auc_judd(-maps, mask), 1 - auc_judd(maps, mask))
    np.testing.assert_allclose(
        energy_against_distractor(maps, mask, other) + energy_against_distractor(maps, other, mask), 1
    )
    assert ((pointing_game(maps, mask) >= 0) & (pointing_game(maps, mask) <= 1)).all()
    np.testing.assert_allclose(mass_in_mask(maps, mask) + mass_in_mask(maps, 1 - mask), 0, atol=1e-12)


def test_centre_bias_favours_the_centre_and_nothing_else() -> None:
    bias = centre_bias((6, 8))
    np.testing.assert_allclose(bias, bias[::-1, ::-1])
    middle = np.zeros((6, 8))
    middle[2:4, 3:5] = 1
    assert float(auc_judd(bias, middle)) == 1.0
    left, right = np.zeros((2, 6, 8))
    left[:, :4], right[:, 4:] = 1, 1
    assert float(energy_against_distractor(bias, left, right)) == pytest.approx(0.5)


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="share one grid"):
        auc_judd(np.ones((3, 3)), np.ones((3, 4)))


def test_exclusive_masks_on_grids() -> None:
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :, :2], masks[1, :, 1:3], masks[2, 3] = True, True, True
    alone = exclusive(masks)
    assert alone.sum(axis=(1, 2)).tolist() == [3, 3, 1]
    assert (alone.sum(axis=0) <= 1).all()
    np.testing.assert_allclose(on_grid(alone, (2, 2)).sum(axis=(1, 2)) * 4, alone.sum(axis=(1, 2)))
    np.testing.assert_allclose(on_grid(np.ones((5, 7)), (2, 3)), 1)
    assert resolved_objects(on_grid(alone, (4, 4)), cells=1)
    assert not resolved_objects(on_grid(alone, (1, 1)), cells=1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), soft=st.booleans(), ties=st.booleans(), alone=st.booleans())
def test_many_maps_of_one_image_are_scored_as_each_alone(seed: int, soft: bool, ties: bool, alone: bool) -> None:
    rng = np.random.default_rng(seed)
    maps = coarse_maps(seed, 9) if ties else rng.standard_normal((9, 4, 5))
    maps[0], maps[1] = 0, -1  # dead, and flat
    mask = rng.uniform(0, 1, (4, 5)) if soft else (rng.random((4, 5)) < 0.4).astype(float)
    other = None if alone else np.clip(rng.random((4, 5)) - mask, 0, 1)
    np.testing.assert_allclose(localise_many(maps, mask, other), localise(maps, mask, other), atol=1e-12)
    single = localise_many(maps.astype(np.float32), mask, other)
    if ties:
        np.testing.assert_allclose(single, localise(maps, mask, other), atol=1e-5)


def test_values_that_are_not_finite_have_no_area() -> None:
    maps = np.array([[[1.0, 2.0, np.nan]], [[1.0, 2.0, 3.0]]])
    assert np.isnan(auc_judd(maps, [[1.0, 0.0, 0.0]])).tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(
    pixels=st.integers(1, 12), offset=st.floats(-6, 12), stride=st.floats(0.3, 5), cells=st.integers(1, 6)
)  # fmt: skip
def test_shares_of_cells_by_fine_sampling(pixels: int, offset: float, stride: float, cells: int) -> None:
    edges = cell_edges(offset + stride * np.arange(cells), stride)
    found = overlap(pixels, edges)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for row, low, high in zip(found, edges[:-1], edges[1:], strict=True):
        points = low + (np.arange(2000) + 0.5) * (high - low) / 2000
        inside = points[(points >= 0) & (points < pixels)].astype(int)
        if inside.size > 200:
            np.testing.assert_allclose(row, np.bincount(inside, minlength=pixels) / inside.size, atol=0.02)


def test_cells_that_reach_beyond_the_image() -> None:
    """Half of the first cell is outside: what is inside counts as the whole cell. One beyond has the nearest pixel."""
    assert overlap(4, [-2, -1, 1, 3, 5, 7]).tolist() == [
        [1, 0, 0, 0], [1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1], [0, 0, 0, 1]
    ]  # fmt: skip
    whole = on_grid(np.ones((4, 4)), (3, 2), edges=(cell_edges([0, 2, 4], 2.0), cell_edges([1.5, 4.5], 3.0)))
    np.testing.assert_allclose(whole, 1)
    with pytest.raises(ValueError, match=r"edges must be those of a grid \(2, 2\); came \(1, 2\) cells"):
        on_grid(np.ones((4, 4)), (2, 2), edges=([0, 4], [0, 2, 4]))


def test_placing_in_pixels_is_linear_between_centres() -> None:
    values = np.random.default_rng(0).standard_normal((2, 4, 4))
    y = 1.5 + 4 * np.arange(4)
    placed = in_pixels(values, y, y, (16, 16))
    ramp = in_pixels(np.broadcast_to(y[:, None], (4, 4)), y, y, (16, 16))
    np.testing.assert_allclose(ramp[2:14, 0], np.arange(2, 14))  # a ramp in pixels stays one between the centres
    assert (ramp[:2] == 1.5).all()
    np.testing.assert_allclose(in_pixels(values, [0, 1, 2, 3], [0, 1, 2, 3], (4, 4)), values)
    assert placed.min() >= values.min()
    assert placed.max() <= values.max()


def by_definition(maps: np.ndarray, masks: np.ndarray, excess: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Cue swap of composites from their maps (n, unit, h, w), written out."""
    n, objects = tasks.shape
    every = np.einsum("tk,nkyx->tnyx", excess, maps)
    every = every / every.std(axis=(1, 2, 3), keepdims=True)
    found = []
    for i in range(n):
        inside = np.array(
            [
                [(every[tasks[i, a], i] * masks[i, b]).sum() / masks[i, b].sum() for b in range(objects)]
                for a in range(objects)
            ]
        )  # fmt: skip
        pairs = [
            0.5 * ((inside[a, a] - inside[a, b]) + (inside[b, b] - inside[b, a]))
            for a in range(objects) for b in range(a)
        ]  # fmt: skip
        found.append(np.mean(pairs))
    return np.array(found)


@pytest.mark.parametrize("objects", [2, 4])
def test_the_cue_swap_of_several_objects_is_the_mean_over_pairs(objects: int) -> None:
    rng = np.random.default_rng(4)
    maps, masks = rng.random((7, 9, 6, 6)), rng.random((7, objects, 6, 6))
    tasks = np.array([rng.permutation(5)[:objects] for _ in range(7)])
    excess = rng.standard_normal((5, 9))
    means = np.einsum("nkyx,noyx->nok", maps, masks) / masks.sum(axis=(2, 3))[..., None]
    flat = maps.transpose(1, 0, 2, 3).reshape(9, -1)
    contrasts = kernels.object_contrasts(means)
    found = kernels.cue_swap_objects(contrasts, np.cov(flat, ddof=0), excess, tasks)
    np.testing.assert_allclose(found, by_definition(maps, masks, excess, tasks))
    # what every cue shares adds nothing: a map that all cues have, however it favours a place
    common = np.tile(rng.standard_normal(9), (5, 1))
    np.testing.assert_allclose(
        kernels.cue_swap_objects(contrasts, np.cov(flat, ddof=0), common, tasks), 0, atol=1e-12
    )  # fmt: skip
    null = kernels.cue_swap_objects_null(
        contrasts, np.cov(flat, ddof=0), excess, tasks, permutations=3, rng=np.random.default_rng(9)
    )
    draws = np.random.default_rng(9)
    used = np.isin(np.arange(5), tasks)
    for value in null:
        order = draws.permutation(9)
        assert used.any()
        again = kernels.cue_swap_objects(contrasts, np.cov(flat, ddof=0), excess[:, order], tasks)
        assert value == pytest.approx(again.mean())


def test_masks_are_averaged_in_the_memory_of_a_few() -> None:
    masks = np.random.default_rng(0).random((2000, 3, 64, 64)) < 0.5  # 25 MB; 197 MB as float64
    tracemalloc.start()
    try:
        found = on_grid(masks, (4, 4))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    np.testing.assert_array_equal(found[1999, 2], on_grid(masks[1999, 2], (4, 4)))
    np.testing.assert_allclose(found, masks.reshape(2000, 3, 4, 16, 4, 16).mean(axis=(3, 5)))
    assert on_grid(masks[:0], (4, 4)).shape == (0, 3, 4, 4)
