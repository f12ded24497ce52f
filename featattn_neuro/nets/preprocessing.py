"""From a raw image to what a network was trained on: resize, crop, scale, channel order, mean and SD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor

from featattn_neuro.errors import ConfigError, DataError, choose

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORDERS = {"RGB": 3, "BGR": 3, "L": 1}
_SCALES = ("unit", "255")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a raw image before a network sees it; part of the weights' meaning, so it travels with them.

    Parameters
    ----------
    size : length in pixels of the shorter side after resizing, or None: the image's own size.
    interpolation : "nearest", "bilinear", "bicubic" or "lanczos"; of the resizing of uint8 images, done by PIL
        (antialiased).
    crop : side in pixels of the central square that is kept, or None: no crop.
    scale : "unit": pixels in [0, 1]; "255": pixels in [0, 255]. The units of `mean` and `std`.
    mean, std : per channel, in the order of `channel_order`: output = (pixel - mean) / std.
    channel_order : "RGB", "BGR" or "L" (one grey channel: 0.299 R + 0.587 G + 0.114 B).
    square : both sides are resized to `size`, so that nothing but `crop` is lost and shapes change ("squash" in timm).

    Raises
    ------
    ConfigError : a field that is out of its range.

    Examples
    --------
    >>> Preprocessing(scale="255", mean=(127.0,), std=(128.0,), channel_order="L")(
    ...     torch.ones(1, 1, 1)).tolist()  # (255 - 127) / 128
    [[[1.0]]]
    """

    size: int | None = None
    interpolation: str = "bilinear"
    crop: int | None = None
    scale: str = "unit"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: str = "RGB"
    square: bool = False

    def __post_init__(self) -> None:
        choose(self.interpolation, _FILTERS, "interpolation")
        choose(self.scale, _SCALES, "scale")
        channels = _ORDERS[choose(self.channel_order, _ORDERS, "channel order")]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(math.isfinite(value) for value in values):
                raise ConfigError(
                    f"{name} must hold {channels} finite numbers for channel order {self.channel_order}; "
                    f"came {values}; give one per channel"
                )
        if min(self.std) <= 0:
            raise ConfigError(f"std must be positive; came {self.std}; use 1.0 to leave the scale alone")
        for name, pixels in (("size", self.size), ("crop", self.crop)):
            if pixels is not None and pixels < 1:
                raise ConfigError(f"{name} must be a number of pixels above 0, or None; came {pixels}; change it")
        if self.size is not None and self.crop is not None and self.crop > self.size:
            raise ConfigError(
                f"crop {self.crop} is larger than the resized shorter side {self.size}; crop at most {self.size}"
            )
        if self.square and self.size is None:
            raise ConfigError("square says how to resize, and size says to how many pixels; came no size; give it")

    @property
    def channels(self) -> int:
        """Number of channels of the output: 3, or 1 for channel order "L"."""
        return _ORDERS[self.channel_order]

    @property
    def output_size(self) -> int | None:
        """Side in pixels of the square that comes out of square images; None where the image decides."""
        return self.crop if self.crop is not None else self.size

    def __call__(self, raw: np.ndarray | Tensor) -> Tensor:
        """Return what the network sees.

        Parameters
        ----------
        raw : uint8 (H, W, 3), RGB, 0-255, as decoded from a file: resized and cropped by PIL exactly as published;
            or floating point (C, H, W) in [0, 1], C = 1 or 3 (RGB): taken at its own size, unless `size` is set and
            its shorter side (`square`: either side) differs (then antialiased bicubic, clipped to [0, 1]) or `crop` is
            smaller. An image that is a square of side `crop` already is taken as it stands. One grey channel is
            repeated for networks with three.

        Returns
        -------
        float32 (channels, H', W').

        Raises
        ------
        DataError : another dtype or shape, values outside [0, 1] or not finite, or an image smaller than `crop`.
        """
        array = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
        if array.dtype == np.uint8:
            unit = self._from_pixels(array)
        elif array.dtype.kind == "f":
            # a copy, since arrays that were read from a file may not be writable, which torch warns of
            unit = self._from_unit(torch.from_numpy(array.astype(np.float32, copy=True)))
        else:
            raise DataError(
                "wanted a raw image as uint8 (H, W, 3) or floating point (C, H, W) in [0, 1]; "
                f"came {array.dtype}; convert it"
            )
        if self.channel_order == "BGR":
            unit = unit.flip(0)
        pixels = unit * 255.0 if self.scale == "255" else unit
        mean, std = (  # here, whatever default device the caller has set
            torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (pixels - mean) / std

    def picture(self, raw: np.ndarray | Tensor) -> np.ndarray:
        """The image as the network sees it, for the eye: resized and cropped, colours as they were.

        Returns
        -------
        float32 in [0, 1], (H', W', 3), or (H', W') of grey images.
        """
        one = np.asarray(raw).shape[0] == 1 and np.asarray(raw).dtype != np.uint8
        channels = 1 if one or self.channel_order == "L" else 3
        plain = replace(
            self,
            scale="unit",
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            channel_order="L" if channels == 1 else "RGB",
        )
        pixels = plain(raw).numpy()
        return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)

    def pixels_shown(self, height: int, width: int, *, decoded: bool) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the raw image that each row and column of the network's input shows (nearest).

        Parameters
        ----------
        height, width : of the raw image. decoded : whether it is uint8, as from a file, or floating point.

        >>> Preprocessing(size=4, crop=2).pixels_shown(8, 8, decoded=True)[0].tolist()
        [3, 5]
        """
        tall, wide, top, left, rows, columns = self._cut(height, width, decoded)
        row = ((top + np.arange(rows) + 0.5) * height / tall).astype(np.int64)
        return row, ((left + np.arange(columns) + 0.5) * width / wide).astype(np.int64)

    def window(self, height: int, width: int, *, decoded: bool) -> tuple[float, float, float, float]:
        """Top, left, bottom and right of what the network is shown, in pixels of the raw image; see `pixels_shown`.

        >>> Preprocessing(size=4, crop=2).window(8, 16, decoded=True)
        (2.0, 6.0, 6.0, 10.0)
        """
        tall, wide, top, left, rows, columns = self._cut(height, width, decoded)
        return (
            top * height / tall,
            left * width / wide,
            (top + rows) * height / tall,
            (left + columns) * width / wide,
        )

    def _cut(self, height: int, width: int, decoded: bool) -> tuple[int, int, int, int, int, int]:
        """Height and width after resizing, the corner of the crop in it, and its height and width."""
        if not decoded and (height, width) == (self.crop, self.crop):  # taken as it stands
            return height, width, 0, 0, height, width
        tall, wide = self._resized(height, width)
        if self.crop is None:
            return tall, wide, 0, 0, tall, wide
        return tall, wide, *_corner(tall, wide, self.crop), self.crop, self.crop

    def describe(self) -> str:
        """Return the steps in words, for provenance.

        >>> Preprocessing(size=256, crop=224, mean=(0.5,), std=(0.5,), channel_order="L").describe()
        'resize shorter side to 256 (bilinear), crop central 224, scale unit, L, minus (0.5,), divided by (0.5,)'
        """
        to = f"to {self.size} x {self.size}" if self.square else f"shorter side to {self.size}"
        steps = [] if self.size is None else [f"resize {to} ({self.interpolation})"]
        steps += [] if self.crop is None else [f"crop central {self.crop}"]
        steps += [f"scale {self.scale}", self.channel_order, f"minus {self.mean}", f"divided by {self.std}"]
        return ", ".join(steps)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing; the longer side is cut to whole pixels as torchvision does."""
        if self.size is None or (not self.square and min(height, width) == self.size):
            return height, width
        return (self.size, self.size) if self.square else _scaled(height, width, self.size)

    def _from_pixels(self, array: np.ndarray) -> Tensor:
        if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise DataError(
                f"wanted a uint8 image (H, W, 3), RGB; came {array.shape}; move channels last, "
                "or give floating point (C, H, W) in [0, 1]"
            )
        image: Any = Image.fromarray(array)
        height, width = self._resized(image.size[1], image.size[0])
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if self.crop is not None:
            top, left = _corner(image.size[1], image.size[0], self.crop)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        pixels = np.asarray(image.convert("L"))[:, :, None] if self.channel_order == "L" else np.asarray(image)
        return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / 255.0

    def _from_unit(self, array: Tensor) -> Tensor:
        if array.ndim != 3 or array.shape[0] not in (1, 3) or 0 in array.shape:
            raise DataError(
                f"wanted a floating point image (C, H, W) with 1 or 3 channels; came {tuple(array.shape)}; "
                "move channels first"
            )
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise DataError(
                f"wanted pixels in [0, 1]; came [{low:.4g}, {high:.4g}]; divide by the largest possible value, "
                "or use a network without preprocessing"
            )
        if self.crop is None or tuple(array.shape[1:]) != (self.crop, self.crop):
            array = self._fit(array)
        if self.channel_order == "L" and array.shape[0] == 3:
            array = torch.einsum("chw,c->hw", array, array.new_tensor([0.299, 0.587, 0.114]))[None]
        return array.expand(self.channels, -1, -1)

    def _fit(self, array: Tensor) -> Tensor:
        target = self._resized(array.shape[1], array.shape[2])
        if target != tuple(array.shape[1:]):
            resized = functional.interpolate(
                array[None], size=target, mode="bicubic", align_corners=False, antialias=True
            )
            array = resized[0].clamp(0.0, 1.0)
        if self.crop is not None:
            top, left = _corner(array.shape[1], array.shape[2], self.crop)
            array = array[:, top : top + self.crop, left : left + self.crop]
        return array


