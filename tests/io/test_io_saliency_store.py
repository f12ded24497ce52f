"""Maps streamed to disk are those in memory; nothing is left of a run that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import featattn_neuro as fn
from featattn_neuro.errors import StoreError

METHODS = ["class_weighted", "gain_gradient", "gradcam", "path"]


@pytest.fixture
def case() -> tuple[nn.Module, xr.Dataset, np.ndarray]:
    torch.manual_seed(0)
    module = fn.load_model("digits_cnn", weights="random").module
    rng = np.random.default_rng(0)
    coords = {
        "unit": [f"relu3/{k:03d}" for k in range(64)],
        "layer": ("unit", ["relu3"] * 64),
        "channel": ("unit", np.arange(64)),
        "task": ["a", "b"],
        "gain_set": ["s", "t"],
    }
    values = np.exp(rng.standard_normal((2, 2, 64)))
    gains = xr.Dataset({"gain": (("gain_set", "task", "unit"), values)}, coords, {"kind": "GAINS"})
    return module, gains, rng.random((7, 1, 12, 12), dtype=np.float32)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_streamed_maps_are_those_in_memory(case: Any, tmp_path: Path, suffix: str) -> None:
    module, gains, images = case
    options: dict[str, Any] = {
        "layer": "relu3", "methods": METHODS, "output": 1, "top": 2, "batch_size": 3, "dtype": "float32"
    }  # fmt: skip
    wanted = fn.gain_saliency(module, gains, images, **options)
    path = tmp_path / f"maps{suffix}"
    with fn.gain_saliency(module, gains, images, out=path, **options) as found:
        assert set(found.data_vars) == set(wanted.data_vars)
        assert found["excess"].chunks is not None  # lazily opened
        for name, values in wanted.data_vars.items():
            np.testing.assert_array_equal(found[name].values, values.values, err_msg=str(name))
            assert found[name].dims == values.dims
        xr.testing.assert_equal(found.coords.to_dataset(), wanted.coords.to_dataset())
        attrs = {k: v for k, v in found.attrs.items() if k != "provenance"}
        assert attrs == wanted.attrs
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(StoreError, match="is there already"):
        fn.gain_saliency(module, gains, images, out=path, **options)
    fn.gain_saliency(module, gains, images[:2], out=path, overwrite=True, **options).close()
    assert fn.open_kind(path).sizes["stimulus"] == 2


def test_a_folder_of_something_else_is_not_written_over(case: Any, tmp_path: Path) -> None:
    module, gains, images = case
    (tmp_path / "maps.zarr").mkdir()
    (tmp_path / "maps.zarr" / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match="folder with other things in it"):
        fn.gain_saliency(
            module, gains, images, layer="relu3", output=1, out=tmp_path / "maps.zarr", overwrite=True, methods="excess"
        )
    assert [p.name for p in tmp_path.rglob("*")] == ["maps.zarr", "thesis.txt"]


def test_a_failed_run_leaves_nothing(case: Any, tmp_path: Path) -> None:
    module, gains, images = case
    for name in ("maps.zarr", "maps.nc"):
        runs: list[int] = []

        def fail(part: nn.Module, inputs: Any, output: Any, runs: list[int] = runs) -> None:
            runs.append(1)
            if len(runs) == 4:  # after the image for the shapes and two batches
                raise ValueError("the lights went out")

        handle = module.relu1.register_forward_hook(fail)
        with pytest.raises(ValueError, match="lights"):
            fn.gain_saliency(module, gains, images, layer="relu3", batch_size=2, out=tmp_path / name)
        handle.remove()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match=r"ends in .nc or .zarr"):
        fn.gain_saliency(module, gains, images, layer="relu3", out=tmp_path / "maps.npy")


def test_relative_maps_are_dropped_where_maps_turn_out_signed(case: Any, tmp_path: Path) -> None:
    module, gains, images = case
    signed = gains.assign_coords(layer=("unit", ["conv3"] * 64))
    with fn.gain_saliency(module, signed, images, layer="conv3", out=tmp_path / "maps.zarr") as found:
        assert "relative" not in found
        assert found.attrs["signed_maps"] == "yes"


def test_wired_names(case: Any) -> None:
    module, gains, images = case
    several = fn.saliency_by_layer(module, gains, images, "relu3", task="a")
    assert list(several) == ["relu3"]
    one = gains.sel(task="a", gain_set="s", drop=True)
    maps = fn.gain_saliency(module, one, images, layer="relu3")
    np.testing.assert_allclose(several["relu3"]["excess"].sel(gain_set="s"), maps["excess"], atol=1e-5)
    checked = fn.causal_check(module, one, images, maps, output=2, fractions=[0, 0.5, 1])
    assert checked["logit"].shape == (2, 3, 7, 3)
