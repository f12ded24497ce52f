"""Recorded neurons: published facts of the sets are found again; tables are checked line by line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from scipy.io import loadmat

from featattn_neuro.errors import ConfigError, DataError, SchemaError, StoreError
from featattn_neuro.io.neural import read_dissimilarity, read_neural
from featattn_neuro.io.neural_sets import MT_CONTROLS
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.io.store import save_kind
from featattn_neuro.schema import NEURAL


def by_unit(neural: xr.Dataset, unit: str) -> pd.DataFrame:
    one = neural["response"].sel(unit=unit)
    frame = pd.DataFrame({"level": one["level"].to_numpy(), "response": one.to_numpy().astype(float)})
    return frame.dropna()


@pytest.fixture(scope="module")
def v1v2(shared_data):
    return read_neural("disparity_v1v2")


def test_v1v2_means_are_the_published_means_in_every_cell(v1v2, shared_data):
    cells = loadmat(shared_data / "neural/disparity/AllDTData.mat", squeeze_me=True, struct_as_record=False)["DTdata"]
    assert v1v2.sizes["unit"] == len(cells) == 1575
    agree = repeated = published = 0
    for unit, cell in zip(v1v2["unit"].to_numpy(), cells, strict=True):
        published += np.allclose([np.mean(one) for one in np.ravel(cell.counts)], np.ravel(cell.resp))
        real = np.ravel(cell.dx) > -500
        level, mean = np.round(np.ravel(cell.dx)[real], 3), np.ravel(cell.resp)[real]
        if np.unique(level).size < level.size:
            repeated += 1  # one cell was shown some disparities in two series
            counts = np.concatenate([np.atleast_1d(c) for c in np.ravel(cell.counts)[real]])
            agree += np.isclose(by_unit(v1v2, unit)["response"].mean(), counts.mean())
            continue
        ours = by_unit(v1v2, unit).groupby("level")["response"].mean()
        agree += np.allclose(ours.to_numpy(), mean[np.argsort(level)], rtol=1e-6)
    assert (agree, repeated, published) == (1575, 1, 1575)


def test_v1v2_fano_factor(v1v2):
    """Median over cells and disparities with a mean count above 1: 1.57."""
    long = v1v2["response"].to_series().dropna().reset_index()
    long["level"] = v1v2["level"].to_numpy()[long["trial"].to_numpy()]
    cells = long.astype({"response": float}).groupby(["unit", "level"])["response"].agg(["mean", "var"])
    fano = (cells["var"] / cells["mean"])[cells["mean"] > 1]
    assert round(float(fano.median()), 2) == 1.57


def test_disparity_rows_are_repeats_of_levels(v1v2):
    assert v1v2.attrs["units"] == "spikes"
    assert v1v2.attrs["simultaneous"] == 0
    assert set(v1v2["area"].to_numpy()) == {"V1", "V2"}
    assert not pd.DataFrame({"s": v1v2["stimulus"], "r": v1v2["repetition"]}).duplicated().any()
    assert np.abs(v1v2["level"]).max() < 5
    assert v1v2["response"].nbytes < 100e6


def test_mt_codes_are_dropped_and_cells_are_tuned(shared_data):
    mt = read_neural("disparity_mt")
    assert mt.sizes["unit"] == 501
    assert not set(mt["level"].to_numpy()) & set(MT_CONTROLS)
    assert set(mt["subject"].to_numpy()) == {"m1", "m2", "m3"}
    data = loadmat(shared_data / "neural/disparity/MT/DispTunRaw_m1c100r3.mat", squeeze_me=True, struct_as_record=False)
    disparity, rate = data["ddat"].disparity, data["ddat"].firing_rate
    ours = by_unit(mt, "MT/m1c100r3").sort_values(["level", "response"])
    keep = ~np.isin(disparity, MT_CONTROLS)
    theirs = pd.DataFrame({"level": disparity[keep], "response": rate[keep]}).sort_values(["level", "response"])
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy())
    tuned = 0
    for unit in mt["unit"].to_numpy():
        groups = [g.to_numpy() for _, g in by_unit(mt, unit).groupby("level")["response"]]
        tuned += stats.f_oneway(*groups).pvalue < 0.05
    # The authors' own reader drops all four codes. The 424 that is quoted for this set comes out only if the code 98 is
    # left in as if it were a disparity, which it is not: m1c121r4, m1c143r4, m1c227r4, m1c305r5, m2c106r4, m3c756r5 and
    # m3c812r5 are then no longer tuned, m1c106r3, m1c141r4, m1c220r4, m1c256r4, m1c257r4 and m3c733r5 are. Levels shown
    # once, rounding of levels and single precision make no difference.
    assert tuned == 425
    with_98 = 0
    for file in sorted((shared_data / "neural/disparity/MT").glob("*.mat")):
        data = loadmat(file, squeeze_me=True, struct_as_record=False)["ddat"]
        keep = ~np.isin(data.disparity, [code for code in MT_CONTROLS if code != 98])
        level, rate = data.disparity[keep], data.firing_rate[keep]
        with_98 += stats.f_oneway(*[rate[level == one] for one in np.unique(level)]).pvalue < 0.05
    assert with_98 == 424


def test_it_rasters(shared_data):
    it = read_neural("zhang_desimone_it")
    assert it.sizes["unit"] == 132
    assert np.unique(it["session"]).size == 21
    assert it["repetition"].max() == 19
    objects = np.array([s.split("/")[0] for s in it["stimulus"].to_numpy()])
    assert np.unique(objects).size == 7
    selective, fano = 0, []
    for unit in it["unit"].to_numpy():
        counts = it["response"].sel(unit=unit).to_numpy().astype(float)
        there = ~np.isnan(counts)
        groups = [counts[there & (objects == one)] for one in np.unique(objects)]
        selective += stats.kruskal(*groups).pvalue < 0.01
        cells = pd.Series(counts[there]).groupby(it["stimulus"].to_numpy()[there]).agg(["mean", "var"])
        fano += (cells["var"] / cells["mean"])[cells["mean"] > 0.5].tolist()
    assert selective == 106
    assert round(float(np.median(fano)), 2) == 1.85
    half = read_neural("zhang_desimone_it", window=(100, 300)) + read_neural("zhang_desimone_it", window=(300, 500))
    np.testing.assert_array_equal(half["response"], it["response"])
    with pytest.raises(ConfigError, match=r"wanted a window within -500 … 500 ms"):
        read_neural("zhang_desimone_it", window=(100, 900))


def test_v4_stimuli_are_joined_by_id(shared_data):
    v4 = read_neural("v4_210325")
    images = load_stimuli("v4_210325")
    assert set(v4["stimulus"].to_numpy()) == set(images.id)
    mean = v4["response"].groupby("stimulus").mean().sel(stimulus=images.id)
    published = np.load(shared_data / "neural/v4_210325/responses_repeat_averaged.npy")
    assert published.shape == (50, 640)
    np.testing.assert_allclose(mean.transpose("unit", "stimulus"), published, rtol=1e-5)


def test_objects92(shared_data):
    brain = read_dissimilarity("objects92")
    assert brain["dissimilarity"].dims == ("subject", "stimulus", "other_stimulus")
    assert brain["subject"].to_numpy().tolist() == ["monkey_IT", "human_IT"]
    for one in brain["dissimilarity"].to_numpy():
        np.testing.assert_array_equal(one, one.T)
        assert not np.diag(one).any()
    stimuli = load_stimuli("objects92")
    assert stimuli.id.tolist() == brain["stimulus"].to_numpy().tolist()
    # Kriegeskorte 2008: the two species' matrices correlate, r = .49
    upper = np.triu_indices(92, 1)
    monkey, human = (m[upper] for m in brain["dissimilarity"].to_numpy())
    assert round(float(np.corrcoef(monkey, human)[0, 1]), 2) == 0.49
    with pytest.raises(ConfigError, match="unknown dissimilarity set 'object92'"):
        read_dissimilarity("object92")


TABLE = """trial,unit,stimulus,response,session,condition,area
1,u1,face,3,a,attend,V4
1,u2,face,0,a,attend,V4
2,u1,car,1,a,ignore,V4
1,u1,face,2.5,b,ignore,V4
"""


def write(tmp_path, text):
    path = tmp_path / "responses.csv"
    path.write_text(text)
    return path


def test_long_table(tmp_path):
    neural = read_neural(write(tmp_path, TABLE))
    np.testing.assert_array_equal(neural["response"], [[3, 0], [1, np.nan], [2.5, np.nan]])
    assert neural["stimulus"].to_numpy().tolist() == ["face", "car", "face"]
    assert neural["session"].to_numpy().tolist() == ["a", "a", "b"]
    assert neural["condition"].to_numpy().tolist() == ["attend", "ignore", "ignore"]
    assert neural["repetition"].to_numpy().tolist() == [0, 0, 0]
    assert neural["trial"].to_numpy().tolist() == [0, 1, 2]
    assert neural["area"].to_numpy().tolist() == ["V4", "V4"]


def test_row_order_of_a_table_does_not_matter(tmp_path):
    rows = [(trial, f"u{unit}", f"s{trial % 2}", 10 * trial + unit) for trial in range(6) for unit in (1, 2)]
    frame = pd.DataFrame(rows, columns=["trial", "unit", "stimulus", "response"])
    one = read_neural(write(tmp_path, frame.to_csv(index=False)))
    other = read_neural(write(tmp_path, frame.sample(frac=1, random_state=0).to_csv(index=False)))
    xr.testing.assert_equal(one, other.sel(unit=one["unit"].to_numpy()))
    assert one["repetition"].to_numpy().tolist() == [0, 0, 1, 1, 2, 2]


def test_stimulus_column(tmp_path):
    path = write(tmp_path, "trial,unit,image,response\n1,u,face,3\n")
    assert read_neural(path, stimulus_column="image")["stimulus"].to_numpy().tolist() == ["face"]
    with pytest.raises(DataError, match="there is no 'stimulus', came trial, unit, image, response"):
        read_neural(path)
    with pytest.raises(ConfigError, match=r"stimulus_column is for tables of trials: \.nwb, \.csv"):
        read_neural("disparity_mt", stimulus_column="image")
    with pytest.raises(ConfigError, match="window is for sets with spike times"):
        read_neural(path, window=(0, 100))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2,u1,car,many,a,ignore,V4", r"a finite number in column 'response' .*; line 4 has 'many'"),
        ("2,u1,car,inf,a,ignore,V4", "line 4 has 'inf'"),
        ("x,u1,car,1,a,ignore,V4", "a whole number in column 'trial'"),
        ("2.5,u1,car,1,a,ignore,V4", r"line 4 has '2\.5'"),
        ("2,,car,1,a,ignore,V4", "text in column 'unit'"),
        ("1,u1,face,1,a,attend,V4", "gives trial 1 of unit 'u1' twice"),
        ("1,u3,car,1,a,attend,V4", r"one stimulus and one condition for each session and trial .*; session a, trial 1"),
        ("2,u1,car,1,a,ignore,MT", r"wanted one area for each unit .*; unit u1 has two"),
    ],
)
def test_bad_tables_name_the_line(tmp_path, line, text):
    with pytest.raises(DataError, match=text):
        read_neural(write(tmp_path, TABLE.replace("2,u1,car,1,a,ignore,V4", line)))


def test_an_empty_response_is_not_recorded(tmp_path):
    neural = read_neural(write(tmp_path, "trial,unit,stimulus,response\n1,u,a,\n2,u,a,4\n"))
    np.testing.assert_array_equal(neural["response"].to_numpy().ravel(), [np.nan, 4])
    assert neural["repetition"].to_numpy().tolist() == [0, 1]
    with pytest.raises(DataError, match="has no rows"):
        read_neural(write(tmp_path, "trial,unit,stimulus,response\n"))


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_of_the_kind(tmp_path, suffix):
    neural = read_neural(write(tmp_path, TABLE))
    again = read_neural(save_kind(neural, tmp_path / f"a{suffix}"))
    xr.testing.assert_equal(again, NEURAL.check(neural))
    gains = xr.Dataset(
        {"gain": ("unit", [1.0])},
        coords={"unit": ["c/0"], "layer": ("unit", ["c"]), "channel": ("unit", [0])},
        attrs={"kind": "GAINS"},
    )
    with pytest.raises(SchemaError, match="wanted a Dataset of kind NEURAL"):
        read_neural(save_kind(gains, tmp_path / f"g{suffix}"))


def test_unknown_sources(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown neural set 'disparity_mtt'.*did you mean 'disparity_mt'"):
        read_neural("disparity_mtt")
    with pytest.raises(ConfigError, match=r"wanted a \.nwb, \.csv, .* or \.zarr file"):
        read_neural("responses.xlsx")
    with pytest.raises(StoreError, match="there is none at"):
        read_neural(tmp_path / "nowhere.nc")
