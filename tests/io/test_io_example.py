"""The synthetic session: what its generator put in is found again, through both files."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import StoreError
from featattn_neuro.io import example
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.stimuli import load_stimuli

pytest.importorskip("pynwb")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return example.write_example(tmp_path_factory.mktemp("example"))


def test_both_files_hold_the_same_spikes(files):
    nwb, table = files
    counts = read_neural(nwb, event="stim_on_time", window=example.WINDOW)
    again = read_neural(table)
    np.testing.assert_array_equal(counts["response"], again["response"].sel(unit=counts["unit"]))
    for name in ("condition", "orientation", "spatial_frequency"):
        np.testing.assert_array_equal(counts[name], again[name])
    assert (counts.sizes["unit"], counts.sizes["trial"]) == (12, 288)
    assert sum(path.stat().st_size for path in files) < 1_500_000


def test_images_are_those_of_the_trials(files):
    counts, stimuli = read_neural(files[0]), load_stimuli(files[0])
    assert set(counts["stimulus"].values) == set(stimuli.id)
    row = counts.isel(trial=7)
    assert f"{float(row['orientation']):03.0f}deg" in str(
        stimuli.path[stimuli.id.tolist().index(str(row["stimulus"].values))]
    )


def test_the_gain_of_attention_is_found_again(files):
    counts = read_neural(files[0], event="stim_on_time", window=example.WINDOW, baseline=(-300, 0))
    by = counts["response"].groupby("condition").sum()
    ratio = float(by.sel(condition="attended").sum() / by.sel(condition="unattended").sum())
    # some 10,000 evoked spikes a condition: the ratio's standard error is near .02
    assert ratio == pytest.approx(example.GAIN, abs=0.08)


def test_what_ships_is_what_the_generator_makes(files):
    shipped = example.shipped_example()
    xr.testing.assert_identical(read_neural(shipped[0]), read_neural(files[0]))
    assert load_stimuli(shipped[0]).id.tolist() == load_stimuli(files[0]).id.tolist()
    assert shipped[1].read_bytes() == files[1].read_bytes()


def test_the_same_seed_gives_the_same_spikes(files, tmp_path):
    again = read_neural(example.write_example(tmp_path / "new")[0])
    xr.testing.assert_identical(again, read_neural(files[0]))
    other = read_neural(example.write_example(tmp_path / "other", seed=1)[0])
    assert not np.array_equal(other["response"], again["response"])
    assert not list((tmp_path / "new").glob(".*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be made"):
        example.write_example(tmp_path / "file")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("featattn_neuro.io.example.reserve_space", OSError(28, "No space left on device")),
        # as h5py says it, over two lines
        (
            "pynwb.NWBHDF5IO.write",
            RuntimeError("Disable slist failed (time\n, 'No space left on device'"),
        ),
    ],
)
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, place, error):
    def full(*given, **options):
        raise error

    monkeypatch.setattr(place, full)
    with pytest.raises(StoreError, match=r"neurons\.nwb' cannot be written \(No space left on device\); free space"):
        example.write_example(tmp_path)
    assert not list(tmp_path.iterdir())
