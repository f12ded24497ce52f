"""Public functions of saliency: pictures in their place, joins by label, nulls made as maps were, clear refusals."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

import featattn_neuro as fa
from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.adapters import Network
from featattn_neuro.nets.architectures import GlobalMean
from featattn_neuro.report import saliency_overlays

TASKS = ["a", "b", "c"]


def gain_set(per_layer: dict[str, Any], tasks: list[str] | None = None) -> xr.Dataset:
    values = {layer: np.asarray(gain, dtype=float) for layer, gain in per_layer.items()}
    unit = [f"{layer}/{k:03d}" for layer, gain in values.items() for k in range(gain.shape[-1])]
    coords: dict[str, Any] = {
        "unit": unit,
        "layer": ("unit", [one.rsplit("/", 1)[0] for one in unit]),
        "channel": ("unit", [int(one.rsplit("/", 1)[1]) for one in unit]),
    }
    dims = ("unit",) if tasks is None else ("task", "unit")
    gain = np.concatenate(list(values.values()), axis=-1)
    return xr.Dataset(
        {"gain": (dims, gain)}, coords | ({} if tasks is None else {"task": tasks}), {"kind": "GAINS"}
    )  # fmt: skip


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        GlobalMean(), nn.Linear(6, 3),
    ).eval()  # fmt: skip


@pytest.fixture
def case() -> dict[str, Any]:
    """A network, five images, gains of three tasks at two layers, masks of two objects labelled as tasks."""
    rng = np.random.default_rng(3)
    stimuli = fa.load_stimuli(rng.random((5, 1, 12, 12), dtype=np.float32), label=["a", "b", "c", "a", "b"])
    gains = gain_set({"1": np.exp(rng.standard_normal((3, 4))), "4": np.exp(rng.standard_normal((3, 6)))}, TASKS)
    flags = np.zeros((5, 2, 12, 12), np.uint8)
    flags[:, 0, 1:6, 1:6] = 1
    flags[:, 1, 6:11, 6:11] = 1
    labels = np.array([["a", "b"], ["b", "c"], ["c", "a"], ["a", "c"], ["b", "a"]])
    masks = xr.Dataset(
        {"mask": (("stimulus", "object", "y", "x"), flags)},
        {"object_label": (("stimulus", "object"), labels), "stimulus": stimuli.id},
        {"kind": "MASKS"},
    )
    net = small_network()
    maps = fa.gain_saliency(net, gains, stimuli, layer="4")
    return {"net": net, "stimuli": stimuli, "gains": gains, "masks": masks, "maps": maps}


# -- pictures


def centre_of_the_spot(figure: Any, axes: Any) -> tuple[float, float]:
    """Row and column, in pixels of the picture, of the middle of the strongest cell that is drawn."""
    shown = axes.images[-1]
    values = np.asarray(shown.get_array())
    row, column = np.unravel_index(values.argmax(), values.shape)
    left, right, bottom, top = shown.get_extent()
    return (
        top + (row + 0.5) * (bottom - top) / values.shape[0],
        left + (column + 0.5) * (right - left) / values.shape[1],
    )


def test_pictures_show_the_image_as_the_network_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spot in a photograph that is resized and cropped: the map's spot lies on the picture's spot."""
    raw = np.full((100, 140, 3), 10, np.uint8)
    raw[38:53, 48:63] = 255  # middle at row 45.5, column 55.5
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.fromarray(raw).save(tmp_path / "images" / "a" / "x.png")
    stimuli = fa.load_stimuli(str(tmp_path / "images"))
    copying = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4)).eval()
    nn.init.constant_(copying[0].weight, 1 / 3)
    preprocess = fa.Preprocessing(size=64, crop=48, mean=(0.0,) * 3, std=(1.0,) * 3)
    maps = fa.gain_saliency(Network("copying", copying, preprocess), gain_set({"2": [2.0]}), stimuli, layer="2")
    drawn: list[Any] = []
    for name in ("saliency_overlays", "contact_sheet"):
        draw = getattr(saliency_overlays, name)
        monkeypatch.setattr(
            saliency_overlays, name,
            lambda images, *rest, draw=draw, **said: (
                drawn.append((images, draw(images, *rest, **said))) or drawn[-1][1]
            ),
        )  # fmt: skip
    fa.picture_saliency(stimuli, maps, tmp_path / "pictures")
    # 140 columns become 89 (whole pixels), of which the middle 48 are kept
    wanted = 45.5 * 64 / 100 - (64 - 48) / 2, 55.5 * 89 / 140 - round((89 - 48) / 2)
    for (images, figure), axes in zip(drawn, (3, 1), strict=True):
        (image,) = images.values()
        assert image.shape == (48, 48, 3)
        bright = np.argwhere(image.mean(axis=2) > 0.5).mean(axis=0) + 0.5
        np.testing.assert_allclose(bright, wanted, atol=0.7)
        np.testing.assert_allclose(centre_of_the_spot(figure, figure.axes[axes]), wanted, atol=2.1)  # half a cell
    bare = maps.copy()
    bare.attrs = {k: v for k, v in maps.attrs.items() if not k.startswith("input_")}
    with pytest.raises(DataError, match=r"wanted pictures of 48 × 48 pixels, as the network sees them; came 100 × 140"):
        fa.picture_saliency(stimuli, bare, tmp_path / "pictures")