def geometry_attrs(preprocess: Any, raw: np.ndarray) -> dict[str, str | int | float]:
    """What says where the network's input lies in the raw image, as attributes; see `preprocessing_of`.

    Parameters
    ----------
    preprocess : None = images are taken as they stand; nothing is known of a function that is no `Preprocessing`.
    raw : an image. `input_top`, `input_left`, `input_bottom`, `input_right` are for images of its size.
    """
    if preprocess is not None and not isinstance(preprocess, Preprocessing):
        return {}
    plain = Preprocessing() if preprocess is None else preprocess
    decoded = raw.dtype == np.uint8
    height, width = (int(n) for n in (raw.shape[:2] if decoded else raw.shape[-2:]))
    edges = zip(("top", "left", "bottom", "right"), plain.window(height, width, decoded=decoded), strict=True)
    return {
        "raw_height": height,
        "raw_width": width,
        **{f"input_{side}": at for side, at in edges},
        "input_preprocessed": "no" if preprocess is None else "yes",
        "input_size": -1 if plain.size is None else plain.size,
        "input_crop": -1 if plain.crop is None else plain.crop,
        "input_square": "yes" if plain.square else "no",
        "input_interpolation": plain.interpolation,
    }


def preprocessing_of(attrs: Mapping[str, Any]) -> Preprocessing | None:
    """The resizing and cropping that attributes of `geometry_attrs` tell of; None: images are taken as they stand.

    >>> raw = np.zeros((1, 9, 9), np.float32)
    >>> preprocessing_of(geometry_attrs(Preprocessing(size=8, crop=6), raw)).describe()[:44]
    'resize shorter side to 8 (bilinear), crop ce'
    """
    if attrs.get("input_preprocessed", "no") == "no":
        return None
    size, crop = (None if attrs[name] == -1 else int(attrs[name]) for name in ("input_size", "input_crop"))
    return Preprocessing(
        size,
        str(attrs["input_interpolation"]),
        crop,
        square=attrs["input_square"] == "yes",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )


def _scaled(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with the shorter side at `size`; the longer is cut to whole pixels as torchvision does."""
    short = min(height, width)
    return (size, int(size * width / short)) if height <= width else (int(size * height / short), size)


def _corner(height: int, width: int, crop: int) -> tuple[int, int]:
    if min(height, width) < crop:
        raise DataError(
            f"the central {crop} x {crop} pixels were wanted of an image of {height} x {width}; "
            "set size so that it is enlarged first, or a smaller crop"
        )
    # round half to even, as torchvision's centre crop
    return round((height - crop) / 2.0), round((width - crop) / 2.0)
