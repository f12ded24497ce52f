"""A row is its image's, to the bit, on networks of every sort: loader workers, order, neighbours, and resuming."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import featattn_neuro as fn
from featattn_neuro.io import recording_store as stores

COUNT, BATCH = 11, 4
NETWORKS = {"alexnet": 64, "resnet18": 64, "mobilenet_v3_small": 64, "efficientnet_lite0": 64, "vit": 32}


@cache
def network(name: str) -> nn.Module:
    """Random weights; AlexNet without most of its 60 million numbers, the transformer for small images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "alexnet":
            module = torchvision.models.alexnet(weights=None)
            module.classifier = nn.Linear(256 * 6 * 6, 2)
            return module.eval()
        if name == "vit":
            import timm

            return timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=3).eval()
        return fn.load_model(name, weights="random").module


def stimuli(name: str) -> Any:
    side = NETWORKS[name]
    pixels = np.random.default_rng(0).standard_normal((COUNT, 3, side, side)).astype(np.float32)
    return fn.load_stimuli(pixels, label=[str(i % 3) for i in range(COUNT)])


def record(name: str, images: Any, **options: Any) -> Any:
    return fn.record(network(name), images, ["conv", "linear", "activation"], reduce=["mean", "sd", "max"],
                     batch_size=BATCH, **options)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        stores, "BLOCK_BYTES", 50_000
    )  # a block is one batch, so that an interrupted recording has several
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NETWORKS)
def test_order_neighbours_and_loader_workers_leave_rows_as_they_are(name: str) -> None:
    images = stimuli(name)
    whole = record(name, images)
    for which in (np.random.default_rng(1).permutation(COUNT), np.array([7]), np.array([9, 2, 5, 0, 3])):
        some = record(name, images.select(which))
        wanted = whole.sel(stimulus=some["stimulus"].values)
        np.testing.assert_array_equal(some["response"].values, wanted["response"].values)
        assert some["label"].values.tolist() == wanted["label"].values.tolist()
    np.testing.assert_array_equal(record(name, images, workers=2)["response"].values, whole["response"].values)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("stops_after", [BATCH, 2 * BATCH])
def test_a_resumed_recording_is_the_uninterrupted_one(name: str, stops_after: int, tmp_path: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done >= stops_after:
            raise KeyboardInterrupt

    images, begun = stimuli(name), []
    whole = record(name, images, out=tmp_path / "whole.zarr")
    with pytest.raises(KeyboardInterrupt):
        record(name, images, out=tmp_path / "cut.zarr", progress=stop)
    record(name, images, out=tmp_path / "cut.zarr", progress=lambda done, total: begun.append(done))
    assert begun, "the interrupted recording was not finished"
    assert begun[0] > BATCH, "what was there is not recorded again"
    assert content(tmp_path / "cut.zarr") == content(tmp_path / "whole.zarr")
    np.testing.assert_array_equal(whole["response"].values, record(name, images)["response"].values)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_sizes_agree_to_rounding(name: str) -> None:
    images = stimuli(name)
    first, second = (
        fn.record(network(name), images, "conv", reduce="none", batch_size=size)["response"].values for size in (1, 6)
    )
    scale = np.abs(first).max()
    np.testing.assert_allclose(second, first, rtol=2e-5, atol=2e-5 * scale)


def content(folder: Any) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Holder(nn.Module):
    """A network that reads an attribute which is called as a global of this file, and that global holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.held = nn.Conv2d(3, 2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.held(images)


held: Any = None


class Reader(Holder):
    """A network that reads a global of this file, which holds the network."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return held.held(images)


def test_a_global_may_hold_the_very_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from featattn_neuro.nets.fingerprint import digest, network_digest

    net = Holder().eval()
    wanted = network_digest(net)
    assert wanted == network_digest(Holder().eval())
    for holding in (net, [net], {"inner": net.held}, nn.Sequential(net)):
        monkeypatch.setitem(globals(), "held", holding)
        assert network_digest(net) == wanted  # it reads an attribute, not the global of that name
        assert digest(net) == digest(net)
    reader, other = Reader().eval(), Holder().eval()
    found = []
    for holding in (reader, other):
        monkeypatch.setitem(globals(), "held", holding)
        found.append(network_digest(reader))
        assert network_digest(reader) == found[-1]
    assert found[0] != found[1]