def test_pictures_of_some_of_the_stimuli_and_of_chosen_ones(case: dict[str, Any], tmp_path: Path) -> None:
    stimuli, one = case["stimuli"], case["maps"].sel(task="a")
    assert len(fa.picture_saliency(stimuli.select([0, 2]), one, tmp_path)) == 2
    shown = saliency_overlays.chosen_images(one.sel(stimulus=stimuli.id[[0, 2]]), 5)
    assert set(shown) == set(stimuli.id[[0, 2]].tolist())
    assert len(fa.picture_saliency(stimuli, one, tmp_path, show=[stimuli.id[3][:10], stimuli.id[1]])) == 2
    others = fa.load_stimuli(np.zeros((1, 1, 12, 12), np.float32), label=None)
    with pytest.raises(DataError, match="no picture has a map"):
        fa.picture_saliency(others, one, tmp_path)
    with pytest.raises(DataError, match="whose id begins with 'zz', or of that path; came 0"):
        fa.picture_saliency(stimuli, one, tmp_path, show=["zz"])
    with pytest.raises(ConfigError, match="wanted one image or more in show; came none; name some, or leave show out"):
        fa.picture_saliency(stimuli, one, tmp_path, show=[])
    with pytest.raises(ConfigError, match="count must be 1 or more; came 0"):
        fa.picture_saliency(stimuli, one, tmp_path, count=0)


def sources_in_memory() -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 12, 12, 3), dtype=np.uint8)
    return {
        "bytes": pixels,
        "PIL": [Image.fromarray(one) for one in pixels],
        "dataset": torch.utils.data.TensorDataset(torch.rand(3, 3, 12, 12), torch.tensor([7, 8, 7])),
    }


@pytest.mark.parametrize("kind", ["bytes", "PIL", "dataset"])
def test_pictures_and_scores_take_what_maps_are_made_of(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval()
    stimuli, gains = sources_in_memory()[kind], gain_set({"1": [2.0, 1.0, 0.5, 1.0]})
    maps = fa.gain_saliency(net, gains, stimuli, layer="1", top=1)
    files = fa.picture_saliency(stimuli, maps, tmp_path, show=[str(maps["stimulus"].values[1])])
    assert all(file.is_file() for file in files)
    ids, table = maps["stimulus"].values.tolist(), tmp_path / "boxes.csv"
    table.write_text("stimulus,top,left,bottom,right\n" + "\n".join(f"{one},1,1,5,5" for one in ids))
    found = fa.score_saliency(net, gains, stimuli, maps, boxes=table, permutations=2)
    assert np.isfinite(found["localisation_mean"].sel(map="excess", localiser="auc_judd")).all()
    table.write_text(f"stimulus,top,left,bottom,right\n{ids[0]},1,1,5,5\n{ids[2]},1,1,5,5")
    with pytest.raises(DataError, match=rf"no mask for 1 of 3 images, one is item 1 \(id {ids[1][:12]}"):
        fa.score_saliency(net, gains, stimuli, maps, boxes=table)
    table.write_text("path,top,left,bottom,right\na.png,1,1,5,5")
    with pytest.raises(DataError, match="names images by path; those of the dataset have none; name them by id"):
        fa.score_saliency(net, gains, stimuli, maps, boxes=table)
    with pytest.raises(DataError, match="matched by file name; those of the dataset have none; use boxes with ids"):
        fa.score_saliency(net, gains, stimuli, maps, segments=tmp_path)


def test_pictures_of_two_channels_are_refused(tmp_path: Path) -> None:
    stimuli = fa.load_stimuli(np.random.default_rng(0).random((2, 2, 8, 8), dtype=np.float32), label=None)
    maps = fa.gain_saliency(
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), gain_set({"1": [2.0, 1.0]}), stimuli, layer="1"
    )
    with pytest.raises(DataError, match="wanted images of 1 or 3 channels to draw; came 2"):
        fa.picture_saliency(stimuli, maps, tmp_path)


