"""Fano factors and noise correlations: of simulations with a known answer, and those published for recorded sets."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.peer_layouts import to_pynapple
from featattn_neuro.measures.variability import response_variability


def trials_of(response: np.ndarray, stimulus: np.ndarray, **attrs) -> xr.Dataset:
    count, units = response.shape
    return xr.Dataset(
        {"response": (("trial", "unit"), response.astype(float))},
        {
            "trial": np.arange(count),
            "unit": [f"u{k}" for k in range(units)],
            "stimulus": ("trial", stimulus.astype(str)),
        },
        attrs={"kind": "NEURAL", **attrs},
    )


def test_inferior_temporal_cortex_varies_as_published(shared_data):
    """1.85 over unit x object x position cells with a mean count above .5; 1.77 over units, of all their cells."""
    found = response_variability(read_neural("zhang_desimone_it"), pairs=False)
    assert found.attrs["fano_median_levels"] == pytest.approx(1.85, abs=0.005)
    every = response_variability(read_neural("zhang_desimone_it"), pairs=False, min_mean=0.0)
    assert float(every["fano"].median()) == pytest.approx(1.77, abs=0.005)
    assert found.sizes["level"] == 21


def test_disparity_cells_vary_as_published(shared_data):
    found = response_variability(read_neural("disparity_v1v2"), by=["stimulus"], min_mean=1.0)
    assert found.attrs["fano_median_levels"] == pytest.approx(1.57, abs=0.005)
    assert "noise_correlation" not in found
    with pytest.raises(DataError, match="were recorded one at a time"):
        response_variability(read_neural("disparity_v1v2"), pairs=True)


def test_poisson_counts_have_fano_factor_one_and_shared_gain_correlates():
    rng = np.random.default_rng(0)
    stimulus = np.repeat(np.arange(40), 50)
    rate = rng.uniform(2, 20, (40, 6))[stimulus]
    independent = trials_of(rng.poisson(rate), stimulus)
    found = response_variability(independent)
    # 240 variances of 50 trials each: standard error sqrt(2 / 49 / 240) = .013
    assert float(found["fano_level"].mean()) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(found["fano"], found["fano_level"].median("level"))
    off = ~np.eye(6, dtype=bool)
    assert np.abs(found["noise_correlation"].values[off]).max() < 0.1  # standard error 1/sqrt(2000) = .022
    assert (found["n_shared"].values == 2000).all()
    # signal correlation alone must not appear as noise correlation
    alike = trials_of(rng.poisson(np.repeat(rate[:, :1], 6, axis=1)), stimulus)
    assert np.abs(response_variability(alike)["noise_correlation"].values[off]).max() < 0.1
    noise = rng.normal(size=(2000, 1)) + rng.normal(size=(2000, 6))
    half = response_variability(trials_of(np.round(100 + 5 * noise), stimulus))
    assert half["noise_correlation"].values[off].mean() == pytest.approx(0.5, abs=0.04)


def test_conditions_are_not_mixed():
    rng = np.random.default_rng(1)
    stimulus = np.repeat(np.arange(10), 60)
    attended = np.tile([0, 1], 300)
    neural = trials_of(rng.poisson(5.0 * (1 + attended)[:, None], (600, 4)), stimulus)
    neural = neural.assign_coords(condition=("trial", np.array(["out", "in"])[attended]))
    assert float(response_variability(neural)["fano"].mean()) == pytest.approx(1.0, abs=0.1)
    assert float(response_variability(neural, by=["stimulus"])["fano"].mean()) > 1.5
    with pytest.raises(ConfigError, match=r"unknown coordinate of the trials 'stimuli'"):
        response_variability(neural, by=["stimuli"])


def test_units_of_different_sessions_share_no_trials():
    rng = np.random.default_rng(2)
    response = rng.poisson(5.0, (40, 3)).astype(float)
    response[:20, 2] = response[20:, 0] = np.nan
    found = response_variability(trials_of(response, np.tile(np.arange(4), 10)))
    assert np.isnan(found["noise_correlation"].sel(unit="u0", other_unit="u2"))
    assert int(found["n_shared"].sel(unit="u0", other_unit="u2")) == 0
    assert np.isfinite(found["noise_correlation"].sel(unit="u0", other_unit="u1"))
    assert "noise_correlation" not in to_pynapple(found.drop_vars("level_name")).coords


def test_what_has_no_variability_is_refused():
    stimulus = np.repeat(np.arange(4), 3)
    counts = np.random.default_rng(3).poisson(5.0, (12, 2))
    with pytest.raises(DataError, match="no meaning for rates"):
        response_variability(trials_of(counts, stimulus, units="spikes/s"))
    with pytest.raises(DataError, match=r"1 responses are; read them without baseline"):
        response_variability(trials_of(np.where(np.arange(24).reshape(12, 2) == 0, -1, counts), stimulus))
    with pytest.raises(DataError, match="repeats of each other; there are none"):
        response_variability(trials_of(counts, np.arange(12)))
    with pytest.raises(DataError, match="noise correlation is not defined here"):
        response_variability(trials_of(np.repeat(counts[::3], 3, axis=0), stimulus))


def test_trials_without_a_name_are_no_repeats():
    response = np.r_[np.tile([4.0, 6], 5), np.tile([9.0, 11], 5), np.tile([100.0, 0], 5)]
    label = np.array(["a"] * 10 + ["b"] * 10 + [""] * 10)
    level = np.where(label == "", np.nan, np.arange(30) // 10)
    both = np.stack([response, response + 3 * np.tile([0, 1, 1, 0, 0], 6)], axis=1)
    neural = trials_of(both, np.repeat(["x", "y", "z"], 10)).assign_coords(
        label=("trial", label), level=("trial", level)
    )
    wanted = response_variability(neural.isel(trial=slice(0, 20)), by=["label"])
    for by in (["label"], ["level"], ["stimulus", "label"]):
        found = response_variability(neural, by=by)
        np.testing.assert_array_equal(found["fano_level"], wanted["fano_level"])
        np.testing.assert_array_equal(found["noise_correlation"], wanted["noise_correlation"])
        assert int(found["n_shared"].max()) == 20


@pytest.mark.parametrize(
    ("factor", "units", "came"),
    [(1.3, "as in the table", "no whole numbers"), (2.0, "Hz", "responses in Hz"), (2.0, "spikes/s per cell", "/s")],
)
def test_rates_are_no_counts(factor, units, came):
    counts = np.random.default_rng(0).poisson(5, (20, 1))
    with pytest.raises(DataError, match=f"no meaning for rates.*{came}"):
        response_variability(trials_of(factor * counts, np.repeat(["a", "b"], 10), units=units), pairs=False)
