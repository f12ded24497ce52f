"""saliency_agreement(): joins, live filters, usable layers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.arrays import agreement as kernels
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.measures.saliency_agreement import mass_in_masks, saliency_agreement

TASKS = ["a", "b", "c"]


def units(sizes):
    names = [f"{layer}/{k:03d}" for layer, size in sizes.items() for k in range(size)]
    return {
        "unit": names,
        "layer": ("unit", [name.split("/")[0] for name in names]),
        "channel": ("unit", [int(name.split("/")[1]) for name in names]),
    }


@pytest.fixture
def case():
    rng = np.random.default_rng(5)
    sizes, n = {"relu1": 10, "relu2": 12}, 20
    coordinates = units(sizes)
    k = 22
    covariance = np.zeros((k, k))
    for block in (slice(0, 10), slice(10, 22)):
        root = rng.normal(size=(block.stop - block.start,) * 2)
        covariance[block, block] = root @ root.T
    resolved = np.ones((2, n), dtype=int)
    resolved[1, :3] = 0
    labels = ["|".join(rng.choice(TASKS, 2, replace=False)) for _ in range(n)]
    masked = xr.Dataset(
        {
            "contrast": (("stimulus", "unit"), rng.normal(size=(n, k))),
            "covariance": (("unit", "other_unit"), covariance),
            "resolved": (("site", "stimulus"), resolved),
        },
        {
            "stimulus": [f"s{i}" for i in range(n)],
            "label": ("stimulus", labels),
            "other_unit": coordinates["unit"],
            "site": list(sizes),
            **coordinates,
        },
    )
    gains = xr.Dataset(
        {"gain": (("task", "unit"), np.exp(0.3 * rng.normal(size=(3, k))))}, {"task": TASKS, **coordinates}
    )
    live = xr.DataArray(np.ones(k, dtype=int), {"unit": coordinates["unit"]}, "unit")
    live[4] = 0
    return masked, gains, live


def test_scores_are_those_of_the_kernel_over_live_filters(case):
    masked, gains, live = case
    found = saliency_agreement(masked, gains, live, permutations=50, seed=2)
    keep = np.array([k for k in range(10) if k != 4])
    labels = [label.split("|") for label in masked["label"].values]
    first, second = (np.array([TASKS.index(pair[i]) for pair in labels]) for i in (0, 1))
    excess = kernels.excess_gain(gains["gain"].values[:, keep])
    part = masked["contrast"].values[:, keep], masked["covariance"].values[np.ix_(keep, keep)], excess, first, second
    wanted = kernels.cue_swap(*part)
    np.testing.assert_allclose(found["cue_swap"].sel(layer="relu1"), wanted)
    assert float(found["layer_score"].sel(layer="relu1")) == pytest.approx(wanted.mean())
    null = kernels.cue_swap_null(*part, permutations=50, rng=np.random.default_rng(2))
    assert float(found["null_mean"].sel(layer="relu1")) == pytest.approx(null.mean())
    assert 0 < float(found["p_permuted"].sel(layer="relu1")) <= 1


def test_the_halves_of_the_cue_swap_are_kept_by_cue(case):
    """S of each cue on its own ink minus on the other's, in the order of the label; their mean is the score."""
    masked, gains, live = case
    found = saliency_agreement(masked, gains, live, permutations=9)
    assert found["cue_swap_by_cue"].dims == ("layer", "stimulus", "object")
    np.testing.assert_array_equal(found["cue_swap_by_cue"].values.mean(axis=2), found["cue_swap"].values)
    inside = (masked["layer"] == "relu2").values
    h = gains["gain"].values[:, inside]
    h = h / h.mean(axis=1, keepdims=True) - 1
    spread = masked["covariance"].values[np.ix_(inside, inside)]
    for i, label in enumerate(masked["label"].values):
        for k, (cue, sign) in enumerate(zip(str(label).split("|"), (1, -1), strict=True)):
            one = h[TASKS.index(cue)]
            wanted = sign * masked["contrast"].values[i, inside] @ one / np.sqrt(one @ spread @ one)
            assert float(found["cue_swap_by_cue"].sel(layer="relu2")[i, k]) == pytest.approx(wanted)
    few = live.copy()
    few[:4] = 0
    assert np.isnan(saliency_agreement(masked, gains, few, permutations=9)["cue_swap_by_cue"].sel(layer="relu1")).all()