def test_one_scale_for_all_tasks(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains of one task are weak, of the other strong: the pictures say so."""
    gains = gain_set({"4": np.stack([np.full(6, 1.1), np.full(6, 9.0)])}, ["weak", "strong"])
    maps = fa.gain_saliency(case["net"], gains, case["stimuli"], layer="4", top=2)
    figures: list[Any] = []
    for name in ("saliency_overlays", "contact_sheet"):
        draw = getattr(saliency_overlays, name)
        monkeypatch.setattr(
            saliency_overlays, name,
            lambda *rest, draw=draw, **said: figures.append(draw(*rest, **said)) or figures[-1],
        )  # fmt: skip
    fa.picture_saliency(case["stimuli"], maps, tmp_path)
    reach = float(abs(maps["excess"]).max())
    limits = {
        axes.images[-1].get_clim()
        for figure in figures[1::2]
        for axes in figure.axes
        if axes.images and axes.images[-1].get_cmap().name == "RdBu_r"
    }
    assert limits == {(-reach, reach)}
    for column in (1, 3, 4):  # un-gained, difference, strongest filter
        assert len({figure.axes[column].images[-1].get_clim() for figure in figures[::2]}) == 1


# -- gain sets are joined by label


def test_the_causal_check_joins_maps_by_label(case: dict[str, Any]) -> None:
    net, stimuli, gains, maps = (case[name] for name in ("net", "stimuli", "gains", "maps"))
    options: dict[str, Any] = {"maps": ["excess", "activation"], "fractions": [0, 0.25, 0.5, 1]}
    wanted = fa.causal_check(net, gains, stimuli, maps, output=[0, 1, 2], **options)
    turned = fa.causal_check(net, gains, stimuli, maps.sel(task=["c", "a", "b"]), output=[0, 1, 2], **options)
    xr.testing.assert_allclose(turned["logit"], wanted["logit"])
    some = fa.causal_check(net, gains.sel(task=["b"]), stimuli, maps, output=1, **options)
    xr.testing.assert_allclose(some["logit"], wanted["logit"].sel(task=["b"]))
    one = fa.causal_check(net, gains.sel(task="b"), stimuli, maps, output=1, **options)
    np.testing.assert_allclose(one["logit"], wanted["logit"].sel(task="b"), rtol=1e-6)
    alone = fa.gain_saliency(net, gains, stimuli, layer="4", task="b")
    assert alone["task"].item() == "b"
    again = fa.causal_check(net, gains.sel(task="b"), stimuli, alone, output=1, **options)
    np.testing.assert_allclose(again["logit"], wanted["logit"].sel(task="b"), rtol=1e-6)
    for learned, shown, message in (
        (gains, maps.sel(task=["a", "c"]), "wanted maps of each task of the gains; came none of b"),
        (gains, alone, "wanted maps of each task of the gains; came those of b alone"),
        (gains, maps.sel(task="b", drop=True), "wanted maps of each task of the gains; came maps that name none"),
        (gains.sel(task="b", drop=True), maps, r"which of the tasks of the maps \(a, b, c\) these gains are"),
        (gains.sel(task="a"), alone, "wanted maps of task a; came those of b"),
        (gain_set({"1": np.ones(4)}), maps.sel(task="a", drop=True), "maps of layer '4'; these gains act on 1"),
    ):
        with pytest.raises(DataError, match=message):
            fa.causal_check(net, learned, stimuli, shown, output=0, **options)


@pytest.mark.parametrize("selected", ["one", ["one"]], ids=["label", "dimension"])
def test_a_selected_gain_set_keeps_its_name(case: dict[str, Any], selected: Any) -> None:
    """What error messages advise, .sel(gain_set=…), is taken everywhere, and answers as gains without a name."""
    net, stimuli, gains, masks = (case[name] for name in ("net", "stimuli", "gains", "masks"))
    sets = xr.concat([gains, gains.copy(data={"gain": 1 / gains["gain"].values})], "gain_set", data_vars=["gain"])
    chosen = sets.assign_coords(gain_set=["one", "two"]).sel(gain_set=selected)
    dims = () if isinstance(selected, str) else ("gain_set",)
    maps = fa.gain_saliency(net, chosen, stimuli, layer="4")
    assert maps["excess"].dims[: len(dims)] == dims
    assert maps["gain_set"].values.tolist() == selected
    np.testing.assert_array_equal(maps["excess"].values.squeeze(), case["maps"]["excess"].values)
    curves = fa.causal_check(net, chosen, stimuli, maps, output=[0, 1, 2], fractions=[0, 0.5, 1])
    assert curves["gain_set"].values.tolist() == selected
    plain = fa.causal_check(net, gains, stimuli, case["maps"], output=[0, 1, 2], fractions=[0, 0.5, 1])
    np.testing.assert_array_equal(curves["logit"].values.squeeze(), plain["logit"].values)
    found = fa.score_saliency(net, chosen, stimuli, maps, masks=masks, permutations=3)
    wanted = fa.score_saliency(net, gains, stimuli, case["maps"], masks=masks, permutations=3)
    for name in ("localisation", "localisation_null"):
        np.testing.assert_array_equal(found[name].values.squeeze(), wanted[name].values.squeeze())


def observed(found: xr.Dataset) -> np.ndarray:
    return found["localisation_mean"].sel(map="excess").values.ravel()


def test_the_null_is_that_of_the_maps_of_one_task(case: dict[str, Any]) -> None:
    net, stimuli, gains, masks = (case[name] for name in ("net", "stimuli", "gains", "masks"))
    one = fa.gain_saliency(net, gains, stimuli, layer="4", task="b")
    right = fa.score_saliency(net, gains.sel(task="b", drop=True), stimuli, one, masks=masks, permutations=20)
    found = fa.score_saliency(net, gains, stimuli, one, masks=masks, permutations=20)
    xr.testing.assert_allclose(found["localisation_null"], right["localisation_null"])
    unnamed = one.drop_vars("task")
    with pytest.raises(DataError, match=r"which of the tasks of the gains \(a, b, c\) these maps are"):
        fa.score_saliency(net, gains, stimuli, unnamed, masks=masks, permutations=20)
    with pytest.raises(DataError, match="wanted gains of the maps' task; came none of b"):
        fa.score_saliency(net, gains.sel(task=["a", "c"]), stimuli, one, masks=masks, permutations=20)


def test_one_task_is_scored_on_its_object_however_it_was_chosen(case: dict[str, Any]) -> None:
    """By a text, by a list, or by selecting gains: the object of that label is cued, in the scores and in the null."""
    net, stimuli, gains, masks = (case[name] for name in ("net", "stimuli", "gains", "masks"))
    text, several = (fa.gain_saliency(net, gains, stimuli, layer="4", task=task) for task in ("b", ["b"]))
    selected = fa.gain_saliency(net, gains.sel(task="b"), stimuli, layer="4")
    wanted = fa.score_saliency(net, gains, stimuli, several, masks=masks, permutations=20)
    cued = (masks["object_label"] == "b").values
    scored = np.isfinite(wanted["localisation"].sel(localiser="auc_judd", map="excess").values[0])
    assert scored.tolist() == cued.any(axis=1).tolist() == [True, True, False, False, True]
    whole = fa.score_saliency(net, gains, stimuli, case["maps"], masks=masks, permutations=1)
    assert not np.allclose(whole["localisation_mean"], wanted["localisation_mean"], equal_nan=True)
    for maps in (text, several, selected):
        for learned in (gains, gains.sel(task=["b"]), gains.sel(task="b"), gains.sel(task="b", drop=True)):
            found = fa.score_saliency(net, learned, stimuli, maps, masks=masks, permutations=20)
            for name in ("localisation", "localisation_null", "localisation_p"):
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, err_msg=name)
    # without a name, or without labels, the first object is cued, in both
    bare, nameless = text.drop_vars("task"), masks.drop_vars("object_label")
    first = fa.score_saliency(net, gains.sel(task="b"), stimuli, bare, masks=masks, permutations=20)
    again = fa.score_saliency(net, gains, stimuli, text, masks=nameless, permutations=20)
    for name in ("localisation", "localisation_null"):
        np.testing.assert_allclose(first[name], again[name])


@pytest.mark.parametrize("upstream", [False, True])
def test_equal_gains_are_their_own_null(case: dict[str, Any], upstream: bool) -> None:
    """Where all filters of the layer share one gain, permuting them changes nothing, whatever is upstream."""
    rng = np.random.default_rng(0)
    gains = gain_set({"1": np.exp(rng.standard_normal(4)), "4": np.full(6, 2.0)})
    maps = fa.gain_saliency(case["net"], gains, case["stimuli"], layer="4", upstream=upstream)
    found = fa.score_saliency(case["net"], gains, case["stimuli"], maps, masks=case["masks"], permutations=3)
    for draw in range(3):
        np.testing.assert_allclose(found["localisation_null"].values[:, 0, draw], observed(found), rtol=1e-4)
    assert (found["localisation_p"] == 1).all()


def test_the_null_leaves_out_the_filters_that_the_maps_leave_out(case: dict[str, Any]) -> None:
    gains = gain_set({"4": [2.0, 2.0, 2.0, 9.0, 0.1, 5.0]})
    live = xr.DataArray([1, 1, 1, 0, 0, 0], {"unit": [f"4/{k:03d}" for k in range(6)]}, "unit")
    maps = fa.gain_saliency(case["net"], gains, case["stimuli"], layer="4", live=live)
    assert maps.attrs["filters_left_out"] == "3,4,5"
    found = fa.score_saliency(case["net"], gains, case["stimuli"], maps, masks=case["masks"], permutations=3)
    for draw in range(3):
        np.testing.assert_allclose(found["localisation_null"].values[:, 0, draw], observed(found), rtol=1e-4)
    assert fa.gain_saliency(case["net"], gains, case["stimuli"], layer="4").attrs["filters_left_out"] == ""


# -- gains of another network


def learned_on(network: Network, images: np.ndarray) -> xr.Dataset:
    return fa.learn_gains(network, images, [True, False] * (len(images) // 2), ["relu3"], epochs=1)


def test_gains_of_another_network_are_refused() -> None:
    images = np.random.default_rng(0).random((6, 1, 12, 12), dtype=np.float32)
    first, other = (fa.load_model("digits_cnn", weights="random", seed=seed) for seed in (0, 1))
    gains = learned_on(first, images)
    maps = fa.gain_saliency(first, gains, images, layer="relu3")
    calls = (
        lambda net: fa.gain_saliency(net, gains, images, layer="relu3"),
        lambda net: fa.saliency_by_layer(net, gains, images, "relu3"),
        lambda net: fa.causal_check(net, gains, images, maps, fractions=[0, 1]),
        lambda net: fa.score_saliency(net, gains, images, maps, masks=xr.Dataset()),
    )
    for call in calls:
        with pytest.raises(DataError, match=rf"gains of other weights \({gains.attrs['weights_sha256'][:12]}…"):
            call(other)
    # the same weights in a bare module, in a copy, and while gains are placed; or another network that is meant
    for module in (first.module, copy.deepcopy(first.module)):
        xr.testing.assert_identical(fa.gain_saliency(module, gains, images, layer="relu3"), maps)
    with fa.with_gains(first.module, gains):
        fa.gain_saliency(first, gains, images, layer="relu3")
    meant = gains.copy()
    del meant.attrs["weights_sha256"]
    fa.gain_saliency(other, meant, images, layer="relu3")


def test_every_gained_layer_must_be_there(case: dict[str, Any]) -> None:
    net, stimuli = case["net"], case["stimuli"]
    with pytest.raises(ConfigError, match="'zzz'"):
        fa.gain_saliency(net, gain_set({"4": np.ones(6), "zzz": np.ones(6)}), stimuli, layer="4")
    wrong = gain_set({"4": np.ones(6), "1": np.ones(9)})
    with pytest.raises(DataError, match="'1' has 4 filters; came 9 gains"):
        fa.gain_saliency(net, wrong, stimuli, layer="4")
    short = gain_set({"4": np.linspace(1, 2, 5)})
    with pytest.raises(DataError, match="'4' has 6 filters; came 5 gains"):
        fa.score_saliency(
            net, short, stimuli, case["maps"].sel(task="a", drop=True), masks=case["masks"], permutations=3
        )


# -- what is not finite, and what the network does not take


class Root(nn.Module):
    """Mean over places, and its root: the slope at 0 is infinite."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).sqrt()


@pytest.mark.parametrize("method", ["gain_gradient", "gradcam", "path"])
def test_gradients_that_are_not_finite(case: dict[str, Any], method: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Root(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[0].bias.zero_()
        net[0].weight[0] = -1.0  # silent on positive images
    gains = gain_set({"1": [2.0, 1.5, 0.5, 3.0]})
    with pytest.raises(DataError, match="gradient of the logit at layer '1' is not finite for 5 of 5 images"):
        fa.gain_saliency(net, gains, case["stimuli"], layer="1", methods=method, output=0)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_logits_and_weights_that_are_not_finite(case: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), GlobalMean(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[3].weight[0, 0] = float("inf")
    gains, stimuli = gain_set({"1": [2.0, 1.5, 0.5, 3.0]}), case["stimuli"]
    maps = fa.gain_saliency(net, gains, stimuli, layer="1")
    with pytest.raises(DataError, match="logit is not finite"):
        fa.causal_check(net, gains, stimuli, maps, output=0, fractions=[0, 1])
    for method in ("gain_gradient", "gradcam", "path"):
        with pytest.raises(DataError, match="logit is not finite"):
            fa.gain_saliency(net, gains, stimuli, layer="1", methods=method, output=0)
    with pytest.raises(DataError, match="weights of the read-out are not finite"):
        fa.gain_saliency(net, gains, stimuli, layer="1", methods="class_weighted", output=0)


class Checking(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.conv, self.relu, self.error = nn.Conv2d(1, 2, 3), nn.ReLU(), error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != 8:
            raise self.error
        return self.relu(self.conv(images))


@pytest.mark.parametrize(
    "error",
    [AssertionError("Wrong image height! Expected 8 but got 12!"), AssertionError(), ValueError("input size 12")],
)
def test_networks_that_refuse_a_size(case: dict[str, Any], error: Exception) -> None:
    with pytest.raises(DataError, match=r"does not take images of shape \(1, 12, 12\)"):
        fa.gain_saliency(Checking(error), gain_set({"relu": [2.0, 1.0]}), case["stimuli"], layer="relu")


# -- facts that travel with the maps


@pytest.mark.parametrize(("layer", "signed"), [("4", "no"), ("3", "yes"), ("2", "no")])
def test_maps_say_whether_they_are_signed(case: dict[str, Any], layer: str, signed: str) -> None:
    for relative in (None, False):
        n = 4 if layer == "2" else 6
        maps = fa.gain_saliency(
            case["net"], gain_set({layer: np.ones(n)}), case["stimuli"], layer=layer, relative=relative
        )
        assert maps.attrs["signed_maps"] == signed


def test_several_layers_are_written_while_they_are_made(case: dict[str, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 2, "task": "b"}
    wanted = fa.saliency_by_layer(case["net"], case["gains"], case["stimuli"], ["1", "4"], **options)
    found = fa.saliency_by_layer(
        case["net"], case["gains"], case["stimuli"], ["1", "4"], out=tmp_path / "maps", **options
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["1.zarr", "4.zarr"]
    for layer, maps in found.items():
        assert maps["excess"].chunks is not None
        xr.testing.assert_equal(maps["excess"].load(), wanted[layer]["excess"])
    shutil.rmtree(tmp_path / "maps")
