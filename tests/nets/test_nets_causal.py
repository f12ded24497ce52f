"""Deletion and insertion on networks whose logit is known, and against random and plain-activation orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.stimuli import load_stimuli
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.causal import _filled, _ranks, causal_check
from featattn_neuro.nets.gains import with_gains
from featattn_neuro.nets.saliency import gain_saliency


def mean_of_pixels() -> nn.Module:
    """Two filters that copy the pixels; the logit is the mean of the first, the second plays no part."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), GlobalMean(), nn.Linear(2, 1, bias=False))
    nn.init.constant_(net[0].weight, 1.0)
    with torch.no_grad():
        net[3].weight.copy_(torch.tensor([[1.0, 0.0]]))
    return net


def test_curves_where_the_logit_is_the_mean_of_the_pixels(noise: Any, gain_set: Any) -> None:
    net, stimuli = mean_of_pixels(), noise(5, size=6)
    gains = gain_set({"1": [3.0, 1.0]})
    maps = gain_saliency(net, gains, stimuli, layer="1")
    found = causal_check(net, gains, stimuli, maps, fill="mean", output=0, batch_size=2)
    pixels = stimuli.images.reshape(5, -1).astype(float)
    for n in range(5):
        ordered, mean = np.sort(pixels[n])[::-1], pixels[n].mean()
        for k, share in enumerate(found["fraction"].values):
            count = round(share * 36)
            gone = 3 * (np.concatenate([np.full(count, mean), ordered[count:]])).mean()
            back = 3 * (np.concatenate([ordered[:count], np.full(36 - count, mean)])).mean()
            at = {"map": "excess", "fraction": share}
            assert float(found["logit"].sel(direction="deletion", **at)[n]) == pytest.approx(gone, rel=1e-5), k
            assert float(found["logit"].sel(direction="insertion", **at)[n]) == pytest.approx(back, rel=1e-5)
    curve = found["logit"].sel(direction="deletion", map="excess") - found["logit"].sel(
        direction="deletion", map="excess", fraction=0
    )
    np.testing.assert_allclose(
        found["area"].sel(direction="deletion", map="excess"), np.trapezoid(curve.values, curve["fraction"], axis=1)
    )
    assert (found["area"].sel(direction="deletion", map="excess") < 0).all()
    # the best order there is: no random order deletes more
    assert (
        found["area"].sel(direction="deletion", map="excess") < found["area"].sel(direction="deletion", map="random")
    ).all()
    assert (
        found["area"].sel(direction="insertion", map="excess") > found["area"].sel(direction="insertion", map="random")
    ).all()
    assert (found["area_low"] < found["area_mean"]).all()


def test_ends_of_the_curves_are_the_image_and_its_fill(noise: Any, gain_set: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(),
                        GlobalMean(), nn.Linear(5, 3))  # fmt: skip
    stimuli = noise(3, size=12)
    gains = gain_set({"1": np.ones((2, 4)), "4": np.linspace(0.5, 2, 10).reshape(2, 5)}, tasks=["a", "b"])
    maps = gain_saliency(net, gains, stimuli, layer="4", methods="path", output=[0, 2])
    options: dict[str, Any] = {"maps": ["excess", "path_integrated", "random"], "output": [0, 2], "seed": 4}
    found = causal_check(net, gains, stimuli, maps, **options)
    assert found["logit"].dims == ("task", "direction", "map", "stimulus", "fraction")
    logit = found["logit"]
    for name in options["maps"]:
        down, up = (logit.sel(direction=d, map=name) for d in ("deletion", "insertion"))
        np.testing.assert_allclose(down.isel(fraction=0), up.isel(fraction=-1), rtol=1e-5)
        np.testing.assert_allclose(down.isel(fraction=-1), up.isel(fraction=0), rtol=1e-5)
    np.testing.assert_allclose(
        logit.isel(fraction=0, map=0, direction=0), logit.isel(fraction=0, map=2, direction=0), rtol=1e-6
    )
    for task, output in (("a", 0), ("b", 2)):  # nothing is deleted at first: the gained network on the image itself
        with torch.no_grad(), with_gains(net, gains, task=task):
            whole = net(as_tensor(stimuli, None))[:, output].numpy()
        start = logit.sel(task=task, map="excess", direction="deletion").isel(fraction=0)
        np.testing.assert_allclose(start, whole, rtol=1e-5)
        assert np.abs(logit.sel(task=task, map="excess", direction="insertion").isel(fraction=0) - whole).min() > 1e-4
    again = causal_check(net, gains, stimuli, maps, **options)
    assert (again["logit"] == logit).all()
    assert not any(part._forward_hooks for part in net.modules())


