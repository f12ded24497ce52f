"""Gains in peft's layout: peft's own IA3 model answers as the gained network, and gives the gains back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import featattn_neuro as fa
from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.architectures import CifarBlock
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.peft_layout import gains_from_peft, peft_layout


def some(width: int, seed: int = 0) -> np.ndarray:
    values = np.exp(np.random.default_rng(seed).normal(0, 0.5, width)).astype(np.float32).astype(float)
    values[0] = 0.0
    return values


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed")


@pytest.mark.parametrize("sites", [{"conv1": 16, "conv3": 64}, {"relu1": 16, "conv2": 32}, {"relu3": 64}, {"mean": 64}])
def test_peft_answers_as_the_gained_network(peft: Any, sites: dict[str, int], gain_set: Any, tmp_path: Path) -> None:
    network = build_network("digits_cnn", seed=3)
    gains = gain_set({layer: some(width, k) for k, (layer, width) in enumerate(sites.items())})
    images = torch.rand(3, 1, 28, 28)
    folder = fa.export_gains(gains, tmp_path / "adapter", model=network)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(network.module), folder).eval()
    with torch.no_grad(), with_gains(network.module, gains) as gained:
        torch.testing.assert_close(theirs(images), gained(images), rtol=1e-5, atol=1e-6)
    theirs.save_pretrained(tmp_path / "saved")
    back = fa.import_gains(tmp_path / "saved", model=network)
    with torch.no_grad(), with_gains(network.module, back) as gained:
        torch.testing.assert_close(theirs(images), gained(images), rtol=1e-5, atol=1e-6)
    if all(layer.startswith("conv") for layer in sites):
        assert back["unit"].values.tolist() == gains["unit"].values.tolist()
        np.testing.assert_array_equal(back["gain"], gains["gain"])


def test_gains_that_peft_learned_come_back(peft: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    config = peft.IA3Config(target_modules=["0", "1", "4"], feedforward_modules=["1", "4"])
    theirs = peft.get_peft_model(copy.deepcopy(module), config).eval()
    for name, parameter in theirs.named_parameters():
        if "ia3_l" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    theirs.save_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match="scales the output of '0' twice"):
        fa.import_gains(tmp_path / "saved", model=module)
    config = peft.IA3Config(target_modules=["1"], feedforward_modules=["1"])
    theirs = peft.get_peft_model(copy.deepcopy(module), config).eval()
    vector = theirs.base_model.model[1].ia3_l["default"]
    vector.data = torch.rand_like(vector) + 0.5
    theirs.save_pretrained(tmp_path / "one")
    back = fa.import_gains(tmp_path / "one", model=module)
    assert back["layer"].values.tolist() == ["0"] * 4
    images = torch.rand(2, 1, 6, 6)
    with torch.no_grad(), with_gains(module.eval(), back) as gained:
        torch.testing.assert_close(gained(images), theirs(images), rtol=1e-5, atol=1e-6)


def test_only_named_layers_are_adapted(peft: Any, gain_set: Any, tmp_path: Path) -> None:
    """peft matches a list of names by their endings: conv1 would also be layer1.0.conv1."""
    module = build_network("cifar_resnet20", weights="random").module
    gains = gain_set({"conv1": some(16)})
    folder = fa.export_gains(gains, tmp_path / "adapter", model=module)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(module), folder)
    assert [n for n, _ in theirs.named_parameters() if "ia3_l" in n] == ["base_model.model.conv1.ia3_l.default"]


def test_what_peft_cannot_hold_is_refused(gain_set: Any) -> None:
    block = nn.Sequential(nn.Conv2d(2, 4, 1), CifarBlock(4, 4, 1), CifarBlock(4, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    with pytest.raises(ConfigError, match=r"layer '1.relu2' cannot be folded"):
        peft_layout(block, gain_set({"1.relu2": np.full(4, 2.0)}))
    with pytest.raises(
        ConfigError, match=r"layer '3' cannot be written for peft: 3 would need a factor on its input and"
    ):
        peft_layout(block, gain_set({"2.relu2": np.full(4, 2.0), "3": np.full(4, 3.0)}))
    with pytest.raises(DataError, match="all gains are 1"):
        peft_layout(block, gain_set({"3": np.ones(4)}))


def test_what_is_no_adapter_of_this_network_is_refused(gain_set: Any, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    tensors, config = peft_layout(module, gain_set({"0": np.full(4, 2.0)}))
    wide = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    with pytest.raises(DataError, match=r"4 numbers for '0', which has 5 channels"):
        gains_from_peft(tensors, config, wide)
    with pytest.raises(ConfigError, match="unknown layer '0'"):
        gains_from_peft(tensors, config, nn.Conv2d(1, 4, 1))
    with pytest.raises(DataError, match="peft gains convolutions and linear layers; '0' is ReLU"):
        gains_from_peft(tensors, config, nn.Sequential(nn.ReLU()))
    with pytest.raises(DataError, match="wanted an IA3 adapter; came peft_type 'LORA'"):
        gains_from_peft(tensors, {**config, "peft_type": "LORA"}, module)
    with pytest.raises(DataError, match="holds no ia3_l vectors"):
        gains_from_peft({"lora": np.ones(1)}, config, module)
    with pytest.raises(StoreError, match=r"there is no adapter_model.safetensors in"):
        fa.import_gains(tmp_path, model=module)


class Joined(nn.Module):
    """Maps concatenated with themselves, or with others."""

    def __init__(self, itself: bool) -> None:
        super().__init__()
        self.itself = itself
        self.conv, self.relu6, self.other, self.gelu = nn.Conv2d(1, 3, 1), nn.ReLU6(), nn.Conv2d(1, 2, 1), nn.GELU()
        self.last = nn.Conv2d(6 if itself else 5, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu6(self.conv(images))
        return self.last(torch.cat([maps, maps if self.itself else self.gelu(self.other(images))], 1))


@pytest.mark.parametrize("itself", [True, False])
def test_concatenated_maps_come_back(itself: bool, gain_set: Any) -> None:
    module = Joined(itself).eval()
    gains = gain_set({"relu6": some(3)} if itself else {"relu6": some(3), "gelu": some(2)})
    tensors, config = peft_layout(module, gains)
    (key,) = tensors
    back = gains_from_peft(tensors, config, module)
    assert back["layer"].values.tolist() == gains["layer"].values.tolist()
    np.testing.assert_array_equal(back["gain"].values, gains["gain"].values)
    if itself:  # two factors on one map are no gain of it
        odd = {key: tensors[key] * np.arange(1.0, 7.0).reshape(1, 6, 1, 1)}
        with pytest.raises(ConfigError, match=r"input of 'last', which is cat, .* merge the adapter"):
            gains_from_peft(odd, config, module)
