"""Gratings have the parameters that they are asked for; arrays keep their sources apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.parametric_stimuli import COLOURS, parametric_stimuli, quadrant_arrays
from featattn_neuro.io.stimulus_set import content_id


def one(**said) -> np.ndarray:
    return parametric_stimuli(**{"size": 32, "orientation": [0], "spatial_frequency": [4], **said})[0]


def test_pixels_by_hand():
    """Vertical bars at a quarter cycle per pixel: columns lie at −3/8, −1/8, 1/8, 3/8 of a cycle of the centre."""
    image = one(size=4, orientation=[90], spatial_frequency=[1], contrast=[0.5], channels=1)
    wanted = 0.5 * (1 + 0.5 * np.cos(2 * np.pi * np.array([-3, -1, 1, 3]) / 8))
    np.testing.assert_allclose(image, np.tile(wanted, (1, 4, 1)), atol=1e-7)
    assert image.dtype == np.float32
    # phase 180 turns crests into troughs
    other = one(size=4, orientation=[90], spatial_frequency=[1], contrast=[0.5], channels=1, phase=[180])
    np.testing.assert_allclose(image + other, 1.0, atol=1e-7)


def test_orientation_is_of_the_bars_anticlockwise():
    horizontal, rising, vertical = (one(orientation=[angle])[0] for angle in (0, 45, 90))
    assert np.ptp(horizontal, axis=1).max() < 1e-6
    assert np.ptp(vertical, axis=0).max() < 1e-6
    # bars that rise to the right: going one pixel right and one pixel up (y is downwards) changes nothing
    np.testing.assert_allclose(rising[1:, :-1], rising[:-1, 1:], atol=1e-6)


@given(st.integers(1, 11), st.integers(-11, 11), st.floats(0, 359.9), st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_all_energy_is_at_the_one_frequency_that_was_asked_for(down, right, phase, contrast):
    """Whole cycles along both axes, so that the transform has no leakage: aliases would show as other peaks."""
    frequency, orientation = np.hypot(down, right), np.rad2deg(np.arctan2(right, down)) % 180
    image = one(
        orientation=[orientation], spatial_frequency=[frequency], phase=[phase], contrast=[contrast], channels=1
    )
    spectrum = np.abs(np.fft.fft2(image[0].astype(np.float64) - 0.5)) / 32**2
    peak = spectrum[down % 32, right % 32]
    assert peak == pytest.approx(0.25 * contrast, rel=1e-5)
    assert spectrum[-down % 32, -right % 32] == pytest.approx(peak, rel=1e-9)
    spectrum[down % 32, right % 32] = spectrum[-down % 32, -right % 32] = 0
    assert spectrum.max() < 1e-6
    # cosine, Peli 1990: rms contrast is the Michelson contrast over the root of 2
    assert image.astype(np.float64).std() / 0.5 == pytest.approx(contrast / np.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("aperture", ["none", "circle"])
@pytest.mark.parametrize("frequency", [1.3, 4.0, 7.9])
@pytest.mark.parametrize("colour", ["white", "blue_yellow", (0.0, 0.5, -0.25)])
def test_rms_contrast_is_exact(aperture, frequency, colour):
    set_ = parametric_stimuli(
        size=48, orientation=[20, 110], spatial_frequency=[frequency], contrast=[0.05, 0.2], contrast_measure="rms",
        aperture=aperture, colour=[colour], mean=0.4,
    )  # fmt: skip
    for position in range(len(set_)):
        image = set_[position].astype(np.float64)
        assert (image.std(axis=(1, 2)) / 0.4).max() == pytest.approx(set_.parameters["contrast"][position], rel=1e-4)
        np.testing.assert_allclose(image.mean(axis=(1, 2)), 0.4, rtol=1e-5)
        assert set_.parameters["rms_contrast"][position] == pytest.approx(
            set_.parameters["contrast"][position], rel=1e-4
        )


def test_a_contrast_that_does_not_fit_is_refused_with_the_largest_that_does():
    with pytest.raises(ConfigError, match=r"leaves \[0, 1\] at mean 0\.5; the largest that fits .* is 0\.7") as caught:
        one(contrast=[0.9], contrast_measure="rms")
    largest = float(str(caught.value).split(" is ")[1].split(";")[0])
    assert one(contrast=[largest - 1e-4], contrast_measure="rms").max() <= 1
    with pytest.raises(ConfigError):
        one(contrast=[largest + 1e-3], contrast_measure="rms")


def test_a_michelson_contrast_that_does_not_fit_is_refused_too():
    said = {"size": 16, "orientation": [0], "spatial_frequency": [2], "phase": [-45 % 360], "mean": 0.7}
    with pytest.raises(ConfigError, match=r"a Michelson contrast of 0\.6 leaves \[0, 1\] at mean 0\.7") as caught:
        parametric_stimuli(contrast=[0.2, 0.6], **said)
    largest = float(str(caught.value).split(" is ")[1].split(";")[0])
    assert largest >= 0.3 / 0.7 - 1e-4
    fits = parametric_stimuli(contrast=[largest - 1e-4], **said)
    assert 1 - 1e-3 < fits[0].max() <= 1


def test_values_lie_in_the_unit_interval_and_colours_are_theirs():
    set_ = parametric_stimuli(
        size=16, orientation=[30], spatial_frequency=[3], colour=list(COLOURS), phase=[0, 90, 180, 270]
    )
    images = set_.pixels()
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.ptp(images) > 0.95
    for image, name in zip(images, set_.parameters["colour"], strict=True):
        weights = np.array(COLOURS[name])
        np.testing.assert_allclose(image[weights == 0], 0.5)
        strongest = image[np.abs(weights).argmax()] - 0.5
        for channel, weight in zip(image, weights, strict=True):
            np.testing.assert_allclose(channel - 0.5, strongest * weight / weights[np.abs(weights).argmax()], atol=1e-6)


def test_every_combination_once_with_exact_parameters():
    set_ = parametric_stimuli(
        size=16, orientation=[0, 60, 120], spatial_frequency=[2, 4], phase=[0, 90], colour=["white", "red"],
        contrast=[0.25, 1.0], blank=True,
    )  # fmt: skip
    assert len(set_) == 3 * 2 * 2 * 2 * 2 + 1
    table = np.stack(
        [set_.parameters[n].astype(str) for n in ("orientation", "spatial_frequency", "phase", "colour", "contrast")]
    )
    assert np.unique(table, axis=1).shape[1] == len(set_)
    assert np.unique(set_.id).size == len(set_)
    assert set_.id[5] == content_id(set_[5])
    assert np.isnan(set_.parameters["orientation"][-1])
    np.testing.assert_array_equal(set_[len(set_) - 1], np.float32(0.5))
    some = set_.select([7, 3])
    assert some.parameters["phase"].tolist() == set_.parameters["phase"][[7, 3]].tolist()
    np.testing.assert_array_equal(some[1], set_[3])
    assert "orientation" in some.coordinates()


def test_images_are_not_kept():
    set_ = parametric_stimuli(size=512, orientation=[0, 90], spatial_frequency=[8])
    assert not any(isinstance(value, np.ndarray) for value in vars(set_.images).values())


def test_a_disc_fades_to_the_mean():
    image = one(size=64, aperture="circle", channels=1)[0]
    assert image[0, 0] == image[0, -1] == 0.5
    assert np.ptp(image[24:40, 24:40]) > 0.9  # one whole cycle
    hard = one(size=64, aperture="circle", edge=0, channels=1)[0]
    free = one(size=64, channels=1)[0]
    inside = hard != 0.5
    np.testing.assert_allclose(hard[inside], free[inside])
    assert inside.mean() == pytest.approx(np.pi / 4, abs=0.03)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"spatial_frequency": [16]}, r"spatial_frequency in \(0, 16\); came 16; above half a cycle per pixel"),
        ({"spatial_frequency": [0]}, "came 0"),
        ({"orientation": [0, 180]}, r"orientation in \[0, 180\); came 180"),
        ({"phase": [360]}, r"phase in \[0, 360\)"),
        ({"contrast": [0.0]}, r"contrast in \(0, 1\]; came 0"),
        ({"contrast": [1.5]}, "came 1.5"),
        ({"orientation": [45, 45.0]}, "each once"),
        ({"orientation": []}, "or more, each once"),
        ({"colour": ["rot"]}, "unknown colour 'rot'"),
        ({"colour": [(0, 0, 0)]}, "not all 0"),
        ({"colour": ["red"], "channels": 1}, "wanted colour 'white' for one channel"),
        ({"mean": 1.0}, "a mean luminance between 0 and 1"),
        ({"aperture": "square"}, "unknown aperture"),
        ({"contrast_measure": "weber"}, "unknown measure of contrast"),
        ({"size": 2}, "4 pixels or more"),
        ({"edge": 40}, "an edge between 0 and 16"),
        ({"channels": 2}, "1 or 3 channels"),
    ],
)
def test_parameters_out_of_range(said, text):
    with pytest.raises(ConfigError, match=text):
        one(**said)


def gratings(count: int = 8):
    return parametric_stimuli(
        size=8, orientation=[180 / count * k for k in range(count)], spatial_frequency=[2, 3], channels=1
    )


@pytest.mark.parametrize("filled", [1, 2, 4])
def test_arrays_hold_their_sources(filled):
    source = gratings()
    made = quadrant_arrays(source, 16 // filled, filled=filled, seed=3)
    used = made.quadrant[made.quadrant >= 0]
    assert np.unique(used).size == used.size == 16 // filled * filled
    for position, row in enumerate(made.quadrant):
        image = made.stimuli[position]
        quarters = (image[:, :8, :8], image[:, :8, 8:], image[:, 8:, :8], image[:, 8:, 8:])
        for part, which in zip(quarters, row, strict=True):
            np.testing.assert_array_equal(part, np.float32(0.5) if which < 0 else source[int(which)])
        inside = row[row >= 0]
        assert np.unique(source.label[inside]).size == filled
        assert made.stimuli.constituents[position] == "|".join(source.id[inside])
        assert made.stimuli.label[position] == "|".join(source.label[inside])
    assert made.stimuli.sources() == sorted(source.id[np.unique(used)])


def test_arrays_are_drawn_by_seed_and_fill_all_quadrants():
    source = gratings()
    first, again, other = (quadrant_arrays(source, 60, seed=seed, reuse=True) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.quadrant, again.quadrant)
    assert not np.array_equal(first.quadrant, other.quadrant)
    assert ((first.quadrant >= 0).mean(axis=0) > 0.3).all()
    assert np.unique(first.stimuli.id).size == 60
    assert first.stimuli.parameters["quadrants"][0].count("empty") == 2


def test_arrays_that_cannot_be_made():
    with pytest.raises(DataError, match=r"pass reuse=True"):
        quadrant_arrays(gratings(), 9, seed=0)
    with pytest.raises(ConfigError, match=r"1 to 4 filled quadrants"):
        quadrant_arrays(gratings(), 1, filled=5, seed=0)
    with pytest.raises(DataError, match=r"need 4 stimuli of 4 labels"):
        quadrant_arrays(gratings(3), 1, filled=4, seed=0)


def test_gratings_go_straight_into_a_recording(tmp_path):
    import torch
    from torch import nn

    from featattn_neuro.api import open_kind, record

    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    with torch.no_grad():  # a horizontal edge: rows differ where bars are horizontal only
        network[0].weight[:] = torch.tensor([[[[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]]]])
        network[0].bias.zero_()
    stimuli = parametric_stimuli(size=24, orientation=[0, 45, 90], spatial_frequency=[4], phase=[0, 90], channels=1)
    recorded = record(network, stimuli, "1", out=tmp_path / "a.zarr")
    again = open_kind(tmp_path / "a.zarr").load()
    np.testing.assert_array_equal(again["orientation"], [0, 0, 45, 45, 90, 90])
    mean = recorded["response"].groupby("orientation").mean().values.ravel()
    assert mean[0] > mean[1] > mean[2]
    assert mean[2] == pytest.approx(0.0, abs=1e-6)
    arrays = quadrant_arrays(stimuli, 3, seed=0).stimuli
    assert record(network, arrays, "1").sizes["stimulus"] == 3
