"""From a recording and a network's name to the page, by function, script and command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from featattn_neuro import cli
from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.io.example import CSV_NAME, NWB_NAME, write_example
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.io.store import load_kind
from featattn_neuro.jobs import neurons
from featattn_neuro.jobs.attention import are_counts, attention_in, compared_conditions
from featattn_neuro.jobs.neurons import compare_with_neurons
from featattn_neuro.report.style import number

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
    for wanted in (
        "Match over depth",
        "Tuning of neurons",
        "Tuning of filters",
        "were averaged",
        "orientation",
        "Attention slopes",
    ):
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


def test_attention_is_on_the_page_where_the_trials_have_two_conditions(folder, tmp_path, network):
    """The example's neurons: evoked rates times 1.25, spontaneous ones as they are."""
    page = compare_with_neurons(folder / NWB_NAME, out=tmp_path, layers=["relu"], permutations=2, **network)
    text = page.read_text(encoding="utf-8")
    for wanted in ("Attention: index and model", "Attention slopes", "fall-off and width", "1 − KS", "ceiling"):
        assert wanted in text
    found = load_kind(tmp_path / "attention.nc")
    assert found.sizes["unit"] == 12
    assert found.attrs["conditions"] == "unattended, attended"
    assert found.attrs["parameter"] == "orientation"
    assert 0.03 < float(found["mean_index"].median()) < 1 / 9 + 0.03  # (1.25 - 1)/(1.25 + 1) for the evoked part
    for name in ("preference_slope", "similarity_slope", "selectivity_slope", "profile_ratio", "curve_width_change"):
        assert np.isfinite(found[name]).any()
    covered = (found["curve_width_change_low"] <= 0) & (found["curve_width_change_high"] >= 0)
    assert float(covered.mean()) >= 0.75
    for unit in found["unit"].values:
        assert str(unit) in text
    for figure in ("attention", "attention_slopes", "attention_profile", "distribution_sparseness"):
        assert (tmp_path / "figures" / f"{figure}.png").is_file()
    likeness = load_kind(tmp_path / "tuning_match_sparseness.nc")
    assert likeness["layer"].values.tolist() == ["relu"]
    for name in ("sparseness", "modulation_depth", "orientation_index"):
        one = load_kind(tmp_path / f"tuning_match_{name}.nc")
        score = one["score"].sel(measure="1 - KS, matched size").item()
        assert f"<td>{number(score, 2)}</td>" in text
        ceiling = float(one["ceiling"].sel(measure="1 - KS, matched size"))
        assert f"<td>{number(score, 2)}</td><td>{number(ceiling, 2)}</td>" in text
    facts = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    assert facts["attention"][0]["neurons"] == 12
    assert facts["attention"][0]["index"] == pytest.approx(float(found["mean_index"].median()))
    slopes = found["preference_slope"].dropna("unit")
    error = float(slopes.std(ddof=1)) / np.sqrt(slopes.size)
    assert facts["attention"][0]["slope on rank, mean"] == pytest.approx(float(slopes.mean()))
    assert facts["attention"][0]["SE of that mean"] == pytest.approx(error)


def test_files_that_no_comparison_made_are_not_replaced(folder, tmp_path, network):
    (tmp_path / "neural.nc").write_text("precious")
    with pytest.raises(StoreError, match=r"holds 'neural\.nc' of something else"):
        compare_with_neurons(folder / NWB_NAME, out=tmp_path, layers=["relu"], **network)
    assert (tmp_path / "neural.nc").read_text() == "precious"


