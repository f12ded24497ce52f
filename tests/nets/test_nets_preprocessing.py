"""Preprocessing against torchvision's own transforms, closed forms, and what must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.nets.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

PLAIN = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)


def photograph(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Smooth structure with noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y), np.sin(15 * x * y)], axis=2)
    return np.clip(127 + 100 * waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8)


@given(height=st.integers(40, 90), width=st.integers(40, 90), size=st.integers(24, 64), cut=st.integers(0, 23))
@settings(max_examples=25, deadline=None)
def test_files_go_through_exactly_what_torchvision_does(height: int, width: int, size: int, cut: int) -> None:
    raw = photograph(height, width)
    reference = transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size - cut),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    came = Preprocessing(size=size, interpolation="bicubic", crop=size - cut)(raw)
    assert came.dtype == torch.float32
    torch.testing.assert_close(came, reference(Image.fromarray(raw)), rtol=0, atol=1e-6)


def test_bilinear_differs_from_bicubic_and_both_match_torchvision() -> None:
    raw = photograph(80, 100)
    came = {}
    for name in ("bilinear", "bicubic", "nearest", "lanczos"):
        mode = transforms.InterpolationMode(name)
        reference = transforms.ToTensor()(transforms.Resize(32, interpolation=mode)(Image.fromarray(raw)))
        came[name] = Preprocessing(size=32, interpolation=name, mean=(0.0,) * 3, std=(1.0,) * 3)(raw)
        torch.testing.assert_close(came[name], reference, rtol=0, atol=1e-6)
    assert not torch.allclose(came["bilinear"], came["bicubic"], atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(80, 100), (32, 100), (32, 32), (20, 24)])
def test_square_resizes_both_sides_as_torchvision_does(height: int, width: int) -> None:
    raw = photograph(height, width)
    reference = transforms.Compose([transforms.Resize((32, 32)), transforms.CenterCrop(24), transforms.ToTensor()])
    square = Preprocessing(size=32, crop=24, square=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    torch.testing.assert_close(square(raw), reference(Image.fromarray(raw)), rtol=0, atol=1e-6)
    whole = Preprocessing(size=32, square=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert whole(raw.transpose(2, 0, 1).astype(np.float32) / 255).shape == (3, 32, 32)


def test_scale_255_and_channel_order_by_hand() -> None:
    raw = np.zeros((2, 2, 3), np.uint8)
    raw[..., 0], raw[..., 2] = 255, 127
    lite = Preprocessing(scale="255", mean=(127.0,) * 3, std=(128.0,) * 3)
    assert lite(raw)[:, 0, 0].tolist() == [1.0, -127 / 128, 0.0]
    caffe = Preprocessing(scale="255", mean=(103.939, 116.779, 123.68), std=(1.0,) * 3, channel_order="BGR")
    torch.testing.assert_close(caffe(raw)[:, 0, 0], torch.tensor([127 - 103.939, -116.779, 255 - 123.68]))


def test_grey_networks_and_grey_images() -> None:
    grey = Preprocessing(mean=(0.0,), std=(1.0,), channel_order="L")
    raw = photograph(20, 20)
    assert grey(raw).shape == (1, 20, 20)
    unit = torch.from_numpy(raw).permute(2, 0, 1) / 255
    assert float((grey(unit) - grey(raw)).abs().max()) < 1.01 / 255  # PIL rounds to whole grey levels
    assert torch.equal(PLAIN(unit[:1]), unit[:1].expand(3, -1, -1))


def test_arrays_are_taken_at_their_own_size_unless_one_is_set() -> None:
    unit = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(PLAIN(unit), unit)
    assert torch.equal(PLAIN(unit.numpy()), unit)
    same = Preprocessing(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert torch.equal(same(unit), unit)
    larger = Preprocessing(size=96, mean=(0.0,) * 3, std=(1.0,) * 3)(unit)
    assert larger.shape == (3, 96, 96)
    assert 0 <= float(larger.min()) <= float(larger.max()) <= 1
    cropped = Preprocessing(size=256, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert torch.equal(cropped(unit), unit)
    inner = Preprocessing(crop=20, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert torch.equal(inner(unit), unit[:, 6:26, 6:26])


def test_arrays_are_resized_as_pil_resizes_files() -> None:
    raw = photograph(64, 48)
    plain = Preprocessing(size=24, interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
    unit = torch.from_numpy(raw).permute(2, 0, 1).float() / 255
    assert float((plain(unit) - plain(raw)).abs().max()) < 0.01


def test_the_given_image_is_left_alone() -> None:
    raw, unit = photograph(30, 30), torch.rand(3, 30, 30)
    before_raw, before_unit = raw.copy(), unit.clone()
    raw.flags.writeable = False
    network_input = Preprocessing(size=20)(raw)
    Preprocessing()(unit).add_(1.0)
    network_input.add_(1.0)
    assert (raw == before_raw).all()
    assert torch.equal(unit, before_unit)
    shown = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)(unit)
    shown.add_(1.0)
    assert torch.equal(unit, before_unit)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 image \(H, W, 3\)"),
        (np.zeros((3, 4, 4), np.uint8), r"came \(3, 4, 4\)"),
        (np.zeros((4, 4, 3), np.int64), "came int64"),
        (np.zeros((4, 4, 3), np.float32), "move channels first"),
        (np.full((3, 4, 4), 2.0), r"in \[0, 1\]; came \[2, 2\]"),
        (np.full((3, 4, 4), np.nan), r"in \[0, 1\]; came \[nan, nan\]"),
        (np.zeros((0, 4, 3), np.uint8), r"came \(0, 4, 3\)"),
    ],
)
def test_other_images_are_refused(raw: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing()(raw)


def test_an_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(DataError, match="central 8 x 8 pixels were wanted of an image of 4 x 9"):
        Preprocessing(crop=8)(np.zeros((4, 9, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"scale": "256"}, "unknown scale"),
        ({"channel_order": "GBR"}, "unknown channel order"),
        ({"mean": (0.5,)}, "mean must hold 3 finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"size": 0}, "size must be a number of pixels above 0"),
        ({"size": 64, "crop": 96}, "crop 96 is larger"),
        ({"square": True}, "came no size; give it"),
    ],
)
def test_impossible_fields_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**options)  # type: ignore[arg-type]


def test_description_tells_settings_apart() -> None:
    settings_ = [
        Preprocessing(),
        Preprocessing(size=256),
        Preprocessing(size=256, crop=224),
        Preprocessing(size=256, crop=224, square=True),
        Preprocessing(size=256, crop=224, interpolation="bicubic"),
        Preprocessing(scale="255"),
        Preprocessing(channel_order="BGR"),
        Preprocessing(mean=(0.5,) * 3),
    ]
    assert len({one.describe() for one in settings_}) == len(settings_)


@pytest.mark.parametrize(
    "given_settings", [{"size": 12}, {"size": 12, "crop": 8}, {"size": 10, "square": True}, {"crop": 9}]
)
@pytest.mark.parametrize("decoded", [True, False])
def test_which_pixels_of_the_raw_image_are_shown(given_settings: dict[str, Any], decoded: bool) -> None:
    """The row and the column of each pixel as its colours: what is shown is what is said to be."""
    height, width = 17, 23
    rows, columns = np.indices((height, width))
    raw = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    chain = Preprocessing(**given_settings, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = chain(raw if decoded else (raw / 255).astype(np.float32).transpose(2, 0, 1)).numpy() * 255
    row, column = chain.pixels_shown(height, width, decoded=decoded)
    assert (len(row), len(column)) == seen.shape[1:]
    np.testing.assert_allclose(seen[0].mean(axis=1), row, atol=1.3)
    np.testing.assert_allclose(seen[1].mean(axis=0), column, atol=1.3)
    top, left, bottom, right = chain.window(height, width, decoded=decoded)
    step = (bottom - top) / len(row), (right - left) / len(column)
    np.testing.assert_allclose(row, top + (np.arange(len(row)) + 0.5) * step[0] - 0.5, atol=0.51)
    np.testing.assert_allclose(column, left + (np.arange(len(column)) + 0.5) * step[1] - 0.5, atol=0.51)
    picture = chain.picture(raw)
    assert picture.shape == (len(row), len(column), 3)
