"""Readers of the public sets, on small files of the same layout made here: known counts, and files that are bad."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from featattn_neuro.errors import StoreError
from featattn_neuro.io import manifest
from featattn_neuro.io.neural import read_dissimilarity, read_neural


@pytest.fixture
def at(monkeypatch):
    """Let the manifest say that a set lies where a test has put one."""
    return lambda path: monkeypatch.setattr(manifest, "find", lambda name: path)


def cells(values):
    """A MATLAB cell array."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def write_v1v2(path, **more):
    one = {"visualarea": 2, "dx": [-0.5, 0.0, -999.0], "counts": cells([[3, 5], [8, 10], [1]]), "resp": [4.0, 9.0, 1.0]}
    two = {"visualarea": 1, "dx": [0.0, 0.5], "counts": cells([[1, 2, 3], [0, 0, 6]]), "resp": [2.0, 2.0]}
    savemat(path, {"DTdata": cells([one, two])} | more)
    return path


def test_v1v2_cells(tmp_path, at):
    at(write_v1v2(tmp_path / "a.mat"))
    found = read_neural("disparity_v1v2")
    assert found["unit"].values.tolist() == ["V2/0001", "V1/0002"]
    assert found["area"].values.tolist() == ["V2", "V1"]
    first, second = (found["response"].sel(unit=name).dropna("trial") for name in found["unit"].values)
    assert dict(first.groupby("level").mean().to_series()) == {-0.5: 4, 0: 9}  # the control at −999 is left out
    assert second.values.tolist() == [1, 2, 3, 0, 0, 6]
    savemat(tmp_path / "b.mat", {"other": 1})
    at(tmp_path / "b.mat")
    with pytest.raises(StoreError, match=r"wanted 'DTdata' in .*b\.mat'; it holds other; fetch it again"):
        read_neural("disparity_v1v2")
    half = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "c.mat").write_bytes(half[: len(half) // 2])
    at(tmp_path / "c.mat")
    with pytest.raises(StoreError, match=r"c\.mat' is not a readable MATLAB file"):
        read_neural("disparity_v1v2")


def test_mt_cells(tmp_path, at):
    data = {"disparity": [0.1, -0.1, 0.1, 99, -99, 98, -9999], "firing_rate": [5.0, 3.0, 7.0, 90, 91, 92, 93]}
    savemat(tmp_path / "DispTunRaw_m2c007r1.mat", {"ddat": data})
    at(tmp_path)
    found = read_neural("disparity_mt")
    assert found["unit"].values.tolist() == ["MT/m2c007r1"]
    assert found["subject"].values.tolist() == ["m2"]
    assert found["level"].values.tolist() == [-0.1, 0.1, 0.1]
    assert found["response"].values.ravel().tolist() == [3, 5, 7]
    savemat(tmp_path / "DispTunRaw_m2c008r1.mat", {"dat": data})
    with pytest.raises(StoreError, match=r"wanted 'ddat' in .*m2c008r1\.mat'; it holds dat"):
        read_neural("disparity_mt")
    (tmp_path / "DispTunRaw_m2c008r1.mat").write_text("not a MATLAB file")
    with pytest.raises(StoreError, match=r"m2c008r1\.mat' is not a readable MATLAB file"):
        read_neural("disparity_mt")


def write_raster(path, stimuli, session="s1", channel=3):
    raster = np.zeros((len(stimuli), 1000))
    for row in range(len(stimuli)):
        raster[row, 600 : 600 + row] = 1  # row spikes, from 100 ms after onset (column 501 counting from 1)
        raster[row, 450] = 1
    labels = {"stimulus_ID": cells(stimuli), "stimulus_position": cells(["middle"] * len(stimuli))}
    site = {"session_ID": session, "recording_channel": channel, "unit": "a", "alignment_event_time": 501}
    savemat(path, {"raster_data": raster, "raster_labels": labels, "raster_site_info": site})


def test_rasters(tmp_path, at):
    stimuli = ["car", "couch", "face"]
    write_raster(tmp_path / "a_raster_data.mat", stimuli)
    write_raster(tmp_path / "b_raster_data.mat", stimuli, channel=4)
    at(tmp_path)
    found = read_neural("zhang_desimone_it")
    assert found["unit"].values.tolist() == ["IT/s1/03a", "IT/s1/04a"]
    assert found["response"].values[:, 0].tolist() == [0, 1, 2]
    assert found["label"].values.tolist() == stimuli
    before = read_neural("zhang_desimone_it", window=(-100, 0))
    assert before["response"].values[:, 1].tolist() == [1, 1, 1]
    write_raster(tmp_path / "b_raster_data.mat", stimuli[::-1], channel=4)
    with pytest.raises(StoreError, match=r"units of session s1 do not share their trials \(.*b_raster_data"):
        read_neural("zhang_desimone_it")
    savemat(tmp_path / "b_raster_data.mat", {"raster_data": 1})
    with pytest.raises(StoreError, match=r"wanted 'raster_labels' in .*b_raster_data\.mat'; it holds raster_data"):
        read_neural("zhang_desimone_it")


def test_v4_counts(tmp_path, at):
    with zipfile.ZipFile(tmp_path / "images_210325.zip", "w") as archive:
        for name, grey in (("x/b.png", 10), ("x/a.png", 200)):
            buffer = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), grey, dtype=np.uint8)).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
    counts = np.array([[[1.0, 3.0, np.nan], [5.0, np.nan, np.nan]]])
    np.save(tmp_path / "responses_raw.npy", counts)
    at(tmp_path)
    found = read_neural("v4_210325")
    assert found["response"].values.ravel().tolist() == [1, 3, 5]
    assert found["repetition"].values.tolist() == [0, 1, 0]
    assert np.unique(found["stimulus"].values).size == 2
    np.save(tmp_path / "responses_raw.npy", counts[:, :1])
    with pytest.raises(StoreError, match=r"wanted responses \(unit, 2 images, repeat\) .*; came \(1, 1, 3\)"):
        read_neural("v4_210325")
    (tmp_path / "responses_raw.npy").write_bytes(b"no array")
    with pytest.raises(StoreError, match=r"responses_raw\.npy' is no readable array"):
        read_neural("v4_210325")


def test_bad_dissimilarities(tmp_path, at):
    savemat(tmp_path / "Kriegeskorte_Neuron2008_supplementalData.mat", {"stimuli_92objs": 1})
    at(tmp_path)
    with pytest.raises(StoreError, match=r"wanted 'RDMs_mIT_hIT_fig1' in .*; it holds stimuli_92objs; fetch it again"):
        read_dissimilarity("objects92")