def test_conditions_with_other_names_are_said_not_guessed(folder, tmp_path, network):
    table = pd.read_csv(folder / CSV_NAME)
    table["condition"] = table["condition"].map({"attended": "in", "unattended": "out"})
    table.to_csv(tmp_path / "renamed.csv", index=False)
    more = {"images": folder / NWB_NAME, "layers": ["relu"], "permutations": 0, **network}
    page = compare_with_neurons(tmp_path / "renamed.csv", out=tmp_path / "out", conditions=("out", "in"), **more)
    assert "Attention: index and model" in page.read_text(encoding="utf-8")
    assert load_kind(tmp_path / "out" / "attention.nc").attrs["conditions"] == "out, in"
    page = compare_with_neurons(tmp_path / "renamed.csv", out=tmp_path / "out", **more)
    text = page.read_text(encoding="utf-8")
    assert "which is unattended and which attended was not said" in text
    assert "Attention: index and model" not in text
    assert not (tmp_path / "out" / "attention.nc").exists()  # nothing is left of the run before
    with pytest.raises(ConfigError, match="unknown condition 'away'; choose one of: in, out"):
        compare_with_neurons(tmp_path / "renamed.csv", out=tmp_path / "out", conditions=("away", "in"), **more)
    with pytest.raises(DataError, match="wanted two conditions; came in twice"):
        compare_with_neurons(tmp_path / "renamed.csv", out=tmp_path / "out", conditions=("in", "in"), **more)


def test_what_a_recording_lacks_for_attention_is_said(folder):
    neural = read_neural(folder / CSV_NAME, response_units="spikes")
    with pytest.raises(DataError, match="the trials have no condition"):
        compared_conditions(neural.drop_vars("condition"), ("a", "b"))
    assert compared_conditions(neural.drop_vars("condition"), None) == (None, [])
    pair = ("unattended", "attended")
    attended = neural["condition"].values == "attended"
    first = neural["stimulus"].values[0]
    alone = neural.isel(trial=np.flatnonzero(~(attended & (neural["stimulus"].values == first))))
    found, notes = attention_in(alone, "orientation", pair)
    assert found.sizes["stimulus"] == 35
    assert notes == ["1 stimuli were shown in one of the two conditions only and are left out of attention."]
    shown = np.unique(neural["stimulus"].values)
    apart = neural.isel(trial=np.flatnonzero(np.isin(neural["stimulus"].values, shown[:18]) == attended))
    found, notes = attention_in(apart, "orientation", pair)
    assert found is None
    assert "Fewer than 3 stimuli" in notes[-1]
    once = neural.isel(trial=np.unique(neural["stimulus"].values + neural["condition"].values, return_index=True)[1])
    found, notes = attention_in(once, "stimulus", pair)
    assert "selectivity_slope" not in found
    assert "curve_width" not in found
    assert "No stimulus was repeated" in notes[-1]
    found, notes = attention_in(neural.assign(response=neural["response"] / 0.3), "orientation", pair)
    assert found.attrs["noise"] == "gaussian"
    assert "not known to be plain counts" in notes[0]


@pytest.mark.parametrize("layout", ["table", "npz", "netcdf"])
def test_counts_that_were_said_are_counts(folder, tmp_path, layout):
    neural = read_neural(folder / CSV_NAME)
    source = folder / CSV_NAME
    if layout == "npz":
        source = tmp_path / "a.npz"
        np.savez(source, response=neural["response"], stimulus=neural["stimulus"], unit=neural["unit"])
    elif layout == "netcdf":
        source = neural["response"].drop_attrs()
    assert not are_counts(read_neural(source))
    said = read_neural(source, response_units="spikes")
    assert are_counts(said)
    assert not are_counts(said.assign_attrs(baseline="-300 to 0 ms after start_time, subtracted"))
    assert not are_counts(said.assign(response=said["response"] / 2))


