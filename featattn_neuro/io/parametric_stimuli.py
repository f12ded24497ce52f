"""Stimuli with exact parameters to measure tuning with: gratings, and 2 × 2 arrays, made when they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.io.images import FileImages
from featattn_neuro.io.stimulus_set import Stimuli, content_id
from featattn_neuro.schema import CONSTITUENT_SEPARATOR

COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "red_green": (1.0, -1.0, 0.0),
    "blue_yellow": (-1.0, -1.0, 1.0),
}
"""Directions in RGB along which a grating departs from the mean grey: crests towards it, troughs away from it."""

CONTRASTS = {"michelson": "(max - min)/(max + min) of the pattern", "rms": "SD over all pixels / mean luminance"}
APERTURES = {"none": "the whole image", "circle": "a disc with a raised-cosine edge, mean grey around it"}
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

Colour = str | tuple[float, float, float]


@dataclass(frozen=True)
class Grating:
    """One sinusoidal grating; see `parametric_stimuli` for units and conventions. NaN orientation = uniform grey."""

    orientation: float
    spatial_frequency: float
    phase: float
    colour: str
    contrast: float


@dataclass(frozen=True)
class Look:
    """What all gratings of a set share."""

    size: int
    mean: float
    contrast_measure: str
    aperture: str
    edge: float
    channels: int
    colours: Mapping[str, tuple[float, float, float]]


class GratingImages:
    """Gratings that are computed when one is asked for: float32 (C, H, W) in [0, 1]."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, gratings: Sequence[Grating], look: Look) -> None:
        self.gratings, self.look = list(gratings), look

    def __len__(self) -> int:
        return len(self.gratings)

    def __getitem__(self, which: Any) -> Any:
        """One image for an integer; the same kind of set for an array of positions."""
        if np.ndim(which):
            return GratingImages([self.gratings[int(i)] for i in which], self.look)
        return draw_grating(self.gratings[int(which)], self.look)


