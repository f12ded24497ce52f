"""From a recording and a network's name to the page, by function, script and command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from featattn_neuro import cli
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.example import CSV_NAME, NWB_NAME, write_example
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.io.store import load_kind
from featattn_neuro.jobs.neurons import compare_with_neurons

pytest.importorskip("pynwb")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("example")
    write_example(made)
    return made


@pytest.fixture(scope="module")
def network():
    return {"model": "cifar_resnet20", "weights": "random"}


def featattn(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(a) for a in arguments])
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def test_the_script_needs_a_file_and_a_name(folder, tmp_path):
    command = [sys.executable, str(ROOT / "analyses" / "06_neurons.py"), str(folder / NWB_NAME), "cifar_resnet20"]
    command += ["--weights", "random", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=None, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip())
    text = page.read_text(encoding="utf-8")
    for wanted in ("Match over depth", "Tuning of neurons", "Tuning of filters", "were averaged", "orientation"):
        assert wanted in text
    neural, filters = load_kind(page.with_name("neural.nc")), load_kind(page.with_name("tuning_filters.nc"))
    neurons, match = load_kind(page.with_name("tuning_neurons.nc")), load_kind(page.with_name("match.nc"))
    assert neural.sizes == {"trial": 288, "unit": 12}
    assert match.sizes["layer"] == 8
    assert np.isfinite(match["score"]).all()
    assert set(filters["layer"].values) == set(match["layer"].values)
    assert neurons["level"].values.tolist() == filters["level"].values.tolist() == [15.0 * k for k in range(12)]
    # every simulated neuron is tuned, and spikes of one trial are Poisson given the rate
    assert (neurons["orientation_index"] > neurons["orientation_index_floor"]).all()
    assert float(neurons["fano"].median()) == pytest.approx(1.0, abs=0.25)
    assert (neurons["fit_status"] == "ok").all()
    assert (neurons["reliability"] > 0.5).all()


def test_names_of_a_table_are_matched_with_files(folder, tmp_path, network):
    from PIL import Image

    shown = load_stimuli(folder / NWB_NAME)
    for position in range(len(shown)):
        Image.fromarray(shown[position]).save(tmp_path / f"{shown.path[position]}.png")
    out = tmp_path / "out"
    page = compare_with_neurons(
        folder / CSV_NAME,
        out=out,
        images=tmp_path,
        layers=["relu"],
        level="spatial_frequency",
        permutations=2,
        **network,
    )
    assert "spatial_frequency" in page.read_text(encoding="utf-8")
    found = load_kind(out / "tuning_neurons.nc")
    assert found["level"].values.tolist() == [2, 4, 8]
    assert set(load_kind(out / "neural.nc")["stimulus"].values) == set(
        load_kind(out / "activations.nc")["stimulus"].values
    )
    assert "fit" not in found  # three levels are too few for four parameters


def test_what_is_missing_is_said(folder, tmp_path, network, monkeypatch):
    with pytest.raises(ConfigError, match=r"carries no images; name those that were shown"):
        compare_with_neurons(folder / CSV_NAME, out=tmp_path, **network)
    with pytest.raises(DataError, match="'condition' is no property of the stimuli"):
        compare_with_neurons(
            folder / NWB_NAME, out=tmp_path, level="condition", layers=["relu"], permutations=0, **network
        )
    assert not list(tmp_path.iterdir())


def test_commands(folder, tmp_path, capsys):
    assert featattn("example", tmp_path / "made", "--seed", 3) == 0
    assert (tmp_path / "made" / NWB_NAME).is_file()
    out = tmp_path / "a.nc"
    said = ("--event", "stim_on_time", "--window", "50,350", "--baseline", "-300,0", "--response-units", "spikes/s")
    assert featattn("read-neural", folder / NWB_NAME, "--out", out, *said) == 0
    wanted = read_neural(
        folder / NWB_NAME, event="stim_on_time", window=(50, 350), baseline=(-300, 0), response_units="spikes/s"
    )
    xr.testing.assert_equal(load_kind(out), wanted)
    capsys.readouterr()
    assert featattn("read-neural", folder / NWB_NAME, "--out", out, "--window", "50") == 2
    assert "wanted --window as START,STOP in ms; came '50'" in capsys.readouterr().err
    assert featattn("read-neural", folder / CSV_NAME, "--out", out, "--columns", "level") == 2
    assert "OURS=THEIRS" in capsys.readouterr().err
    assert featattn("read-neural", folder / CSV_NAME, "--out", out, "--sentinels", "x") == 2
    assert "wanted numbers in --sentinels" in capsys.readouterr().err
    said = ("--columns", "level=orientation", "--sentinels", "0")
    with pytest.warns(UserWarning, match="rows with codes were left out"):
        assert featattn("read-neural", folder / CSV_NAME, "--out", out, *said) == 0
    assert load_kind(out)["level"].values.min() == 15
    arguments = (
        "neurons",
        folder / NWB_NAME,
        "cifar_resnet20",
        "--weights",
        "random",
        "--layers",
        "relu",
        "--out",
        tmp_path / "o",
    )
    assert featattn(*arguments) == 0
    assert (tmp_path / "o" / "neurons.html").is_file()
