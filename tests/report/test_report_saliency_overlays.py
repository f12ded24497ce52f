"""Pictures of saliency show what they were given, in its place, on one scale that is centred at zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.report.saliency_figures import localisation_figure
from featattn_neuro.report.saliency_overlays import chosen_images, contact_sheet, placed_extent, saliency_overlays
from featattn_neuro.report.style import png_bytes, save_figure, svg_bytes

IDS = ["i", "j", "k"]


@pytest.fixture
def maps() -> xr.Dataset:
    rng = np.random.default_rng(0)
    excess = rng.standard_normal((2, 3, 4, 4)) * np.array([1.0, 3.0, 2.0])[:, None, None]
    return xr.Dataset(
        {
            "excess": (("task", "stimulus", "y", "x"), excess),
            "activation": (("stimulus", "y", "x"), rng.random((3, 4, 4)) + 10),
            "top_channel": (("task", "stimulus", "rank"), rng.integers(0, 9, (2, 3, 2))),
            "top_total": (("task", "stimulus", "rank"), rng.standard_normal((2, 3, 2))),
            "top_map": (("task", "stimulus", "rank", "y", "x"), rng.standard_normal((2, 3, 2, 4, 4))),
        },
        {"task": ["a", "b"], "stimulus": IDS, "y": 1.5 + 4.0 * np.arange(4), "x": 1.5 + 4.0 * np.arange(4)},
        {
            "kind": "SALIENCY", "stride_y": 4.0, "stride_x": 4.0, "geometry": "pixels of the network's input",
            "image_height": 16, "image_width": 16,
        },
    )  # fmt: skip


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for name in IDS}


def test_overlays_show_the_maps_on_shared_scales(maps: xr.Dataset, images: dict[str, np.ndarray]) -> None:
    figure = saliency_overlays(images, maps, task="b", titles={"i": "a|b"})
    axes = figure.axes[: 3 * 6]
    for row, name in enumerate(IDS):
        shown = [np.asarray(one.images[-1].get_array()) for one in axes[6 * row : 6 * row + 6]]
        at = maps.sel(task="b", stimulus=name)
        np.testing.assert_array_equal(shown[0], images[name])
        np.testing.assert_allclose(shown[1], at["activation"])
        np.testing.assert_allclose(shown[2], at["activation"] + at["excess"])
        np.testing.assert_allclose(shown[3], at["excess"])
        np.testing.assert_allclose(shown[4], at["top_map"][0])
    for column in (1, 2, 3, 4, 5):
        limits = {axes[6 * row + column].images[-1].get_clim() for row in range(3)}
        assert len(limits) == 1  # no picture is rescaled by itself
        low, high = limits.pop()
        assert low == (0 if column < 3 else -high)
    assert axes[0].get_ylabel() == "a + b"
    assert png_bytes(figure) == png_bytes(saliency_overlays(images, maps, task="b", titles={"i": "a|b"}))


def texts(figure: Figure) -> str:
    return "\n".join(
        text for axes in figure.axes for text in (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) if text
    )


@pytest.mark.parametrize(("gauge", "symbol"), [("gain as given", "g"), ("gain divided by the layer's mean", "g/ḡ")])
def test_titles_and_scales_say_whether_gains_are_divided_by_their_mean(
    maps: xr.Dataset, images: dict[str, np.ndarray], gauge: str, symbol: str
) -> None:
    gained = "Σ g A" if symbol == "g" else "Σ (g/ḡ) A"
    overlays = texts(saliency_overlays(images, maps.assign_attrs(gauge=gauge), task="a"))
    sheet = texts(contact_sheet(images, maps.assign_attrs(gauge=gauge), task="a"))
    for text in (f"gained {gained}", f"Σ A, {gained}", f"Σ ({symbol} − 1) A", f"({symbol} − 1) A of one filter"):
        assert text in overlays.split("\n")
    assert f"Σ ({symbol} − 1) A" in sheet.split("\n")
    assert ("ḡ" in overlays) == ("ḡ" in sheet) == (symbol != "g")


def test_cells_lie_where_the_layer_sees(maps: xr.Dataset, images: dict[str, np.ndarray]) -> None:
    assert placed_extent(maps, images["i"]) == (0.0, 16.0, 16.0, 0.0)
    inner = maps.isel(y=slice(1, 3), x=slice(0, 2))
    assert placed_extent(inner, images["i"]) == (0.0, 8.0, 12.0, 4.0)
    with pytest.raises(DataError, match=r"pictures of 16 × 16 pixels, as the network sees them; came 32 × 48"):
        placed_extent(inner, np.zeros((32, 48)))  # a crop may lie anywhere in it
    # the middle 32 × 32 pixels of raw images of 40 × 48 are what the network is shown, at half the size
    cut = {
        "raw_height": 40,
        "raw_width": 48,
        "input_top": 4.0,
        "input_left": 8.0,
        "input_bottom": 36.0,
        "input_right": 40.0,
    }
    assert placed_extent(inner.assign_attrs(cut), np.zeros((40, 48)), raw=True) == (8.0, 24.0, 28.0, 12.0)
    blind = inner.assign_attrs(cut, geometry="cell index")
    assert placed_extent(blind, np.zeros((40, 48)), raw=True) == (8.0, 40.0, 36.0, 4.0)
    with pytest.raises(DataError, match=r"pictures of 40 × 48 pixels, raw; came 16 × 16"):
        placed_extent(inner.assign_attrs(cut), images["i"], raw=True)
    assert placed_extent(inner.assign_attrs(geometry="cell index"), images["i"]) == (0.0, 16.0, 16.0, 0.0)


def test_most_and_least_changed_images(maps: xr.Dataset) -> None:
    size = {name: float(abs(maps["excess"].sel(stimulus=name)).mean()) for name in IDS}
    order = sorted(IDS, key=lambda name: -size[name])
    assert chosen_images(maps, 2) == order[:2]
    assert chosen_images(maps, 2, which="least") == order[::-1][:2]
    with pytest.raises(ConfigError, match="unknown choice of images 'median'"):
        chosen_images(maps, 2, which="median")


def test_contact_sheets_hold_every_image_once(maps: xr.Dataset, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    figure = contact_sheet(images, maps, task="a", columns=2)
    visible = [one for one in figure.axes if one.images and one.get_visible()]
    assert len(visible) == 6
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = save_figure(figure, tmp_path / f"sheet{suffix}")
        assert path.read_bytes().startswith(start)
    first, second = (svg_bytes(contact_sheet(images, maps, task="a")) for _ in range(2))
    assert first == second
    with pytest.raises(ConfigError, match=r"end in .png or .svg"):
        save_figure(figure, tmp_path / "sheet.gif")


def test_user_mistakes(maps: xr.Dataset, images: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"of 2 tasks \(a, b\); say which"):
        saliency_overlays(images, maps)
    with pytest.raises(DataError, match="no map of image 'z'"):
        contact_sheet({"z": images["i"]}, maps, task="a")
    with pytest.raises(DataError, match="came no image"):
        contact_sheet({}, maps, task="a")
    with pytest.raises(DataError, match="have no activation"):
        saliency_overlays(images, maps.drop_vars("activation"), task="a")
    with pytest.raises(DataError, match="of one gain set; came s, t"):
        contact_sheet(
            images, xr.concat([maps[["excess"]]] * 2, "gain_set").assign_coords(gain_set=["s", "t"]), task="a"
        )
    with pytest.raises(DataError, match="scored against masks; came none"):
        localisation_figure({})