class QuadrantImages:
    """2 × 2 arrays put together when one is asked for: (C, 2H, 2W); empty quadrants hold `background`."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, images: Any, quadrant: NDArray[np.int64], background: float) -> None:
        self.images, self.quadrant, self.background = images, quadrant, background

    def __len__(self) -> int:
        return len(self.quadrant)

    def __getitem__(self, which: Any) -> Any:
        """One image for an integer; the same kind of set for an array of positions."""
        if np.ndim(which):
            return QuadrantImages(self.images, self.quadrant[np.asarray(which)], self.background)
        row = self.quadrant[int(which)]
        parts = {place: self.images[int(source)] for place, source in enumerate(row) if source >= 0}
        channels, height, width = next(iter(parts.values())).shape
        image = np.full((channels, 2 * height, 2 * width), self.background, dtype=np.float32)
        for place, part in parts.items():
            top, left = height * (place // 2), width * (place % 2)
            image[:, top : top + height, left : left + width] = part
        return image


def parametric_stimuli(
    *,
    size: int = 224,
    orientation: Iterable[float] | None = None,
    spatial_frequency: Iterable[float] | None = None,
    phase: Iterable[float] = (0.0,),
    colour: Iterable[Colour] = ("white",),
    contrast: Iterable[float] = (1.0,),
    contrast_measure: str = "michelson",
    mean: float = 0.5,
    aperture: str = "none",
    edge: float | None = None,
    blank: bool = False,
    channels: int = 3,
) -> Stimuli:
    """Sinusoidal gratings of every combination of the parameters, made when they are used.

    The value of channel k at x pixels to the right of the image's centre and y pixels below it is
    mean · (1 + contrast · w_k · cos(2π f (x sin θ + y cos θ) / size + phase)), θ the orientation, f the spatial
    frequency, w the colour.

    Parameters
    ----------
    size : side of the square image, pixels; best the network's input size, since resizing changes what is shown.
    orientation : of the bars, degrees anticlockwise from horizontal, in [0, 180); None = 12, equally spaced.
    spatial_frequency : cycles per image, above 0 and below size/2, above which a grating turns into another (aliasing);
        None = octaves from 2 to size/4.
    phase : degrees in [0, 360); at 0 a crest lies on the image's centre.
    colour : names of `COLOURS`, or (red, green, blue) in [−1, 1]: along which the pattern departs from mean grey.
    contrast : in (0, 1], of the channel that is modulated most, by `contrast_measure`.
    contrast_measure : "michelson" = (max − min)/(max + min) of the pattern (of its formula: pixels need not fall on
        crests); "rms" = SD over all pixels / mean, exactly, and the mean over pixels is `mean` (Peli 1990).
    mean : luminance of the background, in (0, 1); above 0.5 not every contrast fits.
    aperture : "none", or "circle": a disc of the image's width with an `edge` (pixels; None = size/8) in which the
        contrast falls to 0 as a raised cosine.
    blank : one uniform image of luminance `mean` besides, its parameters NaN and its contrast 0.
    channels : 3, or 1 for networks with grey input (colour "white" only).

    Returns
    -------
    Stimuli : float32 (channels, size, size) in [0, 1]; parameters `orientation`, `spatial_frequency`, `phase`,
        `colour`, `contrast` and `rms_contrast` (measured on the pixels) are coordinates of what is recorded with them;
        the label is the orientation. Colours given as numbers are called "r,g,b".

    Raises
    ------
    ConfigError : a parameter outside its range, given twice, or a contrast that would leave [0, 1].

    Examples
    --------
    >>> gratings = parametric_stimuli(size=8, orientation=[0, 90], spatial_frequency=[2], phase=[180], contrast=[0.5])
    >>> gratings.parameters["orientation"].tolist(), gratings[0].shape
    ([0.0, 90.0], (3, 8, 8))
    """
    look = _look(size, mean, contrast_measure, aperture, edge, channels, colour)
    axes = {
        "orientation": _axis("orientation", range(0, 180, 15) if orientation is None else orientation, 0, 180, "[)"),
        "spatial_frequency": _axis(
            "spatial_frequency", _octaves(size) if spatial_frequency is None else spatial_frequency, 0, size / 2, "()"
        ),
        "phase": _axis("phase", phase, 0, 360, "[)"),
        "contrast": _axis("contrast", contrast, 0, 1, "(]"),
    }
    gratings = [
        Grating(theta, frequency, shift, name, depth)
        for theta, frequency, shift, name, depth in itertools.product(
            axes["orientation"], axes["spatial_frequency"], axes["phase"], look.colours, axes["contrast"]
        )
    ]
    if blank:
        gratings.append(Grating(np.nan, np.nan, np.nan, "none", 0.0))
    images = GratingImages(gratings, look)
    ids, rms = [], []
    for position in range(len(images)):  # one at a time: the whole set is never in memory
        image = images[position]
        ids.append(content_id(image))
        rms.append(_rms(image, mean))
    parameters: dict[str, NDArray[Any]] = {
        name: np.array([getattr(one, name) for one in gratings], dtype=np.float64)
        for name in ("orientation", "spatial_frequency", "phase", "contrast")
    }
    parameters["rms_contrast"] = np.array(rms)
    parameters["colour"] = np.array([one.colour for one in gratings])
    labels = ["blank" if np.isnan(one.orientation) else f"{one.orientation:g}" for one in gratings]
    return Stimuli(id=np.array(ids), images=images, label=np.array(labels), name="gratings", parameters=parameters)


def draw_grating(grating: Grating, look: Look) -> NDArray[np.float32]:
    """One grating as float32 (channels, size, size); see `parametric_stimuli`."""
    if np.isnan(grating.orientation):
        return np.full((look.channels, look.size, look.size), look.mean, dtype=np.float32)
    at = np.arange(look.size) - (look.size - 1) / 2
    theta, shift = np.deg2rad(grating.orientation), np.deg2rad(grating.phase)
    along = at[None, :] * np.sin(theta) + at[:, None] * np.cos(theta)
    pattern = np.cos(2 * np.pi * grating.spatial_frequency * along / look.size + shift)
    if look.aperture == "circle":
        pattern = pattern * _disc(look.size, look.edge)
    weights = np.array(look.colours[grating.colour])[: look.channels]
    if look.contrast_measure == "rms":
        pattern = pattern - pattern.mean()
        pattern = pattern * (grating.contrast / pattern.std() / np.abs(weights).max())
        largest = float(np.abs(pattern).max() * np.abs(weights).max())
        too_much = look.mean * (1 + largest) > 1 or largest > 1
    else:
        pattern = grating.contrast * pattern
        largest = float((weights[:, None, None] * pattern).max())
        too_much = look.mean * (1 + largest) > 1 + 1e-9
    if too_much:
        most = grating.contrast * min(1.0, 1 / look.mean - 1) / largest
        measure = "an rms" if look.contrast_measure == "rms" else "a Michelson"
        raise ConfigError(
            f"{measure} contrast of {grating.contrast:g} leaves [0, 1] at mean {look.mean:g}; the largest that fits at "
            f"spatial frequency {grating.spatial_frequency:g}, orientation {grating.orientation:g} is {most:.4f}; "
            "lower it"
        )
    image = look.mean * (1 + weights[:, None, None] * pattern)
    return np.clip(image, 0.0, 1.0).astype(np.float32)  # only rounding can lie outside


@dataclass(frozen=True)
class QuadrantArrays:
    """2 × 2 arrays and what they are made of.

    Parameters
    ----------
    stimuli : the arrays; label and constituents name the filled quadrants in order, joined by "|".
    quadrant : (array, 4) which of the given stimuli lies in each of `QUADRANTS`, −1 = empty.
    """

    stimuli: Stimuli
    quadrant: NDArray[np.int64]


def quadrant_arrays(
    stimuli: Stimuli, count: int, *, filled: int = 2, seed: int, reuse: bool = False, background: float = 0.5
) -> QuadrantArrays:
    """Random 2 × 2 arrays of stimuli with different labels (two gratings in four quadrants: Lindsay & Miller 2018).

    Parameters
    ----------
    stimuli : floating-point images of one size (gratings, arrays), with labels.
    count : number of arrays. filled : quadrants that hold a stimulus, 1 to 4; the others hold `background`.
    seed : of the draw of quadrants and stimuli.
    reuse : whether a stimulus may come in several arrays; such arrays are no independent samples.

    Returns
    -------
    QuadrantArrays : images (C, 2H, 2W) made when they are asked for.

    Raises
    ------
    DataError : no labels, too few stimuli or labels, images of files (load them as an array first).
    ConfigError : `filled` or `count` out of range.

    Examples
    --------
    >>> gratings = parametric_stimuli(size=8, orientation=[0, 45, 90, 135], spatial_frequency=[2])
    >>> arrays = quadrant_arrays(gratings, 2, seed=0)
    >>> len(arrays.stimuli), arrays.stimuli[0].shape, (arrays.quadrant >= 0).sum(axis=1).tolist()
    (2, (3, 16, 16), [2, 2])
    """
    if not 1 <= filled <= 4 or count < 1:
        raise ConfigError(f"wanted 1 to 4 filled quadrants in 1 array or more; came {filled} and {count}; change them")
    if stimuli.label is None:
        raise DataError("arrays are made of stimuli with different labels; these have none; load them with labels")
    if isinstance(stimuli.images, FileImages) or stimuli.images.dtype.kind != "f":
        raise DataError(
            "arrays are made of floating-point images of one size; these are files or whole numbers; "
            "load them as an array, stimuli.pixels()"
        )
    if len(np.unique(stimuli.label)) < filled or (not reuse and count * filled > len(stimuli)):
        raise DataError(
            f"{count} arrays of {filled} stimuli with different labels need {count * filled} stimuli of {filled} "
            "labels or "
            f"more; there are {len(stimuli)} of {len(np.unique(stimuli.label))}; add some, or pass reuse=True"
        )
    rng = np.random.default_rng(seed)
    quadrant = np.full((count, 4), -1, dtype=np.int64)
    for row, members in enumerate(_members(stimuli.label, count, filled, reuse, rng)):
        quadrant[row, np.sort(rng.permutation(4)[:filled])] = members
    images = QuadrantImages(stimuli.images, quadrant, background)
    inside = [row[row >= 0] for row in quadrant]

    def joined(column: NDArray[np.str_]) -> NDArray[np.str_]:
        return np.array([CONSTITUENT_SEPARATOR.join(column[row].tolist()) for row in inside])

    ids = [content_id(images[position]) for position in range(count)]
    made = Stimuli(
        id=np.array(ids), images=images, constituents=joined(stimuli.constituents), label=joined(stimuli.label),
        name=f"arrays of {stimuli.name}",
        parameters={"quadrants": np.array([_places(row, stimuli.label) for row in quadrant])},
    )  # fmt: skip
    return QuadrantArrays(made, quadrant)


def _members(
    label: NDArray[np.str_], count: int, filled: int, reuse: bool, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Positions of the stimuli of each array, labels different within; without `reuse` each position once."""
    found: list[NDArray[np.int64]] = []
    seen: set[tuple[int, ...]] = set()
    for _ in range(100):
        left = list(rng.permutation(len(label)))
        while len(found) < count and left:
            members: list[int] = []
            for position in list(left):
                if label[position] not in label[members]:
                    members.append(int(position))
                if len(members) == filled:
                    break
            if len(members) < filled:
                break
            left = [one for one in left if one not in members]
            if tuple(members) not in seen:
                seen.add(tuple(members))
                found.append(np.array(members, dtype=np.int64))
        if len(found) == count:
            return found
        if not reuse:  # an unlucky order left one label over: draw again from all
            found, seen = [], set()
    raise DataError(
        f"{count} different arrays of {filled} stimuli with different labels could not be drawn from {len(label)} "
        "stimuli; "
        "ask for fewer, or add stimuli"
    )


