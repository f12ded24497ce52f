"""Passes of saliency refuse networks whose rows are no images, or mix them, as recording does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.causal import causal_check
from featattn_neuro.nets.masked_maps import object_maps
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.saliency import gain_saliency


class Windows(nn.Module):
    """Four windows of each image go through the filters as if they were images; their mean is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 2)
        self.last = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        windows = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 1, 4, 4)
        maps = self.relu(self.conv(windows))
        return self.head(self.last(maps.mean(dim=(2, 3)).view(len(images), 4, 3).mean(dim=1)))


def batch_normalised() -> nn.Module:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU(), GlobalMean(), nn.Linear(3, 2))


def masks_of(stimuli: Any) -> xr.Dataset:
    flags = np.zeros((len(stimuli), 1, 8, 8), np.uint8)
    flags[:, 0, :4] = 1
    return xr.Dataset(
        {"mask": (("stimulus", "object", "y", "x"), flags)}, {"stimulus": stimuli.id}, {"kind": "MASKS"}
    )  # fmt: skip


def passes(net: nn.Module, gains: xr.Dataset, stimuli: Any, layer: str, **options: Any) -> list[Callable[[], Any]]:
    masks = masks_of(stimuli)
    return [
        lambda: gain_saliency(net, gains, stimuli, layer=layer, **options),
        lambda: object_maps(net, stimuli, [layer], masks["mask"].values, **options),
        lambda: permuted_scores(net, gains, stimuli, [layer], masks, permutations=2, **options),
    ]


def test_windows_in_the_batch_are_not_taken_for_images(noise: Any, gain_set: Any) -> None:
    net, stimuli = Windows().eval(), noise(5, size=8)
    gains = gain_set({"relu": [2.0, 1.0, 0.5]})
    with pytest.raises(DataError, match="windows or patches folded into the batch"):
        record_activations(net, stimuli, layers=["relu"])
    for run in passes(net, gains, stimuli, "relu"):
        with pytest.raises(DataError, match=r"layer 'relu' gives \d+ rows for \d+ images? .*choose a layer around it"):
            run()


def test_a_path_through_windows_is_refused_where_only_they_are_gained_too(noise: Any, gain_set: Any) -> None:
    """The maps asked for are of images; those of the other gained layer are not, and the integral sums over both."""

    class Both(Windows):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(self.first(images))

    net = Both()
    net.first = nn.Conv2d(1, 1, 1)
    net, stimuli = net.eval(), noise(2, size=8)
    gains = gain_set({"first": [2.0], "relu": [2.0, 1.0, 0.5]})
    assert "cam_change" in gain_saliency(net, gains, stimuli, layer="first", methods="gradcam", output=0)
    with pytest.raises(DataError, match=r"layer 'relu' gives 8 rows for 2 images"):
        gain_saliency(net, gains, stimuli, layer="first", methods="path", output=0)


def test_statistics_of_the_batch_are_refused_in_batches(noise: Any, gain_set: Any) -> None:
    net, stimuli, gains = batch_normalised(), noise(3, size=8), gain_set({"2": [2.0, 1.0, 0.5]})
    with pytest.raises(DataError, match="normalises by the mean and variance of the batch"):
        record_activations(net, stimuli, layers=["2"])
    for run in passes(net, gains, stimuli, "2"):
        with pytest.raises(DataError, match=r"layer '1' normalises by the mean and variance .* pass batch_size=1"):
            run()
    one_by_one = [run() for run in passes(net, gains, stimuli, "2", batch_size=1)]
    assert np.isfinite(one_by_one[0]["excess"]).all()
    with pytest.raises(DataError, match="layer '1' normalises by the mean"):
        causal_check(net, gains, stimuli, one_by_one[0], output=0)
    assert not any(part._forward_hooks for part in net.modules())
