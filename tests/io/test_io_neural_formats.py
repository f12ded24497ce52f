"""Readers of neural data against files made here by other libraries, with known counts; and against bad ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from featattn_neuro.errors import ConfigError, DataError, SchemaError, StoreError
from featattn_neuro.io.frame_layouts import to_tidy
from featattn_neuro.io.neural import NeuralDataWarning, read_neural
from featattn_neuro.io.neural_checks import check_padding, check_times, suspected_codes
from featattn_neuro.io.neural_columns import NeuralOptions
from featattn_neuro.io.neural_mat import read_mat
from featattn_neuro.io.neural_names import with_stimulus_ids
from featattn_neuro.io.neural_windows import SpikeRecording, count_spikes, spikes_to_neural
from featattn_neuro.io.peer_layouts import to_brainio
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.io.store import save_kind

N_TRIALS = 12
NAMES = ["car", "face", "car", "tree"] * 3


def spike_times(unit: int) -> np.ndarray:
    """In trial k (onset 2 k + 0.5 s): k % 4 + unit spikes from 110 ms, 1 ms apart, and one spike 100 ms before."""
    times = []
    for trial in range(N_TRIALS):
        onset = 2.0 * trial + 0.5
        times += [onset - 0.1, *(onset + 0.110 + 0.001 * np.arange(trial % 4 + unit))]
    return np.array(times)


WANTED = np.array([[trial % 4 + unit for unit in range(3)] for trial in range(N_TRIALS)], dtype=float)


def write_nwb(
    path: Path,
    *,
    spikes=spike_times,
    scale: float = 1.0,
    trial_scale: float = 1.0,
    ids=(4, 7, 9),
    column: str = "image",
    names=NAMES,
    observed=None,
    licks=None,
    images=None,
    units: bool = True,
    trials: bool = True,
) -> Path:
    pynwb = pytest.importorskip("pynwb")
    file = pynwb.NWBFile(
        session_description="made by a test",
        identifier="made",
        session_id="s1",
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
        subject=pynwb.file.Subject(subject_id="monkey A", species="Macaca mulatta"),
    )
    if images is not None:
        container = pynwb.base.Images(name="shown", description="images")
        for name, image in images.items():
            container.add_image(pynwb.image.RGBImage(name=name, data=image))
        file.add_stimulus_template(container)
    if licks is not None:
        file.add_acquisition(pynwb.TimeSeries(name="licks", data=np.ones(len(licks)), unit="n", timestamps=licks))
    if trials:
        file.add_trial_column(name="stim_on_time", description="s")
        file.add_trial_column(name=column, description="what was shown")
        file.add_trial_column(name="attention", description="condition")
        for trial, name in enumerate(names):
            file.add_trial(
                start_time=2.0 * trial * trial_scale,
                stop_time=(2.0 * trial + 1.5) * trial_scale,
                stim_on_time=(2.0 * trial + 0.5) * trial_scale,
                attention=["in", "out"][trial % 2],
                **{column: name},
            )
    if units:
        file.add_unit_column(name="brain_area", description="area")
        for number, one in enumerate(ids):
            more = {} if observed is None else {"obs_intervals": observed}
            file.add_unit(spike_times=spikes(number) * scale, id=one, brain_area="V4", **more)
    with pynwb.NWBHDF5IO(str(path), "w") as handle:
        handle.write(file)
    return path


def test_nwb_counts_are_those_that_were_put_in(tmp_path):
    path = write_nwb(tmp_path / "a.nwb")
    read = read_neural(
        path, stimulus_column="image", columns={"condition": "attention"}, window=(100, 200), event="stim_on_time"
    )
    np.testing.assert_array_equal(read["response"], WANTED)
    assert read["unit"].values.tolist() == ["V4/s1/4", "V4/s1/7", "V4/s1/9"]
    assert read["stimulus"].values.tolist() == NAMES
    assert read["condition"].values.tolist() == ["in", "out"] * 6
    assert set(read["subject"].values) == {"monkey A"}
    assert read["repetition"].values.tolist() == [0, 0, 1, 0, 2, 1, 3, 1, 4, 2, 5, 2]
    assert (read.attrs["units"], read.attrs["window"]) == ("spikes", "100 to 200 ms after stim_on_time")
    assert read.attrs["baseline"] == "none"
    assert read["onset"].values[:2].tolist() == [0.5, 2.5]
    np.testing.assert_allclose(read["duration"], 0.1)


def test_rates_and_baseline_by_hand(tmp_path):
    path = write_nwb(tmp_path / "a.nwb")
    said = {"stimulus_column": "image", "event": "stim_on_time", "window": (100, 200)}
    rates = read_neural(path, **said, response_units="spikes/s")
    np.testing.assert_allclose(rates["response"], WANTED / 0.1)
    assert rates.attrs["units"] == "spikes/s"
    # one spike in the 200 ms before: 5 spikes/s, half a spike in a window of 100 ms
    counts = read_neural(path, **said, baseline=(-200, 0))
    np.testing.assert_allclose(counts["response"], WANTED - 0.5)
    assert counts.attrs["baseline"] == "-200 to 0 ms after stim_on_time, subtracted"
    both = read_neural(path, **said, baseline=(-200, 0), response_units="spikes/s")
    np.testing.assert_allclose(both["response"], WANTED / 0.1 - 5.0)
    whole = read_neural(path, stimulus_column="image")
    np.testing.assert_array_equal(whole["response"], WANTED + 1)
    assert whole.attrs["window"] == "start_time to stop_time"


def test_windows_are_half_open():
    spikes = [np.array([0.1, 0.2, 0.3])]
    assert count_spikes(spikes, [0.1], [0.3]).item() == 2
    assert count_spikes(spikes, [0.11], [0.31]).item() == 2


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(0, 900), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_counts_add_over_adjacent_windows(times, start, first, second):
    spikes = [np.array(times) / 8]
    edges = np.array([start, start + first, start + first + second]) / 8
    halves = count_spikes(spikes, edges[:2], edges[1:])
    assert halves.sum() == count_spikes(spikes, edges[:1], edges[2:]).item()
    assert halves.sum() == np.sum((spikes[0] >= edges[0]) & (spikes[0] < edges[2]))


def test_a_stimulus_column_is_shown_not_guessed(tmp_path):
    path = write_nwb(tmp_path / "a.nwb")
    with pytest.raises(DataError, match=r"candidates: 'image' \(3 values: car, face, tree\).*stimulus_column='image'"):
        read_neural(path)
    with pytest.raises(ConfigError, match=r"unknown column of the trials of a.nwb 'picture'"):
        read_neural(path, stimulus_column="picture")
    joined = read_neural(path, stimulus_column=["image", "attention"])
    assert joined["stimulus"].values[:2].tolist() == ["car/in", "face/out"]
    named = write_nwb(tmp_path / "b.nwb", column="stimulus")
    assert read_neural(named)["stimulus"].values.tolist() == NAMES


def test_images_in_the_file_give_the_ids(tmp_path):
    images = {name: np.full((4, 5, 3), value, np.uint8) for value, name in enumerate(("car", "face", "tree"), start=9)}
    path = write_nwb(tmp_path / "a.nwb", column="stimulus", images=images)
    read, stimuli = read_neural(path), load_stimuli(path)
    ids = dict(zip(stimuli.path.tolist(), stimuli.id.tolist(), strict=True))
    assert read["stimulus"].values.tolist() == [ids[name] for name in NAMES]
    assert read["label"].values.tolist() == NAMES
    np.testing.assert_array_equal(stimuli[stimuli.path.tolist().index("face")], images["face"])
    with pytest.raises(DataError, match=r"has no images among its stimulus templates"):
        load_stimuli(write_nwb(tmp_path / "b.nwb"))


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({"units": False}, "has no units table"),
        ({"trials": False}, "has no trials, so no stimulus is known.*no table of intervals at all"),
        ({"ids": (4, 7, 4)}, r"unit ids of a\.nwb must be unique; 'V4/s1/4' comes 2 times"),
        ({"scale": 1000.0}, "spikes span 22.*; divide the times of the spikes by 1000|lie outside the recording"),
        ({"trial_scale": 1000.0}, "trials of a.nwb lie outside the recording|divide the times of the trials by 1000"),
        ({"spikes": lambda unit: np.arange(0.0, 300.0)}, "cannot be seconds: all 900 are whole numbers"),
        ({"spikes": lambda unit: np.linspace(0, 24, 60_000)}, "unit 0 would fire 2500 times per second"),
        ({"spikes": lambda unit: np.empty(0)}, "has no spikes"),
        ({"observed": [[0.0, 24.0]], "scale": 1007.0}, "spikes of a.nwb lie beyond the recording: the last at 227"),
    ],
)
def test_bad_nwb_files(tmp_path, made, text):
    path = write_nwb(tmp_path / "a.nwb", **made)
    with pytest.raises(DataError, match=text):
        read_neural(path, stimulus_column="image")


def test_files_that_are_no_nwb(tmp_path):
    pytest.importorskip("pynwb")
    with pytest.raises(StoreError, match=r"there is none at"):
        read_neural(tmp_path / "nowhere.nwb")
    (tmp_path / "text.nwb").write_text("not HDF5")
    with pytest.raises(StoreError, match=r"is no readable NWB file"):
        read_neural(tmp_path / "text.nwb")
    whole = write_nwb(tmp_path / "a.nwb").read_bytes()
    (tmp_path / "half.nwb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"is no readable NWB file"):
        read_neural(tmp_path / "half.nwb")
    with h5py.File(tmp_path / "other.nwb", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(StoreError, match=r"cannot be read by pynwb|is no readable NWB file"):
        read_neural(tmp_path / "other.nwb")


def test_unobserved_windows_are_nan_and_said(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", observed=[[0.0, 10.0], [11.0, 30.0]])
    with pytest.warns(NeuralDataWarning, match=r"3 responses are NaN: the window lies outside the time"):
        read = read_neural(path, stimulus_column="image")  # trial 5 lasts from 10 to 11.5 s
    assert np.isnan(read["response"].values[5]).all()
    assert np.isfinite(np.delete(read["response"].values, 5, axis=0)).all()
    assert "3 responses are NaN" in read.attrs["found"]


def test_spikes_a_little_after_the_end_are_said_and_events_tell_no_end(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", observed=[[0.0, 5.0]], licks=[3.0, 9.0])
    with pytest.warns(NeuralDataWarning, match="spikes lie after 5 s, where the recording ends as the file says"):
        assert np.isfinite(read_neural(path, stimulus_column="image")["response"].values[:2]).all()
    read = read_neural(write_nwb(tmp_path / "b.nwb", licks=[3.0, 9.0]), stimulus_column="image")
    np.testing.assert_array_equal(read["response"], WANTED + 1)
    assert "found" not in read.attrs


def session(**changes) -> SpikeRecording:
    """Trials every 2 s, one of which has no end."""
    start = 2.0 * np.arange(N_TRIALS)
    stop = np.where(start == 4.0, np.nan, start + 1.5)
    trials = pd.DataFrame({"start_time": start, "stop_time": stop, "stimulus": NAMES})
    return replace(SpikeRecording([spike_times(0)], pd.DataFrame({"unit": ["u"]}), trials, "x"), **changes)


def test_a_missing_end_of_a_trial_is_no_fault_where_there_is_a_window():
    read = spikes_to_neural(session(), NeuralOptions(window=(610, 700)))
    np.testing.assert_array_equal(read["response"], WANTED[:, :1])
    with pytest.raises(DataError, match=r"trial times of x must be finite; 1 are not; mend them, or pass window="):
        spikes_to_neural(session(), NeuralOptions())


def test_windows_may_cross_from_one_observed_interval_into_the_next():
    observed = [[[6.65, 12.0], [0.0, 2.65], [2.65, 6.65], [12.1, 30.0]]]
    with pytest.warns(NeuralDataWarning, match="1 responses are NaN"):
        read = spikes_to_neural(session(observed=observed), NeuralOptions(window=(0, 700)))
    assert np.flatnonzero(np.isnan(read["response"].values[:, 0])).tolist() == [6]  # 12 to 12.1 s was not observed


def test_trials_without_a_stimulus_are_left_out_and_said(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", names=["", *NAMES[1:]])
    with pytest.warns(NeuralDataWarning, match=r"1 trials without a stimulus were left out"):
        read = read_neural(path, stimulus_column="image", window=(100, 200), event="stim_on_time")
    np.testing.assert_array_equal(read["response"], WANTED[1:])
    assert read["trial"].values.tolist() == list(range(1, N_TRIALS))


def test_sentinel_codes_must_be_confirmed(tmp_path):
    names = [-99.0, 0.0, 0.4, 0.8] * 3
    path = write_nwb(tmp_path / "a.nwb", names=names)
    with pytest.raises(DataError, match=r"what look like codes, no values: -99 \(3 trials\).*sentinels=\(-99,\)"):
        read_neural(path, stimulus_column="image")
    with pytest.warns(NeuralDataWarning, match=r"3 trials with codes in 'image' were left out"):
        kept = read_neural(path, stimulus_column="image", columns={"level": "image"}, sentinels=[-99])
    assert kept["level"].values.tolist() == [0.0, 0.4, 0.8] * 3
    assert kept["stimulus"].values[:3].tolist() == ["0", "0.4", "0.8"]
    assert read_neural(path, stimulus_column="image", sentinels=()).sizes["trial"] == 12


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ([-1.6, -0.4, 0.0, 0.4, 99, 98, -99, -9999], [-9999, -99, 98, 99]),
        ([-1000.5, -0.4, 0.4], [-1000.5]),
        ([0, 30, 60, 90, 120, 150, 999], []),
        ([0, 30, 60, 90, 9999], [9999]),
        ([0, 30, 60, 90, 120, 150, -999], [-999]),
        ([-1, 0, 1, 2, 3, 4, 5], [-1]),
        ([-1, -0.5, 0, 0.5, 1], []),
        ([1, 10, 100], []),
        ([np.nan, 1, 2], []),
        ([99], []),
    ],
)
def test_suspected_codes(values, codes):
    assert suspected_codes(values) == codes


def test_checks_of_times():
    spikes = [np.linspace(0.05, 29.95, 300)]
    start = np.arange(0.0, 30.0, 3.0)
    assert check_times(spikes, start, start + 1, where="x") == []
    late = np.append(start, 40.0)
    assert check_times(spikes, late, late + 1, where="x") == ["1 trials lie before the first or after the last spike"]
    with pytest.raises(DataError, match=r"trial 0 of x ends before it starts"):
        check_times(spikes, start, start - 1, where="x")
    with pytest.raises(DataError, match=r"the median trial would last 5000 s"):
        check_times([np.linspace(0.05, 60_000, 30_001)], start * 2000, start * 2000 + 5000, where="x")
    with pytest.raises(DataError, match=r"spike times of x must be finite; 1 are not"):
        check_times([np.array([0.1, np.nan])], start, start + 1, where="x")
    with pytest.raises(DataError, match=r"times of x cannot all be seconds: spikes span 29900.*by 1000"):
        check_times([1000 * spikes[0] + 0.5], start[:10] / 1, start[:10] + 1, where="x")


def test_window_mistakes(tmp_path):
    path = write_nwb(tmp_path / "a.nwb")
    with pytest.raises(ConfigError, match=r"\(0\.1, 0\.5\) is 0\.4 ms long; if seconds were meant, pass \(100, 500\)"):
        read_neural(path, stimulus_column="image", window=(0.1, 0.5))
    with pytest.raises(ConfigError, match=r"start before stop"):
        read_neural(path, stimulus_column="image", window=(200, 100))
    with pytest.raises(ConfigError, match=r"unknown event of the trials of a.nwb 'go_time'"):
        read_neural(path, stimulus_column="image", event="go_time")
    with pytest.raises(ConfigError, match=r"unknown unit of responses 'Hz'"):
        read_neural(path, stimulus_column="image", response_units="Hz")
    with pytest.raises(ConfigError, match=r"dims is for arrays without names of dimensions"):
        read_neural(path, stimulus_column="image", dims=("trial", "unit"))


def test_the_made_up_session_of_real_spikes_is_the_rasters(shared_data):
    pytest.importorskip("pynwb")
    path = shared_data / "nwb" / "it_session1018.nwb"
    nwb = read_neural(
        path, stimulus_column=["stimulus_ID", "stimulus_position"], event="stim_on_time", window=(100, 500)
    )
    rasters = read_neural("zhang_desimone_it")
    session = rasters.isel(trial=np.flatnonzero([one.endswith("1018") for one in rasters["session"].values]))
    session = session.isel(unit=np.isfinite(session["response"].values).all(axis=0))
    assert (nwb.sizes["unit"], nwb.sizes["trial"]) == (11, 420)
    assert nwb["stimulus"].values.tolist() == session["stimulus"].values.tolist()
    np.testing.assert_array_equal(
        np.sort(nwb["response"].values.sum(axis=0)), np.sort(session["response"].values.sum(axis=0))
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("A8604-211122.nwb", "has no trials.*it has the tables 'epochs': pass trials=NAME"),
        ("no_units_table.nwb", "has no units table"),
        ("old_schema.nwb", "has no units table"),
    ],
)
def test_real_files_with_something_missing(shared_data, name, text):
    pytest.importorskip("pynwb")
    with pytest.raises(DataError, match=text):
        read_neural(shared_data / "nwb" / name)


def test_pynapple_objects(tmp_path):
    nap = pytest.importorskip("pynapple")
    support = nap.IntervalSet(0.0, 24.0)
    spikes = nap.TsGroup({4: nap.Ts(spike_times(0)), 7: nap.Ts(spike_times(1))}, time_support=support)
    spikes.set_info(area=["V4", "V1"])
    onset = 2.0 * np.arange(N_TRIALS) + 0.5
    trials = nap.IntervalSet(onset, onset + 1.0, metadata={"stimulus": NAMES})
    read = read_neural(spikes, trials=trials, window=(100, 200))
    np.testing.assert_array_equal(read["response"], WANTED[:, :2])
    assert read["area"].values.tolist() == ["V4", "V1"]
    with pytest.raises(ConfigError, match=r"pass trials=IntervalSet"):
        read_neural(spikes)
    unnamed = nap.IntervalSet(onset, onset + 1.0, metadata={"image": NAMES})
    with pytest.raises(DataError, match=r"candidates: 'image'"):
        read_neural(spikes, trials=unnamed)
    with pytest.raises(ConfigError, match=r"came dict; convert it"):
        read_neural({"a": 1})


def long_table() -> pd.DataFrame:
    rows = [(trial, f"u{unit}", NAMES[trial], WANTED[trial, unit]) for trial in range(N_TRIALS) for unit in range(3)]
    return pd.DataFrame(rows, columns=["trial", "unit", "image", "response"])


def test_tables_of_any_origin_agree(tmp_path):
    table = long_table()
    table.to_csv(tmp_path / "a.csv", index=False)
    said = {"stimulus_column": "image", "response_units": "spikes"}
    from_csv, from_frame = read_neural(tmp_path / "a.csv", **said), read_neural(table, **said)
    np.testing.assert_array_equal(from_csv["response"], WANTED)
    xr.testing.assert_equal(from_csv, from_frame)
    assert from_csv.attrs["units"] == "spikes"
    with pytest.raises(DataError, match=r"say which column names the stimulus: stimulus_column='image' \(3 values"):
        read_neural(table)
    other = table.rename(columns={"unit": "cluster"}).assign(angle=table["trial"] % 4 * 45.0)
    renamed = read_neural(other, **said, columns={"unit": "cluster", "level": "angle"})
    assert renamed["level"].values[:4].tolist() == [0, 45, 90, 135]
    assert renamed["unit"].values.tolist() == ["u0", "u1", "u2"]
    with pytest.raises(DataError, match=r"there is no 'angel'"):
        read_neural(other, **said, columns={"unit": "cluster", "level": "angel"})
    with pytest.raises(ConfigError, match=r"unknown coordinate in columns 'units'"):
        read_neural(other, **said, columns={"units": "cluster"})


def test_codes_in_tables(tmp_path):
    table = long_table().assign(level=lambda t: np.where(t["trial"] == 3, -9999.0, t["trial"] / 10))
    with pytest.raises(DataError, match=r"column 'level' .* -9999 \(3 trials\)"):
        read_neural(table, stimulus_column="image")
    with pytest.warns(NeuralDataWarning, match=r"3 rows with codes were left out"):
        kept = read_neural(table, stimulus_column="image", sentinels=[-9999])
    assert 3 not in kept["trial"].values
    assert kept.sizes["trial"] == N_TRIALS - 1


def test_codes_are_those_of_the_stimulus_and_the_level_or_said_by_name(tmp_path):
    levels = {"level": [0, 1, 2, 3], "phase": [0, 0, 90, 90], "orientation": [0, 0, 45, 45]}
    table = pd.DataFrame({"trial": range(8), "unit": "u", "stimulus": list("abcd") * 2, "response": range(8)})
    table = table.assign(**{name: values * 2 for name, values in levels.items()})
    np.save(tmp_path / "a.npy", table[["response"]].to_numpy())
    table.drop(columns=["trial", "unit", "response"]).to_csv(tmp_path / "a.trials.csv", index=False)
    for source in (table, tmp_path / "a.npy"):
        for codes, trials in (((0,), 6), ({"phase": (90,)}, 4), ({"phase": (90,), "level": (0,)}, 2)):
            with pytest.warns(NeuralDataWarning, match="with codes"):
                assert read_neural(source, sentinels=codes).sizes["trial"] == trials
        with pytest.raises(ConfigError, match="unknown coordinate in sentinels 'angle'"):
            read_neural(source, sentinels={"angle": (0,)})
    coded = table.assign(phase=[0, 0, 90, -9999] * 2)
    with pytest.raises(DataError, match=r"column 'phase' .*sentinels=\{'phase': \(-9999,\)\}.*\{'phase': \(\)\}"):
        read_neural(coded, sentinels=(77,))
    with pytest.warns(NeuralDataWarning, match="2 rows with codes"):
        assert read_neural(coded, sentinels={"phase": (-9999,)}).sizes["trial"] == 6
    assert (
        read_neural(coded, sentinels=()).sizes["trial"]
        == read_neural(coded, sentinels={"phase": ()}).sizes["trial"]
        == 8
    )


def test_a_direction_is_a_number(tmp_path):
    table = long_table().assign(direction=lambda t: t["trial"] * 30)
    np.savez(tmp_path / "a.npz", response=WANTED, stimulus=NAMES, direction=30 * np.arange(N_TRIALS))
    for read in (read_neural(table, stimulus_column="image"), read_neural(tmp_path / "a.npz")):
        assert read["direction"].values.tolist() == [30.0 * k for k in range(N_TRIALS)]
    chosen = table.assign(direction=np.where(table["trial"] % 2, "left", "right"))
    assert "direction" not in read_neural(chosen, stimulus_column="image").coords
    said = read_neural(chosen.assign(angle=5), stimulus_column="image", columns={"direction": "angle"})
    assert set(said["direction"].values) == {5.0}


def test_parquet(tmp_path):
    """The same as from CSV, whatever the columns' types; and files that are bad."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = long_table().assign(
        condition=lambda t: pd.Categorical(np.where(t["trial"] % 2, "attended", "unattended")),
        level=lambda t: np.where(t["trial"] == 4, np.nan, t["trial"] / 2),
        area=pd.array(["V4"] * 36, dtype="string"),
    )
    table["trial"] = table["trial"].astype("Int64")
    table["response"] = table["response"].astype(np.float32)
    table.loc[5, "response"] = np.nan
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    read, wanted = (read_neural(tmp_path / f"a.{kind}", stimulus_column="image") for kind in ("parquet", "csv"))
    xr.testing.assert_equal(read, wanted)
    rows = table["response"].to_numpy().reshape(N_TRIALS, 3)
    np.testing.assert_array_equal(read["response"], rows)
    assert np.isnan(read["response"].values[1, 2])
    assert np.isnan(read["level"].values[4])
    assert read["condition"].values[:2].tolist() == ["unattended", "attended"]
    assert read["area"].values.tolist() == ["V4"] * 3
    kept = to_tidy(read)
    kept.to_parquet(tmp_path / "again.parquet")
    again = read_neural(tmp_path / "again.parquet")
    np.testing.assert_array_equal(again["response"].sel(unit=read["unit"]), read["response"])


