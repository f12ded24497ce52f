"""Gains in a safetensors file come back as they were, labels and all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors import safe_open
from safetensors.numpy import save_file

from featattn_neuro.errors import ConfigError, SchemaError, StoreError
from featattn_neuro.io.gain_files import read_gains, read_peft, write_gains, write_peft


def gains() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "gain": (("task", "unit"), rng.random((2, 3))),
            "head_weight": (("task", "feature"), rng.random((2, 4))),
            "head_bias": ("task", rng.random(2)),
            "training_source": ("source", ["a", "bb"]),
        },
        {
            "task": ["cat", "Wörter | mit Strichen"],
            "unit": ["conv/000", "conv/001", "conv/002"],
            "layer": ("unit", ["conv"] * 3),
            "channel": ("unit", [0, 1, 2]),
        },
        {"kind": "GAINS", "rate": 0.1, "head_rule": "frozen", "seed": 3},
    )


@pytest.mark.parametrize("form", ["several tasks", "one task", "no task"])
def test_round_trip(tmp_path: Path, form: str) -> None:
    wanted = gains()
    if form != "several tasks":
        wanted = wanted.isel(task=1, drop=form == "no task")
    path = write_gains(wanted, tmp_path / "gains.safetensors")
    found = read_gains(path)
    assert "torch" in json.loads(found.attrs.pop("provenance"))["versions"]
    assert found.attrs.pop("schema_version") == 1
    xr.testing.assert_identical(found, wanted)
    for name in wanted.variables:
        assert found[name].dtype.kind == wanted[name].dtype.kind


def test_any_reader_of_safetensors_finds_ids_and_provenance(tmp_path: Path) -> None:
    path = write_gains(gains(), tmp_path / "gains.safetensors")
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
        np.testing.assert_array_equal(file.get_tensor("gain"), gains()["gain"])
    assert json.loads(header["text"])["unit"] == ["conv/000", "conv/001", "conv/002"]
    assert json.loads(header["dims"])["gain"] == ["task", "unit"]
    assert json.loads(header["provenance"])["versions"]["numpy"] == np.__version__


def test_files_that_hold_no_gains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ends in .safetensors; came"):
        write_gains(gains(), tmp_path / "gains.nc")
    with pytest.raises(SchemaError):
        write_gains(gains().drop_vars("layer"), tmp_path / "gains.safetensors")
    with pytest.raises(StoreError, match="there is none at"):
        read_gains(tmp_path / "none.safetensors")
    save_file({"gain": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match="holds no gains of this package"):
        read_gains(tmp_path / "other.safetensors")
    whole = write_gains(gains(), tmp_path / "gains.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="no valid safetensors file"):
        read_gains(tmp_path / "half.safetensors")


def test_a_folder_with_other_things_is_never_replaced_by_an_adapter(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"results' cannot be written: it is a folder with other things in it"):
        write_peft(tmp_path / "results", {"a": np.ones(2)}, {})
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "thesis.txt"]
    monkeypatch.chdir(tmp_path / "results")
    for place in (".", "..", "/"):
        with pytest.raises(ConfigError, match="wanted the name of a folder"):
            write_peft(place, {"a": np.ones(2)}, {})


def test_an_adapter_is_replaced_and_its_card_kept(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()  # an empty folder serves
    for value in (1.0, 2.0):
        folder = write_peft(tmp_path / "new", {"a": np.full(2, value)}, {"rank": value})
        (folder / "README.md").write_text("a card")
    folder = write_peft(folder, {"a": np.full(2, 3.0)}, {})
    assert read_peft(folder)[0]["a"].tolist() == [3.0, 3.0]
    assert (folder / "README.md").read_text() == "a card"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_an_adapter_takes_the_place_of_no_file(tmp_path: Path) -> None:
    (tmp_path / "adapter").write_text("mine")
    with pytest.raises(
        StoreError, match=r"wanted a folder for the peft adapter; .*adapter' is a file; give another name"
    ):
        write_peft(tmp_path / "adapter", {"a": np.ones(1)}, {})
    assert (tmp_path / "adapter").read_text() == "mine"