def _places(row: NDArray[np.int64], label: NDArray[np.str_]) -> str:
    return ", ".join(f"{name}: {label[one] if one >= 0 else 'empty'}" for name, one in zip(QUADRANTS, row, strict=True))


def _look(
    size: int, mean: float, measure: str, aperture: str, edge: float | None, channels: int, colour: Iterable[Colour]
) -> Look:
    if size < 4:
        raise ConfigError(f"wanted images of 4 pixels or more; came size {size}; enlarge them")
    if not 0 < mean < 1:
        raise ConfigError(f"wanted a mean luminance between 0 and 1; came {mean}; 0.5 leaves room on both sides")
    if channels not in (1, 3):
        raise ConfigError(f"wanted 1 or 3 channels; came {channels}; choose one of them")
    colours = {}
    for one in [colour] if isinstance(colour, str) else colour:
        weights = COLOURS[choose(one, COLOURS, "colour")] if isinstance(one, str) else tuple(float(w) for w in one)
        if len(weights) != 3 or not 0 < max(abs(w) for w in weights) <= 1:
            raise ConfigError(f"wanted a colour as (red, green, blue) in [−1, 1], not all 0; came {one!r}; change it")
        if channels == 1 and weights != COLOURS["white"]:
            raise ConfigError(f"wanted colour 'white' for one channel; came {one!r}; pass channels=3")
        colours[one if isinstance(one, str) else ",".join(f"{w:g}" for w in weights)] = weights
    if not colours:
        raise ConfigError(f"wanted at least one colour; came none; choose of: {', '.join(COLOURS)}")
    width = size / 8 if edge is None else float(edge)
    if not 0 <= width <= size / 2:
        raise ConfigError(f"wanted an edge between 0 and {size / 2:g} pixels; came {width:g}; change it")
    return Look(
        size, float(mean), choose(measure, CONTRASTS, "measure of contrast"), choose(aperture, APERTURES, "aperture"),
        width, channels, colours,
    )  # fmt: skip


