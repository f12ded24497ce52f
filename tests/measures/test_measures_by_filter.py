"""Gains belong to filters, recordings of a module that runs several times to its calls: they join on the filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import featattn_neuro as fn
from featattn_neuro.errors import DataError


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.last = nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.last(self.relu(self.conv(images))))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Twice().eval()


@pytest.fixture
def measured(network: nn.Module) -> xr.Dataset:
    pixels = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    stimuli = fn.load_stimuli(pixels, label=[str(i % 2) for i in range(40)])
    return fn.selectivity(fn.record(network, stimuli, ["relu", "conv"]), "1")


def gains(measured: xr.Dataset, layers: list[str]) -> xr.Dataset:
    names = [(layer, k) for layer in layers for k in range(12)]
    unit = [f"{layer}/{k:03d}" for layer, k in names]
    call = measured["dprime"].sel(unit=[u.replace("relu/", "relu@1/") for u in unit])
    values = np.exp(np.abs(call.values))  # rises with |d'| of the second call
    coords = {"unit": unit, "layer": ("unit", [n for n, _ in names]), "channel": ("unit", [k for _, k in names])}
    return xr.Dataset({"gain": ("unit", values)}, coords, {"kind": "GAINS"})


def test_one_call_joins_with_the_gains_of_its_filters(measured: xr.Dataset) -> None:
    learned = gains(measured, ["conv", "relu"])
    second = measured.isel(unit=(measured.layer != "relu") | (measured.call == 1))
    found = fn.gain_selectivity(learned, second)
    np.testing.assert_allclose(found.rho.sel(measure="dprime"), 1.0)
    first = fn.gain_selectivity(learned, measured.isel(unit=(measured.layer != "relu") | (measured.call == 0)))
    assert float(first.rho.sel(measure="dprime", layer="relu")) < 1
    held = xr.Dataset({"mean_response": second["mean_response"]})
    assert "partial" in fn.gain_selectivity(learned, second, covariates=held)


def test_several_calls_are_refused_with_what_to_do(measured: xr.Dataset) -> None:
    with pytest.raises(DataError, match=r"calls \[0, 1\] of layer 'relu'.*ds.layer != 'relu'\) \| \(ds.call == 0\)"):
        fn.gain_selectivity(gains(measured, ["conv", "relu"]), measured)


def test_gains_act_in_every_call_and_ids_do_not_change_under_them(network: nn.Module, measured: xr.Dataset) -> None:
    pixels = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    plain = fn.record(network, pixels, "relu")
    with fn.with_gains(network, gains(measured, ["relu"])):
        gained = fn.record(network, pixels, "relu")
    assert gained["unit"].values.tolist() == plain["unit"].values.tolist()
    factor = gains(measured, ["relu"])["gain"].values
    first = plain["call"].values == 0
    np.testing.assert_allclose(gained["response"][:, first], plain["response"][:, first] * factor, rtol=1e-5)