def test_usable_layers_resolve_nine_in_ten(case):
    found = saliency_agreement(*case, permutations=9)
    assert found["share_resolved"].values.tolist() == [1.0, 0.85]
    assert found["usable"].values.tolist() == [1, 0]


def test_everything_joins_by_id(case):
    masked, gains, live = case
    rng = np.random.default_rng(1)
    direct = saliency_agreement(masked, gains, live, permutations=9)
    order = rng.permutation(22)
    other = saliency_agreement(
        masked.isel(other_unit=order, site=[1, 0]), gains.isel(unit=rng.permutation(22), task=[2, 0, 1]), live[order],
        permutations=9,
    )  # fmt: skip
    for name in ("cue_swap", "usable", "null_mean"):
        np.testing.assert_allclose(other[name], direct[name])


def test_too_few_live_filters_and_flat_gains_have_a_reason(case):
    masked, gains, live = case
    few = live.copy()
    few[:4] = 0
    found = saliency_agreement(masked, gains, few, permutations=9)
    assert found["status"].values.tolist() == ["too_few", "ok"]
    assert np.isnan(found["layer_score"].values[0])
    flat = gains.copy(deep=True)
    flat["gain"][1, :10] = 2.0
    assert saliency_agreement(masked, flat, live, permutations=9)["status"].values.tolist() == ["constant", "ok"]


def test_maps_that_do_not_vary_are_dead(case):
    masked, gains, live = case
    silent = masked.copy(deep=True)
    silent["contrast"][:, :10] = 0.0
    silent["covariance"][:10, :10] = 0.0
    found = saliency_agreement(silent, gains, live, permutations=9)
    assert found["status"].values.tolist() == ["dead", "ok"]
    assert np.isnan(found["layer_score"].values[0])


def test_user_mistakes(case):
    masked, gains, live = case
    with pytest.raises(DataError, match=r"1 have none \(first: 'relu1/000'\)"):
        saliency_agreement(masked, gains.isel(unit=slice(1, None)), live)
    with pytest.raises(ConfigError, match="unknown task of a composite 'c'"):
        saliency_agreement(masked, gains.sel(task=["a", "b"]), live)
    with pytest.raises(DataError, match="two objects"):
        saliency_agreement(masked.assign_coords(label=("stimulus", ["a"] * 20)), gains, live)
    with pytest.raises(DataError, match="dimension 'task'"):
        saliency_agreement(masked, gains.sel(task="a"), live)


def test_mass_in_masks_stands_beside_plain_activation(case):
    masked, gains, live = case
    agreement = saliency_agreement(masked, gains, live, permutations=9)
    grid = {"stimulus": masked["stimulus"].values, "y": [0.0, 1.0], "x": [0.0, 1.0]}
    n = masked.sizes["stimulus"]
    left = np.zeros((n, 2, 2))
    left[:, :, 0] = 1
    first = xr.DataArray(left, grid, ("stimulus", "y", "x"))
    second = 1 - first
    excess = np.zeros((3, n, 2, 2))
    for i, label in enumerate(masked["label"].values):
        a, b = (TASKS.index(part) for part in label.split("|"))
        excess[a, i], excess[b, i] = left[i], 1 - left[i]
    maps = xr.Dataset(
        {
            "excess": (("task", "stimulus", "y", "x"), excess),
            "activation": (("stimulus", "y", "x"), np.ones((n, 2, 2))),
        },
        {"task": TASKS, "label": ("stimulus", masked["label"].values), **grid},
    )
    found = mass_in_masks(agreement, {"relu1": maps}, {"relu1": (first, second)})
    assert found["mass_in_mask"].values[0] == pytest.approx(0.5)
    assert found["mass_in_mask_plain"].values[0] == pytest.approx(0.0)
    assert np.isnan(found["mass_in_mask"].values[1])