def test_bad_parquet_files(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "a.parquet"
    with pytest.raises(StoreError, match=r"there is none at"):
        read_neural(path, stimulus_column="image")
    long_table().to_parquet(path)
    whole = path.read_bytes()
    for content in (b"PAR1 and nothing more", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is not a readable parquet table"):
            read_neural(path, stimulus_column="image")
    long_table().drop(columns="unit").to_parquet(path)
    with pytest.raises(DataError, match=r"there is no 'unit', came trial, image, response"):
        read_neural(path, stimulus_column="image")
    long_table().assign(response="many").to_parquet(path)
    with pytest.raises(DataError, match=r"wanted a finite number in column 'response' .* has 'many'"):
        read_neural(path, stimulus_column="image")
    long_table().iloc[:0].to_parquet(path)
    with pytest.raises(DataError, match=r"has no rows"):
        read_neural(path, stimulus_column="image")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")

    def missing(*_, **__):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(ConfigError, match=r"needs pyarrow, which is not installed: pip install"):
        read_neural(tmp_path / "a.parquet", stimulus_column="image")


def test_numpy_with_sidecar_tables(tmp_path):
    np.save(tmp_path / "a.npy", WANTED)
    with pytest.raises(StoreError, match=r"there is no 'a\.trials\.csv'"):
        read_neural(tmp_path / "a.npy")
    pd.DataFrame({"stimulus": NAMES, "condition": ["in", "out"] * 6}).to_csv(tmp_path / "a.trials.csv", index=False)
    plain = read_neural(tmp_path / "a.npy")
    np.testing.assert_array_equal(plain["response"], WANTED)
    assert plain["unit"].values.tolist() == ["unit/0000", "unit/0001", "unit/0002"]
    assert plain["condition"].values.tolist() == ["in", "out"] * 6
    pd.DataFrame({"unit": ["a", "b", "a"], "area": "V4"}).to_csv(tmp_path / "a.units.csv", index=False)
    with pytest.raises(DataError, match=r"unit ids of a\.npy must be unique; 'a' comes 2 times"):
        read_neural(tmp_path / "a.npy")
    pd.DataFrame({"unit": ["a", "b"], "area": "V4"}).to_csv(tmp_path / "a.units.csv", index=False)
    with pytest.raises(DataError, match=r"one row per unit \(3\).* came 2"):
        read_neural(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match=r"cannot be read as a plain array"):
        read_neural(tmp_path / "b.npy")
    with pytest.raises(StoreError, match=r"there is none at"):
        read_neural(tmp_path / "c.npy")


def test_names_in_sidecar_tables_are_text(tmp_path):
    np.save(tmp_path / "a.npy", WANTED[:4, :2])
    said = "stimulus,session,label,level\n001,01,None,0.5\n002,01,null,NA\n01,02,car,nan\n1,02,NA,2\n"
    (tmp_path / "a.trials.csv").write_text(said)
    (tmp_path / "a.units.csv").write_text("unit,area\n0007,NA\n7,V4\n")
    read = read_neural(tmp_path / "a.npy")
    assert read["stimulus"].values.tolist() == ["001", "002", "01", "1"]
    assert read["session"].values.tolist() == ["01", "01", "02", "02"]
    assert read["label"].values.tolist() == ["None", "null", "car", "NA"]
    assert read["unit"].values.tolist() == ["0007", "7"]
    assert read["area"].values.tolist() == ["NA", "V4"]
    np.testing.assert_array_equal(read["level"], [0.5, np.nan, np.nan, 2])


def padded() -> np.ndarray:
    """(unit, stimulus, repeat): 10 unit + stimulus + 0.1 repeat; the last stimulus was shown once."""
    unit, stimulus, repeat = np.meshgrid(np.arange(3), np.arange(4), np.arange(2), indexing="ij")
    values = 10.0 * unit + stimulus + 0.1 * repeat
    values[:, 3, 1] = np.nan
    return values


@pytest.mark.parametrize("order", [("unit", "stimulus", "repeat"), ("stimulus", "repeat", "unit")])
def test_nan_padded_repeats_are_no_trials_and_are_said(tmp_path, order):
    axes = [("unit", "stimulus", "repeat").index(one) for one in order]
    np.save(tmp_path / "a.npy", padded().transpose(axes))
    pd.DataFrame({"stimulus": list("wxyz")}).to_csv(tmp_path / "a.stimuli.csv", index=False)
    with pytest.raises(DataError, match=r"which axis is what"):
        read_neural(tmp_path / "a.npy")
    with pytest.warns(
        NeuralDataWarning, match=r"3 of 24 repeats are NaN: between 1 and 2 repeats were recorded, not 2"
    ):
        read = read_neural(tmp_path / "a.npy", dims=order)
    assert read.sizes["trial"] == 7
    assert read["stimulus"].values.tolist() == list("wwxxyyz")
    assert read["repetition"].values.tolist() == [0, 1, 0, 1, 0, 1, 0]
    np.testing.assert_allclose(read["response"].sel(unit="unit/0002"), [20, 20.1, 21, 21.1, 22, 22.1, 23])


def test_gaps_are_told_from_padding():
    values = padded()
    assert len(check_padding(values, ("unit", "stimulus", "repeat"), where="x")) == 1
    values[:, 3] = values[:, 3, ::-1]  # the first repeat is missing, not the last
    assert "gaps, no padding" in check_padding(values, ("unit", "stimulus", "repeat"), where="x")[1]
    with pytest.raises(DataError, match=r"nothing but NaN"):
        check_padding(values * np.nan, ("unit", "stimulus", "repeat"), where="x")


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", response=WANTED, stimulus=NAMES, unit=["a", "b", "c"], area=["V1", "V4", "V4"])
    read = read_neural(tmp_path / "a.npz")
    np.testing.assert_array_equal(read["response"], WANTED)
    assert read["area"].values.tolist() == ["V1", "V4", "V4"]
    np.savez(tmp_path / "b.npz", counts=WANTED.T, image=NAMES)
    with pytest.raises(DataError, match=r"which array of b\.npz holds the responses.*'counts' \(3, 12\)"):
        read_neural(tmp_path / "b.npz", stimulus_column="image")
    turned = read_neural(tmp_path / "b.npz", stimulus_column="image", variable="counts")
    np.testing.assert_array_equal(turned["response"], WANTED)
    np.savez(tmp_path / "c.npz", response=np.array([None]))
    with pytest.raises(StoreError, match=r"without pickled objects"):
        read_neural(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes(b"PK not a zip")
    with pytest.raises(StoreError, match=r"cannot be read"):
        read_neural(tmp_path / "d.npz")


def test_mat_version_5(tmp_path):
    cells = np.array(NAMES, dtype=object)
    content = {
        "data": {"resp": WANTED, "image": cells, "level": np.arange(12.0)},
        "area": np.array(["V1", "V4", "V4"], dtype=object),
    }
    savemat(tmp_path / "a.mat", content)
    read = read_neural(
        tmp_path / "a.mat", variable="data.resp", stimulus_column="data.image", columns={"level": "data.level"}
    )
    np.testing.assert_array_equal(read["response"], WANTED)
    assert read["stimulus"].values.tolist() == NAMES
    assert read["level"].values.tolist() == list(range(12))
    assert read["area"].values.tolist() == ["V1", "V4", "V4"]


def write_v73(path: Path) -> Path:
    """As MATLAB writes it: axes reversed, text as UTF-16 codes, cells as references, 512 bytes before the HDF5."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["response"] = WANTED.T
        file["response"].attrs["MATLAB_class"] = np.bytes_("double")
        texts = file.create_group("#refs#")
        references = []
        for number, name in enumerate(NAMES):
            codes = np.frombuffer(name.encode("utf-16-le"), dtype=np.uint16)[:, None]
            texts[f"r{number}"] = codes
            texts[f"r{number}"].attrs["MATLAB_class"] = np.bytes_("char")
            references.append(texts[f"r{number}"].ref)
        file.create_dataset("stimulus", data=np.array([references], dtype=h5py.ref_dtype))
        file["stimulus"].attrs["MATLAB_class"] = np.bytes_("cell")
        group = file.create_group("info")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        group["rate"] = np.array([[30000.0]])
    with open(path, "r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, made by a test".ljust(512, b" "))
    return path


def test_mat_version_73(tmp_path):
    path = write_v73(tmp_path / "a.mat")
    read = read_neural(path)
    np.testing.assert_array_equal(read["response"], WANTED)
    assert read["stimulus"].values.tolist() == NAMES
    assert read_mat(path)["info"]["rate"].item() == 30000.0


def test_mat_version_73_of_another_writer(tmp_path):
    hdf5storage = pytest.importorskip("hdf5storage")
    path = str(tmp_path / "a.mat")
    content = {
        "response": WANTED,
        "stimulus": np.array(NAMES, dtype=object),
        "note": "größer",
        "flag": np.array([True]),
    }
    hdf5storage.savemat(path, content, format="7.3")
    read = read_mat(Path(path))
    assert read["note"] == "größer"
    np.testing.assert_array_equal(read["response"], WANTED)
    np.testing.assert_array_equal(read_neural(path)["response"], WANTED)


def test_both_versions_of_a_mat_file_are_read_alike(tmp_path):
    savemat(tmp_path / "a.mat", {"response": WANTED, "stimulus": np.array(NAMES, dtype=object)})
    five, seven = read_neural(tmp_path / "a.mat"), read_neural(write_v73(tmp_path / "b.mat"))
    xr.testing.assert_equal(five, seven)


def test_rows_of_a_char_matrix_are_not_padded(tmp_path):
    savemat(tmp_path / "a.mat", {"response": WANTED, "stimulus": np.array(NAMES), "unit": np.array(["a", "bb", "c"])})
    read = read_neural(tmp_path / "a.mat")
    assert read["stimulus"].values.tolist() == NAMES
    assert read["unit"].values.tolist() == ["a", "bb", "c"]


def test_bad_mat_files(tmp_path):
    with pytest.raises(StoreError, match=r"there is none at"):
        read_neural(tmp_path / "a.mat")
    (tmp_path / "text.mat").write_text("no MATLAB file at all, but long enough to have a header of 128 bytes" * 4)
    with pytest.raises(StoreError, match=r"is not a readable MATLAB file"):
        read_neural(tmp_path / "text.mat")
    savemat(tmp_path / "five.mat", {"response": WANTED, "stimulus": np.array(NAMES, dtype=object)}, do_compression=True)
    five = (tmp_path / "five.mat").read_bytes()
    for content in (b"short", b"", five[:150], five[: len(five) // 2], five[:200] + bytes(100)):
        (tmp_path / "cut.mat").write_bytes(content)
        with pytest.raises(StoreError, match=r"is not a readable MATLAB file"):
            read_neural(tmp_path / "cut.mat")
    half = write_v73(tmp_path / "b.mat").read_bytes()
    (tmp_path / "half.mat").write_bytes(half[: len(half) // 3])
    with pytest.raises(StoreError, match=r"is not a readable MATLAB file"):
        read_neural(tmp_path / "half.mat")
    savemat(tmp_path / "c.mat", {"response": WANTED})
    with pytest.raises(DataError, match=r"which column of the trials of c.mat names the stimulus"):
        read_neural(tmp_path / "c.mat")
    savemat(tmp_path / "d.mat", {"response": "text"})
    with pytest.raises(DataError, match=r"wanted numbers in 'response' of d.mat"):
        read_neural(tmp_path / "d.mat")


def test_brainio_files_and_objects(tmp_path):
    neural = read_neural(long_table(), stimulus_column="image")
    assembly = to_brainio(neural.drop_vars("trial").assign_coords(trial=np.arange(N_TRIALS)))
    plain = assembly.drop_attrs().rename("data")
    plain.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    plain.to_netcdf(tmp_path / "old.nc", engine="scipy", format="NETCDF3_64BIT")
    for source in (tmp_path / "a.nc", tmp_path / "old.nc", plain):
        read = read_neural(source, response_units="spikes")
        np.testing.assert_array_equal(read["response"], WANTED)
        assert read["stimulus"].values.tolist() == NAMES
        assert read.attrs["units"] == "spikes"
    two = xr.concat([plain, plain], "neuroid")
    with pytest.raises((DataError, SchemaError), match=r"must be unique"):
        read_neural(two)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_labelled_arrays_of_others(tmp_path, suffix):
    array = xr.DataArray(
        WANTED,
        {"stimulus": ("trial", NAMES), "unit": ["a", "b", "c"], "trial": np.arange(12)},
        ("trial", "unit"),
        "resp",
    )
    path = tmp_path / f"a{suffix}"
    write = (
        (lambda d: d.to_netcdf(path, engine="h5netcdf"))
        if suffix == ".nc"
        else (lambda d: d.to_zarr(path, zarr_format=2, mode="w"))
    )
    write(array.to_dataset())
    np.testing.assert_array_equal(read_neural(path)["response"], WANTED)
    write(array.rename(trial="row").to_dataset())
    with pytest.raises(DataError, match=r"it holds 'resp' \('row', 'unit'\)"):
        read_neural(path)
    write(array.drop_vars("stimulus").to_dataset())
    with pytest.raises(DataError, match=r"have no coordinate 'stimulus'"):
        read_neural(path)
    ours = read_neural(save_kind(read_neural(array), tmp_path / f"b{suffix}"))
    np.testing.assert_array_equal(ours["response"], WANTED)
    if suffix == ".nc":
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(StoreError, match=r"cannot be read"):
            read_neural(path)


def test_names_of_files_become_ids():
    images = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2) / 12
    stimuli = load_stimuli(images)
    named = replace(stimuli, path=np.array(["a/car.png", "a/face.png", "b/tree.png"]))
    neural = read_neural(long_table(), stimulus_column="image")
    read = with_stimulus_ids(neural, named)
    ids = dict(zip(["car", "face", "tree"], stimuli.id.tolist(), strict=True))
    assert read["stimulus"].values.tolist() == [ids[name] for name in NAMES]
    assert read["label"].values.tolist() == NAMES
    xr.testing.assert_identical(with_stimulus_ids(read, named), read)
    with pytest.raises(DataError, match=r"1 of 3 stimuli of the recording fit no image of array .first: 'tree'"):
        with_stimulus_ids(neural, named.select([0, 1]))
    dropped = with_stimulus_ids(neural, named.select([0, 1]), extra="drop")
    assert dropped.sizes["trial"] == 9
    with_blanks = read.assign_coords(stimulus=("trial", ["blank", *read["stimulus"].values[1:]]))
    assert with_stimulus_ids(with_blanks, named, extra="drop").sizes["trial"] == N_TRIALS - 1
    with pytest.raises(ConfigError, match="unknown value of extra 'keep'"):
        with_stimulus_ids(neural, named, extra="keep")
    twice = replace(stimuli, path=np.array(["a/car.png", "b/car.png", "b/tree.png"]))
    with pytest.raises(DataError, match=r"'car' fits 2 images"):
        with_stimulus_ids(neural, twice)
    with pytest.raises(DataError, match=r"neither these ids nor file names"):
        with_stimulus_ids(neural, stimuli)