def _axis(name: str, values: Iterable[float], low: float, high: float, ends: str) -> list[float]:
    """The values of one parameter, all inside the interval and none twice."""
    numbers = [float(value) for value in (values if isinstance(values, Iterable) else [values])]
    for value in numbers:
        inside = (value >= low if ends[0] == "[" else value > low) and (
            value <= high if ends[1] == "]" else value < high
        )
        if not inside:
            why = "; above half a cycle per pixel a grating turns into another" if name == "spatial_frequency" else ""
            raise ConfigError(f"wanted {name} in {ends[0]}{low:g}, {high:g}{ends[1]}; came {value:g}{why}; change it")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(f"wanted one {name} or more, each once; came {numbers}; drop the copies")
    return numbers


def _octaves(size: int) -> list[float]:
    return [2.0**power for power in range(1, 12) if 2.0**power <= size / 4] or [1.0]


def _disc(size: int, edge: float) -> NDArray[np.float64]:
    """1 inside, 0 outside a disc of the image's width, half a period of a cosine between."""
    at = np.arange(size) - (size - 1) / 2
    inwards = size / 2 - np.hypot(at[None, :], at[:, None])
    if edge == 0:
        return (inwards >= 0).astype(np.float64)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(inwards / edge, 0, 1))


def _rms(image: NDArray[np.float32], mean: float) -> float:
    """SD over pixels of the channel that varies most, over the mean luminance."""
    return float(image.astype(np.float64).std(axis=(1, 2)).max() / mean)