def test_blanks_are_left_out_and_what_single_presentations_lack_is_said(folder, tmp_path, network):
    """Each half of the neurons saw each image once, in a session of its own, and a blank besides."""
    table = pd.read_csv(folder / CSV_NAME)
    table = table[table["condition"] == "attended"].drop(columns=["condition", "repetition"], errors="ignore")
    first = table["unit"].isin(sorted(set(table["unit"]))[:6])
    once = table.assign(session=np.where(first, "a", "b")).drop_duplicates(["unit", "stimulus"])
    blank = once.drop_duplicates(["unit", "session"]).assign(stimulus="blank", trial=9999)
    pd.concat([once, blank]).to_csv(tmp_path / "a.csv", index=False)
    more = {"images": folder / NWB_NAME, "layers": ["relu"], "permutations": 0, "said": {"response_units": "spikes"}}
    with pytest.raises(DataError, match=r"leave those trials out with extra='drop' \(--extra drop\)"):
        compare_with_neurons(tmp_path / "a.csv", out=tmp_path / "out", **more, **network)
    page = compare_with_neurons(tmp_path / "a.csv", out=tmp_path / "out", extra="drop", **more, **network)
    text = page.read_text(encoding="utf-8")
    assert "2 trials that show none of the images were left out" in text
    assert "No Fano factors: no neuron fired" in text
    assert "fano" not in load_kind(tmp_path / "out" / "tuning_neurons.nc")


def test_neurons_are_measured_before_the_network_is_loaded(folder, tmp_path, network, monkeypatch):
    """Over any property of the stimuli, the condition too; and over frequencies of which one is 0."""
    table = pd.read_csv(folder / CSV_NAME)
    table["condition"] = np.where(table["spatial_frequency"] > 2, "fine", "coarse")
    table["spatial_frequency"] = table["orientation"] / 15
    table.to_csv(tmp_path / "a.csv", index=False)
    found = []
    measure = neurons._neurons
    monkeypatch.setattr(neurons, "_neurons", lambda *given: found.append(measure(*given)[0]) or (found[-1], []))

    def load_model(*given, **said):
        raise InterruptedError

    monkeypatch.setattr("featattn_neuro.api.load_model", load_model)
    for level in ("condition", "spatial_frequency"):
        with pytest.raises(InterruptedError):
            compare_with_neurons(
                tmp_path / "a.csv", out=tmp_path / "o", images=folder / NWB_NAME, level=level, permutations=0, **network
            )
    assert found[0]["level_name"].values.tolist() == ["coarse", "fine"]
    assert found[1].attrs["fit_form"] == "gaussian"
    with pytest.raises(ConfigError, match="unknown level 'trial'"):
        compare_with_neurons(tmp_path / "a.csv", out=tmp_path / "o", images=folder / NWB_NAME, level="trial", **network)


def test_directions_lie_on_a_circle(folder, tmp_path):
    table = pd.read_csv(folder / CSV_NAME)
    table["direction"] = table.pop("orientation") * 2  # 0, 30, … 330
    neural = read_neural(table, response_units="spikes")
    found, _ = neurons._neurons(neural, neurons._parameter(neural, None), 0, 0)
    assert (found.attrs["parameter"], found.attrs["period"]) == ("direction", 360)
    assert np.isfinite(found["direction_index"]).all()
    effects, _ = attention_in(neural, "direction", ("unattended", "attended"))
    assert effects.attrs["form"] == "direction"
    assert float(effects["distance"].max()) <= 180


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
    said = ("--columns", "level=orientation", "--sentinels", "level=0,level=15,spatial_frequency=4")
    with pytest.warns(UserWarning, match="rows with codes were left out"):
        assert featattn("read-neural", folder / CSV_NAME, "--out", out, *said) == 0
    assert load_kind(out)["level"].values.min() == 30
    assert set(load_kind(out)["spatial_frequency"].values) == {2, 8}
    arguments = ("neurons", folder / NWB_NAME, "cifar_resnet20", "--out", tmp_path / "o", "--conditions", "attended")
    assert featattn(*arguments) == 2
    assert "wanted --conditions as UNATTENDED,ATTENDED; came 'attended'" in capsys.readouterr().err
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


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_done(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("featattn_neuro.api.read_neural", lambda *given, **said: pytest.fail("it was read"))
    (tmp_path / "page").write_text("mine")
    for out in (tmp_path / "page", tmp_path / "page" / "inside"):
        assert featattn("neurons", folder / NWB_NAME, "cifar_resnet20", "--weights", "random", "--out", out) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"featattn: cannot write the results folder {out}: ")
    assert (tmp_path / "page").read_text() == "mine"