def test_pixels_are_masked_where_the_layer_sees_them(gain_set: Any) -> None:
    """Cells at pixels 0, 4 and 8 of 12: stretched over the image, the middle one would lie at 5.5."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, stride=4, bias=False), nn.ReLU(), GlobalMean(), nn.Linear(1, 1, bias=False))
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[3].weight, 9.0)
    image = np.full((1, 1, 12, 12), 0.1, np.float32)
    image[0, 0, 4, 4] = 1.0
    stimuli, gains = load_stimuli(image, label=None), gain_set({"1": [2.0]})
    maps = gain_saliency(net, gains, stimuli, layer="1")
    found = causal_check(net, gains, stimuli, maps, maps=["excess"], fill="mean", output=0, fractions=[0, 1 / 144, 1])
    deleted = found["logit"].sel(direction="deletion", map="excess").values[0]
    np.testing.assert_allclose(deleted[:2], [2 * (0.8 + 1.0), 2 * (0.8 + image.mean())], rtol=1e-5)


def test_every_gain_set_has_its_own_order(noise: Any, gain_set: Any) -> None:
    """One task amplifies bright pixels, the other dark ones; the logit is the mean of the pixels."""
    net = mean_of_pixels()
    with torch.no_grad():
        net[0] = nn.Conv2d(1, 2, 1)
        net[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        net[0].bias.copy_(torch.tensor([0.0, 1.0]))
    stimuli, gains = noise(3, size=6), gain_set({"1": [[3.0, 1.0], [1.0, 3.0]]}, tasks=["bright", "dark"])
    maps = gain_saliency(net, gains, stimuli, layer="1")
    found = causal_check(net, gains, stimuli, maps, maps=["excess"], fill="mean", output=0, fractions=[0, 0.5, 1])
    pixels = np.sort(stimuli.images.reshape(3, -1).astype(float), axis=1)
    mean = pixels.mean(axis=1)
    half = found["logit"].sel(direction="deletion", map="excess", fraction=0.5)
    np.testing.assert_allclose(half.sel(task="bright"), 3 * (pixels[:, :18].sum(axis=1) / 36 + mean / 2), rtol=1e-5)
    np.testing.assert_allclose(half.sel(task="dark"), pixels[:, 18:].sum(axis=1) / 36 + mean / 2, rtol=1e-5)


def test_random_orders_are_drawn_by_the_seed(noise: Any, gain_set: Any) -> None:
    net, stimuli, gains = mean_of_pixels(), noise(4, size=6), gain_set({"1": [3.0, 1.0]})
    maps = gain_saliency(net, gains, stimuli, layer="1")

    def logit(seed: int, name: str = "random") -> np.ndarray:
        found = causal_check(net, gains, stimuli, maps, maps=["random", "excess"], fill="mean", output=0, seed=seed)
        return found["logit"].sel(map=name, direction="deletion").values

    assert (logit(1) == logit(1)).all()
    assert np.abs(logit(1) - logit(2))[:, 3:8].min() > 1e-6
    assert np.abs(logit(1) - logit(1, "excess"))[:, 3:8].min() > 1e-6
    ranks, _ = _ranks(maps, "random", (), (6, 6), np.random.default_rng(1))
    assert ranks.shape == (1, 4, 36)
    assert len({tuple(one) for one in ranks[0].tolist()}) == 4
    assert all(sorted(one) == list(range(36)) for one in ranks[0].tolist())


def test_maps_without_an_order_have_a_reason(noise: Any, gain_set: Any) -> None:
    net, stimuli, gains = mean_of_pixels(), noise(4, size=6), gain_set({"1": [3.0, 1.0]})
    maps = gain_saliency(net, gains, stimuli, layer="1")
    maps["excess"].values[0] = 0.0
    maps["excess"].values[1] = 2.0
    found = causal_check(net, gains, stimuli, maps, output=0)
    assert found["status"].sel(map="excess").values.tolist() == ["dead", "constant", "ok", "ok"]
    assert set(found["status"].sel(map=["activation", "random"]).values.ravel()) == {"ok"}
    area = found["area"].sel(map="excess")
    assert np.isnan(area[:, :2]).all()
    np.testing.assert_allclose(found["area_mean"].sel(map="excess"), area[:, 2:].mean("stimulus"))
    silent = causal_check(net, gain_set({"1": [1.0, 1.0]}), stimuli, maps.assign(excess=0 * maps["excess"]), output=0)
    assert (silent["status"].sel(map="excess") == "dead").all()
    assert np.isnan(silent["area_mean"].sel(map="excess")).all()
    maps["excess"].values[2, 0, 0] = np.nan
    with pytest.raises(DataError, match="map 'excess' is not finite somewhere"):
        causal_check(net, gains, stimuli, maps, output=0)


def test_blur_keeps_flat_images_and_the_mean_of_others() -> None:
    flat = torch.full((1, 2, 9, 9), 0.7)
    torch.testing.assert_close(_filled(flat, "blur", None), flat)
    spot = torch.zeros(1, 1, 41, 41)
    spot[0, 0, 20, 20] = 1
    blurred = _filled(spot, "blur", 2.0)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
    rows = torch.arange(41.0) - 20
    assert float((blurred.sum(1) * rows**2).sum()) == pytest.approx(4, rel=0.05)  # the SD that was asked for
    torch.testing.assert_close(blurred, blurred.T)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fill": "noise"}, ConfigError, "unknown fill 'noise'"),
        ({"fractions": [0, 0.5]}, ConfigError, "ascend from 0 to 1"),
        ({"maps": ["relevance"]}, ConfigError, "unknown map 'relevance'"),
        ({"blur_sd": 0.0}, ConfigError, "SD above 0 pixels"),
    ],
)
def test_what_cannot_be_checked(noise: Any, gain_set: Any, options: dict[str, Any], error: type, message: str) -> None:
    net, gains, stimuli = mean_of_pixels(), gain_set({"1": [2.0, 1.0]}), noise(2, size=6)
    maps = gain_saliency(net, gains, stimuli, layer="1")
    with pytest.raises(error, match=message):
        causal_check(net, gains, stimuli, maps, output=0, **options)
    with pytest.raises(DataError, match="came maps of others"):
        causal_check(net, gains, noise(2, size=6, seed=3), maps, output=0)
    with pytest.raises(DataError, match="place of these maps in the image is not known"):
        causal_check(net, gains, stimuli, maps.assign_attrs(geometry="cell index"), output=0)


def test_maps_of_another_size_of_the_input_are_refused(noise: Any, gain_set: Any) -> None:
    net, gains, stimuli = mean_of_pixels(), gain_set({"1": [2.0, 1.0]}), noise(2, size=12)

    def halved(raw: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(raw[:, ::2, ::2].copy())

    maps = gain_saliency(net, gains, stimuli, layer="1", preprocess=halved)
    assert np.isfinite(causal_check(net, gains, stimuli, maps, output=0, preprocess=halved)["area_mean"]).all()
    with pytest.raises(DataError, match=r"input of 12 × 12 pixels; came maps made at 6 × 6; make them"):
        causal_check(net, gains, stimuli, maps, output=0)


@pytest.mark.parametrize("name", ["top_map", "dominant_channel", "top_channel", "path_sum"])
def test_what_is_no_map_of_an_image_ranks_no_pixels(noise: Any, gain_set: Any, name: str) -> None:
    net, gains, stimuli = mean_of_pixels(), gain_set({"1": [2.0, 1.0]}), noise(2, size=6)
    maps = gain_saliency(net, gains, stimuli, layer="1", methods="path", output=0, top=1)
    assert name in maps
    with pytest.raises(ConfigError, match=f"unknown map '{name}'; choose one of: .*path_integrated"):
        causal_check(net, gains, stimuli, maps, maps=[name], output=0)
