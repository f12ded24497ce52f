"""`featattn match`: from two files to the scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from featattn_neuro import cli
from featattn_neuro.io.store import load_kind, save_kind
from featattn_neuro.measures.neural_match import neural_match
from featattn_neuro.schema import ACTIVATIONS, NEURAL


def featattn(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(a) for a in arguments])
    code = stopped.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    ids, response = [f"s{i:02d}" for i in range(24)], rng.normal(size=(24, 6))
    units = {"unit": [f"conv/{k}" for k in range(6)], "layer": ("unit", ["conv"] * 6), "channel": ("unit", range(6))}
    activations = xr.Dataset({"response": (("stimulus", "unit"), response)}, units | {"stimulus": ids})
    trials = np.repeat(response @ rng.normal(size=(6, 4)), 4, axis=0) + rng.normal(size=(96, 4))
    coordinates = {
        "trial": np.arange(96),
        "unit": [f"IT/{k}" for k in range(4)],
        "stimulus": ("trial", np.repeat(ids, 4)),
        "condition": ("trial", ["in", "in", "out", "out"] * 24),
        "subject": ("unit", ["a", "a", "b", "b"]),
    }
    neural = xr.Dataset({"response": (("trial", "unit"), trials)}, coordinates)
    paths = tmp_path / "a.nc", tmp_path / "n.nc"
    for dataset, kind, path in zip((activations, neural), (ACTIVATIONS, NEURAL), paths, strict=True):
        save_kind(kind.check(dataset), path)
    return (*paths, kind.check(neural), ACTIVATIONS.check(activations))


def test_scores_are_those_of_the_function(files, tmp_path, capsys):
    activations, neural, recorded, filters = files
    out = tmp_path / "m.nc"
    arguments = [
        "match",
        activations,
        neural,
        "--out",
        out,
        "--methods",
        "rsa,ridge",
        "--condition",
        "in",
        "--folds",
        3,
    ]
    assert featattn(*arguments, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    wanted = neural_match(
        filters, recorded.isel(trial=(recorded["condition"] == "in").values), methods=["rsa", "ridge"], folds=3
    )
    np.testing.assert_allclose(load_kind(out, "MATCH")["score"], wanted["score"], rtol=1e-5)
    by_measure = zip(("rsa", "ridge"), wanted["score"].values[0], strict=True)
    assert rows == [{"layer": "conv", **{name: round(float(value), 4) for name, value in by_measure}}]
    assert featattn(*arguments) == 0
    shown = capsys.readouterr().out
    assert "conv" in shown
    assert str(out) in shown.replace("\n", "")


def test_options_reach_the_function(files, tmp_path):
    activations, neural, recorded, filters = files
    one = recorded.isel(trial=(recorded["condition"] == "out").values)
    out = tmp_path / "m.nc"
    common = ["match", activations, neural, "--out", out, "--methods", "rsa", "--condition", "out"]
    assert featattn(*common, "--subject", "each", "--comparison", "kendall") == 0
    found = load_kind(out, "MATCH")
    wanted = neural_match(filters, one, methods=["rsa"], subjects="each", comparison="kendall")
    np.testing.assert_allclose(found["ceiling_high"], wanted["ceiling_high"], rtol=1e-5)
    assert featattn(*common, "--subject", "b", "--distance", "crossnobis", "--layer-choice", "halves") == 0
    found = load_kind(out, "MATCH")
    wanted = neural_match(filters, one.isel(unit=[2, 3]), methods=["rsa"], distance="crossnobis", layer_choice="halves")
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-5)
    assert found["chosen_layer"].values.tolist() == [["conv", "conv"]]
    assert featattn(*common, "--gained", activations) == 0
    assert load_kind(out, "MATCH")["difference"].values.tolist() == [[0.0]]


def test_files_of_other_tools_and_names_that_are_none(files, tmp_path, capsys):
    activations, _, recorded, filters = files
    one = recorded.isel(trial=(recorded["condition"] == "in").values)
    named = {"stimulus": ("trial", one["stimulus"].values), "unit": one["unit"].values}
    plain = xr.DataArray(one["response"].values, named, ("trial", "unit"))
    plain.to_dataset(name="rates").to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    out = tmp_path / "m.nc"
    assert featattn("match", activations, tmp_path / "theirs.nc", "--out", out, "--methods", "rsa") == 0
    wanted = neural_match(filters, one, methods=["rsa"])
    np.testing.assert_allclose(load_kind(out)["score"], wanted["score"], rtol=1e-5)
    capsys.readouterr()
    assert featattn("match", activations, "nothere", "--out", out) == 2
    said = capsys.readouterr().err
    assert "unknown neural or dissimilarity set 'nothere'" in said
    assert "objects92" in said
    assert featattn("match", activations, tmp_path / "nothere.nc", "--out", out) == 2
    assert "nothere.nc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "wanted neurons in one condition; came in, out; choose one with --condition"),
        (["--condition", "up"], "unknown condition 'up'; choose one of: in, out"),
        (["--condition", "in", "--subject", "c"], "unknown subject 'c'"),
        (["--condition", "in", "--methods", "lasso"], "unknown method 'lasso'"),
    ],
)
def test_a_mistake_is_one_sentence(files, tmp_path, capsys, options, message):
    activations, neural, *_ = files
    assert featattn("match", activations, neural, "--out", tmp_path / "m.nc", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m.nc").exists()


def test_one_of_several_reductions(files, tmp_path, capsys):
    activations, neural, _, filters = files
    two, out = tmp_path / "two.nc", tmp_path / "m.nc"
    several = [filters, filters.assign(response=-(filters["response"] ** 3))]
    save_kind(ACTIVATIONS.check(xr.concat(several, xr.Variable("reduction", ["mean", "max"]))), two)
    common = [neural, "--out", out, "--methods", "rsa", "--condition", "in"]
    assert featattn("match", two, *common) == 2
    assert "--reduction" in capsys.readouterr().err
    found = []
    for source, options in ((activations, ()), (two, ("--reduction", "mean", "--gained", two))):
        assert featattn("match", source, *common, *options) == 0
        found.append(load_kind(out, "MATCH")["score"].values)
    np.testing.assert_allclose(*found)
