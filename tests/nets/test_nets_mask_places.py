"""Masks lie on a layer's grid where the layer sees, also in networks without padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from featattn_neuro.arrays.masks import on_grid
from featattn_neuro.io.stimuli import Stimuli, load_stimuli
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.measures.saliency_agreement import saliency_agreement
from featattn_neuro.nets.adapters import build_network
from featattn_neuro.nets.geometry import map_edges
from featattn_neuro.nets.masked_maps import masked_maps, object_maps
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.saliency import saliency_by_layer


def centre_pixels(size: int, stride: int, filters: int = 1) -> nn.Module:
    """Unpadded network whose first maps are the pixels at the centres of their fields, times 1, 2, …"""
    net = nn.Sequential(nn.Conv2d(1, filters, size, stride, bias=False), nn.ReLU(), nn.Conv2d(filters, 2, 1))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[:, 0, size // 2, size // 2] = torch.arange(1, filters + 1).float()
    return net.eval()


def one_pixel(place: tuple[int, int], side: int = 28) -> tuple[Stimuli, xr.Dataset]:
    """Two images of faint noise with one bright pixel, and the mask of that pixel."""
    images = 0.1 * np.random.default_rng(0).random((2, 1, side, side), dtype=np.float32)
    images[:, 0, place[0], place[1]] = 1
    stimuli = load_stimuli(images, label=["a", "a"])
    mask = (images > 0.5).astype(np.uint8)
    masks = xr.Dataset({"mask": (("stimulus", "object", "y", "x"), mask)}, {"stimulus": stimuli.id}, {"kind": "MASKS"})
    return stimuli, masks


@pytest.mark.parametrize("layers", [["relu1", "relu2", "relu3"], ["conv1", "pool1", "pool2", "conv3"]])
def test_the_grid_of_a_padded_network_tiles_the_image(layers: list[str]) -> None:
    """Numbers of such networks are what they are when cells are taken to tile the image, bit for bit."""
    module = build_network("digits_cnn", seed=0).module
    masks = np.random.default_rng(0).random((5, 2, 28, 28)) > 0.7
    sides = {"relu1": 28, "conv1": 28, "pool1": 14, "relu2": 14, "pool2": 7, "relu3": 7, "conv3": 7}
    found = map_edges(module, {layer: (sides[layer],) * 2 for layer in layers}, (28, 28))
    for layer in layers:
        grid = sides[layer], sides[layer]
        assert found[layer] is not None
        np.testing.assert_array_equal(found[layer], [np.linspace(0, 28, sides[layer] + 1)] * 2)
        np.testing.assert_array_equal(on_grid(masks, grid, edges=found[layer]), on_grid(masks, grid))


def test_strided_convolutions_see_from_the_corner() -> None:
    """3 × 3 with stride 2 and padding 1: centres at pixels 0, 2, …, so the first cell reaches beyond the image."""
    module = build_network("cifar_resnet20", weights="random").module
    found = map_edges(module, {"layer2.0.relu1": (16, 16), "layer3.0.relu1": (8, 8)}, (32, 32))
    for layer, stride in (("layer2.0.relu1", 2), ("layer3.0.relu1", 4)):
        assert found[layer] is not None
        np.testing.assert_array_equal(found[layer][0], 0.5 - stride / 2 + stride * np.arange(32 // stride + 1))
    masks = np.zeros((32, 32))
    masks[0] = 1
    weights = on_grid(masks, (16, 16), edges=found["layer2.0.relu1"])
    assert weights[:2, 5].tolist() == pytest.approx(
        [1 / 1.5, 0]
    )  # of cell 0 the pixel 0 and half of pixel 1 are in the image


def test_masked_means_of_an_unpadded_network() -> None:
    net, rng = centre_pixels(5, 2), np.random.default_rng(1)
    images = rng.random((3, 1, 17, 17), dtype=np.float32)
    stimuli = load_stimuli(images, label=["a|b", "b|a", "a|b"])
    masks = rng.random((3, 2, 17, 17)) > 0.5
    masks[:, 1] &= ~masks[:, 0]
    found = object_maps(net, stimuli, ["1"], masks)
    assert found["mask_cells"].values.tolist() == ["measured"]
    share = np.array([0.25, 0.5, 0.25])  # a cell two pixels wide around the centre of a pixel
    for n, o in np.ndindex(3, 2):
        total = weight = 0.0
        for y, x in np.ndindex(7, 7):
            row, column = 2 + 2 * y, 2 + 2 * x
            inside = share @ masks[n, o, row - 1 : row + 2, column - 1 : column + 2] @ share
            total, weight = total + inside * images[n, 0, row, column], weight + inside
        assert float(found["object_mean"][n, o, 0]) == pytest.approx(total / weight, rel=1e-6)
    gains = gains_of(1).expand_dims(task=["a", "b"])
    agreement = saliency_agreement(found, gains, xr.DataArray([1], {"unit": ["1/000"]}, "unit"))
    assert agreement["mask_cells"].values.tolist() == ["measured"]


def test_sources_of_another_size_than_the_input() -> None:
    """Two sources twice as large as the image that the network sees: the same means, for the same places."""
    net, rng = centre_pixels(5, 2), np.random.default_rng(2)
    stimuli = load_stimuli(rng.random((3, 1, 17, 17), dtype=np.float32), label=["a|b"] * 3)
    small = rng.random((2, 3, 17, 17))
    large = small.repeat(2, axis=2).repeat(2, axis=3)
    wanted = masked_maps(net, stimuli, ["1"], *small)
    np.testing.assert_allclose(masked_maps(net, stimuli, ["1"], *large)["contrast"], wanted["contrast"], rtol=1e-9)


def gains_of(filters: int) -> xr.Dataset:
    coords = {
        "unit": [f"1/{k:03d}" for k in range(filters)],
        "layer": ("unit", ["1"] * filters),
        "channel": ("unit", list(range(filters))),
    }
    gain = np.exp(np.random.default_rng(3).standard_normal(filters)) + 1
    return xr.Dataset({"gain": ("unit", gain)}, coords, {"kind": "GAINS"})


def test_a_map_points_at_the_pixel_that_it_shows() -> None:
    stimuli, masks = one_pixel((8, 20))
    maps = saliency_by_layer(centre_pixels(9, 1), gains_of(1), stimuli, ["1"])
    found = localisation(maps, masks)
    best = found["localisation_mean"].sel(map="excess", layer="1")
    assert float(best.sel(localiser="pointing_game")) == 1
    assert float(best.sel(localiser="auc_judd")) == 1
    assert found["mask_cells"].values.tolist() == ["measured"]
    # without the place, cells are taken to tile the image: that is said, and the pixel is missed
    lost = {"1": maps["1"].assign_attrs(geometry="cell index", stride_y=-1.0, stride_x=-1.0)}
    tiled = localisation(lost, masks)
    assert tiled["mask_cells"].values.tolist() == ["tiling"]
    assert float(tiled["localisation_mean"].sel(map="excess", layer="1", localiser="pointing_game")) == 0


def test_the_centre_of_the_image_is_the_centre_for_centre_bias() -> None:
    """Not the centre of a grid that sees only a part of the image."""
    net = nn.Sequential(nn.Conv2d(1, 1, 5, bias=False), nn.ReLU(), nn.Conv2d(1, 2, 1))
    stimuli, masks = one_pixel((13, 13))
    masks["mask"][:, :, 12:16, 12:16] = 1
    maps = saliency_by_layer(net, gains_of(1), stimuli, ["1"])
    bias = localisation(maps, masks)["localisation_mean"].sel(map="centre", layer="1", localiser="auc_judd")
    assert float(bias) == 1
    moved = {"1": maps["1"].assign_coords(y=maps["1"]["y"] + 8)}  # a layer that sees the lower part only
    assert float(localisation(moved, masks)["localisation_mean"].sel(map="centre", localiser="auc_judd")[0]) == 1


def test_the_null_lies_on_the_same_cells(noise: Any) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    stimuli, gains = noise(4, 1, 23), gains_of(6)
    flags = np.random.default_rng(4).random((4, 2, 23, 23)) > 0.6
    masks = xr.Dataset(
        {"mask": (("stimulus", "object", "y", "x"), flags.astype(np.uint8))},
        {"stimulus": stimuli.id},
        {"kind": "MASKS"},
    )
    found = permuted_scores(net, gains, stimuli, ["1"], masks, permutations=2, seed=7)
    rng = np.random.default_rng(7)
    for draw in range(2):
        turned = gains.assign(gain=("unit", gains["gain"].values[rng.permutation(np.arange(6))]))
        maps = saliency_by_layer(net, turned, stimuli, ["1"], dtype="float64")
        again = localisation(maps, masks)["localisation_mean"].sel(map="excess", layer="1")
        np.testing.assert_allclose(found.values[:, 0, draw], again, rtol=1e-3, atol=1e-4)


def test_an_object_that_no_cell_sees_is_in_no_mean(noise: Any) -> None:
    """The margin of an unpadded network: measured scores leave such objects out, and so does their null."""
    net = nn.Sequential(nn.Conv2d(1, 4, 9), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    stimuli, gains = noise(3, 1, 20), gains_of(4)
    flags = np.zeros((3, 1, 20, 20), dtype=np.uint8)
    flags[:, 0, 6:12, 6:12] = 1
    flags[0, 0] = 0
    flags[0, 0, :3, :3] = 1  # cells begin at pixel 4
    masks = xr.Dataset({"mask": (("stimulus", "object", "y", "x"), flags)}, {"stimulus": stimuli.id}, {"kind": "MASKS"})
    scored = localisation(saliency_by_layer(net, gains, stimuli, ["1"]), masks)["localisation"]
    assert np.isnan(scored.sel(map="excess", layer="1").isel(stimulus=0)).all()
    null = permuted_scores(net, gains, stimuli, ["1"], masks, permutations=3)
    others = permuted_scores(net, gains, stimuli.select([1, 2]), ["1"], masks.isel(stimulus=[1, 2]), permutations=3)
    np.testing.assert_allclose(null, others, rtol=1e-6)


class Branching(nn.Module):
    """Cannot be traced: what runs depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.conv(images if float(images.sum()) > 0 else -images))


def test_where_the_place_is_not_known_it_is_said(noise: Any) -> None:
    masks = np.zeros((2, 1, 8, 8), dtype=bool)
    masks[:, :, :4] = True
    found = object_maps(Branching().eval(), noise(2, 1, 8), ["relu"], masks)
    assert found["mask_cells"].values.tolist() == ["tiling"]
